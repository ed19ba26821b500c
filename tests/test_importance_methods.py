"""Baselines by hand, normalisation, and scores as files."""

from __future__ import annotations

import json
import math

import pytest
import torch
from fixtures_importance import examples, tiny_model

from lm_eval_prune.errors import ArgumentError, FileFormatError, ScoreError
from lm_eval_prune.importance.aggregate import normalised
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.importance.gradient import head_importance
from lm_eval_prune.importance.knockout import ffn_importance
from lm_eval_prune.importance.methods import METHODS, Inputs, magnitude, method_for, method_named, random_scores


def test_magnitude_of_heads_and_ffns_by_hand():
    model = tiny_model()
    layer = model.model.decoder.layers[1]
    attention = layer.self_attn
    rows = [module.weight[8:16] for module in (attention.q_proj, attention.k_proj, attention.v_proj)]
    weights = torch.cat([*map(torch.flatten, rows), attention.out_proj.weight[:, 8:16].flatten()])
    assert float(magnitude(model, "heads")[1, 1]) == pytest.approx(float(weights.detach().norm()), rel=1e-6)
    weights = torch.cat([layer.fc1.weight.flatten(), layer.fc2.weight.flatten()])
    assert float(magnitude(model, "ffns")[1]) == pytest.approx(float(weights.detach().norm()), rel=1e-6)
    assert (magnitude(model, "heads").shape, magnitude(model, "ffns").shape) == ((3, 4), (3,))


def test_random_scores_are_seeded_and_leave_the_callers_draws_alone():
    model = tiny_model()
    state = torch.random.get_rng_state()
    assert torch.equal(random_scores(model, "heads", 5), random_scores(model, "heads", 5))
    assert not torch.equal(random_scores(model, "heads", 5), random_scores(model, "heads", 6))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_the_components_that_it_names(name):
    inputs = Inputs(model=tiny_model(), examples=examples(3), shuffled=examples(2))
    shapes = {"heads": (3, 4), "ffns": (3,), "attention": (3,), "layers": (3,)}
    assert METHODS[name].of
    for component, compute in METHODS[name].of.items():
        scores = compute(inputs)
        assert (scores.shape, scores.dtype) == (shapes[component], torch.float32)
        assert len(scores.unique()) == scores.numel()
    for component in set(shapes) - set(METHODS[name].of):
        with pytest.raises(ArgumentError, match=f"method {name} scores "):
            method_for(component, name)


def test_methods_by_name_are_the_functions():
    inputs = Inputs(model=tiny_model(), examples=examples(3), batch_size=2)
    assert torch.equal(
        METHODS["gradient"].of["heads"](inputs), head_importance(inputs.model, inputs.examples, batch_size=2)
    )
    assert torch.equal(
        METHODS["knockout"].of["ffns"](inputs), ffn_importance(inputs.model, inputs.examples, batch_size=2)
    )
    with pytest.raises(ArgumentError, match="method 'taylor': unknown; expected one of gradient, knockout"):
        method_named("taylor")


def test_normalisation_within_layers():
    scores = torch.tensor([[3.0, 4.0], [5.0, 5.0], [0.0, 0.0]])
    assert normalised(scores, "none").tolist() == scores.tolist()
    half = 1 / math.sqrt(2)
    assert normalised(scores, "l2").tolist() == [pytest.approx([0.6, 0.8]), pytest.approx([half, half]), [0, 0]]
    assert normalised(scores, "standardised").tolist() == [pytest.approx([-1, 1]), [0, 0], [0, 0]]
    assert scores[0].tolist() == [3, 4]  # the argument is left alone
    with pytest.raises(ArgumentError, match="a layer has one FFN"):
        normalised(scores[:, 0], "l2")
    with pytest.raises(ArgumentError, match="normalisation 'max': unknown; expected one of none, l2, standardised"):
        normalised(scores, "max")


@pytest.mark.parametrize("scores", [[[0.1, 2e-12], [1 / 3, -4.0]], [0.1, 1e30]])
def test_files_come_back_exactly(tmp_path, scores):
    settings = {"method": "gradient", "model": 'a "name"', "task": "t", "doc_ids": [3, 1]}
    tensor = torch.tensor(scores, dtype=torch.float64)
    saved = ImportanceScores.from_tensor(tensor, num_attention_heads=2, settings=settings)
    saved.save(tmp_path / "new" / "scores.json")
    assert ImportanceScores.load(tmp_path / "new" / "scores.json") == saved
    assert torch.equal(saved.tensor(), tensor)
    keys = list(json.loads((tmp_path / "new" / "scores.json").read_text()))
    assert keys[:5] == ["format", "version", "component", "method", "model"]
    assert keys[-1] == "scores"


def test_scores_that_are_no_numbers_are_not_saved():
    scores = torch.zeros(3, 4)
    scores[2, 1] = torch.nan
    with pytest.raises(ScoreError, match="the score of layer 2, head 1 is nan; scores must be finite"):
        ImportanceScores.from_tensor(scores, num_attention_heads=4)


def test_files_cut_short_are_refused(tmp_path):
    path = tmp_path / "scores.json"
    ImportanceScores.from_tensor(torch.rand(2, 2), num_attention_heads=2).save(path)
    whole = path.read_text()
    for length in range(0, len(whole) - 2, 7):
        path.write_text(whole[:length])
        with pytest.raises(FileFormatError, match=r"scores\.json"):
            ImportanceScores.load(path)
