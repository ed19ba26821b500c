"""What is wrong with a model's arguments is told in one line, by the model itself and so by every command."""

import contextlib
import json
import shutil

import pytest
import torch
from lm_eval.config.evaluate_config import EvaluatorConfig
from transformers import GenerationConfig

from lm_eval_prune import PruningMask
from lm_eval_prune.compaction.checkpoint import compact_checkpoint
from lm_eval_prune.errors import ArgumentError, PruneError
from lm_eval_prune.harness import arguments
from lm_eval_prune.harness.arguments import (
    check_arguments,
    require_device,
    unread_arguments,
    without_absent_default,
)
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.harness.model_record import record_of_arguments
from lm_eval_prune.sweep.config import make_config
from lm_eval_prune.sweep.setup import find_setup


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"device": "nonsense"}, "device=nonsense: unknown; expected cpu, cuda, cuda:0 or mps"),
        ({"device": "cuda:x"}, "device=cuda:x: unknown"),
        ({"device": "cuda:-1"}, "device=cuda:-1: unknown"),
        ({"device": "meta"}, "device=meta: unknown"),
        ({"device": "0"}, "device=0: unknown"),
        ({"device": "CPU"}, "device=CPU: unknown"),
        ({"max_length": 0}, "max_length=0: expected a whole number from 1 on"),
        ({"max_length": -5}, "max_length=-5: expected"),
        ({"max_length": -1.0}, "max_length=-1.0: expected"),
        ({"max_length": "long"}, "max_length=long: expected"),
        ({"max_length": True}, "max_length=True: expected"),
        ({"max_batch_size": 0}, "max_batch_size=0: expected"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number from 1 on, auto, or auto:N"),
        ({"batch_size": -2}, "batch_size=-2: expected"),
        ({"batch_size": "many"}, "batch_size=many: expected"),
        ({"batch_size": 1.5}, "batch_size=1.5: expected"),
        ({"trust_remote_code": "yes"}, "trust_remote_code=yes: expected True or False"),
        ({"trust_remote_code": 1}, "trust_remote_code=1: expected True or False"),
        ({"add_bos_token": "maybe"}, "add_bos_token=maybe: expected True or False"),
        ({"parallelize": "yes"}, "parallelize=yes: expected True or False"),
        ({"truncation": "left"}, "truncation=left: expected True or False"),
        ({"logits_cache": 2}, "logits_cache=2: expected True or False"),
        ({"dtype": "banana"}, "dtype=banana: expected auto, float32, bfloat16 or float16"),
        ({"dtype": "int8"}, "dtype=int8: expected auto, float32"),
        ({"dtype": "os"}, "dtype=os: expected auto, float32"),
        ({"dtype": ""}, "dtype=: expected auto, float32"),
        ({"softmax_dtype": "auto"}, "softmax_dtype=auto: expected float32, bfloat16 or float16"),
        ({"softmax_dtype": torch.int8}, "softmax_dtype=torch.int8: expected float32"),
        ({"mixed_precision_dtype": "complex64"}, "mixed_precision_dtype=complex64: expected float32"),
        ({"prefix_token_id": -5}, "prefix_token_id=-5: expected the number of a token, from 0 on"),
        ({"prefix_token_id": "x"}, "prefix_token_id=x: expected the number of a token"),
        ({"prefix_token_id": True}, "prefix_token_id=True: expected the number of a token"),
        ({"weights_only": False}, "weights_only=False: a pickle runs what is in it"),
        ({"unit": "x"}, "unit=x: unknown; expected head, kv_group or attention"),
        ({"scorer": "fast"}, "scorer=fast: unknown; expected packed, flex or padded"),
        ({"load": 3}, "load=3: unknown; expected masked or compact"),
        (
            {"device_map": "banana"},
            "device_map=banana: device=banana: unknown; expected cpu, cuda, cuda:0 or mps; or auto",
        ),
        ({"device_map": {"": "gpu"}}, "device_map={'': 'gpu'}: device=gpu: unknown"),
        ({"device_map": [1]}, "device_map=[1]: expected auto, balanced"),
        ({"device_map": True, "parallelize": True}, "device_map=True: expected auto"),
        ({"device_map": -1}, "device_map=-1: device=cuda:-1: unknown"),
        ({"max_memory_per_gpu": "banana"}, "max_memory_per_gpu=banana: expected a size, such as 20GiB, or bytes"),
        ({"max_cpu_memory": -5}, "max_cpu_memory=-5: expected a size"),
        ({"max_memory": {0: "1GB"}}, "max_memory={0: '1GB'}: not read by the harness; expected max_memory_per_gpu"),
        ({"config": 3}, "config=3: masks are settled by the checkpoint's own configuration"),
        ({"config": "other/config.json"}, "give a folder that has the other one"),
        ({"quantization_config": {"bits": 4}}, "the checkpoint's own configuration says how it is quantised"),
        ({"generation_config": "x"}, "generation_config=x: expected a GenerationConfig, from Python; --gen_kwargs"),
        ({"model_type": "gpt2"}, "model_type=gpt2: the checkpoint's own configuration says it"),
        ({"state_dict": 3}, "state_dict=3: not to be given from outside; leave it out"),
        ({"return_dict": False}, "return_dict=False: the harness reads the model's answers by name"),
        ({"output_loading_info": True}, "output_loading_info=True: a model alone is expected"),
        ({"_from_auto": 1}, "_from_auto=1: not an argument of a model; leave it out"),
        ({"backend": "seq2seq"}, "backend=seq2seq: expected default or causal"),
        ({"tp_plan": "banana"}, "tp_plan=banana: expected auto, or a mapping"),
        ({"proxies": 3}, "proxies=3: expected a mapping"),
        ({"chat_template_args": "x"}, "chat_template_args=x: expected a mapping"),
        ({"cache_dir": 3}, "cache_dir=3: expected a text"),
        ({"variant": 16}, "variant=16: expected a text"),
        ({"token": 3}, "token=3: expected True, False or a text"),
        ({"think_end_token": 3.5}, "think_end_token=3.5: expected a token, or its number"),
        ({"ignore_mismatched_sizes": "no"}, "ignore_mismatched_sizes=no: expected True or False"),
        ({"use_safetensors": "x"}, "use_safetensors=x: expected True or False"),
        ({"low_cpu_mem_usage": "x"}, "low_cpu_mem_usage=x: expected True or False"),
        ({"autogptq": 3}, "autogptq=3: expected True, False or a file's name"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(given, line, monkeypatch):
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.__init__", lambda *args, **kwargs: pytest.fail("loaded"))
    for call in (lambda: PrunedOPT(**given), lambda: record_of_arguments(given)):
        with pytest.raises(ArgumentError) as error:
            call()
        assert line in str(error.value)


def test_a_length_beyond_learned_positions_is_refused_before_anything_is_loaded(checkpoints, tmp_path, monkeypatch):
    """By the model itself, by what `importance` and `induction` look at first, and by a sweep."""
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM._create_model", lambda *args, **kwargs: pytest.fail("loaded"))
    mask = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={1: (0,)})
    compact_checkpoint(checkpoints["pre"], mask, tmp_path / "small")
    for folder in (*checkpoints.values(), tmp_path / "small"):
        given = {"pretrained": str(folder), "max_length": 513}
        sweep = make_config({"model_args": given, "tasks": ["copa"], "output_path": tmp_path, "device": "cpu"})
        calls = ((PrunedOPT.create_from_arg_obj, given), (record_of_arguments, given), (find_setup, sweep, 1))
        for call, *values in calls:
            with pytest.raises(ArgumentError, match="max_length=513: the model has learned 512 positions"):
                call(*values)
        assert record_of_arguments({**given, "max_length": 512})["model_args"] == {"max_length": 512}
        with pytest.raises(ArgumentError, match=r"prefix_token_id=512: the model has 512 tokens; expected 0 to 511"):
            record_of_arguments({"pretrained": str(folder), "prefix_token_id": 512})


@pytest.mark.parametrize(
    "given",
    [
        {"device": "cpu", "batch_size": 1, "max_length": 1},
        {"device": "cpu:0", "batch_size": "auto", "max_batch_size": 64},
        {"device": torch.device("cpu"), "batch_size": "auto:4", "trust_remote_code": True},
        {"device": None, "batch_size": "8", "max_length": None, "trust_remote_code": None},
        {"dtype": "auto", "softmax_dtype": "float32", "mixed_precision_dtype": torch.bfloat16, "prefix_token_id": 0},
        {"dtype": "torch.float16", "add_bos_token": False, "truncation": True, "weights_only": True},
        {"device_map": "auto", "parallelize": True, "max_memory_per_gpu": "20GiB", "max_cpu_memory": 10**9},
        {"device_map": {"model.layers.0": "cpu", "lm_head": "disk"}, "offload_folder": "x", "backend": "causal"},
        {"device_map": torch.device("cpu"), "low_cpu_mem_usage": True, "token": False, "autogptq": "x.safetensors"},
        {"scorer": "padded", "load": "compact", "tp_plan": "auto", "think_end_token": 7, "chat_template_args": {}},
        {"config": None, "generation_config": GenerationConfig(), "attn_implementation": "eager", "use_cache": False},
    ],
)
def test_what_the_harness_takes_is_taken(given):
    assert check_arguments(given) is None  # and raises nothing


@pytest.mark.parametrize("device", ["../x", "", "gpu", "cuda:"])
def test_a_device_of_workers_elsewhere_is_known_by_its_name(device, tmp_path):
    asked = {"tasks": ["copa"], "output_path": tmp_path, "executor": "ray", "num_gpus": 0}
    with pytest.raises(ArgumentError, match=f"^device={device}: unknown; expected cpu"):
        find_setup(make_config({**asked, "device": device}), 1)
    assert find_setup(make_config({**asked, "device": "cuda:3"}), 1).shape == (6, 6)  # not here, but perhaps there


@pytest.mark.parametrize(
    "given",
    [{"num_hidden_layers": 2}, {"num_hidden_layers": 9}, {"num_attention_heads": 2}, {"num_attention_heads": 8},
     {"dropout": 0.5, "num_hidden_layers": 1}],
)  # fmt: skip
def test_a_setting_that_makes_another_model_is_refused_before_anything_is_loaded(
    given, checkpoint, tmp_path, monkeypatch
):
    """Layers left out, layers of random weights, heads of another width: transformers does all that without a word."""
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM._create_model", lambda *args, **kwargs: pytest.fail("loaded"))
    given = {"pretrained": str(checkpoint), **given}
    sweep = make_config({"model_args": given, "tasks": ["copa"], "output_path": tmp_path, "device": "cpu"})
    name, value = list(given.items())[-1]
    for call, *values in ((PrunedOPT, given), (record_of_arguments, given), (find_setup, sweep, 1)):
        with pytest.raises(PruneError, match=f"{name}={value}: the model has 3 layers of 4 heads; leave it out"):
            call(**values[0]) if call is PrunedOPT else call(*values)
    given[name] = {"num_hidden_layers": 3, "num_attention_heads": 4}[name]
    assert record_of_arguments(given)["model"] == str(checkpoint)  # what it is anyway


def test_what_nothing_reads_is_said(checkpoint, caplog):
    given = {
        "device_map": "auto",
        "max_cpu_memory": "2GB",
        "low_cpu_mem_usage": True,
        "revision": "v2",
        "dtype": "float32",
    }
    with caplog.at_level("WARNING", logger="lm_eval.models.pruned"):
        PrunedOPT(str(checkpoint), device="cpu", **given)
    assert [record.getMessage() for record in caplog.records if record.name == "lm_eval.models.pruned"] == [
        "model_args: device_map is read beside parallelize=True alone",
        "model_args: max_cpu_memory is read beside parallelize=True alone",
        "model_args: low_cpu_mem_usage: transformers reads it no more",
        f"model_args: revision=v2: {checkpoint} is a folder, which has no revisions",
    ]
    beside = {"device_map": "auto", "offload_folder": "x", "parallelize": True, "revision": "main"}
    assert unread_arguments(beside, str(checkpoint)) == []
    assert unread_arguments({"revision": "v2", "device_map": None}, "facebook/opt-125m") == []


@pytest.mark.parametrize(
    ("count", "device", "line"),
    [
        (0, "cuda", "torch finds no cuda device here; expected cpu"),
        (0, "cuda:0", "torch finds no cuda device here"),
        (0, "mps", "torch finds no mps device here"),
        (0, "npu:1", "torch finds no npu device here"),
        (2, "cuda:7", "device=cuda:7: there are 2 here, cuda:0 to cuda:1"),
        (1, "mps:1", "device=mps:1: there are 1 here, mps:0 to mps:0"),
        (2, "cuda:1", None),
        (2, "cuda", None),
    ],
)
def test_a_device_must_be_there(count, device, line, monkeypatch):
    monkeypatch.setattr(arguments, "_count", lambda kind: count)
    if line is None:
        require_device(device)
    else:
        with pytest.raises(ArgumentError, match=line):
            require_device(device)


@pytest.mark.parametrize(
    ("count", "device", "taken"), [(0, "cuda:0", None), (1, "cuda:0", "cuda:0"), (0, "cpu", "cpu"), (0, "mps", "mps")]
)
def test_the_harness_default_of_a_gpu_that_is_not_here_counts_as_not_given(count, device, taken, monkeypatch):
    """`lm_eval` without --device hands "cuda:0" over on every machine."""
    monkeypatch.setattr(arguments, "_count", lambda kind: count)
    assert without_absent_default({"device": device, "batch_size": 1}).get("device") == taken


def test_the_stock_command_without_a_device_computes_on_the_cpu(checkpoint, monkeypatch):
    monkeypatch.setattr(arguments, "_count", lambda kind: 0)
    beside = {"batch_size": 1, "max_batch_size": None, "device": EvaluatorConfig().device}
    assert PrunedOPT.create_from_arg_obj({"pretrained": str(checkpoint)}, beside).device.type == "cpu"
    with pytest.raises(ArgumentError, match="torch finds no cuda device here"):
        PrunedOPT.create_from_arg_obj({"pretrained": str(checkpoint), "device": "cuda:0"})


def test_devices_are_counted_as_torch_counts_them():
    assert arguments._count("cuda") == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert arguments._count("mps") == int(torch.backends.mps.is_available())
    assert arguments._count("npu") == 0 or hasattr(torch, "npu")


def test_a_tokenizer_or_adapter_that_is_not_there_is_one_line(checkpoint, tmp_path):
    for name in ("tokenizer", "peft", "delta"):
        with pytest.raises(PruneError, match="the model cannot be loaded: ") as error:
            PrunedOPT(str(checkpoint), device="cpu", **{name: str(tmp_path / "absent")})
        assert "\n" not in str(error.value)


def test_a_chat_template_that_is_not_there_or_fails_is_one_line(checkpoint):
    lm = PrunedOPT(str(checkpoint), device="cpu")
    history = [{"role": "user", "content": "Hello"}]
    for ask in (lambda: lm.chat_template(True), lambda: lm.chat_template("x"), lambda: lm.apply_chat_template(history)):
        with pytest.raises(ArgumentError, match="has no chat template; leave it out"):
            ask()
    assert lm.chat_template(False) is None
    lm.tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    assert lm.chat_template(True) == lm.tokenizer.chat_template
    assert lm.apply_chat_template(history) == "Hello!"
    lm.tokenizer.chat_template = {"short": "{{ messages[0]['content'] }}"}
    with pytest.raises(ArgumentError, match="The specified chat template 'long' is not available"):
        lm.chat_template("long")
    for broken in ("{{ raise_exception('no') }}", "{% if %}", "{{ messages[7].content.x }}"):
        lm.tokenizer.chat_template = broken
        with pytest.raises(ArgumentError, match="the model's template fails: "):
            lm.apply_chat_template(history)


# -- code that comes with a model ---------------------------------------------------------------------------------


@pytest.fixture
def armed(checkpoint, tmp_path, monkeypatch):
    """A checkpoint whose configuration and tokenizer name code of their own, which leaves a file where it runs."""
    folder = tmp_path / "armed"
    shutil.copytree(checkpoint, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\nclass C: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": ["evil.C", None]}
    }
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "other"}))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}, "tokenizer_class": "Other"}
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail(f"asked: {args}"))
    yield folder, config, tokenizer
    assert not (tmp_path / "RAN").exists()


ASKERS = {
    "the model": lambda **given: PrunedOPT(device="cpu", **given),
    "text": lambda **given: PrunedOPT.create_from_arg_string(f"pretrained={given['pretrained']},device=cpu"),
    "its record": lambda **given: record_of_arguments(given),
}


@pytest.mark.parametrize("trusted", [{}, {"trust_remote_code": False}, {"trust_remote_code": None}])
@pytest.mark.parametrize("ask", ASKERS)
def test_code_of_a_configuration_is_never_run_and_never_asked_about(ask, trusted, armed):
    folder, _, _ = armed
    with pytest.raises(PruneError, match=r"names code of its own, which is not run; trust_remote_code=True"):
        ASKERS[ask](pretrained=str(folder), **trusted)


@pytest.mark.parametrize("trusted", [{}, {"trust_remote_code": False}, {"trust_remote_code": None}])
def test_code_of_a_known_model_and_of_a_tokenizer_is_never_run_either(trusted, armed, checkpoint):
    folder, config, tokenizer = armed
    (folder / "config.json").write_text(json.dumps(config))  # model_type opt: transformers has classes of its own
    assert PrunedOPT(str(folder), device="cpu", **trusted).config.model_type == "opt"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for given in ({"pretrained": str(folder)}, {"pretrained": str(checkpoint), "tokenizer": str(folder)}):
        with contextlib.suppress(PruneError):  # without its own code a tokenizer may be of an unknown class
            PrunedOPT(device="cpu", **given, **trusted)


@pytest.mark.parametrize(
    "command",
    ["mask", "importance", "induction", "sweep", "compact", "plan", pytest.param("run", marks=pytest.mark.slow)],
)
def test_no_command_asks(command, armed, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from lm_eval_prune.cli.main import cli

    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda *args, **kwargs: None)
    folder, _, _ = armed
    out, model = str(tmp_path / "out.json"), ["--model_args", f"pretrained={folder}"]
    (tmp_path / "mask.json").write_text(
        json.dumps({"format": "lm-eval-prune-mask", "version": 1, "num_hidden_layers": 3, "num_attention_heads": 4,
                    "pruned_heads": {}, "pruned_ffns": [1]})
    )  # fmt: skip
    words = {
        "mask": [*model, "--random", "--prune_heads", "0.5", "-o", out],
        "importance": [*model, "--method", "random", "-o", str(tmp_path)],
        "induction": [*model, "-o", str(tmp_path)],
        "sweep": [*model, "--tasks", "demo_facts", "-o", str(tmp_path / "s")],
        "compact": [*model, "--mask", str(tmp_path / "mask.json"), "-o", str(tmp_path / "c")],
        "plan": [str(folder)],
        "run": [*model, "--tasks", "demo_facts", "--limit", "1", "--device", "cpu"],
    }[command]
    done = CliRunner().invoke(cli, [command, *words], input="y\n" * 9)
    assert isinstance(done.exception, PruneError), done.output
    assert "\n" not in str(done.exception)
