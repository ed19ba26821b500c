"""Masks of families that no table calls proven, against stock models whose weights are edited, in float64.

A head is what its own values make: without the value rows of all heads that share them, nothing of them is left. Where
the rows and the FFN's last map are is written here by hand, by the names of transformers' classes.
"""

import pytest
import torch

from lm_eval_prune import PruningMask, head_importance, masked
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.decoders.forward import why_not
from lm_eval_prune.decoders.tiny import HEAD_DIM, NUM_HEADS, VOCABULARY, tiny_model
from lm_eval_prune.scoring import score

W = HEAD_DIM
PLAIN = [range(head * W, (head + 1) * W) for head in range(NUM_HEADS)]
"""Of a map to the values of one head after the other; then of pairs of heads that share theirs; then of heads that are
each laid out as query, key and value; of all queries, all keys, all values; of latent attention, key and value."""
PAIRS = [PLAIN[0], PLAIN[0], PLAIN[1], PLAIN[1]]
TRIPLES = [range((3 * head + 2) * W, (3 * head + 3) * W) for head in range(NUM_HEADS)]
THIRDS = [range((2 * NUM_HEADS + head) * W, (2 * NUM_HEADS + head + 1) * W) for head in range(NUM_HEADS)]
LATENT = [range((2 * head + 1) * W, (2 * head + 2) * W) for head in range(NUM_HEADS)]
ONE = [range((NUM_HEADS + 1) * W, (NUM_HEADS + 2) * W)] * NUM_HEADS
QUARTERS = [range((3 * head + 1) * W, (3 * head + 2) * W) for head in range(NUM_HEADS)]
GROUPED = [range((NUM_HEADS + 2 + group) * W, (NUM_HEADS + 3 + group) * W) for group in (0, 0, 1, 1)]

BERT = ("bert.encoder.layer.{}.attention.self.value", PLAIN, "bert.encoder.layer.{}.output.dense")
BART = ("model.decoder.layers.{}.self_attn.v_proj", PLAIN, "model.decoder.layers.{}.fc2")
GPT2 = ("transformer.h.{}.attn.c_attn", THIRDS, "transformer.h.{}.mlp.c_proj")
LLAMA = ("model.layers.{}.self_attn.v_proj", PAIRS, "model.layers.{}.mlp.down_proj")
DEEPSEEK = ("model.layers.{}.self_attn.kv_b_proj", LATENT, "model.layers.{}.mlp")
WHERE = {
    "afmoe": (LLAMA[0], PAIRS, "model.layers.{}.mlp"),
    "bart": BART,
    "bert": BERT,
    "biogpt": ("biogpt.layers.{}.self_attn.v_proj", PLAIN, "biogpt.layers.{}.fc2"),
    "bloom": ("transformer.h.{}.self_attention.query_key_value", TRIPLES, "transformer.h.{}.mlp.dense_4h_to_h"),
    "codegen": ("transformer.h.{}.attn.qkv_proj", QUARTERS, "transformer.h.{}.mlp.fc_out"),
    "cohere_compass_text": LLAMA,
    "ctrl": ("transformer.h.{}.multi_head_attention.Wv", PLAIN, "transformer.h.{}.ffn.2"),
    "dbrx": ("transformer.blocks.{}.norm_attn_norm.attn.Wqkv", GROUPED, "transformer.blocks.{}.ffn"),
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "deepseek_v32": DEEPSEEK,
    "falcon": ("transformer.h.{}.self_attention.query_key_value", ONE, "transformer.h.{}.mlp.dense_4h_to_h"),
    "gpt_bigcode": ("transformer.h.{}.attn.c_attn", ONE, "transformer.h.{}.mlp.c_proj"),
    "gpt_neo": ("transformer.h.{}.attn.attention.v_proj", PLAIN, "transformer.h.{}.mlp.c_proj"),
    "laguna": (LLAMA[0], PAIRS, "model.layers.{}.mlp"),
    "llama4_text": (LLAMA[0], PAIRS, "model.layers.{}.feed_forward"),
    "megatron-bert": BERT,
    "modernbert-decoder": ("model.layers.{}.attn.v_proj", PLAIN, "model.layers.{}.mlp.Wo"),
    "mpt": ("transformer.blocks.{}.attn.Wqkv", THIRDS, "transformer.blocks.{}.ffn.down_proj"),
    "openai-gpt": GPT2,
    "persimmon": ("model.layers.{}.self_attn.query_key_value", TRIPLES, "model.layers.{}.mlp.dense_4h_to_h"),
    "rembert": ("rembert.encoder.layer.{}.attention.self.value", PLAIN, "rembert.encoder.layer.{}.output.dense"),
    "roberta": ("roberta.encoder.layer.{}.attention.self.value", PLAIN, "roberta.encoder.layer.{}.output.dense"),
    "xglm": ("model.layers.{}.self_attn.v_proj", PLAIN, "model.layers.{}.fc2"),
}
IDS = torch.randint(4, VOCABULARY, (2, 21), generator=torch.Generator().manual_seed(1))
LAYERS = 4
SINGLE = {"bloom", "gpt_neo", "xglm"}
"""Classes whose attention is computed in float32, whatever their weights are."""


def zeroed(module, rows=None):
    """Without some outputs of a map, or without any output of whatever it is."""
    if rows is None and not hasattr(module, "weight"):
        for parameter in module.parameters():
            parameter.data.zero_()
        return
    weight = module.weight.data.T if type(module).__name__ == "Conv1D" else module.weight.data
    rows = range(len(weight)) if rows is None else rows
    weight[list(rows)] = 0
    if module.bias is not None:
        module.bias.data[list(rows)] = 0


def without_the_last_group(model_type, model):
    """The mask of the heads that share the last head's values in layer 1, of all in layer 3, and of FFN 2; and
    `model`, edited to match."""
    values, rows, ffn = WHERE[model_type]
    group = tuple(head for head in range(NUM_HEADS) if rows[head] == rows[-1])
    zeroed(model.get_submodule(values.format(1)), rows[-1])
    for each in rows:
        zeroed(model.get_submodule(values.format(3)), each)
    zeroed(model.get_submodule(ffn.format(2)))
    pruned = {1: group, 3: range(NUM_HEADS)}
    return PruningMask(num_hidden_layers=LAYERS, num_attention_heads=NUM_HEADS, pruned_heads=pruned, pruned_ffns=(2,))


def double(model_type):
    model = tiny_model(model_type, experts_implementation="eager")  # grouped products have no float64
    return model if model_type in SINGLE else model.double()


@pytest.mark.parametrize("model_type", WHERE)
def test_masked_logits_are_those_without_the_weights_that_make_them(model_type):
    model, edited = double(model_type), double(model_type)
    mask = without_the_last_group(model_type, edited)
    with torch.no_grad():
        dense, expected = model(IDS).logits, edited(IDS).logits
        with masked(model, mask):
            found = model(IDS).logits
    tolerance = 1e-5 if model_type in SINGLE else 1e-9
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert (found - dense).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", ["afmoe", "bert", "bloom", "deepseek_v3", "falcon"])
def test_gradient_importance_is_autograd_at_the_output_maps_input(model_type):
    model = double(model_type)
    decoder, ids = decoder_of(model), IDS[0].tolist()
    read = {}
    for layer, output in enumerate(decoder.head_outputs):
        output.register_forward_pre_hook(lambda module, args, layer=layer: (read.update({layer: args[0]}), None)[1])
    logits = model(IDS[:1, :-1]).logits[0, -3:]
    loss = torch.nn.functional.cross_entropy(logits, IDS[0, -3:])
    gradients = torch.autograd.grad(loss, [read[layer] for layer in range(LAYERS)])
    expected = torch.stack([
        (gradient * read[layer]).unflatten(-1, (NUM_HEADS, -1)).sum(-1).abs().sum((0, 1))
        for layer, gradient in enumerate(gradients)
    ])  # fmt: skip
    expected[:-1] /= len(ids) - 1
    expected[-1] /= 3
    found = head_importance(double(model_type), [(ids[:-3], ids[-3:])])
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("model_type", sorted(WHERE.keys() - {"bart", "biogpt"}))
def test_packed_answers_are_those_of_the_edited_model_or_refused_in_one_line(model_type):
    model = tiny_model(model_type)
    reason = why_not(model)
    own = {"bloom", "falcon", "gpt_neo", "megatron-bert", "mpt", "openai-gpt", "rembert", "xglm"}
    assert (reason is None) == (model_type not in own | {"deepseek_v32", "llama4_text"})
    if reason is not None:
        assert "\n" not in reason
        return
    edited = double(model_type)
    mask = without_the_last_group(model_type, edited)
    text = IDS[0].tolist()
    requests = [(text[:12], text[12:15]), (text[:12], text[15:17]), (text[:5], [9]), (IDS[1].tolist(), [7, 8])]
    (answers,) = score(model, requests, [mask])
    for (context, continuation), answer in zip(requests, answers, strict=True):
        with torch.no_grad():
            rows = edited(torch.tensor([[*context, *continuation][:-1]])).logits[0, -len(continuation) :]
        expected = rows.log_softmax(-1)[range(len(continuation)), continuation].sum()
        assert answer.log_likelihood == pytest.approx(float(expected), abs=1e-4)
