"""Importance files: what is written is read; what cannot be is refused in one line that names the file and the key."""

import json

import pytest
import torch

from lm_eval_prune.errors import FileFormatError, PruneError, ScoreError
from lm_eval_prune.importance.aggregate import aggregate_files, normalised, write_aggregate
from lm_eval_prune.importance.files import ImportanceScores

GOOD = {
    "format": "lm-eval-prune-importance", "version": 1, "component": "heads", "method": "gradient", "model": "m",
    "num_hidden_layers": 2, "num_attention_heads": 3, "task": "piqa", "num_fewshot": 5, "split": "training",
    "num_examples": 7, "limit": 0.5, "seed": 1, "scores": [[1, 2.5, -3], [0, 1e300, 4]],
}  # fmt: skip
AGGREGATE = {
    **GOOD, "task": "aggregate", "tasks": ["a", "b"],
    "files": [{"path": "x", "sha256": "0", "num_examples": 3, "split": "test"},
              {"path": "y", "sha256": "0", "num_examples": None, "split": "training"}],
}  # fmt: skip


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_what_is_saved_is_loaded(tmp_path):
    for content in (GOOD, AGGREGATE, {**GOOD, "component": "ffns", "scores": [1.5, 2]}, {**GOOD, "new": {"key": [1]}}):
        loaded = ImportanceScores.load(write(tmp_path / "a.json", content))
        loaded.save(tmp_path / "b.json")
        again = json.loads((tmp_path / "b.json").read_text())
        assert again == content
        assert loaded.tensor().tolist() == content["scores"]
    assert ImportanceScores.load(write(tmp_path / "a.json", AGGREGATE)).oracle_on == ("a",)


WRONG = [
    ({"component": "experts"}, '"component" is "experts"; expected "heads", "ffns", "attention" or "layers"'),
    ({"component": ["heads"]}, '"component" is ["heads"]; expected "heads", "ffns", "attention" or "layers"'),
    ({"num_hidden_layers": 0}, '"num_hidden_layers" is 0; expected an integer from 1'),
    ({"num_hidden_layers": True}, '"num_hidden_layers" is true; expected an integer from 1'),
    ({"num_attention_heads": 3.0}, '"num_attention_heads" is 3.0; expected an integer from 1'),
    ({"num_attention_heads": "3"}, '"num_attention_heads" is "3"; expected an integer from 1'),
    ({"num_attention_heads": 10**200}, "more than any model"),
    ({"num_hidden_layers": 10**7}, "more than any model"),
    ({"num_attention_heads": 99}, "scores of layer 0: [1, 2.5, -3]; expected a list of 99 numbers"),
    ({"scores": [[1, 2, 3]]}, "scores have 1 layers; expected 2"),
    ({"scores": {"0": [1]}}, '"scores" is {"0": [1]}; expected a list with one row a layer'),
    ({"scores": [[1, 2, 3], [1, True, 3]]}, "scores of layer 1: true is not a finite number"),
    ({"scores": [[1, 2, "3"], [1, 2, 3]]}, 'scores of layer 0: "3" is not a finite number'),
    ({"scores": [[1, 2, None], [1, 2, 3]]}, "scores of layer 0: null is not a finite number"),
    ({"scores": [1, 2]}, "scores of layer 0: 1; expected a list of 3 numbers"),
    ({"component": "ffns"}, "scores: [1, 2.5, -3] is not a finite number"),
    ({"method": 3}, '"method" is 3; expected a name'),
    ({"model": {"x": 1}}, '"model" is {"x": 1}; expected a name'),
    ({"task": {"path": "x"}}, '"task" is {"path": "x"}; expected a name'),
    ({"task": ["a"]}, '"task" is ["a"]; expected a name'),
    ({"num_fewshot": -3}, '"num_fewshot" is -3; expected a number of shots, from 0'),
    ({"num_fewshot": 10**9}, '"num_fewshot" is 1000000000; expected a number of shots, from 0'),
    ({"num_fewshot": True}, '"num_fewshot" is true; expected'),
    ({"num_fewshot": "../x"}, '"num_fewshot" is "../x"; expected'),
    ({"num_examples": -1}, '"num_examples" is -1; expected a number of examples, from 0'),
    ({"limit": 0}, '"limit" is 0; expected a number of documents'),
    ({"seed": "training"}, '"seed" is "training"; expected an integer'),
    ({"split": 1}, '"split" is 1; expected'),
    ({"tasks": 0}, '"tasks" is 0; expected names of tasks'),
    ({"tasks": ["a", None]}, '"tasks[1]" is null; expected names of tasks'),
    ({"files": ["x"]}, '"files[0]" is "x"; expected a path'),
    ({"files": [{"path": "x", "sha256": "0", "split": []}]}, '"files[0].split" is []; expected a path'),
    ({"task": "aggregate", "tasks": ["a"]}, '1 "tasks" but 0 "files"; expected one each'),
    ({"format": "x"}, '"format" is "x"; expected "lm-eval-prune-importance"'),
    ({"version": True}, '"version" is true; this release reads version 1'),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[str(change)[:40] for change, _ in WRONG])
def test_what_cannot_be_is_refused(tmp_path, change, message):
    path = write(tmp_path / "bad.json", {**GOOD, **change})
    with pytest.raises(FileFormatError) as caught:
        ImportanceScores.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_no_score_is_infinite(tmp_path, token):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(GOOD).replace("2.5", token))
    with pytest.raises(FileFormatError):
        ImportanceScores.load(path)


def test_every_key_gone_or_of_any_type_is_an_error_of_ours_or_none(tmp_path, monkeypatch):
    """Nothing else is raised, by reading and by what is done with what was read."""
    odd = [None, True, -1, 0, 2.5, 1e300, "", "x", "\ud800", [], {}, [[]], [None], {"x": 1}, [1, 2], "a" * 500]
    path, taken, messages = tmp_path / "x.json", 0, []
    monkeypatch.setattr("os.fsync", lambda _: None)
    for good in (GOOD, AGGREGATE):
        for key in good:
            for content in [
                {name: value for name, value in good.items() if name != key},
                *({**good, key: value} for value in odd),
            ]:
                write(path, content)
                try:
                    found = ImportanceScores.load(path)
                    assert isinstance(found.oracle_on, tuple)
                    aggregate_files([path]).save(tmp_path / "out.json")
                    assert ImportanceScores.load(tmp_path / "out.json").shape == found.shape
                    taken += 1
                except PruneError as error:
                    messages.append(str(error))
    assert taken > 50
    assert not any("\n" in message for message in messages)


def test_scores_whose_squares_overflow_are_not_normalised():
    for normalisation in ("l2", "standardised"):
        with pytest.raises(ScoreError, match="too large to be normalised"):
            normalised(torch.tensor([[1e200, -1e200]], dtype=torch.float64), normalisation)


@pytest.mark.parametrize("component", ["heads", "ffns", "attention", "layers"])
def test_a_mean_is_of_the_component_that_its_files_are_of(tmp_path, component):
    values = torch.tensor([[0.0, 1.0], [2.0, 5.0]] if component == "heads" else [0.0, 3.0])
    for task, factor in (("one", 1.0), ("two", 3.0)):
        scores = ImportanceScores.from_tensor(
            factor * values, num_attention_heads=2, component=component, settings={"task": task, "method": "knockout"}
        )
        scores.save(tmp_path / f"{task}.json")
    written = write_aggregate([tmp_path / "one.json", tmp_path / "two.json"], tmp_path / "mean.json")
    found = ImportanceScores.load(written, component)
    assert found.tensor().tolist() == (2 * values).tolist()
