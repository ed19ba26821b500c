"""Laws of gradient importance: it is its definition, whatever the batch, the mode, the precision or the process."""

from __future__ import annotations

import pytest
import reference_importance as reference
import torch
import torch.multiprocessing
from fixtures_importance import examples, tiny_model

from lm_eval_prune.ablation import masked
from lm_eval_prune.errors import ExampleError, ScoreError
from lm_eval_prune.importance import gradient
from lm_eval_prune.importance.gradient import ffn_gradient_importance, head_importance
from lm_eval_prune.importance.processes import Processes
from lm_eval_prune.masks import PruningMask
from tests.processes import SERVER


@pytest.fixture(scope="module", params=[False, True], ids=["pre-norm", "post-norm"])
def model(request):
    return tiny_model(post_norm=request.param)


@pytest.fixture(scope="module")
def expected(model):
    return reference.head_importance(reference.Weights(model), examples())


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_equals_the_definition_in_float64(model, expected, batch_size):
    scores = head_importance(model, examples(), batch_size=batch_size)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=0)


def test_padding_tokens_do_not_count(model):
    one = examples(1)
    long = ([2, *range(10, 60)], [7])
    together = head_importance(model, [*one, long], batch_size=2)
    apart = [head_importance(model, [example]) for example in (*one, long)]
    lengths = torch.tensor([len(context) + len(continuation) - 1 for context, continuation in (*one, long)])
    answers = torch.tensor([len(continuation) for _, continuation in (*one, long)])
    for layer in range(3):
        weights = answers if layer == 2 else lengths
        mean = sum(score[layer] * weight for score, weight in zip(apart, weights, strict=True)) / weights.sum()
        torch.testing.assert_close(together[layer], mean, rtol=1e-4, atol=0)


def gate(layer, head, head_dim, step):
    """An edit that scales one head's outputs by 1 + step."""

    def scale(at, heads):
        factor = torch.ones(heads.shape[-1], dtype=heads.dtype)
        factor[head * head_dim : (head + 1) * head_dim] += step if at == layer else 0
        return heads * factor

    return scale


def test_signed_sums_are_derivatives_of_the_loss(model):
    """The reference itself, against central differences: d loss / d gate = sum over tokens of <dLoss/do, o>."""
    weights = reference.Weights(model)
    context, continuation = examples(1)[0]
    signed = reference.head_importance(weights, [(context, continuation)], signed=True)
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    for layer, head in ((0, 1), (1, 3), (2, 0)):
        values = []
        for step in (1e-5, -1e-5):
            edit = gate(layer, head, head_dim, step)
            values.append(float(reference.loss(weights, context, continuation, edit=edit)[0]))
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(signed[layer, head]), rel=1e-5, abs=1e-9)


def test_single_token_example_is_the_derivative_up_to_its_sign(model):
    """One input token: one term in the sum, so that the score is |d loss / d gate|, by finite differences."""
    example = ([2], [17])
    scores = head_importance(model, [example])
    weights = reference.Weights(model)
    for head in range(4):
        values = []
        for step in (1e-5, -1e-5):
            values.append(float(reference.loss(weights, *example, edit=gate(1, head, 8, step))[0]))
        assert abs(values[0] - values[1]) / 2e-5 == pytest.approx(float(scores[1, head]), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(expected, model, dtype):
    half = tiny_model(post_norm=not model.config.do_layer_norm_before, dtype=dtype)
    scores = head_importance(half, examples(), batch_size=2)
    torch.testing.assert_close(scores.double(), expected, rtol=0.15, atol=0.02 * float(expected.max()))


def test_float16_scales_the_loss_so_that_gradients_do_not_vanish():
    """Gradients of 1e-8 and less are zero in float16; with a scaled loss they are not."""
    model = tiny_model()
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.self_attn.out_proj.weight.mul_(1e-4)  # dLoss/do shrinks by the same factor
    expected = reference.head_importance(reference.Weights(model), examples())
    scores = head_importance(model.half(), examples(), batch_size=3)
    assert (scores > 0).all()
    torch.testing.assert_close(scores.double(), expected, rtol=0.2, atol=0.03 * float(expected.max()))


def test_float16_of_autocast_is_scaled_too():
    model = tiny_model()
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.self_attn.out_proj.weight.mul_(1e-4)
    expected = reference.head_importance(reference.Weights(model), examples())
    with torch.autocast("cpu", torch.float16):
        scores = head_importance(model, examples(), batch_size=3)
    assert (scores > 0).all()
    torch.testing.assert_close(scores.double(), expected, rtol=0.2, atol=0.03 * float(expected.max()))


def test_a_batch_that_memory_does_not_hold_is_halved(model, expected, monkeypatch, caplog):
    original, sizes = gradient._scores, []

    def scarce(model, taps, batch, *arguments, **settings):
        sizes.append(len(batch.examples))
        if len(batch.examples) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, taps, batch, *arguments, **settings)

    monkeypatch.setattr(gradient, "_scores", scarce)
    scores = head_importance(model, examples(), batch_size=7)
    assert max(sizes) > 2
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=0)
    assert "out of memory with" in caplog.text
    monkeypatch.setattr(gradient, "_scores", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        head_importance(model, examples(), batch_size=7)


def test_model_comes_back_as_it_was():
    model = tiny_model().train()
    model.model.decoder.layers[1].eval()
    model.model.decoder.layers[0].fc1.weight.requires_grad_(False)
    model.lm_head.weight.grad = torch.full_like(model.lm_head.weight, 3.0)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    with torch.no_grad():  # a caller's setting must not matter
        scores = head_importance(model, examples())

    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert (model.lm_head.weight.grad == 3.0).all()
    assert all(p.grad is None for n, p in model.named_parameters() if "embed_tokens" not in n and "lm_head" not in n)
    assert torch.equal(scores, head_importance(model.eval(), examples()))


def test_model_comes_back_after_an_error():
    model = tiny_model().train()
    with torch.no_grad():
        model.model.decoder.layers[1].fc1.bias[0] = torch.nan
    with pytest.raises(ScoreError, match="not finite"):
        head_importance(model, examples())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_nan_names_example_and_layer(layer):
    model = tiny_model()
    with torch.no_grad():
        model.model.decoder.layers[layer].self_attn.v_proj.bias[5] = torch.nan
    with pytest.raises(ScoreError, match=rf"example \d: layer {layer}: its outputs are not finite"):
        head_importance(model, examples())


def test_zero_gradient_names_example_and_layer():
    """A constant output layer: no token's likelihood depends on any head."""
    model = tiny_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(ScoreError, match=r"example \d+: layer 2: the gradient is zero"):
        head_importance(model, examples())


def test_pruned_heads_score_zero_and_others_as_the_pruned_model():
    model = tiny_model()
    mask = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1,), 1: (0, 1, 2, 3)})
    with masked(model, mask):
        scores = head_importance(model, examples())
    assert (scores[~mask.head_mask] == 0).all()
    assert (scores[mask.head_mask] > 0).all()
    with torch.no_grad():
        model.model.decoder.layers[1].self_attn.out_proj.weight.zero_()  # layer 1 writes nothing, as under the mask
        model.model.decoder.layers[0].self_attn.out_proj.weight[:, 8:16] = 0
    torch.testing.assert_close(scores[2], head_importance(model, examples())[2])


def test_long_examples_are_cut_as_the_harness_cuts():
    model = tiny_model(max_position_embeddings=16)
    context, continuation = list(range(4, 40)), [50, 51]
    scores = head_importance(model, [(context, continuation)])
    assert torch.equal(scores, head_importance(model, [(context[-15:], continuation)]))
    with pytest.raises(ExampleError, match="example 0: its continuation of 17 tokens is longer than the model's 16"):
        head_importance(model, [([2], list(range(4, 21)))])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no examples"),
        ([([2], [5]), ([], [5])], "example 1: its context is empty"),
        ([([2], [])], "example 0: its continuation is empty"),
        ([([2, 96], [5])], "example 0: token ids must be 0 to 95"),
        ([([2, -1], [5])], "example 0: token ids must be 0 to 95"),
    ],
)
def test_bad_examples_are_named(bad, message):
    with pytest.raises(ExampleError, match=message):
        head_importance(tiny_model(), bad)


def test_batch_size_must_be_positive():
    with pytest.raises(ExampleError, match="batch_size=0"):
        head_importance(tiny_model(), examples(), batch_size=0)


def test_ffn_gradient_equals_its_definition(model):
    """Float64 autograd through the model itself, one example at a time, on the output of each FFN."""
    double = tiny_model(post_norm=not model.config.do_layer_norm_before, dtype=torch.float64)
    outputs = []
    hooks = [
        layer.fc2.register_forward_hook(lambda module, args, output: outputs.append(output) or output.retain_grad())
        for layer in double.model.decoder.layers
    ]
    totals = torch.zeros(3, dtype=torch.float64)
    for context, continuation in examples():
        outputs.clear()
        logits = double(torch.tensor([[*context, *continuation][:-1]])).logits[0, len(context) - 1 :]
        torch.nn.functional.cross_entropy(logits, torch.tensor(continuation)).backward()
        for layer, output in enumerate(outputs):
            totals[layer] += (output * output.grad).sum(-1).abs().sum().detach()
    for hook in hooks:
        hook.remove()
    totals[:-1] /= sum(len(context) + len(continuation) - 1 for context, continuation in examples())
    totals[-1] /= sum(len(continuation) for _, continuation in examples())
    scores = ffn_gradient_importance(model, examples(), batch_size=4)
    torch.testing.assert_close(scores.double(), totals, rtol=1e-4, atol=0)


def test_ffn_gradient_of_a_pruned_ffn_is_zero():
    mask = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_ffns=(0, 1))
    model = tiny_model()
    with masked(model, mask):
        scores = ffn_gradient_importance(model, examples())
    assert scores[:2].tolist() == [0, 0]
    assert scores[2] > 0


def test_model_spread_over_devices_by_accelerate_hooks():
    """The hooks of a device map, here with the weights of two layers kept elsewhere and brought in for each call."""
    from accelerate import dispatch_model

    model = tiny_model()
    expected = head_importance(model, examples())
    places = dict.fromkeys(("model.decoder.embed_tokens", "model.decoder.embed_positions", "lm_head"), "cpu")
    places |= {"model.decoder.final_layer_norm": "cpu", "model.decoder.layers.0": "cpu"}
    places |= {"model.decoder.layers.1": "disk", "model.decoder.layers.2": "disk"}
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        spread = dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)
        assert next(spread.model.decoder.layers[2].parameters()).device.type == "meta"
        torch.testing.assert_close(head_importance(spread, examples()), expected)


def test_items_are_shared_without_loss():
    shares = [Processes(rank, 3).share(range(8)) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))


def test_partial_sums_add_up_to_one_process(monkeypatch):
    partial = []
    monkeypatch.setattr(Processes, "sum", lambda self, values: partial.append(values.clone()) or values)
    model = tiny_model()
    for processes in (Processes(), Processes(0, 2), Processes(1, 2)):
        head_importance(model, examples(), batch_size=2, processes=processes)
    torch.testing.assert_close(partial[1] + partial[2], partial[0], rtol=1e-5, atol=0)


def _one_of_two(rank, address, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    scores = head_importance(tiny_model(), examples(), batch_size=2, processes=Processes.current())
    few = head_importance(tiny_model(), examples(1), processes=Processes.current())  # nothing left for rank 1
    torch.save((scores, few), f"{results}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_sum_to_one(tmp_path):
    given = tmp_path / "store", tmp_path / "scores"
    torch.multiprocessing.start_processes(_one_of_two, given, nprocs=2, start_method=SERVER.get_start_method())
    model = tiny_model()
    alone = head_importance(model, examples(), batch_size=2), head_importance(model, examples(1))
    for rank in range(2):
        together = torch.load(f"{tmp_path}/scores.{rank}")
        torch.testing.assert_close(together[0], alone[0], rtol=1e-5, atol=0)
        torch.testing.assert_close(together[1], alone[1], rtol=1e-5, atol=0)


class _NoGradient(torch.autograd.Function):
    """A product as quantised ones are that know no backward pass."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


def _quantised(*names):
    return lambda model: torch.ao.quantization.quantize_dynamic(model, set(names))


def _without_backward(model):
    model.model.decoder.layers[2].fc1.register_forward_hook(lambda module, args, output: _NoGradient.apply(output))
    model.model.decoder.final_layer_norm.register_forward_hook(lambda module, args, out: _NoGradient.apply(out))
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "without_gradient",
    [_quantised(torch.nn.Linear), _quantised("model.decoder.layers.1.fc2"), _without_backward],
    ids=["quantised", "one map quantised", "an operation without a backward pass"],
)
@pytest.mark.parametrize("importance", [head_importance, ffn_gradient_importance])
def test_weights_that_let_no_gradient_through_are_one_line(importance, without_gradient):
    with pytest.raises(ScoreError, match=r"no gradient comes through .*; where weights are quantised, take the scores"):
        importance(without_gradient(tiny_model()), examples(2))
