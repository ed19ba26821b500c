"""The task token_loss: the loss behind 50 tokens of a text minus that behind 500, against a direct computation."""

from __future__ import annotations

import json
import logging
import random

import pytest
import torch
from small_sweep import settings

from lm_eval_prune import PrunedModel, PruningMask, evaluate, masked
from lm_eval_prune.demo import BUNDLED_NAME
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.run import run_sweep
from lm_eval_prune.tasks.token_loss.token_loss import load_positions

OURS = {"include_path": str(tasks_folder()), "include_defaults": False}
WORDS = (
    "the",
    "river",
    "and",
    "a",
    "bridge",
    "of",
    "stone",
    "is",
    "old",
    "but",
    "cold",
    "water",
    "runs",
    "far",
    "there",
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    draw = random.Random(1)
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [" ".join(draw.choice(WORDS) for _ in range(700)) for _ in range(16)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in [*lines, "too short"]))
    return path, lines


@pytest.fixture(scope="module")
def lm():
    return PrunedModel(device="cpu", dtype="float32")


def directly(lm, text, early, late):
    """The text's loss at both places, from one pass over its tokens; None where the task leaves it out."""
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    for count in (early, late):
        before = lm.tokenizer.decode(ids[:count])
        if lm.tokenizer(before, add_special_tokens=False)["input_ids"] != ids[:count] or before != before.rstrip():
            return None
    given = lm.tok_encode(text)[: len(lm.tok_encode("")) + late + 1]
    offset = len(given) - late - 1  # of a BOS
    with torch.no_grad():
        losses = -lm.model.double()(torch.tensor([given])).logits[0].log_softmax(-1)
    lm.model.float()
    return [losses[offset + count - 1, given[offset + count]].item() for count in (early, late)]


@pytest.mark.parametrize("places", [(50, 500), (5, 60)])
def test_losses_are_those_of_one_pass_over_the_text(texts, lm, places):
    path, lines = texts
    early, late = places
    metadata = {"texts": str(path), "tokenizer": BUNDLED_NAME, "early": early, "late": late}
    mask = PruningMask.dense(6, 6).prune_head(2, 1).prune_ffn(4)
    for pruned in (PruningMask.dense(6, 6), mask):
        with masked(lm.model, pruned):
            found = [pair for line in lines if (pair := directly(lm, line, early, late))]
        assert len(found) >= 2
        expected = torch.tensor(found, dtype=torch.float64).mean(0)
        frame = evaluate(lm, None if pruned.is_dense else [pruned], ["token_loss"], metadata=metadata, **OURS)
        row = frame.iloc[-1]
        assert row["loss_early"] == pytest.approx(expected[0].item(), abs=1e-4)
        assert row["loss_late"] == pytest.approx(expected[1].item(), abs=1e-4)
        assert row["token_loss_difference"] == pytest.approx((expected[0] - expected[1]).item(), abs=1e-4)


def test_a_sweep_prunes_it_by_what_heads_do(texts, tmp_path):
    path, _ = texts
    grid = {"tasks": ["token_loss"], "num_fewshot": [0], "ranking": ["random:0"], "limit": 2}
    metadata = {"texts": str(path), "early": 5, "late": 60}
    arguments = f"pretrained={BUNDLED_NAME}"
    sweep = run_sweep(settings(tmp_path / "s", **grid, metadata=metadata, model_args=arguments), progress=False)
    assert not sweep.failed
    assert len(sweep.rows) == 2
    for row in sweep.rows:
        found = disk.read_cell(disk.cell_path(sweep.folder, row.cell))["results"]["token_loss"]
        difference = found["loss_early,none"] - found["loss_late,none"]
        assert found["token_loss_difference,none"] == pytest.approx(difference, abs=1e-9)


def test_the_harness_knows_its_metrics_and_logs_no_line_of_them(texts, caplog):
    from lm_eval.tasks import TaskManager

    metadata = {"texts": str(texts[0]), "tokenizer": BUNDLED_NAME, "early": 5, "late": 60}
    (task,) = TaskManager(**OURS, metadata=metadata).load(["token_loss"])["tasks"].values()
    assert set(task.higher_is_better()) == {"token_loss_difference", "loss_early", "loss_late"}
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.getMessage() for line in said if line.levelno >= logging.ERROR or "loss_" in line.getMessage()] == []


def test_a_text_file_is_one_text(texts, tmp_path):
    (tmp_path / "one.txt").write_text("\n".join(texts[1]))
    found = load_positions(texts=str(tmp_path / "one.txt"), tokenizer=BUNDLED_NAME, early=3, late=20)
    assert len(found["test"]) <= 1


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "token_loss counts tokens by the model's tokenizer"),
        ({"pretrained": BUNDLED_NAME, "late": 1024}, "reads 1024 tokens; the token behind 1024 needs 1025"),
        ({"pretrained": BUNDLED_NAME, "max_length": 400}, "reads 400 tokens; the token behind 500 needs 501"),
        (
            {"tokenizer": BUNDLED_NAME, "early": 50, "late": 50},
            "early=50, late=50; expected 1 or more, and a later one",
        ),
        ({"tokenizer": BUNDLED_NAME, "texts": "absent.jsonl"}, "absent.jsonl: cannot be read"),
        ({"tokenizer": BUNDLED_NAME, "texts": None}, "needs texts"),
    ],
)
def test_what_cannot_be_measured_is_a_line(texts, metadata, told):
    with pytest.raises(ArgumentError, match=told) as error:
        load_positions(**{"texts": str(texts[0]), **metadata})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ["3", "{}", '{"text": 3}', "not JSON"])
def test_lines_that_are_no_texts_are_told(tmp_path, line):
    (tmp_path / "odd.jsonl").write_text(line + "\n")
    with pytest.raises(ArgumentError, match='line 1: expected a JSON object with a "text"'):
        load_positions(texts=str(tmp_path / "odd.jsonl"), tokenizer=BUNDLED_NAME)


def test_texts_that_are_all_too_short_are_told(tmp_path):
    (tmp_path / "short.jsonl").write_text('{"text": "too short"}\n')
    with pytest.raises(ArgumentError, match=r"no text of .* has 501 tokens"):
        load_positions(texts=str(tmp_path / "short.jsonl"), tokenizer=BUNDLED_NAME)
