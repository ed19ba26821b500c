"""What `plan` says, against the models themselves, transformers' own device maps, and counts made another way."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from click.testing import CliRunner
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import OPTConfig, OPTForCausalLM
from transformers.integrations.accelerate import _get_device_map

from lm_eval_prune import PruningMask
from lm_eval_prune.cli.main import main as entry_point
from lm_eval_prune.cli.plan import command
from lm_eval_prune.costs import flops, memory
from lm_eval_prune.costs.devices import Devices, parse_devices
from lm_eval_prune.costs.dimensions import Dimensions, dimensions_of
from lm_eval_prune.costs.fit import fitted
from lm_eval_prune.costs.placement import place
from lm_eval_prune.costs.plan import make_plan
from lm_eval_prune.costs.study import Grid, removals
from lm_eval_prune.costs.tables import tables
from lm_eval_prune.costs.workload import Load, known_tasks, workload_of, workloads
from lm_eval_prune.decoders.compacted import PrunedOPTForCausalLM, compacted_config
from lm_eval_prune.decoders.skeleton import num_pruned_parameters
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.random_opt import SIZES, opt_config
from lm_eval_prune.ranked_masks import random_mask
from tests.conftest import POST_NORM, PRE_NORM
from tests.families import VARIANTS, made, tokens

NAMES = [size.removeprefix("opt-") for size in SIZES]
GB = 10**9
ALL = (0, 1, 2, 3)
SOME = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: ALL, 2: (1,)}, pruned_ffns=(2,))
MORE = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1,), 2: (0, 2, 3)}, pruned_ffns=(0,))
HEADLESS = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads=dict.fromkeys(range(3), ALL))


def on_meta(config):
    with torch.device("meta"):
        return OPTForCausalLM(config)


@pytest.fixture(scope="module", params=NAMES)
def size(request):
    """(dimensions, the model itself on the meta device, in half precision)."""
    return dimensions_of(request.param), on_meta(opt_config(f"opt-{request.param}")).half()


# -- parameters ---------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_model(size):
    dimensions, model = size
    assert dimensions.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    attention = model.model.decoder.layers[0].self_attn
    ours = dimensions.num_attention_heads * dimensions.parameters_per_head + attention.out_proj.bias.numel()
    assert ours == sum(parameter.numel() for parameter in attention.parameters())
    mask = PruningMask(
        num_hidden_layers=dimensions.num_hidden_layers,
        num_attention_heads=dimensions.num_attention_heads,
        pruned_heads={0: (1, 3), 5: (0,)},
        pruned_ffns=(1, 2),
    )
    assert dimensions.removed_by(mask) == num_pruned_parameters(model.config, mask)


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"enable_bias": False},
        {"layer_norm_elementwise_affine": False},
        {"_remove_final_layer_norm": True},
    ],
)
@pytest.mark.parametrize("shape", [PRE_NORM, POST_NORM], ids=["pre-norm", "post-norm"])
def test_counts_of_unusual_models(shape, changes, tmp_path):
    config = opt_config("opt-125m", **shape, **changes)
    config.save_pretrained(tmp_path)
    dimensions = dimensions_of(str(tmp_path))
    assert dimensions.num_parameters == sum(parameter.numel() for parameter in on_meta(config).parameters())
    for mask in (SOME, MORE, HEADLESS):
        assert dimensions.removed_by(mask) == num_pruned_parameters(config, mask)
    (row,) = removals(dimensions, "heads", ["1"])
    assert row["removed"] == num_pruned_parameters(config, HEADLESS)


def test_a_configuration_that_leaves_things_out(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "opt", "hidden_size": 96, "num_hidden_layers": 2}')
    config = OPTConfig.from_pretrained(tmp_path)
    expected = sum(parameter.numel() for parameter in on_meta(config).parameters())
    assert dimensions_of(str(tmp_path)).num_parameters == expected


def test_opt_66b_beside_the_paper():
    """Bansal et al. 2023 say about 15.7 and 8.5 billion; docs/opt-66b.md says why these are not those."""
    model = dimensions_of("facebook/opt-66b")
    assert model.num_parameters == 65_719_701_504
    assert model.removed_by(model.pruned(math.floor(Fraction("0.7") * 4608), 0)) == 15_218_697_600
    assert model.removed_by(model.pruned(0, math.floor(Fraction("0.2") * 64))) == 8_154_501_120


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_plan_of_every_family(variant, tmp_path):
    """Parameters are the model's; keys and values those of its cache; operations those that torch counts."""
    model = made(variant)
    model.set_attn_implementation("eager")
    model.config.save_pretrained(tmp_path)
    dimensions = dimensions_of(str(tmp_path))
    assert dimensions.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    ids = torch.tensor([tokens(6), tokens(6, seed=1)])
    with Counter() as counter, torch.no_grad():
        model(ids, use_cache=False)
    assert counter.total == flops.forward(dimensions, Load(12, 2 * 36, 12))
    cache = model(ids[:1], use_cache=True).past_key_values
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert memory.keys_and_values(dimensions, range(dimensions.num_hidden_layers), 6, "float32") == 4 * numbers
    gone = dimensions.pruned(5, 1)
    assert (gone.num_pruned_heads, gone.num_pruned_ffns) == (5, 1)
    rng = random.Random(0)
    for _ in range(10):  # no choice of as many removes less, and every one of whole groups as much or more
        drawn = random_mask(*gone.shape, prune_heads=Fraction(5, gone.num_heads), seed=rng.randrange(10**6))
        assert dimensions.removed_by(dimensions.pruned(5, 0)) <= dimensions.removed_by(drawn)
        assert dimensions.removed_by(drawn) <= dimensions.removed_by(dimensions.pruned(gone.num_heads, 0))
    plan = make_plan(str(tmp_path), devices="1GB", tasks=("copa",), num_fewshot=(0,), prune_heads=("0", "0.5"))
    assert plan["devices"]["fits"]
    assert plan["devices"]["map"][0]["weights"] == 2 * dimensions.num_parameters
    assert list(tables(plan))
    row = plan["removals"][0]
    assert ("removed_as_groups" in row) == (dimensions.num_key_value_heads < dimensions.num_attention_heads)
    assert row.get("removed_as_groups", row["removed"]) >= row["removed"]
    with torch.device("meta"):
        whole = type(model)(model.config).half()
    expected = dict(_get_device_map(whole, "auto", {0: 40_000, "cpu": 10**9}, None))
    assert place(dimensions, "float16", Devices((40_000,), 10**9)).device_map == expected


# -- devices ------------------------------------------------------------------------------------------------------


def test_devices_as_written():
    assert parse_devices("8x80GB") == Devices((80 * GB,) * 8)
    assert parse_devices(" 1x141gb, cpu:1.5TiB ,disk") == Devices((141 * GB,), 3 * 2**39, True)
    assert parse_devices("2x24GiB,16GB").gpus == (24 * 2**30, 24 * 2**30, 16 * GB)
    assert parse_devices("cpu:24GB") == Devices((), 24 * GB)


NO_SIZES = [f"8x{'9' * 400}GB", f"cpu:{'1' * 5000}kb", f"1x1.{'0' * 400}TB", "8x٣GB"]


@pytest.mark.parametrize(
    "text", ["", "8", "8x", "yx80GB", "0x80GB", "8x0GB", "8x80", "8x80GBs", "cpu", "cpu:", "disk", *NO_SIZES]
)
def test_devices_that_are_not_understood(text):
    with pytest.raises(ArgumentError, match="such as 8x80GB") as caught:
        parse_devices(text)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
def test_device_maps_are_those_of_from_pretrained(size, gpus):
    dimensions, model = size
    weights = 2 * dimensions.num_parameters
    for room, cpu in ((0.5, 0), (0.5, weights // 3), (1.3, weights // 3), (3, 10 * weights)):
        devices = Devices((int(room * weights / gpus),) * gpus if gpus else (), cpu, True)
        placement = place(dimensions, "float16", devices)
        assert placement.device_map == dict(_get_device_map(model, "auto", devices.max_memory, None))
        assert sum(placement.weights.values()) == weights
        assert sorted(layer for layers in placement.layers.values() for layer in layers) == list(
            range(dimensions.num_hidden_layers)
        )


def test_the_device_map_of_opt_66b_is_that_of_from_pretrained():
    model = on_meta(opt_config("opt-66b")).half()
    for text in ("8x80GB", "80GB,cpu:40GB,disk"):
        devices = parse_devices(text)
        expected = dict(_get_device_map(model, "auto", devices.max_memory, None))
        assert place(dimensions_of("66b"), "float16", devices).device_map == expected


def test_fit_counts_copies_and_makes_room_for_what_is_computed():
    model = dimensions_of("66b")
    fit = fitted(model, "float16", parse_devices("8x80GB"), 1, 2048)
    assert (fit.fits, fit.offloaded, fit.devices_per_copy, fit.copies) == (True, 0, 2, 4)
    assert not fitted(model, "float16", parse_devices("80GB"), 1, 2048).fits
    assert not fitted(model, "float32", parse_devices("141GB"), 1, 2048).fits

    full = fitted(model, "float16", parse_devices("141GB,cpu:200GB"), 16, 2048)
    assert full.fits
    (gpu, host) = full.shares
    # 2 x 64 layers x 16 x 2048 tokens x 9216 numbers of keys and values, and logits with their log-softmax, in float16
    computed = 2 * (2 * 64 * 16 * 2048 * 9216 + 2 * 16 * 2048 * 50272)
    assert computed <= gpu.working <= 1.1 * computed
    assert gpu.weights + gpu.working <= 141 * GB
    assert full.offloaded == host.weights == 2 * model.num_parameters - gpu.weights
    limit = int(full.model_args.split("max_memory_per_gpu=")[1].split("MB")[0]) * 10**6
    assert gpu.weights <= limit <= 141 * GB - computed
    assert full.model_args.startswith("dtype=float16,parallelize=True,")


def test_the_host_alone():
    fit = fitted(dimensions_of("6.7b"), "bfloat16", parse_devices("cpu:24GB"), 1, 2048)
    assert (fit.fits, fit.offloaded, fit.copies, fit.model_args) == (True, 0, 1, "dtype=bfloat16")
    assert not fitted(dimensions_of("13b"), "bfloat16", parse_devices("cpu:24GB"), 1, 2048).fits
    disk = fitted(dimensions_of("13b"), "bfloat16", parse_devices("cpu:24GB,disk"), 1, 2048)
    assert disk.fits
    assert "parallelize=True,max_cpu_memory=" in disk.model_args


# -- compacted models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"enable_bias": False}])
@pytest.mark.parametrize("shape", [PRE_NORM, POST_NORM], ids=["pre-norm", "post-norm"])
def test_a_compacted_model_is_counted_as_it_is(shape, changes, tmp_path):
    original = opt_config("opt-125m", **shape, **changes)
    config = compacted_config(original, SOME, "original")
    config.save_pretrained(tmp_path)
    dimensions = dimensions_of(str(tmp_path))
    with torch.device("meta"):
        model = PrunedOPTForCausalLM(config)
    assert dimensions.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    for mask in (SOME, MORE):
        assert dimensions.removed_by(mask) == num_pruned_parameters(config, mask)
    # Half of the original's 12 heads: 5 are gone, and one more goes.
    half, all_heads = removals(dimensions, "heads", ["0.5", "1"])
    assert half["removed"] == dimensions.parameters_per_head
    assert all_heads["removed"] == num_pruned_parameters(config, HEADLESS)


def test_the_device_map_of_a_compacted_opt_66b_is_that_of_from_pretrained(tmp_path):
    mask = random_mask(64, 72, prune_heads="0.7", prune_ffns="0.2") | PruningMask.dense(64, 72).prune_layer(5)
    config = compacted_config(opt_config("opt-66b"), mask, "facebook/opt-66b")
    config.save_pretrained(tmp_path)
    dimensions = dimensions_of(str(tmp_path))
    with torch.device("meta"):
        model = PrunedOPTForCausalLM(config).half()
    for text in ("4x40GB", "80GB,cpu:10GB,disk"):
        devices = parse_devices(text)
        expected = dict(_get_device_map(model, "auto", devices.max_memory, None))
        assert place(dimensions, "float16", devices).device_map == expected
    shown = invoked(tmp_path, "--devices", "141GB")
    left = 64 - mask.num_pruned_ffns
    assert f"compacted to {4608 - mask.num_pruned_heads:,} heads and {left} FFNs" in " ".join(shown.split())
    assert f"{dimensions.num_parameters:,}" in shown


def test_flops_of_a_compacted_model_are_those_that_torch_counts(tmp_path):
    config = compacted_config(opt_config("opt-125m", **PRE_NORM), SOME, "original")
    config._attn_implementation = "eager"
    config.save_pretrained(tmp_path)
    model, dimensions = PrunedOPTForCausalLM(config).eval(), dimensions_of(str(tmp_path))
    ids = torch.randint(4, 512, (2, 40))
    with Counter() as counter, torch.no_grad():
        model(ids, use_cache=False)
    assert counter.total == flops.forward(dimensions, Load(80, 2 * 40 * 40, 80))
    # Shares are the original's: pruning as much as is gone already saves nothing.
    options = {"tasks": ("copa",), "num_fewshot": (0,), "prune_ffns": ("0",)}
    gone = make_plan(str(tmp_path), **options, prune_heads=("0", "0.4"))["stages"]
    assert gone[-1]["flops"] == pytest.approx(2 * gone[0]["flops"])
    half = make_plan(str(tmp_path), **options, prune_heads=("0", "0.5"))["stages"]
    assert half[0]["flops"] < half[-1]["flops"] < gone[-1]["flops"]


# -- operations ---------------------------------------------------------------------------------------------------


class Counter(TorchDispatchMode):
    """Adds up torch's own counts of what runs inside; its FlopCounterMode does not bear `autograd.grad`."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function._overloadpacket in flop_registry:
            self.total += flop_registry[function._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def small(post_norm=False):
    settings = POST_NORM if post_norm else PRE_NORM
    config = opt_config("opt-125m", **settings)
    config._attn_implementation = "eager"  # torch does not count the fused kernels of a CPU
    return OPTForCausalLM(config).eval(), Dimensions("small", config)


@pytest.mark.parametrize("post_norm", [False, True])
def test_flops_of_a_pass_are_those_that_torch_counts(post_norm):
    """torch counts the whole square of attention; causal attention is half of it and half a diagonal."""
    model, dimensions = small(post_norm)
    ids = torch.randint(4, 512, (2, 40))
    with Counter() as counter, torch.no_grad():
        model(ids, use_cache=False)
    assert counter.total == flops.forward(dimensions, Load(80, 2 * 40 * 40, 80))
    assert flops.forward(dimensions, Load(80, 2 * 40 * 41 / 2, 80)) < counter.total


def test_flops_of_gradient_importance_are_those_that_torch_counts():
    from lm_eval_prune.importance.gradient import head_importance

    model, dimensions = small()
    examples = [([2, *range(10, 60)], [7, 8])]
    load = Load(52, 52 * 52, 2)
    for checkpointing in (False, True):
        with Counter() as counter:
            head_importance(model, examples, checkpointing=checkpointing)
        said = flops.gradient_importance(dimensions, load, checkpointing=checkpointing)
        # What is left out: layer 0 has no backward pass before its heads, the last FFN runs at the continuation alone.
        assert 0.7 * said <= counter.total <= said


def test_flops_of_knockouts_are_those_that_torch_counts():
    from lm_eval_prune.importance.knockout import component_knockout

    model, dimensions = small()
    examples = [([2, *range(10, 60)], [7, 8])]
    load = Load(52, 52 * 52, 2)
    for component in ("ffns", "heads"):
        with Counter() as counter:
            component_knockout(model, examples, component)
        assert counter.total == flops.knockouts(dimensions, load, component)


def test_flops_under_masks():
    _, dimensions = small()
    load = Load(80, 3240, 80)
    dense = flops.forward(dimensions, load)
    rest = flops.forward(dimensions, load, dimensions.pruned(12, 3))
    assert rest == 2 * 32 * 512 * 80  # the output layer alone
    half = flops.forward(dimensions, load, dimensions.pruned(6, 0))
    assert dense - half == pytest.approx(3 * (4 * 80 * 32 * 32 + 2 * 32 * 3240))


def test_induction_counts_both_passes():
    _, dimensions = small()
    body = flops.layers(dimensions, Load(101, 101 * 102 / 2, 0)) + flops.layers(dimensions, Load(26, 26 * 27 / 2, 0))
    assert flops.induction(dimensions, [25]) == body + 3 * (2 * 26 * 32**2 + 2 * 26**2 * 32)


# -- tasks and grid -----------------------------------------------------------------------------------------------


def test_the_table_holds_the_14_tasks():
    from lm_eval_prune.harness.registration import tasks_folder

    named = [line.strip("- \n") for line in (tasks_folder() / "icl14" / "_icl14_tasks").read_text().splitlines()]
    assert set(known_tasks()) <= set(named)
    assert len(known_tasks()) == 14
    for task in known_tasks():
        for shots in (0, 1, 2, 5):
            work = workload_of(task, shots)
            assert work.packed.tokens <= work.padded.tokens
            assert work.packed.outputs <= work.padded.tokens
            assert 0 < work.padded.longest <= 2048


def test_every_shot_adds_as_much_up_to_the_models_longest_input():
    """Of k shots of one length after another, tokens grow with k and pairs with its square."""
    by_shots = {shots: workload_of("piqa", shots).padded for shots in range(9)}
    for low, high in ((1, 5), (5, 8), (2, 7)):
        added = (by_shots[high].tokens - by_shots[low].tokens) / (high - low)
        assert added == pytest.approx(by_shots[2].tokens - by_shots[1].tokens)
        assert added == pytest.approx(by_shots[1].tokens - by_shots[0].tokens, rel=0.1)  # both counted
    for load in by_shots.values():
        even = load.inputs * (load.tokens / load.inputs) ** 2 / 2
        assert even < load.pairs < 1.6 * even  # inputs of unequal lengths have more
    many = workload_of("record", 64)
    for load in (many.padded, many.packed, many.gold):
        assert load.longest == 2048
        assert load.tokens <= load.inputs * 2048
        assert load.pairs <= load.inputs * 2048 * 2049 / 2
    assert many.padded.tokens == many.padded.inputs * 2048
    assert workload_of("boolq", 5, max_length=512).padded.tokens == 512
    notes = make_plan("125m", tasks=("piqa",), num_fewshot=(0, 16))["notes"]
    said = "Lengths at 16 shots follow from those counted at 0, 1, 5, every shot adding as much"
    assert sum(note.startswith(said) for note in notes) == 1


def test_groups_and_tasks_of_ones_own():
    at_both = {(work.task, work.num_fewshot) for work in workloads(["icl14"], (0, 5))}
    assert at_both == {(task, shots) for task in known_tasks() for shots in (0, 5)}
    assert {(work.task, work.num_fewshot) for work in workloads(["icl14_5shot"], (0,))} == {
        (task, 5) for task in known_tasks()
    }
    (work,) = workloads([], (3,), ["mine=1000x250"])
    assert (work.documents, work.padded.tokens, work.padded.pairs) == (1000, 250, 250 * 251 / 2)
    assert workload_of("record", 1).padded == workload_of("icl14_record", 1).padded


def test_a_grid_counts_its_cells():
    grid = Grid(
        workloads=tuple(workloads(["piqa", "copa"], (0, 5))),
        prune_heads=("0", "0.3", "0.7", "0.3"),
        prune_ffns=("0", "0.2"),
        masks=dict.fromkeys(itertools.product(("0", "0.3", "0.7"), ("0", "0.2")), 4),
        fewshot_seeds=2,
    )
    assert grid.cells_per_task == (1 + 4 * 5) * 2
    assert grid.documents(workload_of("copa", 0)) == 100
    assert Grid(workloads=grid.workloads, limit=0.125).documents(workload_of("copa", 0)) == 13
    assert Grid(workloads=grid.workloads, limit=8).documents(workload_of("copa", 0)) == 8


def test_the_sweep_is_the_sum_of_its_cells():
    options = {"tasks": ("copa",), "num_fewshot": (0,), "prune_heads": ("0", "0.5"), "prune_ffns": ("0",)}
    model, load = dimensions_of("125m"), workload_of("copa", 0)
    packed = make_plan("125m", **options, tflops=2)
    by_name = {stage["name"]: stage for stage in packed["stages"]}
    each = load.packed.times(100)
    expected = flops.forward(model, each) + flops.forward(model, each, model.pruned(72, 0))
    assert by_name["sweep"]["flops"] == pytest.approx(expected)
    assert by_name["sweep"]["seconds"] == pytest.approx(expected / 2e12)
    assert packed["stages"] == make_plan("125m", **options, tflops=2)["stages"]  # the default, as in a sweep
    padded = make_plan("125m", **options, scorer="padded")
    by_name = {stage["name"]: stage for stage in padded["stages"]}
    assert by_name["sweep"]["flops"] == pytest.approx(2 * by_name["dense evaluation"]["flops"])
    assert by_name["sweep"]["seconds"] is None


# -- the command --------------------------------------------------------------------------------------------------


def invoked(*arguments):
    found = CliRunner(env={"COLUMNS": "120"}).invoke(command, [str(one) for one in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_a_plan_for_a_terminal_and_as_json(tmp_path):
    mask = PruningMask(num_hidden_layers=64, num_attention_heads=72, pruned_heads={1: (0, 1)}, pruned_ffns=(63,))
    mask.save(tmp_path / "mask.json")
    shown = invoked(
        "66b", "--devices", "8x80GB", "--tflops", 100, "--mask", tmp_path / "mask.json", "--json", tmp_path / "p.json"
    )
    for text in ("65,719,701,504", "15,218,697,600", "8,154,501,120", "4 processes", "parallelize=True", "mask.json"):
        assert text in shown
    plan = json.loads((tmp_path / "p.json").read_text())
    assert plan["format"] == "lm-eval-prune-plan"
    assert plan["removals"][-1]["removed"] == 2 * 4_718_976 + 679_541_760
    assert plan["devices"]["copies"] == 4
    assert all(stage["seconds"] > 0 for stage in plan["stages"])


def test_a_sweeps_settings_are_taken(tmp_path):
    config = tmp_path / "sweep.yaml"
    config.write_text(
        "tasks: [piqa]\nnum_fewshot: [0]\nprune_heads: [0, 0.5]\nranking: ['random:0+1+2', own]\nlimit: 10\n"
        "model_args: pretrained=facebook/opt-125m,scorer=packed,dtype=bfloat16\n"
    )
    plan = make_plan("125m", config=config, devices="24GB")
    assert plan["stages"][-1]["work"] == "5 cells"
    assert plan["devices"]["dtype"] == "bfloat16"
    assert plan["stages_title"].endswith("1 tasks at 0 shots, scorer packed")


@pytest.mark.parametrize(
    ("model_args", "flags", "expected"),
    [
        ("dtype=float32", [], ("float32", 4)),
        ("dtype=torch.bfloat16", [], ("bfloat16", 4)),
        ("dtype=auto", [], ("float16", 4)),
        ("dtype=float32", ["--dtype", "bfloat16", "--batch_size", 2], ("bfloat16", 2)),
    ],
)
def test_the_command_takes_dtype_and_batch_size_of_a_sweep(tmp_path, model_args, flags, expected):
    config = tmp_path / "sweep.yaml"
    config.write_text(f"tasks: [piqa]\nbatch_size: 4\nmodel_args: pretrained=facebook/opt-125m,{model_args}\n")
    invoked("125m", "--config", config, "--devices", "24GB", "--json", tmp_path / "plan.json", *flags)
    devices = json.loads((tmp_path / "plan.json").read_text())["devices"]
    assert (devices["dtype"], devices["batch_size"]) == expected


def test_the_commands_own_dtype_and_batch_size(tmp_path):
    invoked("125m", "--devices", "24GB", "--json", tmp_path / "plan.json")
    devices = json.loads((tmp_path / "plan.json").read_text())["devices"]
    assert (devices["dtype"], devices["batch_size"]) == ("float16", 1)


def test_offloaded_weights_move_once_a_batch():
    options = {"tasks": ("copa",), "num_fewshot": (0,), "devices": "10GB,cpu:30GB", "tflops": 100.0}
    options["scorer"] = "padded"
    plan = make_plan("6.7b", **options)
    dense = plan["stages"][0]
    inputs = round(workload_of("copa", 0).padded.inputs * 100)
    assert dense["moved"] == pytest.approx(inputs * plan["devices"]["offloaded"], rel=0.01)
    assert dense["seconds"] is None
    timed = make_plan("6.7b", **options, bandwidth=20.0)["stages"][0]
    assert timed["seconds"] == pytest.approx(dense["flops"] / 1e14 + dense["moved"] / 2e10)


def test_measured_throughput_is_a_number():
    plan = make_plan("125m", measure=True, dtype="float32", tasks=("copa",))
    assert 0.001 < plan["tflops"] < 10_000
    assert plan["stages"][0]["seconds"] == pytest.approx(plan["stages"][0]["flops"] / plan["tflops"] / 1e12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["67b"], "no configuration found"),
        (["66b", "--devices", "8 GPUs"], "devices=8 GPUs: '8 GPUs' is not understood"),
        (["66b", "--devices", "²x80GB"], "devices=²x80GB: '²x80GB' is not understood"),
        (["66b", "--dtype", "int4"], "dtype=int4: expected one of float32, bfloat16, float16"),
        (["66b", "--tasks", "mmlu"], "task 'mmlu': its length is not known; give it as --tokens mmlu=INPUTSxTOKENS"),
        (["66b", "--num_fewshot", "-1"], "num_fewshot=-1: expected 0 or more"),
        (["66b", "--num_fewshot", "9" * 400], "expected 0 or more, and less than 10^15"),
        (["66b", "--tokens", f"mine={'9' * 400}x5"], "expected NAME=INPUTSxTOKENS"),
        (["x" * 5000], "no configuration found"),
        (["66b", "--tasks", "copa", "y" * 500], "its length is not known"),
        (["66b", "--num_fewshot", "five"], "num_fewshot=five: expected whole numbers, such as 0,1,5"),
        (["66b", "--limit", "0"], "limit=0: expected a whole number of documents, at least 1"),
        (["66b", "--limit", "inf"], "limit=inf: expected a whole number of documents"),
        (["66b", "--tokens", "mine=5"], "tokens=mine=5: expected NAME=INPUTSxTOKENS"),
        (["66b", "--tokens", "mine=5x5000"], "more tokens than the model's 2048 positions"),
        (["66b", "--prune_heads", "1.5"], "prune_heads=1.5: expected a number from 0 to 1"),
        (["66b", "--prune_heads", "0,1/3"], "prune_heads='1/3': expected a number from 0 to 1, a decimal such as 0.3"),
        (["66b", "--ranking", "best"], "ranking 'best': expected own"),
        (["66b", "--scorer", "fast"], "scorer=fast: expected one of packed, padded"),
        (["66b", "--batch_size", "0"], "batch_size=0; expected at least 1"),
        (["66b", "--max_length", "4096"], "max_length=4096; expected 2 to 2048"),
        (["66b", "--tflops", "-1"], "tflops=-1.0; expected a number above 0"),
        (["66b", "--tflops", "1", "--measure"], "exclude one another"),
        (["66b", "--mask", "absent.json"], "absent.json: no such file"),
        (["66b", "--config", "absent.yaml"], "absent.yaml: no such file"),
        (["FOLDER"], "no config.json in this folder"),
        (["66b", "--mask", "MASK"], "for 3 layers of 4 heads, but facebook/opt-66b has 64 layers of 72 heads"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    PruningMask.dense(3, 4).save(tmp_path / "mask.json")
    names = {"MASK": str(tmp_path / "mask.json"), "FOLDER": str(tmp_path)}
    monkeypatch.setattr(sys, "argv", ["lm-eval-prune", "plan", *(names.get(one, one) for one in arguments)])
    with pytest.raises(SystemExit) as stop:
        entry_point()
    lines = capsys.readouterr().err.splitlines()
    assert (stop.value.code, len(lines)) == (2, 1)
    assert message in lines[0]


@pytest.mark.parametrize("model_type", ["mamba", "rwkv", "t5"])
def test_models_without_heads_to_prune_are_refused_in_one_line(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(PruneError, match="not supported") as caught:
        make_plan(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_broken_configurations_are_refused(tmp_path):
    content = {"model_type": "pruned_opt", "pruning_mask": PruningMask.dense(3, 4).to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(PruneError, match="pruning_mask is for 3 layers of 4 heads, not 12 of 12"):
        dimensions_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "pruned_opt", "pruning_mask": 7}')
    with pytest.raises(PruneError, match='"pruning_mask" is 7; expected the content of a mask file'):
        dimensions_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "pruned_opt", "pruning_mask": {"format": "other"}}')
    with pytest.raises(PruneError, match='pruning_mask: "format" is "other"'):
        dimensions_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "opt", "hidden_size": "large"}')
    with pytest.raises(PruneError, match='"hidden_size" is "large"; Input should be a valid integer'):
        dimensions_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "opt", "num_attention_heads": 7}')
    with pytest.raises(PruneError, match=r"not supported: .*divi"):
        dimensions_of(str(tmp_path))


@pytest.mark.slow
def test_opt_66b_on_eight_gpus_takes_under_ten_seconds_without_a_network():
    code = (
        "import socket, sys, time; socket.socket.connect = None\n"
        "from lm_eval_prune.cli.plan import command\n"
        "command(['66b', '--devices', '8x80GB', '--tflops', '200'], standalone_mode=False)\n"
        "print(time.process_time())"  # of this process alone, whatever else the machine is doing
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "65,719,701,504" in found.stdout
    assert float(found.stdout.split()[-1]) < 10


def test_memory_of_a_batch_from_its_parts():
    model = dimensions_of("125m")
    assert memory.keys_and_values(model, [5], 100, "float16") == 2 * 100 * 768 * 2
    assert memory.logits(model, 100, "float32") == 2 * 100 * 50272 * 4
    assert memory.layer_activations(model, 100, "float32") == 100 * (2 * 768 + 2 * 3072) * 4


def test_packs_are_as_large_as_the_scorer_makes_them():
    from lm_eval_prune.budget import token_budget
    from lm_eval_prune.costs.study import _batches

    model = dimensions_of("6.7b")
    for batch_size, longest in ((1, 22), (8, 500), (64, 2048)):
        grid = Grid(workloads=(), batch_size=batch_size, scorer="packed")
        load = Load(10**7, 0, 0, 10**4, longest)
        expected = math.ceil(10**7 / token_budget(model, "cuda", longest, batch_size))
        assert _batches(model, load, grid, packs=True) == expected
