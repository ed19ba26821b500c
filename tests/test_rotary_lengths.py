"""Rotary positions that change with the length of an input (dynamic, longrope): masks, scores and compaction of these.

transformers' tables of them remember the longest input so far: every computation here has a model of its own.
"""

import copy
from functools import partial

import pytest
import torch
import transformers

from lm_eval_prune import PruningMask, compact, head_importance, masked, score
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.importance.knockout import component_knockout
from lm_eval_prune.importance.mean_outputs import mean_outputs
from tests import families

TRAINED = 32
"""Positions of training; longer inputs have other rotations."""
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": TRAINED}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
CASES = [
    *(pytest.param(variant, "longrope", id=f"{variant}, longrope") for variant in ("llama", "qwen3", "olmo2")),
    *(pytest.param(variant, "dynamic", id=f"{variant}, dynamic") for variant in ("llama", "qwen3", "smollm3")),
]


def made(variant, kind):
    prefix, _ = families.VARIANTS[variant]
    config = families.config_of(variant)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    factors = {"long_factor": [3.0] * (width // 2), "short_factor": [1.0] * (width // 2)}
    rope, longest = (DYNAMIC, TRAINED) if kind == "dynamic" else ({**LONGROPE, **factors}, 4 * TRAINED)
    config = families.config_of(variant, rope_parameters=rope, max_position_embeddings=longest)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return getattr(transformers, f"{prefix}ForCausalLM")(config).eval()


def edited(model, mask):
    """`model` with the output columns of pruned heads, and the last maps of pruned FFNs, set to zero."""
    model = copy.deepcopy(model)
    width = decoder_of(model).head_dim
    with torch.no_grad():
        for layer, heads in mask.pruned_heads.items():
            for head in heads:
                model.model.layers[layer].self_attn.o_proj.weight[:, head * width : (head + 1) * width] = 0
        for layer in mask.pruned_ffns:
            model.model.layers[layer].mlp.down_proj.weight[:] = 0
    return model


@pytest.mark.parametrize(("variant", "kind"), CASES)
def test_masked_and_compact_models_are_those_with_edited_weights(variant, kind):
    model = made(variant, kind)
    mask = PruningMask(**families.shape(model), pruned_heads={0: (1, 3), 2: (0,)}, pruned_ffns=(1,))
    for count in (TRAINED - 4, 2 * TRAINED):
        ids = torch.tensor([families.tokens(count, seed=count)])
        with torch.no_grad():
            expected = edited(made(variant, kind), mask)(ids).logits
            model = made(variant, kind)
            with masked(model, mask):
                torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
            smaller = compact(made(variant, kind), mask)
            torch.testing.assert_close(smaller(ids).logits, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(UnsupportedModelError, match="depend on what else is in the input"):
        score(model, [([5, 6], [7])], [mask])


@pytest.mark.parametrize(("variant", "kind"), CASES)
def test_scores_do_not_depend_on_which_texts_are_padded_together(variant, kind):
    pairs = [(families.tokens(count, seed=count), [9, 8]) for count in (8, 2 * TRAINED, 12, 50)]
    for scores in (
        head_importance,
        partial(component_knockout, component="heads"),
        lambda model, examples, batch_size: mean_outputs(model, examples, batch_size=batch_size).heads,
    ):
        alone, together = (scores(made(variant, kind), pairs, batch_size=size) for size in (1, 4))
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
