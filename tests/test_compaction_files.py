"""Compaction of checkpoints: shard by shard, from any kind of file, whole or not at all; and loading what it wrote."""

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lm_eval
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scoring_cases import QUICK_FIRST, noisy_opt, pruning_masks, tiny_model
from scoring_reference import _logits as reference_logits
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from lm_eval_prune import PruneError, PruningMask, compact, compact_checkpoint
from lm_eval_prune.cli.main import main
from lm_eval_prune.compaction import shards as module
from lm_eval_prune.compaction.weights import PartialWeight
from lm_eval_prune.errors import ArgumentError, FileFormatError, MaskShapeError
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.harness.registration import register
from tests import processes
from tests.helpers import TEXTS, build, requests

IDS = torch.randint(3, 61, (2, 17), generator=torch.Generator().manual_seed(3))
SMALLEST = {"max_shard_size": "6KB"}


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


# -- the same model as in memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", QUICK_FIRST)
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mask=pruning_masks())
def test_shards_hold_what_the_mask_leaves(shape, mask, tmp_path_factory):
    folder = tmp_path_factory.mktemp("streamed")
    model = tiny_model(shape)
    model.save_pretrained(folder / "whole", max_shard_size="9KB")
    done = compact_checkpoint(folder / "whole", mask, folder / "small", **SMALLEST)
    smaller = loaded(folder / "small")
    expected = compact(model, mask)
    assert {name: tensor.shape for name, tensor in smaller.state_dict().items()} == {
        name: tensor.shape for name, tensor in expected.state_dict().items()
    }
    for row, logits in zip(IDS.tolist(), smaller(IDS).logits, strict=True):
        torch.testing.assert_close(logits.double(), reference_logits(model, row, mask), rtol=0, atol=1e-5)
    assert (done.num_parameters, done.num_parameters_before) == (expected.num_parameters(), model.num_parameters())
    assert done.num_bytes == sum(file.stat().st_size for file in (folder / "small").glob("*.safetensors"))
    sizes = [
        sum(tensor.nbytes for tensor in load_file(file).values()) for file in (folder / "small").glob("*.safetensors")
    ]
    largest = max(parameter.nbytes for parameter in smaller.parameters())
    assert max(sizes) <= max(6000, largest)


def test_a_checkpoint_is_compacted_again_in_the_original_coordinates(checkpoint, tmp_path):
    first = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1,), 1: (0, 1)})
    second = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1, 3)}, pruned_ffns=(2,))
    compact_checkpoint(checkpoint, first, tmp_path / "one")
    compact_checkpoint(tmp_path / "one", second, tmp_path / "two")
    compact_checkpoint(checkpoint, first | second, tmp_path / "once")
    assert torch.equal(loaded(tmp_path / "two")(IDS).logits, loaded(tmp_path / "once")(IDS).logits)
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["original_model"] == checkpoint.name
    assert PruningMask.from_dict(config["pruning_mask"]) == first | second
    assert config["layer_head_num"] == [2, 2, 4]


@pytest.mark.parametrize("kind", ["pickled", "bare decoder", "output layer only", "half"])
def test_checkpoints_as_they_lie_on_the_hub_are_read(kind, mask, tmp_path):
    model = noisy_opt()
    whole = tmp_path / "whole"
    model.save_pretrained(whole)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (whole / "model.safetensors").unlink()
    if kind == "pickled":
        torch.save(tensors, whole / "pytorch_model.bin")
    elif kind == "bare decoder":
        del tensors["lm_head.weight"]
        save_file(
            {name.removeprefix("model."): tensor for name, tensor in tensors.items()}, whole / "model.safetensors"
        )
    elif kind == "output layer only":
        del tensors["model.decoder.embed_tokens.weight"]
        save_file(tensors, whole / "model.safetensors")
    else:
        del tensors["lm_head.weight"]
        save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, whole / "model.safetensors")
    compact_checkpoint(whole, mask, tmp_path / "small", **SMALLEST)
    expected = compact(model.bfloat16() if kind == "half" else model, mask)
    smaller = loaded(tmp_path / "small")
    assert smaller.dtype == expected.dtype
    assert torch.equal(smaller(IDS).logits, expected(IDS).logits)


def test_the_tokenizer_and_the_licence_come_along(checkpoint, mask, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "whole")
    (tmp_path / "whole" / "LICENSE.md").write_text("Yours, with this notice.")
    compact_checkpoint(tmp_path / "whole", mask, tmp_path / "small")
    assert (tmp_path / "small" / "LICENSE.md").read_text() == "Yours, with this notice."
    text = "The river near the garden"
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "small", checkpoint))
    assert type(ours) is type(theirs)
    assert ours(text).input_ids == theirs(text).input_ids


# -- whole or not at all ----------------------------------------------------------------------------------------------


FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), FULL])
def test_an_interrupted_compaction_leaves_nothing(checkpoint, mask, tmp_path, monkeypatch, error):
    original, calls = module.save_file, []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise error
        original(*args, **kwargs)

    monkeypatch.setattr(module, "save_file", failing)
    with pytest.raises((KeyboardInterrupt, FileFormatError), match=r"^$" if error is KeyboardInterrupt else "No space"):
        compact_checkpoint(checkpoint, mask, tmp_path / "small", **SMALLEST)
    assert len(calls) == 2
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from lm_eval_prune import PruningMask, compact_checkpoint
from lm_eval_prune.compaction import shards as module
from lm_eval_prune.compaction.weights import PartialWeight
original, calls = module.save_file, []
def save_file(*args, **kwargs):
    original(*args, **kwargs)
    calls.append(args)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
module.save_file = save_file
compact_checkpoint(sys.argv[1], PruningMask.load(sys.argv[2]), sys.argv[3], max_shard_size="6KB")
"""


@pytest.mark.slow
def test_what_a_killed_compaction_left_goes_with_the_next(checkpoint, mask, tmp_path):
    out = tmp_path / "out"
    mask.save(tmp_path / "mask.json")
    (tmp_path / "killed.py").write_text(KILLED)
    done = processes.run(tmp_path / "killed.py", checkpoint, tmp_path / "mask.json", out / "small")
    assert done.returncode == -signal.SIGKILL
    assert not (out / "small").exists()
    assert any(out.iterdir())
    (out / ".mine.unfinished").mkdir()  # of somebody else
    compact_checkpoint(checkpoint, mask, out / "another", **SMALLEST)
    assert sorted(file.name for file in out.iterdir()) == [".mine.unfinished", "another"]
    compact_checkpoint(checkpoint, mask, out / "small", **SMALLEST)
    expected = compact(loaded(checkpoint), mask)
    assert torch.equal(loaded(out / "small")(IDS).logits, expected(IDS).logits)


def test_a_folder_that_another_compaction_is_writing_is_left_to_it(checkpoint, mask, tmp_path, monkeypatch):
    original, refused = module.save_file, []

    def meanwhile(*args, **kwargs):
        original(*args, **kwargs)
        with pytest.raises(ArgumentError, match="another run is writing it; give a new folder") as caught:
            compact_checkpoint(checkpoint, PruningMask.dense(3, 4), tmp_path / "small")
        refused.append(caught)

    monkeypatch.setattr(module, "save_file", meanwhile)
    compact_checkpoint(checkpoint, mask, tmp_path / "small")
    assert len(refused) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["small"]
    assert loaded(tmp_path / "small").config.removed == mask


def test_folders_that_are_not_empty_are_left_alone(checkpoint, mask, tmp_path, monkeypatch):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="not empty; give a new folder"):
        compact_checkpoint(checkpoint, mask, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "volume")
    (tmp_path / "volume").mkdir()
    with pytest.raises(ArgumentError, match="volume: a mount point; give a new folder inside it"):
        compact_checkpoint(checkpoint, mask, tmp_path / "volume")
    (tmp_path / "empty").mkdir()
    assert compact_checkpoint(checkpoint, mask, tmp_path / "empty").output_path == tmp_path / "empty"


# -- broken checkpoints -----------------------------------------------------------------------------------------------


def cut_short(folder):
    shard = max(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    return rf"{shard.name}: weights cannot be read, the file may be cut short"


def misshapen(folder):
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        if (name := "model.decoder.layers.1.self_attn.q_proj.weight") in tensors:
            save_file({**tensors, name: tensors[name][:-1].contiguous()}, shard, metadata={"format": "pt"})
    return r"layers.1.self_attn.q_proj.weight is \(31, 32\); expected \(32, 32\) by config.json"


def incomplete(folder):
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        tensors.pop("model.decoder.layers.0.fc1.bias", None)
        save_file(tensors, shard, metadata={"format": "pt"})
    return "the weight model.decoder.layers.0.fc1.bias is missing"


def without_a_shard(folder):
    shard = max(folder.glob("*.safetensors"))
    shard.unlink()
    return f"the shard {shard.name} is missing"


DAMAGES = [cut_short, misshapen, incomplete, without_a_shard]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_checkpoint_is_one_clear_line(damage, checkpoint, mask, tmp_path):
    compact_checkpoint(checkpoint, PruningMask.dense(3, 4).prune_layer(2), tmp_path / "broken", max_shard_size="20KB")
    message = damage(tmp_path / "broken")
    with pytest.raises(FileFormatError, match=message) as caught:
        compact_checkpoint(tmp_path / "broken", mask, tmp_path / "small")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "small").exists()
    with pytest.raises(PruneError, match=message) as caught:
        build(PrunedOPT, tmp_path / "broken")
    assert "\n" not in str(caught.value)
    # transformers' own loader, and with it the harness's `hf`.
    others = {cut_short: "weights cannot be read, a file may be cut short", without_a_shard: "No such file"}
    message = others.get(damage, message.replace("weight model.", r"weight (model\.)?"))
    for auto in (AutoModelForCausalLM, AutoModel):
        with pytest.raises((FileFormatError, FileNotFoundError), match=message) as caught:
            auto.from_pretrained(tmp_path / "broken")
        assert "\n" not in str(caught.value)


def test_code_in_a_pickle_is_not_run(checkpoint, mask, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "ran").mkdir, ()

    shutil.copytree(checkpoint, tmp_path / "whole")
    (tmp_path / "whole" / "model.safetensors").unlink()
    torch.save({"model.decoder.embed_tokens.weight": Bomb()}, tmp_path / "whole" / "pytorch_model.bin")
    with pytest.raises(FileFormatError, match=r"pytorch_model.bin: weights cannot be read"):
        compact_checkpoint(tmp_path / "whole", mask, tmp_path / "small")
    assert not (tmp_path / "ran").exists()


# -- the harness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "scorer"), [("pre", "packed"), ("post", "padded")])
def test_all_three_ways_to_evaluate_a_mask_agree(checkpoints, mask, tmp_path, shape, scorer):
    compact_checkpoint(checkpoints[shape], mask, tmp_path / "small")
    masked = build(PrunedOPT, checkpoints[shape], mask=mask, scorer=scorer)
    others = [
        build(PrunedOPT, checkpoints[shape], mask=mask, scorer=scorer, load="compact"),
        build(PrunedOPT, tmp_path / "small", scorer=scorer),
        build(PrunedOPT, tmp_path / "small", scorer=scorer, mask=mask),
    ]
    expected = masked.loglikelihood(requests("loglikelihood", TEXTS))
    asked = requests("generate_until", [(TEXTS[0][0], {"until": ["\n"], "max_gen_toks": 6})])
    for lm in others:
        found = lm.loglikelihood(requests("loglikelihood", TEXTS))
        assert [answer[1] for answer in found] == [answer[1] for answer in expected]
        assert [answer[0] for answer in found] == pytest.approx([answer[0] for answer in expected], abs=1e-5)
        assert lm.generate_until(asked) == masked.generate_until(asked)
        block, theirs = (one.get_model_info()["pruning"] for one in (lm, masked))
        same = ("heads_pruned", "heads_total", "ffns_pruned", "num_parameters_removed", "num_parameters_left")
        assert {key: block[key] for key in same} == {key: theirs[key] for key in same}
        assert block["mask"]["pruned_heads"] == theirs["mask"]["pruned_heads"]
        assert (block["compacted"], theirs["compacted"]) == (True, False)
        assert lm.model.num_parameters() == block["num_parameters_left"]


def test_loading_compact_reads_no_pruned_weight(checkpoint, mask, monkeypatch):
    read = []
    original = PartialWeight.__getitem__
    monkeypatch.setattr(
        PartialWeight, "__getitem__", lambda self, index: read.append(original(self, index)) or read[-1]
    )
    lm = build(PrunedOPT, checkpoint, mask=mask, load="compact")
    assert (
        sum(tensor.numel() for tensor in read)
        == lm.model.num_parameters()
        == lm.get_model_info()["model_num_parameters"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"load": "fast"}, "load=fast: unknown; expected masked or compact"),
        ({"load": "compact", "peft": "adapter"}, "load=compact and peft exclude one another"),
        ({"load": "compact", "mask": PruningMask.dense(2, 4)}, "mask is for 2 layers of 4 heads"),
    ],
)
def test_bad_ways_to_load_are_refused(checkpoint, arguments, message):
    with pytest.raises(PruneError, match=message):
        build(PrunedOPT, checkpoint, **arguments)


def test_loading_compact_onto_a_disk_is_refused(checkpoint, mask, tmp_path):
    settings = {"parallelize": True, "max_cpu_memory": "150KB", "offload_folder": str(tmp_path)}
    with pytest.raises(ArgumentError, match="load=compact: weights would lie on disk, where whole ones are looked for"):
        build(PrunedOPT, checkpoint, mask=mask, load="compact", **settings)


# -- the command ------------------------------------------------------------------------------------------------------


def command(*arguments):
    """What the command prints; of one that fails, its one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lm-eval-prune", "compact", *map(str, arguments)])
        patch.setattr(sys, "stdout", printed := io.StringIO())
        patch.setattr(sys, "stderr", io.StringIO())
        with pytest.raises(SystemExit) as stop:
            main()
        if stop.value.code:
            assert stop.value.code == 2
            assert sys.stderr.getvalue().count("\n") == 1
            return sys.stderr.getvalue()
    return printed.getvalue()


def test_the_command_writes_a_folder_with_a_card(checkpoint, mask, tmp_path):
    mask.save(tmp_path / "mask.json")
    row = {"alias": "piqa", "acc,none": 0.625, "acc_stderr,none": 0.0125, "sample_len": 16}
    results = {"results": {"piqa": row}, "n-shot": {"piqa": 5}, "pruning": {"mask": mask.to_dict()}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    chosen = ["-a", f"pretrained={checkpoint}", "--mask", tmp_path / "mask.json", "-o", tmp_path / "small"]
    printed = command(*chosen, "--results", tmp_path / "results.json")
    smaller = loaded(tmp_path / "small")
    original = loaded(checkpoint)
    assert f"{smaller.num_parameters():,} of {original.num_parameters():,} parameters" in printed
    card = (tmp_path / "small" / "README.md").read_text()
    assert f"| parameters | {original.num_parameters():,} | {smaller.num_parameters():,} |" in card
    assert "| attention heads | 12 | 6 | 50.0% |" in card
    assert "| piqa | 5 | acc | 0.6250 | 0.0125 |" in card
    assert PruningMask.from_dict(json.loads(card.split("```json\n")[1].split("```")[0])) == mask
    assert str(checkpoint.parent) not in card
    assert "not empty" in command(*chosen)


def test_bad_input_to_the_command_is_one_line(checkpoint, mask, tmp_path):
    mask.save(tmp_path / "mask.json")
    dense = PruningMask.dense(3, 4)
    (tmp_path / "results.json").write_text(json.dumps({"results": {}, "pruning": {"mask": dense.to_dict()}}))
    contents = {
        "none": {},
        "no-rows": {"results": {"piqa": 3}},
        "no-mask": {"results": {}, "pruning": {"mask": 7}},
        "no-shots": {"results": {}, "n-shot": 3},
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    configs = {"mamba": {"model_type": "mamba"}, "broken": {"model_type": "opt", "hidden_size": "large"}}
    settings = json.loads((checkpoint / "config.json").read_text())
    for name, content in {**configs, "bare": settings, "odd": {**settings, "hidden_size": 30}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    before = sorted(tmp_path.rglob("*"))
    model = ["-a", f"pretrained={checkpoint}"]
    chosen = [*model, "--mask", tmp_path / "mask.json"]
    for arguments, message in [
        (model, "nothing to prune: give --mask"),
        (["-a", "dtype=float16"], "model_args: dtype=float16: the checkpoint's is float32, and its weights keep it"),
        (["-a", "device=cpu"], "model_args: device: not used here"),
        (["-a", f"pretrained={tmp_path / 'absent'}", "--mask", tmp_path / "mask.json"], "no model configuration found"),
        *(
            (["-a", f"pretrained={tmp_path / name}", "--mask", tmp_path / "mask.json"], message)
            for name, message in {
                "mamba": "model type 'mamba' is not supported: no attention found in its MambaBlock",
                "broken": 'broken: its configuration: "hidden_size" is "large"',
                "bare": "bare: no weights found; expected model.safetensors or pytorch_model.bin",
                "odd": "odd: its configuration: 4 heads do not divide a width of 30",
            }.items()
        ),
        (["-a", "pretrained"], "model_args: 'pretrained'; expected name=value"),
        ([*model, "--mask", tmp_path / "absent.json"], "absent.json: no such file"),
        ([*model, "--mask", checkpoint / "model.safetensors"], 'expected "head_mask"'),
        ([*chosen, "--max_shard_size", "-5GB"], "max_shard_size=-5GB: expected a size such as 5GB"),
        ([*chosen, "--results", tmp_path / "no-rows.json"], 'no results of the harness: "results.piqa" is 3'),
        ([*chosen, "--results", tmp_path / "no-mask.json"], 'no-mask.json: pruning: mask: "format" is null'),
        ([*chosen, "--results", tmp_path / "no-shots.json"], "no results of the harness"),
        ([*chosen, "--prune_heads", "0.5"], "exclude one another"),
        ([*chosen, "--max_shard_size", "small"], "max_shard_size=small: expected a size such as 5GB"),
        ([*chosen, "--max_shard_size", f"{'9' * 400}GB"], "9GB: expected a size such as 5GB"),
        ([*chosen, "--results", tmp_path / "results.json"], "results of another mask"),
        ([*chosen, "--results", tmp_path / "none.json"], "no results of the harness"),
    ]:
        found = command(*arguments, "-o", tmp_path / "small")
        assert message in found
    assert sorted(tmp_path.rglob("*")) == before
    for output_path, message in {
        checkpoint: "not empty; give a new folder",
        tmp_path / "mask.json": "not empty; give a new folder",
        tmp_path / "mask.json" / "small": "cannot be written: ",
    }.items():
        assert message in command(*chosen, "-o", output_path)


def test_a_mask_of_another_model_is_refused(checkpoint, tmp_path):
    with pytest.raises(MaskShapeError, match="mask is for 12 layers of 12 heads"):
        compact_checkpoint(checkpoint, PruningMask.dense(12, 12), tmp_path / "small")


# -- fresh interpreters -----------------------------------------------------------------------------------------------

LOADS = """
import sys
import lm_eval_prune
heavy = {"torch", "transformers", "numpy", "lm_eval"} & sys.modules.keys()
from transformers import AutoTokenizer, AutoModelForCausalLM
model, tokenizer = (auto.from_pretrained(sys.argv[1]) for auto in (AutoModelForCausalLM, AutoTokenizer))
print(heavy, type(model).__name__, len(tokenizer))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "first", ["", "import transformers.models.auto.modeling_auto", "from transformers import OPTConfig"]
)
def test_importing_the_package_is_enough_and_costs_nothing(first, checkpoint, mask, tmp_path):
    compact_checkpoint(checkpoint, mask, tmp_path / "small")
    code = LOADS if not first else LOADS.replace("import lm_eval_prune\nheavy", f"{first}\nimport lm_eval_prune\nheavy")
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "small"], capture_output=True, text=True, timeout=120, check=False
    )
    tokens = len(AutoTokenizer.from_pretrained(checkpoint))
    assert found.stdout.strip().endswith(f"PrunedOPTForCausalLM {tokens}"), found.stderr
    assert bool(first) or found.stdout.startswith("set()")


STOCK = """
import json, sys
from pathlib import Path
import lm_eval, lm_eval.tasks
folder = Path(lm_eval.tasks.__file__).parent / "super_glue"
manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folder)
model = {"model": "hf", "model_args": f"pretrained={sys.argv[1]}", "device": "cpu", "batch_size": 2}
found = lm_eval.simple_evaluate(**model, tasks=["copa"], limit=4, task_manager=manager)
Path(sys.argv[2]).write_text(json.dumps({"results": found["results"], "config": found["config"]}, default=str))
"""


@pytest.mark.slow
def test_the_stock_harness_evaluates_it_as_hf_and_as_pruned_opt(
    checkpoint, mask, in_benchmarks, task_manager, tmp_path
):
    """`hf` in a process of its own, where nothing but the start-up hook has imported us."""
    compact_checkpoint(checkpoint, mask, tmp_path / "small")
    mask.save(tmp_path / "mask.json")
    (tmp_path / "stock.py").write_text(STOCK)
    command = [sys.executable, tmp_path / "stock.py", tmp_path / "small", tmp_path / "hf.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "neither marked as CausalLM" not in done.stderr
    found = {"hf": json.loads((tmp_path / "hf.json").read_text(encoding="utf-8"))}
    register()
    for name, arguments in {
        "ours": f"pretrained={tmp_path / 'small'}",
        "masked": f"pretrained={checkpoint},mask={tmp_path / 'mask.json'}",
    }.items():
        asked = {"model": "pruned-opt", "model_args": arguments, "device": "cpu", "batch_size": 2}
        found[name] = lm_eval.simple_evaluate(**asked, tasks=["copa"], limit=4, task_manager=task_manager)
    assert found["hf"]["results"] == found["ours"]["results"] == found["masked"]["results"]
    left = {name: content["config"]["model_num_parameters"] for name, content in found.items()}
    assert left["hf"] == left["ours"] == left["masked"]
