"""The masked model as a plain checkpoint: the stock class, of any source, in shards, without this package."""

import json
import os
import subprocess
import sys
import sysconfig

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file
from scoring_cases import HEADS, LAYERS, SHAPES, VOCABULARY, noisy_opt, pruning_masks, tiny_model
from scoring_reference import _logits as reference_logits
from transformers import AutoConfig, AutoModelForCausalLM, OPTForCausalLM

from lm_eval_prune import PruningMask, compact_checkpoint, masked
from lm_eval_prune.cli.main import main
from lm_eval_prune.errors import FileFormatError

IDS = torch.randint(3, VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(3))
EVERYTHING = PruningMask(
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    pruned_heads={layer: tuple(range(HEADS)) for layer in range(LAYERS)},
    pruned_ffns=tuple(range(LAYERS)),
)
SOME = PruningMask(
    num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads={0: (0, 1, 2, 3), 2: (1, 3)}, pruned_ffns=(1,)
)


def require_equal_to_masked(folder, model, mask):
    zeroed = AutoModelForCausalLM.from_pretrained(folder)
    assert type(zeroed) is OPTForCausalLM
    for row, logits in zip(IDS.tolist(), zeroed(IDS).logits, strict=True):
        torch.testing.assert_close(logits.double(), reference_logits(model, row, mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=pruning_masks(), second=pruning_masks())
def test_the_stock_class_computes_the_masked_model_from_whole_and_compacted_sources(
    shape, first, second, tmp_path_factory
):
    folder, model = tmp_path_factory.mktemp("zeroed"), tiny_model(shape)
    model.save_pretrained(folder / "whole", max_shard_size="9KB")
    done = compact_checkpoint(folder / "whole", first, folder / "zeroed", zeroed=True, max_shard_size="6KB")
    require_equal_to_masked(folder / "zeroed", model, first)
    assert done.num_parameters_before == model.num_parameters()
    compact_checkpoint(folder / "whole", first, folder / "small")
    compact_checkpoint(folder / "small", second, folder / "again", zeroed=True)
    require_equal_to_masked(folder / "again", model, first | second)


@pytest.mark.parametrize("shape", list(SHAPES)[:3])
def test_with_everything_pruned_nothing_is_left_but_the_stream(shape, tmp_path):
    model = tiny_model(shape)
    model.save_pretrained(tmp_path / "whole")
    compact_checkpoint(tmp_path / "whole", EVERYTHING, tmp_path / "zeroed", zeroed=True)
    require_equal_to_masked(tmp_path / "zeroed", model, EVERYTHING)
    weights = load_file(tmp_path / "zeroed" / "model.safetensors")
    written = [name for name in weights if name.endswith(("out_proj.weight", "fc2.weight"))]
    assert len(written) == 2 * LAYERS
    assert not any(weights[name].any() for name in written)


def test_exactly_what_belongs_to_pruned_components_is_zero(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "whole")
    compact_checkpoint(tmp_path / "whole", SOME, tmp_path / "zeroed", zeroed=True)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "zeroed"))
    assert before.keys() == after.keys()
    width = 32 // HEADS
    for name, tensor in before.items():
        expected = tensor.clone()
        for layer in range(LAYERS):
            if f"layers.{layer}.fc" in name and layer in SOME.pruned_ffns:
                expected.zero_()
            for head in SOME.pruned_heads.get(layer, ()):
                rows = slice(head * width, (head + 1) * width)
                if any(f"layers.{layer}.self_attn.{part}_proj" in name for part in "qkv"):
                    expected[rows] = 0
                elif f"layers.{layer}.self_attn.out_proj.weight" in name:
                    expected[:, rows] = 0
        assert torch.equal(after[name], expected), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_their_dtype_and_an_overflowing_pruned_head_leaves_no_trace(dtype, tmp_path):
    model = noisy_opt().to(dtype)
    model.model.decoder.layers[0].self_attn.v_proj.weight.data[:] = torch.inf
    model.save_pretrained(tmp_path / "whole")
    compact_checkpoint(tmp_path / "whole", SOME, tmp_path / "zeroed", zeroed=True)
    zeroed = AutoModelForCausalLM.from_pretrained(tmp_path / "zeroed")
    assert zeroed.dtype == dtype
    with masked(model, SOME):
        torch.testing.assert_close(zeroed(IDS).logits, model(IDS).logits, rtol=0, atol=2e-2)


def test_a_missing_weight_of_a_pruned_ffn_is_an_error(tmp_path):
    model = tiny_model()
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.fc2.weight" not in name}
    model.save_pretrained(tmp_path / "whole", state_dict=state)
    with pytest.raises(FileFormatError, match=r"layers.1.fc2.weight is missing"):
        compact_checkpoint(tmp_path / "whole", SOME, tmp_path / "zeroed", zeroed=True)
    assert not (tmp_path / "zeroed").exists()


def test_the_command_and_the_card_say_what_it_is(checkpoint, mask, tmp_path, capsys):
    mask.save(tmp_path / "mask.json")
    command = ["compact", "-a", f"pretrained={checkpoint}", "--mask", str(tmp_path / "mask.json"), "--zeroed"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lm-eval-prune", *command, "-o", str(tmp_path / "zeroed")])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    assert "the others without effect" in capsys.readouterr().out
    card = (tmp_path / "zeroed" / "README.md").read_text()
    assert (
        "6 of its 12 attention heads and 1 of its 3 feed-forward networks (FFNs) set to zero: a plain checkpoint"
        in card
    )
    config = AutoConfig.from_pretrained(tmp_path / "zeroed")
    assert (config.model_type, config.architectures) == ("opt", ["OPTForCausalLM"])
    assert PruningMask.from_dict(config.zeroed_mask) == mask
    assert (tmp_path / "zeroed" / "tokenizer.json").exists()
    assert "auto_map" not in json.loads((tmp_path / "zeroed" / "config.json").read_text())


@pytest.mark.slow
def test_it_loads_without_this_package(checkpoint, mask, tmp_path):
    compact_checkpoint(checkpoint, mask, tmp_path / "zeroed", zeroed=True)
    code = "import sys; sys.modules['lm_eval_prune'] = None\nfrom transformers import AutoModelForCausalLM\n"
    code += "print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1])).__name__)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code, tmp_path / "zeroed"],
        env={**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.stdout.strip() == "OPTForCausalLM", found.stderr
