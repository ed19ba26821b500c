"""Smaller models of transformers' own classes: which masks and families can be one, and that they are the masked model.

Expected logits are written from the weights in float64 where a reference has the family; else the masked model's.
"""

import json
import os
import subprocess
import sys
import sysconfig

import pytest
import torch
from click.testing import CliRunner
from scoring_reference import _logits as opt_logits
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_prune import PruningMask, compact_checkpoint, masked
from lm_eval_prune.cli.main import cli
from lm_eval_prune.decoders.tiny import tiny_model as tiny_of_type
from lm_eval_prune.decoders.zeroed import zeroed_in
from lm_eval_prune.errors import ArgumentError, UnsupportedModelError
from lm_eval_prune.random_opt import small_tokenizer
from tests import families, reference_families
from tests.test_families import WRITTEN

IDS = families.tokens(20)
OWN_WIDTH = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "smollm3")
"""Families whose configuration says how wide a head is."""

NOWHERE = ("gpt_neox", "llama, a head_dim of its own, biases, tied")
"""With a bias behind attention, and nothing before the first layer that could take it."""


def layers_gone(sizes, *layers):
    return PruningMask(**sizes, pruned_heads={layer: range(sizes["num_attention_heads"]) for layer in layers}) | (
        PruningMask(**sizes, pruned_ffns=layers)
    )


def groups_of(model):
    heads = model.config.num_attention_heads
    groups = getattr(model.config, "num_key_value_heads", None) or heads
    return groups, heads // groups


def one_of_each_group(model, layers=range(3)):
    """Of every layer one head of each group, another one in each layer; a group where those have one head each."""
    groups, size = groups_of(model)
    gone = {layer: [at * size + layer % size for at in range(groups)] if size > 1 else [layer] for layer in layers}
    return PruningMask(**families.shape(model), pruned_heads=gone)


def a_group(model):
    groups, size = groups_of(model)
    gone = {layer: range(layer % groups * size, (layer % groups + 1) * size) for layer in range(3)}
    return PruningMask(**families.shape(model), pruned_heads=gone)


def written(model, mask, layout, tmp_path):
    model.save_pretrained(tmp_path / "whole")
    done = compact_checkpoint(tmp_path / "whole", mask, tmp_path / "small", layout=layout)
    smaller = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert type(smaller) is type(model)
    assert smaller.num_parameters() == done.num_parameters < model.num_parameters() == done.num_parameters_before
    return smaller


def require_equal(smaller, model, mask, variant="opt"):
    if variant == "opt":
        expected = opt_logits(model, IDS, mask)
    elif variant in WRITTEN:
        expected = reference_families.logits(model, IDS, mask)
    else:
        with torch.no_grad(), masked(model, mask):
            expected = model(torch.tensor([IDS])).logits[0].double()
    with torch.no_grad():
        found = smaller(torch.tensor([IDS])).logits[0].double()
        step = smaller(torch.tensor([IDS[:-1]]), use_cache=True)
        last = smaller(torch.tensor([IDS[-1:]]), cache=step["cache"], use_cache=True).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last.double(), expected[-1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", [name for name in families.VARIANTS if "norms last" not in name])
def test_a_layer_that_is_pruned_whole_goes_and_the_rest_of_the_mask_is_zeros(variant, tmp_path):
    model = families.made(variant)
    rest = PruningMask(**families.shape(model), pruned_heads={2: (0,)}, pruned_ffns=(0,))
    mask = layers_gone(families.shape(model), 1) | rest
    smaller = written(model, mask, "layers", tmp_path)
    require_equal(smaller, model, mask, variant)
    assert smaller.config.num_hidden_layers == 2
    found = zeroed_in(smaller)
    # Where an output map has a bias, that of the layer that went is now behind the FFN of the one before.
    has_constant = variant in (*NOWHERE, "opt", "gpt2")
    assert (dict(found.pruned_heads), found.pruned_ffns) == ({1: (0,)}, () if has_constant else (0,))
    assert found == PruningMask.from_dict(smaller.config.zeroed_mask)
    said = json.loads((tmp_path / "small" / "config.json").read_text())["pruned_from"]
    assert said["layout"] == "layers"
    assert PruningMask.from_dict(said["pruning_mask"]) == mask


@pytest.mark.parametrize("variant", [name for name in families.VARIANTS if "norms last" not in name])
def test_the_first_layers_go_where_nothing_of_them_stays_or_positions_take_it(variant, tmp_path):
    model = families.made(variant)
    mask = layers_gone(families.shape(model), 0, 1)
    if variant in NOWHERE:
        with pytest.raises(UnsupportedModelError, match=r"layer 0 is pruned whole, but the bias of its .* stays"):
            written(model, mask, "layers", tmp_path)
        assert not (tmp_path / "small").exists()
        return
    require_equal(written(model, mask, "layers", tmp_path), model, mask, variant)


@pytest.mark.parametrize("variant", families.VARIANTS)
@pytest.mark.parametrize(("layout", "make"), [("uniform", one_of_each_group), ("kv-groups", a_group)])
def test_as_many_heads_of_every_layer_where_the_class_knows_how_wide_they_are(layout, make, variant, tmp_path):
    model = families.made(variant)
    mask = make(model) | PruningMask(**families.shape(model), pruned_ffns=(1,))
    left = model.config.num_attention_heads - len(mask.pruned_heads[0])
    # A Llama's number of heads divides its hidden size, 32.
    expressible = left and variant.split(",")[0] in OWN_WIDTH and (not variant.startswith("llama") or 32 % left == 0)
    if not expressible:
        with pytest.raises(
            UnsupportedModelError, match=r"class has no model of 3 layers with|keeps its FFN and no head"
        ):
            written(model, mask, layout, tmp_path)
        return
    smaller = written(model, mask, layout, tmp_path)
    require_equal(smaller, model, mask, variant)
    assert smaller.config.num_attention_heads == left
    if layout == "kv-groups":
        assert smaller.config.num_key_value_heads == groups_of(model)[0] - 1
    found = zeroed_in(smaller)
    assert (found.num_pruned_heads, found.pruned_ffns) == (0, (1,))


def test_both_at_once_and_of_a_compacted_source(tmp_path):
    model = families.made("qwen3")
    mask = one_of_each_group(model) | layers_gone(families.shape(model), 1)
    model.save_pretrained(tmp_path / "whole")
    compact_checkpoint(tmp_path / "whole", layers_gone(families.shape(model), 1), tmp_path / "ragged")
    compact_checkpoint(tmp_path / "ragged", one_of_each_group(model), tmp_path / "small", layout="uniform")
    smaller = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert (smaller.config.num_hidden_layers, smaller.config.num_attention_heads) == (2, 2)
    require_equal(smaller, model, mask, "qwen3")


@pytest.mark.parametrize("left", [3, 5, 6, 7])
def test_a_llama_that_cannot_have_as_many_heads_keeps_some_as_zeros(left, tmp_path):
    config = families.config_of("llama", num_attention_heads=8, num_key_value_heads=8, head_dim=12, hidden_size=40)
    model = tiny_of_type(config)
    sizes = families.shape(model)
    mask = PruningMask(**sizes, pruned_heads={layer: range(layer, layer + 8 - left) for layer in range(3)})
    has = next((count for count in range(left, 8) if 40 % count == 0), None)
    if has is None:
        with pytest.raises(UnsupportedModelError, match=f"no model of 3 layers with {left} heads of width 12"):
            written(model, mask, "uniform", tmp_path)
        return
    smaller = written(model, mask, "uniform", tmp_path)
    with torch.no_grad(), masked(model, mask):
        expected = model(torch.tensor([IDS])).logits
    with torch.no_grad():
        torch.testing.assert_close(smaller(torch.tensor([IDS])).logits, expected, rtol=1e-5, atol=1e-5)
    assert smaller.config.num_attention_heads == has
    assert zeroed_in(smaller).num_pruned_heads == 3 * (has - left)


@pytest.mark.parametrize("model_type", ["granite", "phi3", "starcoder2", "gemma3_text", "olmoe", "glm"])
def test_families_that_no_test_holds_are_the_masked_model_or_refused_in_a_line(model_type, tmp_path):
    model = tiny_of_type(model_type)
    sizes = families.shape(model)
    every = range(model.config.num_hidden_layers)
    size = groups_of(model)[1]
    masks = {
        "layers": layers_gone(sizes, 1),
        "kv-groups": PruningMask(**sizes, pruned_heads={layer: range(size) for layer in every}),
    }
    refused = {
        ("olmoe", "layers"): "experts.gate_up_proj is stored in parts",
        ("olmoe", "kv-groups"): "transformers' olmoe class has no model of 4 layers with 2 heads",
    }
    ids = torch.randint(3, 500, (2, 20), generator=torch.Generator().manual_seed(0))
    for layout, mask in masks.items():
        folder = tmp_path / layout
        if refusal := refused.get((model_type, layout)):
            with pytest.raises(UnsupportedModelError, match=refusal):
                written(model, mask, layout, folder)
            assert not (folder / "small").exists()
            continue
        smaller = written(model, mask, layout, folder)
        with torch.no_grad(), masked(model, mask):
            expected = model(ids).logits
        with torch.no_grad():
            torch.testing.assert_close(smaller(ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "pruned", "layout", "message"),
    [
        ("llama", {0: (0,), 1: (1,)}, "uniform", "layer 0 keep unlike numbers of query heads, 1, 2"),
        ("mistral, a window", {0: (0, 2)}, "uniform", "layer 1 keeps 4 heads and layer 0 2"),
        ("qwen3", {0: range(4), 1: (0, 2), 2: (0, 2)}, "uniform", "layer 0 keeps its FFN and no head"),
        ("qwen3", {0: (0, 2), 1: (0, 2), 2: (0, 2)}, "kv-groups", "layer 0 keeps 1 of a key/value head's 2 query"),
        ("gpt2", {0: (0,), 1: (1,), 2: (2,)}, "uniform", "transformers' gpt2 class has no model of 3 layers with 3"),
        ("opt", {0: range(4)}, "layers", "the mask leaves something of every layer"),
        ("olmo2", dict.fromkeys(range(3), (0, 1)), "kv-groups", "olmo2 class has no model"),
    ],
)
def test_what_is_no_such_mask_is_one_line(variant, pruned, layout, message, tmp_path):
    model = families.made(variant)
    with pytest.raises(UnsupportedModelError, match=message) as raised:
        written(model, PruningMask(**families.shape(model), pruned_heads=pruned), layout, tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "small").exists()


def test_nothing_left_and_norms_in_the_stream_are_refused(tmp_path):
    for variant, layers, message in [
        ("llama", (0, 1, 2), "every layer is pruned"),
        ("opt, norms last, projected", (1,), "its norms stand in the residual stream and stay"),
    ]:
        model = families.made(variant)
        with pytest.raises(UnsupportedModelError, match=message):
            written(model, layers_gone(families.shape(model), *layers), "layers", tmp_path / variant)
    with pytest.raises(ArgumentError, match="zeroed and layout=layers exclude one another"):
        compact_checkpoint(tmp_path / "llama" / "whole", layers_gone(families.shape(model), 1), tmp_path / "x",
                           zeroed=True, layout="layers")  # fmt: skip
    with pytest.raises(ArgumentError, match="layout=round: unknown; expected ragged, kv-groups, uniform, layers"):
        compact_checkpoint(tmp_path / "llama" / "whole", layers_gone(families.shape(model), 1), tmp_path / "x",
                           layout="round")  # fmt: skip


def with_tokenizer(variant, folder):
    tokenizer = small_tokenizer()
    model = tiny_of_type(families.config_of(variant, vocab_size=len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def test_the_command_and_the_card_say_what_it_is(tmp_path):
    model = with_tokenizer("llama", tmp_path / "whole")
    mask = one_of_each_group(model) | PruningMask(**families.shape(model), pruned_ffns=(2,))
    mask.save(tmp_path / "mask.json")
    given = ["compact", "-a", f"pretrained={tmp_path / 'whole'}", "--mask", str(tmp_path / "mask.json")]
    ended = CliRunner().invoke(cli, [*given, "--layout", "uniform", "-o", str(tmp_path / "small")])
    assert ended.exit_code == 0, ended.output
    assert "3 layers of 2 heads (0 heads and 1 FFNs in it are zeros)" in ended.output
    card = (tmp_path / "small" / "README.md").read_text()
    assert "a plain checkpoint of the original's own class, of 3 layers of 2 heads" in card
    assert "Nothing need be installed beside them" in card
    config = AutoConfig.from_pretrained(tmp_path / "small")
    assert (config.model_type, config.num_attention_heads, config.head_dim) == ("llama", 2, 8)
    assert (tmp_path / "small" / "tokenizer.json").exists()


ALONE = """
import json, sys
sys.modules["lm_eval_prune"] = None
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
found = {}
for folder in sys.argv[1:]:
    lm = HFLM(pretrained=folder, device="cpu", dtype="float32")
    pairs = [("a cat", " sat"), ("one two", " three four"), ("", "x")]
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    ids = lm.tokenizer("a cat sat", return_tensors="pt").input_ids
    tokens = lm.model.generate(ids, max_new_tokens=5, do_sample=False)[0].tolist()
    values = [value for value, _ in lm.loglikelihood(asked, disable_tqdm=True)]
    found[folder] = [values, tokens, type(lm.model).__name__]
print("FOUND" + json.dumps(found))
"""


@pytest.mark.slow
def test_without_this_package_the_harness_finds_the_masked_models_log_likelihoods(tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    cases = {}
    for variant, layout in (("llama", "uniform"), ("llama", "kv-groups"), ("llama", "layers"), ("opt", "layers")):
        folder = tmp_path / f"{variant}-{layout}"
        model = with_tokenizer(variant, folder / "whole")
        gone = {"uniform": one_of_each_group, "kv-groups": a_group}.get(layout)
        mask = layers_gone(families.shape(model), 0) if gone is None else gone(model)
        mask = mask | PruningMask(**families.shape(model), pruned_ffns=(2,))
        compact_checkpoint(folder / "whole", mask, folder / "small", layout=layout)
        cases[str(folder / "small")] = (folder / "whole", mask)
    ended = subprocess.run(
        [sys.executable, "-S", "-c", ALONE, *cases],
        env={**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"]},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "FOUND" in ended.stdout, ended.stderr
    for small, (values, tokens, kind) in json.loads(ended.stdout.partition("FOUND")[2]).items():
        whole, mask = cases[small]
        lm = HFLM(pretrained=str(whole), device="cpu", dtype="float32")
        pairs = [("a cat", " sat"), ("one two", " three four"), ("", "x")]
        asked = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        with torch.no_grad(), masked(lm.model, mask):
            expected = [value for value, _ in lm.loglikelihood(asked, disable_tqdm=True)]
            ids = lm.tokenizer("a cat sat", return_tensors="pt").input_ids
            assert tokens == lm.model.generate(ids, max_new_tokens=5, do_sample=False)[0].tolist()
        assert values == pytest.approx(expected, abs=1e-4)
        assert kind == type(lm.model).__name__
