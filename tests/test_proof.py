"""Families that no table names: accepted after a proof on the model itself, or refused in one line that says why."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from lm_eval_prune import PruningMask, masked, prefix_matching_scores
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.decoders.forward import why_not
from lm_eval_prune.errors import UnsupportedModelError
from tests import families
from tests.test_packed_families import packed, plain

ACCEPTED = [
    "afmoe", "cohere", "gemma3_text", "gpt_bigcode", "gpt_oss", "granite", "mixtral", "olmo3", "persimmon", "phi",
    "phi3", "qwen3_moe", "stablelm", "starcoder2",
]  # fmt: skip
MIXED = "what its output map reads of one head depends on the others"
REFUSED = {
    "beam": "changes the residual stream by more than attention and FFN",
    "bert": "it is not causal",
    "bitnet": MIXED,
    "diffllama": MIXED,
    "doge": MIXED,
    "mamba": "no attention found in its MambaBlock",
    "roberta": "it is not causal",
}


@pytest.mark.parametrize("model_type", ACCEPTED)
def test_what_passes_the_proof_is_masked_and_packed_like_itself(model_type):
    model = families.of_type(model_type)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    shape, ids = families.shape(model), torch.tensor([families.tokens(20), families.tokens(20, 1)])
    mask = PruningMask(**shape, pruned_heads={0: (1, 2), 1: range(4)}, pruned_ffns=(0,))
    assert why_not(model) is None
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    decoder = decoder_of(model)
    with torch.no_grad():
        with masked(model, mask):
            found = model(ids).logits
        for layer, heads in mask.pruned_heads.items():
            output = decoder.head_outputs[layer]
            columns = output.weight.T if type(output).__name__ != "Conv1D" else output.weight
            for head in heads:
                columns[head * decoder.head_dim : (head + 1) * decoder.head_dim] = 0
        for module in decoder.layers[0].ffn:
            for name, parameter in module.named_parameters():
                if any(part in name for part in ("down", "c_proj", "fc2", "w2", "dense_4h_to_h")):
                    parameter.zero_()
        torch.testing.assert_close(found, model(ids).logits, rtol=1e-5, atol=1e-5)
    model = families.of_type(model_type)
    for each, answers in zip((PruningMask(**shape), mask), packed(model, [PruningMask(**shape), mask]), strict=True):
        assert [answer.log_likelihood for answer in answers] == pytest.approx(plain(model, each), abs=1e-4)


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_fails_it_is_refused_in_one_line(model_type):
    model = families.of_type(model_type)
    with pytest.raises(UnsupportedModelError, match=REFUSED[model_type]) as caught:
        decoder_of(model)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedModelError), masked(model, PruningMask.dense(2, 4)):
        pass


class Unheard(LlamaConfig):
    """Of a type that the table does not know."""

    model_type = "unheard"


def unheard(monkeypatch, **changes):
    """A Llama of that type, some methods of whose parts are other ones."""
    for path, method in changes.items():
        part = getattr(modeling_llama, path)
        monkeypatch.setattr(part, "forward", method(part.forward))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return LlamaForCausalLM(Unheard(**{**families.GROUPED, "initializer_range": 0.3})).eval()


def told(**arguments):
    return lambda forward: lambda self, *args, **kwargs: forward(self, *args, **{**kwargs, **arguments})


def test_an_unknown_type_of_the_common_shape_is_accepted(monkeypatch):
    model = unheard(monkeypatch)
    assert decoder_of(model).num_key_value_heads == 2
    assert why_not(model) is None


class Quantised(torch.nn.Module):
    """A linear map as those who quantise make it: numbers of their own in the place of a weight."""

    def __init__(self, whole):
        super().__init__()
        self.in_features, self.out_features = whole.in_features, whole.out_features
        self.register_buffer("qweight", whole.weight.detach().clone())

    def forward(self, inputs):
        return inputs @ self.qweight.T


@pytest.mark.parametrize("variant", ["llama", "gemma2, windows and caps", "mistral, a window"])
def test_the_maps_of_a_quantised_ffn_are_found_and_pruned(variant):
    model = families.made(variant)
    mask, ids = PruningMask.dense(families.LAYERS, families.HEADS).prune_ffn(1), torch.tensor([families.tokens(9)])
    with torch.no_grad(), masked(model, mask):
        expected = model(ids).logits
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, Quantised(getattr(layer.mlp, name)))
    places = decoder_of(model)
    assert all(len(layer.up) == 2 and isinstance(layer.down, Quantised) for layer in places.layers)
    with torch.no_grad(), masked(model, mask):
        torch.testing.assert_close(model(ids).logits, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LlamaAttention": told(is_causal=False)}, "is not causal"),
        (
            {"LlamaMLP": lambda forward: lambda self, hidden: forward(self, hidden) + hidden.mean(1, keepdim=True)},
            "it is not causal",
        ),
        (
            {"LlamaMLP": lambda forward: lambda self, hidden: forward(self, hidden) + hidden.mean(-1, keepdim=True)},
            "a masked FFN is not its last map zeroed",
        ),
        (
            {"LlamaDecoderLayer": lambda forward: lambda self, hidden, **kw: forward(self, hidden, **kw) + 0.3},
            "changes the residual stream by more than attention and FFN",
        ),
        (
            {"LlamaModel": lambda forward: lambda self, *a, **kw: _shifted(forward(self, *a, **kw))},
            None,
        ),
    ],
)
def test_what_a_common_shape_does_beside_is_found(monkeypatch, changes, message):
    model = unheard(monkeypatch, **changes)
    if message is None:  # what a model does behind its layers is its own business
        decoder_of(model)
        return
    with pytest.raises(UnsupportedModelError, match=message):
        decoder_of(model)


def test_attention_that_cannot_be_told_is_masked_but_neither_packed_nor_watched(monkeypatch):
    model = unheard(monkeypatch, LlamaAttention=told(temperature=2.0))
    assert decoder_of(model).num_key_value_heads == 2
    reason = "tells its attention 'temperature', which is not known here"
    assert reason in why_not(model)
    with pytest.raises(UnsupportedModelError, match=reason):
        prefix_matching_scores(model, [[5, 6, 7]])


@pytest.mark.parametrize("variant", ["llama", "gpt2", "qwen3"])
def test_code_of_a_checkpoints_own_is_not_proven_by_the_type_that_it_says(variant, monkeypatch):
    """Classes beside a checkpoint, whose configuration is of a proven family: accepted after the proof alone."""
    model = families.made(variant)
    for kind in type(model).__mro__:
        if kind.__module__.startswith("transformers.models."):
            monkeypatch.setattr(kind, "__module__", "transformers_modules.someone.modeling_own")
    assert decoder_of(model).num_hidden_layers == 3
    assert "transformers_modules" in why_not(model)
    other = families.made(variant)
    for output in decoder_of(other).head_outputs:
        output.register_forward_pre_hook(lambda module, args: (args[0].flip(-1),))
    with pytest.raises(UnsupportedModelError, match=MIXED):
        decoder_of(families.copy.deepcopy(other))


@pytest.mark.parametrize(
    "mixing", [torch.cumsum, lambda heads, dim: heads.flip(dim), lambda heads, dim: heads.roll(1, dim)]
)
@pytest.mark.parametrize("changes", [{}, {"LlamaAttention": told(temperature=2.0)}])
def test_heads_that_are_mixed_before_their_output_map_are_refused(monkeypatch, mixing, changes):
    """Whether attention goes through the one function or not."""
    model = unheard(monkeypatch, **changes)
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda module, args: (
                mixing(args[0].unflatten(-1, (4, -1)), [-2] if mixing is torch.flip else -2).flatten(-2),
            )
        )
    with pytest.raises(UnsupportedModelError, match=MIXED):
        decoder_of(model)


def _shifted(output):
    output.last_hidden_state = output.last_hidden_state + 0.1
    return output
