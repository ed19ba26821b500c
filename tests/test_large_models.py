"""Models whose layers lie apart, and work shared by processes: results are those of one model in one memory."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from accelerate import disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook
from accelerate.utils import offload_state_dict
from fixtures_importance import examples, save_checkpoint, tiny_model, write_tasks

from lm_eval_prune.ablation import masked
from lm_eval_prune.decoders import is_offloaded
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.importance.gradient import ffn_gradient_importance, head_importance
from lm_eval_prune.importance.knockout import ffn_importance
from lm_eval_prune.induction import copying_scores, prefix_matching_scores
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.scoring import forward, score
from tests.helpers import TEXTS, build, requests
from tests.processes import launched

SEQUENCES = [[40, 7, 19, 88, 5], [11, 12, 13, 14, 15, 16, 17, 30]]
OUTSIDE = ("embed_tokens", "embed_positions", "final_layer_norm", "project_in", "project_out")
PLACES = {
    "last layers on disk": ("cpu", "cpu", "disk", "disk"),
    "first layer on disk": ("cpu", "disk", "cpu", "cpu"),
    "all on disk": ("disk", "disk", "disk", "disk"),
}
"""Name -> where embeddings and what is outside the layers lie, then each layer."""


@pytest.fixture(params=[False, True], ids=["pre-norm", "post-norm"])
def post_norm(request):
    return request.param


@pytest.fixture(params=list(PLACES))
def spread(request, post_norm, tmp_path):
    """(a model whose layers lie apart, the same in one memory)."""
    outside, *layers = PLACES[request.param]
    model = tiny_model(post_norm=post_norm)
    decoder = model.model.decoder
    names = [name for name in OUTSIDE if getattr(decoder, name, None) is not None]
    places = {f"model.decoder.{name}": outside for name in names} | {"lm_head": outside}
    places |= {f"model.decoder.layers.{number}": place for number, place in enumerate(layers)}
    apart = dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    assert is_offloaded(apart)
    return apart, tiny_model(post_norm=post_norm)


@pytest.fixture
def some_mask():
    heads = {0: (1,), 1: (0, 1, 2, 3), 2: (2, 3)}
    return PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads=heads, pruned_ffns=(2,))


def test_masked_forward_and_generation(spread, some_mask):
    apart, together = spread
    ids = torch.tensor([[2, 9, 11, 40, 7]])
    with torch.no_grad(), masked(apart, some_mask), masked(together, some_mask):
        assert torch.equal(apart(ids).logits, together(ids).logits)
        settings = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(apart.generate(ids, **settings), together.generate(ids, **settings))


def test_importance_and_knockout(spread, some_mask):
    apart, together = spread
    for function in (head_importance, ffn_gradient_importance, ffn_importance):
        expected = function(together, examples(), batch_size=4)
        torch.testing.assert_close(function(apart, examples(), batch_size=4), expected, rtol=1e-5, atol=1e-7)
    with masked(apart, some_mask), masked(together, some_mask):
        expected = head_importance(together, examples())
        torch.testing.assert_close(head_importance(apart, examples()), expected, rtol=1e-5, atol=1e-7)


def test_induction(spread):
    apart, together = spread
    assert torch.equal(prefix_matching_scores(apart, SEQUENCES), prefix_matching_scores(together, SEQUENCES))
    for definition in ("olsson2022", "bansal2023"):
        expected = copying_scores(together, SEQUENCES, definition=definition)
        torch.testing.assert_close(copying_scores(apart, SEQUENCES, definition=definition), expected)


def test_packed_scoring(spread, some_mask):
    apart, together = spread
    masks = [PruningMask.dense(3, 4), some_mask]
    assert score(apart, examples(), masks) == score(together, examples(), masks)
    assert is_offloaded(apart)


def test_packed_scoring_brings_weights_in_once_a_pack(monkeypatch, tmp_path):
    loads = Counter()
    original = AlignDevicesHook.pre_forward

    def counted(hook, module, *args, **kwargs):
        loads[module] += hook.offload
        return original(hook, module, *args, **kwargs)

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", counted)
    monkeypatch.setattr(forward, "slice_rows", lambda _: 4)  # several calls of each map a pack
    offload_state_dict(tmp_path, tiny_model().state_dict())
    apart = disk_offload(tiny_model(), tmp_path, "cpu")
    score(apart, examples(30))
    layers = apart.model.decoder.layers
    assert {loads[module] for module in layers.modules() if list(module.parameters(recurse=False))} == {1}
    with torch.no_grad():
        apart(torch.tensor([[2, 9]]))
    assert loads[layers[0].fc1] == 2


def test_no_weights_of_another_layer_live_while_gradients_are_computed(tmp_path):
    """The graph of a whole model would hold every layer's weights, offloaded or not."""
    model = tiny_model(layers=6, ffn_dim=512)
    size = sum(parameter.numel() for parameter in model.model.decoder.layers[0].parameters())
    places = dict.fromkeys(("model.decoder.embed_tokens", "model.decoder.embed_positions", "lm_head"), "cpu")
    places |= {"model.decoder.final_layer_norm": "cpu", "model.decoder.layers": "disk"}
    apart = dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    for checkpointing, most in ((True, 1), (False, 6)):
        with Saved() as saved:
            head_importance(apart, examples(4), batch_size=4, checkpointing=checkpointing)
        layers_alive = saved.most_parameters / size
        assert most - 1 < layers_alive <= most


@pytest.mark.parametrize("shape", ["pre", "post"])
def test_the_harness_arguments_for_offloading(checkpoints, mask, shape, tmp_path):
    whole = build(PrunedOPT, checkpoints[shape], mask=mask)
    asked = requests("loglikelihood", TEXTS)
    settings = {"parallelize": True, "max_cpu_memory": "150KB", "offload_folder": str(tmp_path)}
    apart = build(PrunedOPT, checkpoints[shape], mask=mask, **settings)
    assert is_offloaded(apart.model)
    assert {"cpu", "disk"} == {str(place) for place in apart.model.hf_device_map.values()}
    assert apart.loglikelihood(asked) == whole.loglikelihood(asked)
    generation = requests("generate_until", [("The garden", {"until": ["\n"], "max_gen_toks": 4})])
    assert apart.generate_until(generation) == whole.generate_until(generation)


# -- checkpointing ------------------------------------------------------------------------------------------------


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Counts what autograd keeps: bytes of activations and numbers of parameters alive at the worst moment."""

    def __init__(self):
        self.alive = {}
        self.most_bytes = self.most_parameters = 0
        super().__init__(self._pack, lambda held: held.tensor)

    def __enter__(self):
        super().__enter__()
        return self

    def _pack(self, tensor):
        held = _Held(self, tensor)
        self.alive[id(held)] = tensor
        weights = {one.data_ptr(): one for one in self.alive.values() if _is_weight(one)}
        others = {one.data_ptr(): one for one in self.alive.values() if not _is_weight(one)}
        self.most_parameters = max(self.most_parameters, sum(one.numel() for one in weights.values()))
        self.most_bytes = max(self.most_bytes, sum(one.untyped_storage().nbytes() for one in others.values()))
        return held


class _Held:
    def __init__(self, counter, tensor):
        self.counter, self.tensor = counter, tensor

    def __del__(self):
        self.counter.alive.pop(id(self), None)


def _is_weight(tensor):
    base = tensor if tensor._base is None else tensor._base
    return isinstance(base, torch.nn.Parameter)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("function", [head_importance, ffn_gradient_importance])
def test_checkpointing_changes_nothing(post_norm, function, batch_size, some_mask):
    model = tiny_model(post_norm=post_norm)
    for mask in (PruningMask.dense(3, 4), some_mask):
        with masked(model, mask):
            expected = function(model, examples(), batch_size=batch_size, checkpointing=False)
            found = function(model, examples(), batch_size=batch_size, checkpointing=True)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_checkpointing_in_half_precision(dtype):
    model = tiny_model(dtype=dtype)
    expected = head_importance(model, examples(), checkpointing=False)
    torch.testing.assert_close(head_importance(model, examples(), checkpointing=True), expected, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("layer", [0, 2])
def test_checkpointing_names_the_layer_that_is_not_finite(layer):
    from lm_eval_prune.errors import ScoreError

    model = tiny_model()
    with torch.no_grad():
        model.model.decoder.layers[layer].self_attn.v_proj.bias[5] = torch.nan
    with pytest.raises(ScoreError, match=rf"example \d: layer {layer}: its outputs are not finite"):
        head_importance(model, examples(), checkpointing=True)


@pytest.mark.parametrize("layers", [4, 16])
def test_checkpointing_keeps_at_most_two_layers_activations(layers):
    """In bytes that autograd holds at the worst moment; each layer's input lies beside them, hidden_size a token."""
    one = [([2, *range(10, 70)], [7, 8])]

    def most(number, **settings):
        with Saved() as saved:
            head_importance(tiny_model(layers=number), one, **settings)
        return saved.most_bytes

    one_layer = most(3, checkpointing=False) - most(2, checkpointing=False)
    assert most(layers, checkpointing=True) <= 2 * one_layer
    assert most(layers, checkpointing=False) >= (layers - 1) * one_layer
    # What `plan` says a layer keeps.
    from lm_eval_prune.costs.dimensions import Dimensions
    from lm_eval_prune.costs.memory import saved_for_backward

    said = saved_for_backward(Dimensions("tiny", tiny_model(layers=2).config), 62, "float32")
    assert one_layer == pytest.approx(said, rel=0.1)


# -- several processes --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_launched_processes_give_the_results_of_one(tmp_path):
    """Masked evaluation by the harness, induction and importance, each over the processes of one launch."""
    write_tasks(tmp_path / "tasks")
    save_checkpoint(tmp_path / "model")
    mask = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1, 3), 2: (0,)}, pruned_ffns=(1,))
    mask.save(tmp_path / "mask.json")
    script = Path(__file__).parent / "launched_study.py"
    found = {}
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        done = launched(script, tmp_path, out, processes=processes, HF_DATASETS_CACHE=tmp_path / "cache")
        assert done.returncode == 0, done.stderr[-4000:]
        found[processes] = json.loads(out.read_text())
    one, two = found[1], found[2]
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    assert one["results"] == two["results"]
    assert sorted(one["answers"]) == pytest.approx(sorted(two["answers"]), abs=1e-5)
    for name in ("importance", "prefix-matching", "copying"):
        torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(one[name]), rtol=1e-5, atol=1e-6)
