"""What a mask, a score and a knockout mean, for every proven family and variation."""

import functools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lm_eval_prune import (
    PruningMask,
    copying_scores,
    ffn_importance,
    head_importance,
    masked,
    prefix_matching_scores,
)
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.importance.gradient import ffn_gradient_importance
from lm_eval_prune.importance.knockout import component_knockout
from lm_eval_prune.importance.methods import magnitude
from tests import families, reference_families

WRITTEN = [name for name in families.VARIANTS if name.split(",")[0] in ("llama", "qwen3", "gemma2", "gpt_neox", "gpt2")]


def mask_of(model):
    heads = model.config.num_attention_heads
    return PruningMask(
        **families.shape(model), pruned_heads={0: (1, heads - 1), 1: range(heads), 2: (0,)}, pruned_ffns=(1,)
    )


def attentions_of(model):
    return [name for name in ("sdpa", "eager") if name == "eager" or model._supports_sdpa]


@pytest.mark.parametrize("variant", WRITTEN)
def test_masked_logits_are_those_written_from_the_weights(variant):
    model, ids = families.made(variant), families.tokens(30)
    for mask in (PruningMask(**families.shape(model)), mask_of(model)):
        expected = reference_families.logits(model, ids, mask)
        for attention in attentions_of(model):
            model.set_attn_implementation(attention)
            with torch.no_grad(), masked(model, mask):
                found = model(torch.tensor([ids])).logits[0].double()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def edited(model, mask):
    """`model`, its output columns and FFNs set to zero; what stays of its biases stays."""
    decoder = decoder_of(model)
    with torch.no_grad():
        for layer, heads in mask.pruned_heads.items():
            weight = decoder.head_outputs[layer].weight
            columns = weight if type(decoder.head_outputs[layer]).__name__ == "Conv1D" else weight.T
            for head in heads:
                columns[head * decoder.head_dim : (head + 1) * decoder.head_dim] = 0
        for layer in mask.pruned_ffns:
            last = list(decoder.layers[layer].ffn[-1].modules())
            down = [module for module in last if hasattr(module, "weight")][-1]
            for parameter in down.parameters():
                parameter.zero_()
    return model


def test_masked_logits_are_those_of_edited_weights(tiny_model):
    """On padded batches, token by token with a cache, and whichever attention computes them."""
    mask, ids = mask_of(tiny_model), torch.tensor([families.tokens(20), families.tokens(20, 1)])
    attention_mask = torch.ones_like(ids)
    left, right = attention_mask.clone(), attention_mask.clone()
    left[0, :6], right[1, 13:] = 0, 0

    def computed(model):
        yield model(ids).logits
        for padding in (left, right):
            yield model(ids, attention_mask=padding).logits[padding.bool()]
        step = model(ids[:, :12], use_cache=True)
        yield step.logits
        for token in range(12, 15):
            step = model(ids[:, token : token + 1], **{name: step[name] for name in ("cache",)}, use_cache=True)
            yield step.logits
        yield model.generate(ids[:1], max_new_tokens=6, do_sample=False).float()

    for attention in attentions_of(tiny_model):
        tiny_model.set_attn_implementation(attention)
        with torch.no_grad():
            with masked(tiny_model, mask):
                found = list(computed(tiny_model))
            other = families.copy.deepcopy(tiny_model)
            other.set_attn_implementation(attention)
            expected = list(computed(edited(other, mask)))
        for one, another in zip(found, expected, strict=True):
            torch.testing.assert_close(one, another, rtol=1e-5, atol=2e-5)


def examples():
    return [(families.tokens(9, 1), families.tokens(3, 2)), (families.tokens(14, 3), families.tokens(1, 4))]


def by_hand(model, modules, of_input):
    """Per example and layer dLoss/do * o, (tokens, width of o): float64, one example at a time."""
    model = model.double()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = []
    for context, continuation in examples():
        seen = {}

        def keep(layer, values, seen=seen):
            seen[layer] = values = values.detach().requires_grad_() if not values.requires_grad else values
            if not values.is_leaf:
                values.retain_grad()
            return values

        hooks = []
        for layer, module in enumerate(modules(model)):
            if of_input:
                hooks.append(module.register_forward_pre_hook(lambda _, args, at=layer: (keep(at, args[0]), *args[1:])))
            else:
                hooks.append(module.register_forward_hook(lambda _, args, output, at=layer: keep(at, output)))
        read = torch.tensor([[*context, *continuation][:-1]])
        rows = model(read).logits[0, -len(continuation) :].log_softmax(-1)
        (-rows[range(len(continuation)), continuation].mean()).backward()
        for hook in hooks:
            hook.remove()
        found.append([(each * each.grad).detach().view(read.shape[1], -1) for each in seen.values()])
    return found


def divided(sums):
    tokens = sum(len(context) + len(continuation) - 1 for context, continuation in examples())
    sums[:-1] /= tokens
    sums[-1] /= sum(len(continuation) for _, continuation in examples())
    return sums.float()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_importance_is_the_definition(tiny_model, checkpointing):
    heads = tiny_model.config.num_attention_heads
    found = head_importance(tiny_model, examples(), batch_size=2, checkpointing=checkpointing)
    ffns = ffn_gradient_importance(tiny_model, examples(), batch_size=2, checkpointing=checkpointing)
    products = by_hand(tiny_model, lambda model: decoder_of(model).head_outputs, of_input=True)
    expected = sum(
        torch.stack([each.unflatten(-1, (heads, -1)).sum(-1).abs().sum(0) for each in one]) for one in products
    )
    torch.testing.assert_close(found, divided(expected), rtol=1e-4, atol=1e-8)
    products = by_hand(tiny_model, lambda model: decoder_of(model).ffn_outputs, of_input=False)
    expected = sum(torch.stack([each.sum(-1).abs().sum(0) for each in one]) for one in products)
    torch.testing.assert_close(ffns, divided(expected), rtol=1e-4, atol=1e-8)


def test_knockouts_are_separate_masked_evaluations(tiny_model):
    shape = families.shape(tiny_model)

    def loss(mask):
        total = 0.0
        with masked(tiny_model, mask), torch.no_grad():
            for context, continuation in examples():
                rows = tiny_model(torch.tensor([[*context, *continuation][:-1]])).logits[0, -len(continuation) :]
                total -= float(rows.double().log_softmax(-1)[range(len(continuation)), continuation].mean()) / 2
        return total

    dense = loss(PruningMask(**shape))
    ffns = [loss(PruningMask(**shape, pruned_ffns=(layer,))) - dense for layer in range(3)]
    assert ffn_importance(tiny_model, examples(), batch_size=2).tolist() == pytest.approx(ffns, abs=2e-5)
    scores = component_knockout(tiny_model, examples(), "heads", batch_size=1)
    for layer, head in ((0, 0), (1, shape["num_attention_heads"] - 1), (2, 1)):
        single = loss(PruningMask(**shape, pruned_heads={layer: (head,)})) - dense
        assert float(scores[layer, head]) == pytest.approx(single, abs=2e-5)


def test_magnitude_is_the_norm_of_what_a_component_has(tiny_model):
    """Halving all that a head's attention and output are computed with halves its norm, and no other's."""
    before, ffns = magnitude(tiny_model, "heads"), magnitude(tiny_model, "ffns")
    assert (before > 0).all()
    decoder = decoder_of(tiny_model)
    with torch.no_grad():
        for module in decoder.layers[1].ffn:
            for parameter in module.parameters():
                parameter *= 0.5
        decoder.head_outputs[0].weight *= 0
    torch.testing.assert_close(magnitude(tiny_model, "ffns"), ffns * torch.tensor([1, 0.5, 1]))
    assert (magnitude(tiny_model, "heads")[0] < before[0]).all()
    torch.testing.assert_close(magnitude(tiny_model, "heads")[1:], before[1:])


def test_prefix_matching_is_read_from_the_attention_that_the_model_computes(tiny_model):
    sequence, repeats = families.tokens(200)[:6], 3
    sequence = list(dict.fromkeys(sequence))
    tiny_model.set_attn_implementation("eager")
    found = prefix_matching_scores(tiny_model, [sequence], repeats=repeats, bos_token_id=2)[0]
    with torch.no_grad():
        maps = tiny_model(torch.tensor([[2, *sequence * repeats]]), output_attentions=True).attentions
    length = len(sequence)
    for layer, attention in enumerate(maps):
        expected = sum(
            attention[0, :, copy * length + place, earlier * length + place + 1].double()
            for copy in range(1, repeats)
            for earlier in range(copy)
            for place in range(1, length + 1)
        )
        torch.testing.assert_close(found[layer], (expected / ((repeats - 1) * length)).float(), rtol=1e-5, atol=1e-5)
    assert copying_scores(tiny_model, [sequence], bos_token_id=2).isfinite().all()


@functools.cache
def induction_model(tokens=12):
    """A Llama of two layers, with rotations: head 0 of layer 0 attends to the token before, head 0 of layer 1 to what
    followed the query's own token. Turning pairs of high frequency tell positions, the others leave tokens as they are.
    """
    width, marks = 64, tokens
    config = LlamaConfig(
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=width, hidden_size=64,
        intermediate_size=4, vocab_size=tokens, max_position_embeddings=256, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, :tokens] = 6 * torch.eye(tokens)
        model.model.embed_tokens.weight[:, marks] = 6
        before, after = (layer.self_attn for layer in model.model.layers)
        fast = 10 ** (-0.375 * torch.arange(10.0))
        before.q_proj.weight[:10, marks] = 4
        before.k_proj.weight[:10, marks] = 4 * fast.cos()  # as if it stood one position further on
        before.k_proj.weight[32:42, marks] = 4 * fast.sin()
        for token in range(tokens):
            before.v_proj.weight[token, token] = 1
            before.o_proj.weight[marks + 1 + token, token] = 6
            after.q_proj.weight[18 + token, token] = 6
            after.k_proj.weight[18 + token, marks + 1 + token] = 6
    return model


def test_a_head_that_matches_prefixes_under_rotations_scores_one():
    scores = prefix_matching_scores(induction_model(), [[3, 7, 5, 9, 4, 8, 6]], repeats=2, bos_token_id=2)[0]
    assert float(scores[1, 0]) > 0.95
    assert float(scores[0].max()) < 0.1
    assert float(scores[1, 1]) < 0.2
