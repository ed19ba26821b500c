"""Compaction of every proven family and variation: what the masked model computes, in memory and from files."""

import torch
from transformers import AutoModel, AutoModelForCausalLM

from lm_eval_prune import PruningMask, compact, compact_checkpoint, masked
from lm_eval_prune.decoders import decoder_of, num_pruned_parameters
from tests import families

IDS = torch.tensor([families.tokens(20), families.tokens(20, 1)])


def masks_of(model):
    """No heads in the first layer; groups that keep unlike numbers, or lose their keys; nothing at all."""
    heads, shape = model.config.num_attention_heads, families.shape(model)
    yield PruningMask(**shape, pruned_heads={0: range(heads), 1: (heads - 1,), 2: (0,)}, pruned_ffns=(1,))
    yield PruningMask(**shape, pruned_heads={0: (1,), 1: range(heads // 2), 2: range(heads)}, pruned_ffns=(0, 2))
    yield PruningMask(**shape, pruned_heads={1: range(1, heads)})
    yield PruningMask(**shape, pruned_heads={layer: range(heads) for layer in range(3)}, pruned_ffns=range(3))


def computed(model):
    """Logits of plain and padded batches, and token by token behind a cache."""
    attention_mask = torch.ones_like(IDS)
    left, right = attention_mask.clone(), attention_mask.clone()
    left[0, :6], right[1, 13:] = 0, 0
    yield model(IDS).logits
    for padding in (left, right):
        yield model(IDS, attention_mask=padding).logits[padding.bool()]
    step = model(IDS[:, :12], use_cache=True)
    for token in range(12, 15):
        step = model(IDS[:, token : token + 1], cache=step["cache"], use_cache=True)
        yield step.logits
    yield model.generate(IDS[:1], max_new_tokens=6, do_sample=False).float()


def attentions_of(model):
    return [name for name in ("sdpa", "eager") if name == "eager" or model._supports_sdpa]


def require_equal(smaller, model, mask, attentions=None):
    for attention in attentions or attentions_of(model):
        for each in (smaller, model):
            each.set_attn_implementation(attention)
        with torch.no_grad():
            with masked(model, mask):
                expected = list(computed(model))
            for one, another in zip(computed(smaller), expected, strict=True):
                torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-5)


def test_it_computes_what_the_masked_model_does(tiny_model):
    for mask in masks_of(tiny_model):
        smaller = compact(tiny_model, mask)
        require_equal(smaller, tiny_model, mask)
        lost = tiny_model.num_parameters() - smaller.num_parameters()
        assert lost == num_pruned_parameters(tiny_model.config, mask) > 0
        assert decoder_of(smaller).removed == mask


def test_a_second_mask_is_written_in_the_originals_numbers(tiny_model):
    first, second, *_ = masks_of(tiny_model)
    smaller = compact(tiny_model, first)
    require_equal(compact(smaller, second), tiny_model, first | second, ["eager"])
    with torch.no_grad(), masked(smaller, second), masked(tiny_model, first | second):
        torch.testing.assert_close(smaller(IDS).logits, tiny_model(IDS).logits, rtol=1e-5, atol=1e-5)


def test_saved_loaded_and_written_from_the_files_it_is_the_same(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "whole", max_shard_size="9KB")
    for number, mask in enumerate(masks_of(tiny_model)):
        smaller = compact(tiny_model, mask)
        smaller.save_pretrained(tmp_path / f"saved{number}")
        done = compact_checkpoint(tmp_path / "whole", mask, tmp_path / f"written{number}", max_shard_size="7KB")
        assert done.num_parameters == smaller.num_parameters()
        for kind in ("saved", "written"):
            loaded = AutoModelForCausalLM.from_pretrained(tmp_path / f"{kind}{number}")
            assert type(loaded) is type(smaller)
            for name, weight in smaller.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], weight), name
            with torch.no_grad():
                assert torch.equal(loaded(IDS).logits, smaller(IDS).logits)
        base = AutoModel.from_pretrained(tmp_path / f"written{number}")
        with torch.no_grad():
            assert torch.equal(base(IDS)[0], smaller.base_model(IDS)[0])


def test_zeroed_it_is_a_plain_model_of_the_original(tiny_model, tmp_path):
    first, second, _, everything = masks_of(tiny_model)
    tiny_model.save_pretrained(tmp_path / "whole")
    compact_checkpoint(tmp_path / "whole", first, tmp_path / "small")
    for name, source, mask, expected in [
        ("one", "whole", first, first),
        ("two", "small", second, first | second),
        ("all", "whole", everything, everything),
    ]:
        compact_checkpoint(tmp_path / source, mask, tmp_path / name, zeroed=True)
        zeroed = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert type(zeroed) is type(tiny_model)
        with torch.no_grad(), masked(tiny_model, expected):
            torch.testing.assert_close(zeroed(IDS).logits, tiny_model(IDS).logits, rtol=1e-5, atol=1e-5)
