"""In which precision a model computes on a CPU, and what it says of itself when it is loaded."""

import logging

import pytest
import torch

from lm_eval_prune import PruningMask
from lm_eval_prune.costs.plan import make_plan
from lm_eval_prune.harness import precision, told
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.harness.precision import is_slower_here, with_cpu_precision
from lm_eval_prune.sweep.config import make_config
from lm_eval_prune.sweep.setup import find_setup, model_arguments


@pytest.mark.parametrize(
    ("arguments", "device", "there", "dtype"),
    [
        ({}, None, False, "float32"),
        ({}, "cpu", True, "float32"),
        ({"device": "cpu"}, None, True, "float32"),
        ({"pretrained": "x", "dtype": None}, "cpu", False, "float32"),
        ({}, None, True, None),
        ({}, "cuda:1", True, None),
        ({}, "mps", False, None),
        ({"dtype": "auto"}, "cpu", False, "auto"),
        ({"dtype": "bfloat16"}, None, False, "bfloat16"),
        ({"dtype": torch.float16}, "cpu", False, torch.float16),
        ({"load_in_8bit": True}, "cpu", False, None),
        ({"mixed_precision_dtype": "bfloat16"}, "cpu", False, None),
    ],
)
def test_a_cpu_computes_in_float32_unless_something_else_was_asked_for(arguments, device, there, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    given = dict(arguments)
    found = with_cpu_precision(arguments, device)
    assert found.get("dtype") == dtype
    assert arguments == given
    assert {key: value for key, value in found.items() if key != "dtype"} == {
        key: value for key, value in arguments.items() if key != "dtype"
    }


@pytest.fixture
def half(tiny_opt, tmp_path):
    """A checkpoint in float16, with the bundled model's tokenizer."""
    from transformers import AutoTokenizer

    from lm_eval_prune.demo import bundled_model_path

    folder = tmp_path / "half"
    tiny_opt.half().save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled_model_path()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "settings", "dtype"),
    [
        ("", {}, "float32"),
        (",dtype=auto", {}, "float16"),
        (",dtype=bfloat16", {}, "bfloat16"),
        ("", {"executor": "ray"}, "float16"),  # of the workers' devices nothing is known
        ("", {"executor": "ray", "num_gpus": 0}, "float32"),
    ],
)
def test_a_sweeps_cells_are_told_apart_by_what_is_computed(half, arguments, settings, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make_config(
        {
            "tasks": "demo_facts",
            "output_path": tmp_path / "s",
            "model_args": f"pretrained={half}{arguments}",
            **settings,
        }
    )
    assert find_setup(config, 1).dtype == dtype
    asked = model_arguments(config).get("dtype", "auto")
    assert asked in (dtype, "auto")


@pytest.mark.parametrize(
    ("devices", "dtype", "expected"),
    [
        ("cpu:24GB", None, "float32"),
        ("80GB,cpu:24GB", None, "float16"),
        ("8x80GB", None, "float16"),
        ("cpu:24GB", "bfloat16", "bfloat16"),
        ("cpu:24GB", "float16", "float16"),
    ],
)
def test_a_plan_for_a_cpu_is_of_float32(devices, dtype, expected):
    plan = make_plan("125m", devices=devices, dtype=dtype, tasks=("copa",), num_fewshot=(0,))
    assert plan["devices"]["dtype"] == expected


@pytest.fixture
def log():
    """The lines of the model's logger, whatever the harness has set up."""
    lines = []

    class Kept(logging.Handler):
        def emit(self, record):
            lines.append((record.levelname, record.getMessage()))

    handler, level = Kept(), told.logger.level
    told.logger.addHandler(handler)
    told.logger.setLevel(logging.INFO)
    yield lines
    told.logger.removeHandler(handler)
    told.logger.setLevel(level)


def left(model, mask):
    """Parameters of an OPT that `mask` leaves, from the shapes of its weights."""
    gone = 0
    for number, layer in enumerate(model.model.decoder.layers):
        attention, width = layer.self_attn, layer.self_attn.head_dim
        heads = len(mask.pruned_heads.get(number, ()))
        gone += heads * width * (4 * attention.embed_dim + 3)
        if heads == attention.num_heads:
            gone += sum(part.numel() for part in layer.self_attn_layer_norm.parameters())
        if number in mask.pruned_ffns:
            parts = (layer.fc1, layer.fc2, layer.final_layer_norm)
            gone += sum(weight.numel() for part in parts for weight in part.parameters())
    return sum(weight.numel() for weight in model.parameters()) - gone


@pytest.mark.parametrize("name", ["mask.json", "a mask\x1b[31m.json"])
def test_one_line_says_what_is_pruned_and_how_it_computes(log, tmp_path, name):
    mask = PruningMask(num_hidden_layers=6, num_attention_heads=6, pruned_heads={0: (1, 3), 5: (0,)}, pruned_ffns=(2,))
    mask.save(tmp_path / name)
    lm = PrunedModel(mask=tmp_path / name, device="cpu")
    ((level, line),) = log
    total = sum(weight.numel() for weight in lm.model.parameters())
    assert level == "INFO"
    assert line.endswith(
        f": 3 of 36 heads and 1 of 6 FFNs pruned, {left(lm.model, mask):,} of {total:,} parameters left; "
        "scorer=packed, float32 on cpu"
    )
    assert "mask" in line.partition(":")[0]
    assert "\x1b" not in line


def test_the_line_names_importance_and_its_share_and_a_model_without_a_mask(log, tmp_path):
    mask = PruningMask.dense(6, 6)
    PrunedModel(device="cpu")
    PrunedModel(mask=mask, device="cpu", scorer="padded")
    assert [line for _, line in log] == [
        "no mask: nothing is pruned; scorer=packed, float32 on cpu",
        "no mask: nothing is pruned; scorer=padded, float32 on cpu",
    ]
    assert told.spelt({"head_importance": "f.json", "prune_heads": "0.7", "ffn_importance": None}) == (
        "head_importance=f.json,prune_heads=0.7"
    )


@pytest.mark.parametrize(
    ("dtype", "slower", "warned"),
    [("float16", True, True), ("bfloat16", True, True), ("float16", False, False), ("float32", True, False)],
)
def test_half_precision_that_is_slow_here_is_one_line(log, half, dtype, slower, warned, monkeypatch):
    monkeypatch.setattr(told, "is_slower_here", lambda dtype: slower)
    lm = PrunedModel(str(half), dtype=dtype, device="cpu")
    assert next(lm.model.parameters()).dtype == getattr(torch, dtype)  # as it was asked for
    warnings = [line for level, line in log if level == "WARNING"]
    assert warnings == (
        [f"{dtype} is slower than float32 on this CPU, and less exact; model_args dtype=float32 computes in that"]
        if warned
        else []
    )


@pytest.mark.parametrize(("seconds", "slower"), [(1.1, False), (1.3, True), (40.0, True), (0.5, False)])
def test_slower_is_measured(seconds, slower, monkeypatch):
    monkeypatch.setattr(precision, "_seconds", lambda dtype: 1.0 if dtype == torch.float32 else seconds)
    assert is_slower_here(torch.float16) is slower


def test_the_measurement_takes_both_precisions():
    assert precision._seconds(torch.float32) > 0
    assert precision._seconds(torch.bfloat16) > 0
