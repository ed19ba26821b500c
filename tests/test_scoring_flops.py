"""FLOPs of a packed evaluation against those that torch counts while it runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lm_eval_prune import PruningMask
from lm_eval_prune.decoders import linear
from lm_eval_prune.decoders.forward import DecoderForward
from lm_eval_prune.decoders.skeleton import linear_weights
from lm_eval_prune.scoring import score
from lm_eval_prune.scoring.flops import all_packs, evaluation_flops, gradient_flops, shared_flops
from lm_eval_prune.scoring.trie import build_trie
from tests import families

CONTEXT, CONTINUATION = 9, 3


@pytest.fixture(autouse=True)
def _products_that_torch_counts(monkeypatch):
    """torch's counter does not know oneDNN's."""
    monkeypatch.setattr(linear, "_one_dnn", lambda: None)


SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 4}
DENSE = PruningMask.dense(3, 4)
SOME = PruningMask(**SHAPE, pruned_heads={0: (1, 3), 1: (0,)}, pruned_ffns=(1,))
NO_LAST_HEADS = PruningMask(**SHAPE, pruned_heads={2: (0, 1, 2, 3)})


def requests():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, families.VOCABULARY, (CONTEXT + CONTINUATION,), generator=generator).tolist()
    return [(tokens[:CONTEXT], tokens[CONTEXT:])]


def counted_linear(model, masks):
    """Of the linear maps alone: torch counts attention on some devices only."""
    with FlopCounterMode(display=False) as counter:
        score(model, requests(), masks)
    found = counter.get_flop_counts()["Global"]
    return sum(flops for operator, flops in found.items() if str(operator) in ("aten.mm", "aten.addmm"))


def attention(config, mask):
    """Two products of (query, key) pairs x width of the heads; so few tokens attend to all, under a mask."""
    tokens, head_dim = CONTEXT + CONTINUATION - 1, linear_weights(config).head_dim
    kept = [4 - len(mask.pruned_heads.get(layer, ())) for layer in range(3)]
    last = max(layer for layer, heads in enumerate(kept) if heads)
    pairs = [tokens * tokens if layer < last else CONTINUATION * tokens for layer in range(3)]
    return sum(4 * heads * head_dim * pair for heads, pair in zip(kept, pairs, strict=True))


@pytest.mark.parametrize("mask", [DENSE, SOME, NO_LAST_HEADS])
def test_flops_are_those_that_torch_counts(tiny_opt, mask):
    packs = all_packs(DecoderForward(tiny_opt), build_trie(requests(), 512), None)
    counted = counted_linear(tiny_opt, [mask])
    found = evaluation_flops(tiny_opt.config, packs, mask)
    assert found - attention(tiny_opt.config, mask) == counted


def test_backwards_every_product_is_made_once_more_and_attentions_twice(tiny_opt):
    config, packs = tiny_opt.config, all_packs(DecoderForward(tiny_opt), build_trie(requests(), 512), None)
    forwards = evaluation_flops(config, packs, DENSE)
    assert gradient_flops(config, packs) == 2 * forwards + attention(config, DENSE)


def test_masks_share_what_comes_before_their_first_difference(tiny_opt):
    config, packs = tiny_opt.config, all_packs(DecoderForward(tiny_opt), build_trie(requests(), 512), None)
    late = PruningMask(**SHAPE, pruned_ffns=(2,))
    both = shared_flops(config, packs, [DENSE, late])
    together, apart = counted_linear(tiny_opt, [DENSE, late]), counted_linear(tiny_opt, [DENSE])
    assert both - evaluation_flops(config, packs, DENSE) == together - apart > 0
    assert shared_flops(config, packs, [SOME, SOME]) == evaluation_flops(config, packs, SOME)
    alone = sum(evaluation_flops(config, packs, mask) for mask in (DENSE, SOME))
    narrow, width = config.word_embed_proj_dim, config.hidden_size
    project_in = 2 * narrow * width * (CONTEXT + CONTINUATION - 1 + CONTINUATION) if narrow != width else 0
    assert shared_flops(config, packs, [DENSE, SOME]) == alone - project_in  # they differ in the first layer


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama", "qwen3"])
def test_flops_of_other_families_and_of_what_their_masks_share(variant):
    model = families.made(variant)
    config, packs = model.config, all_packs(DecoderForward(model), build_trie(requests(), 300), None)
    for mask in (DENSE, SOME, NO_LAST_HEADS):
        found = evaluation_flops(config, packs, mask)
        assert found - attention(config, mask) == counted_linear(model, [mask])
    late = PruningMask(**SHAPE, pruned_ffns=(2,))
    shared = shared_flops(config, packs, [DENSE, late]) - evaluation_flops(config, packs, DENSE)
    counted = counted_linear(model, [DENSE, late]) - counted_linear(model, [DENSE])
    # Attention and FFN of GPT-NeoX read the same stream: its last layer is computed again.
    pairs = CONTINUATION * (CONTEXT + CONTINUATION - 1)
    again = 4 * 4 * linear_weights(config).head_dim * pairs if variant == "gpt_neox" else 0
    assert shared - again == counted > 0
