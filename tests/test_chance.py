"""Chance levels: from a task's documents into results, from there onto the board and into verdicts."""

import json
from collections import Counter
from fractions import Fraction
from statistics import fmean

import pytest

from lm_eval_prune.harness.chance import chance_levels, chance_of_tasks
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.records import flat_records, nested
from lm_eval_prune.report.tables import markdown
from lm_eval_prune.variants import Variant
from tests.sweep_folders import sweep as sweep_folder

SAME_CHOICES = {"boolq", "cb", "wic", "wsc", "icl14_multirc", "rte"}
"""Of the 14: those whose documents all have the same choices."""


class Alone:
    """A harness model as far as chance levels look at one."""

    world_size = 1


@pytest.fixture(scope="module")
def tasks(task_manager, benchmarks_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(benchmarks_folder)
        loaded = task_manager.load(["icl14_0shot"])["tasks"]
        for task in loaded.values():
            task.build_all_requests(rank=0, world_size=1)
    return loaded


def gold_of(task, doc):
    """The index of the right choice, as the task's definition says it."""
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return task.doc_to_choice(doc).index(gold) if isinstance(gold, str) else int(gold)


def test_levels_of_the_14_tasks_are_those_counted_from_their_documents(tasks):
    for name, task in tasks.items():
        docs, found = list(task.eval_docs), chance_levels(task, Alone())
        metric = "em" if name == "icl14_record" else "acc"
        sizes = [len(task.doc_to_choice(doc)) for doc in docs]
        if name == "icl14_record":  # an entity may be right under several spellings: the share of those
            uniform = fmean(
                Fraction(sum(entity in doc["answers"] for entity in doc["entities"]), len(doc["entities"]))
                for doc in docs
            )
        else:
            uniform = fmean(Fraction(1, size) for size in sizes)
        assert found[metric]["choices"] == [min(sizes), max(sizes)]
        most_common, times = Counter(gold_of(task, doc) for doc in docs).most_common(1)[0]
        if name in SAME_CHOICES and Fraction(times, len(docs)) > uniform:
            assert found[metric]["by"] == "majority class"
            assert found[metric]["class"] == task.doc_to_choice(docs[0])[most_common].strip()
            assert found[metric]["level"] == pytest.approx(times / len(docs))
        else:
            assert found[metric]["by"] == "choices"
            assert found[metric]["level"] == pytest.approx(float(uniform))


class Picky:
    """A task of one choice a document more than its number; `outcome(doc, pick)` are its metrics."""

    OUTPUT_TYPE, task_name = "multiple_choice", "picky"

    def __init__(self, sizes, outcome, names=("acc",), texts=None, aggregation="mean"):
        self.outcome, self.names, self.instances = outcome, names, []
        self.function = type("Aggregation", (), {"__name__": aggregation})()
        for number, size in enumerate(sizes):
            for idx in range(size):
                arguments = ("context", texts[idx] if texts else f"{number} {idx}")
                found = {"doc": number, "doc_id": number, "idx": idx, "arguments": arguments}
                self.instances.insert(0, type("Instance", (), found)())  # in no order

    def aggregation(self):
        return dict.fromkeys(self.names, self.function)

    def higher_is_better(self):
        return dict.fromkeys(self.names, True)

    def process_results(self, doc, answers):
        (pick,) = (place for place, (likelihood, _) in enumerate(answers) if likelihood == max(answers)[0])
        return self.outcome(doc, pick)


def test_numbers_of_choices_that_differ_are_averaged_by_document():
    found = chance_levels(Picky([3, 4, 5], lambda doc, pick: {"acc": float(pick == 0)}), Alone())
    assert found == {"acc": {"level": pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3), "by": "choices", "choices": [3, 5]}}


def test_several_right_choices_count_each():
    found = chance_levels(Picky([4, 4], lambda doc, pick: {"acc": float(pick < 3), "acc_norm": 0.0}), Alone())
    assert (found["acc"]["level"], found["acc_norm"]["level"]) == (0.75, 0.0)


def test_a_majority_is_one_of_classes_only_and_named():
    def outcome(doc, pick):
        return {"acc": float(pick == (0 if doc < 7 else 1))}

    classes = chance_levels(Picky([2] * 10, outcome, texts=(" no", " yes")), Alone())
    assert classes["acc"] == {"level": 0.7, "by": "majority class", "choices": [2, 2], "class": "no"}
    for texts in (None, ("same", "same")):  # choices of their own, and such as only the contexts tell apart
        found = chance_levels(Picky([2] * 10, outcome, texts=texts), Alone())["acc"]
        assert (found["level"], found["by"]) == (0.5, "choices")


def test_where_nothing_can_be_said_nothing_is():
    def right(doc, pick):
        return {"acc": 1.0}

    def broken(doc, pick):
        raise ValueError("no such answers")

    generation = Picky([2], right)
    generation.OUTPUT_TYPE = "generate_until"
    lower = Picky([2], right)
    lower.higher_is_better = lambda: {"acc": False}
    nothing = [
        generation,
        lower,
        Picky([], right),
        Picky([2, 2], broken),
        Picky([2, 2], right, aggregation="median"),
        Picky([2, 2], lambda doc, pick: {"acc": (0, pick)}),  # what an aggregation of its own takes
        Picky([2, 2], lambda doc, pick: {"brier_score": 0.5}, names=("brier_score",)),
        Picky([2, 2], lambda doc, pick: {"acc": 1.0} if doc else {}),
    ]
    assert [chance_levels(task, Alone()) for task in nothing] == [{}] * len(nothing)


def test_the_first_of_several_processes_has_all_documents():
    parts = [Picky([2], lambda doc, pick: {"acc": float(pick == 0)}), Picky([4], lambda doc, pick: {"acc": 0.0})]
    sent = []

    class Second:
        world_size = 2

        def gather_object(self, documents):
            sent.append(documents)

    class First(Second):
        def gather_object(self, documents):
            return [documents, *sent]

    assert chance_levels(parts[1], Second()) == {}
    assert chance_levels(parts[0], First())["acc"] == {"level": 0.25, "by": "choices", "choices": [2, 4]}


def test_models_that_are_not_ours_cost_nothing():
    assert chance_of_tasks({"tasks": {"picky": Picky([2], None)}}, Alone()) == {}


@pytest.mark.slow
def test_results_of_a_run_and_of_the_stock_harness_carry_the_levels(task_manager, in_benchmarks, checkpoint, tmp_path):
    from lm_eval.evaluator import simple_evaluate

    from lm_eval_prune.harness.model import PrunedOPT
    from tests.helpers import build

    found = simple_evaluate(
        model=build(PrunedOPT, checkpoint, batch_size=16, max_length=512),
        tasks=["piqa", "boolq"], limit=5, task_manager=task_manager, bootstrap_iters=0,
    )  # fmt: skip
    assert "chance" not in found
    levels = found["pruning"]["chance"]
    assert levels["piqa"]["acc"] == {"level": 0.5, "by": "choices", "choices": [2, 2]}
    gold = [sample["target"] for sample in found["samples"]["boolq"]]
    most = Counter(gold).most_common(1)[0][1] / 5
    assert (levels["boolq"]["acc"]["level"], levels["boolq"]["acc"]["by"]) == (most, "majority class")
    path = tmp_path / "results_2026-01-01T00-00-00.json"
    path.write_text(json.dumps({key: value for key, value in found.items() if key != "samples"}, default=str))
    board = compare(read_collection([path]))
    assert [board.about[column].chance.level for column in board.columns] == [0.5, most]


# -- on the board

CHOICES = {"level": 0.25, "by": "choices", "choices": [4, 4]}
CLASSES = {"level": 0.62, "by": "majority class", "choices": [2, 2], "class": "no"}
"""Made-up tasks have an accuracy near 0.6: the first is far above chance, the second is not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chance") / "sweep"
    variants = [Variant("own", "0.3", "0"), Variant("own", "0.9", "0"), Variant("aggregate", "0.3", "0")]
    losses = {variants[1]: 0.8, variants[2]: 0.1}
    chance = {"piqa": {"acc": CHOICES}, "boolq": {"acc": CLASSES}}
    return sweep_folder(folder, variants, ("piqa", "boolq"), count=500, losses=losses, chance=chance)


@pytest.fixture(scope="module")
def board(folder):
    return compare(read_collection([folder]))


def verdicts(board, ranking, heads):
    (entry,) = (entry for entry in board.entries if (entry.ranking, entry.prune_heads) == (ranking, heads))
    return [entry.cells[column].verdict for column in board.columns], entry.average.verdict


def test_a_task_whose_dense_model_is_at_chance_shows_no_loss(board):
    assert verdicts(board, "own", "0.3") == (["identical", "dense is at chance"], "identical")
    assert verdicts(board, "own", "0.9") == (["worse", "worse"], "worse")  # a difference that is there is said


def test_a_dense_model_above_chance_is_judged_as_ever(folder):
    alone = compare(read_collection([folder]), BoardConfig(tasks=("piqa",)))
    assert alone.about[alone.columns[0]].at_chance == ()
    assert verdicts(alone, "own", "0.3")[0] == ["identical"]


def test_an_average_is_at_chance_where_its_own_interval_reaches_the_mean_level(folder):
    alone = compare(read_collection([folder]), BoardConfig(tasks=("boolq",)))
    assert alone.about[None].chance.level == 0.62
    assert verdicts(alone, "own", "0.3") == (["dense is at chance"], "dense is at chance")


def test_a_board_says_its_chance_levels_and_what_they_do_to_the_average(board):
    piqa, boolq = (board.about[column] for column in board.columns)
    assert (piqa.chance.level, piqa.chance.by, piqa.at_chance) == (0.25, "4 choices", ())
    assert (boolq.chance.level, boolq.chance.by, boolq.at_chance) == (0.62, "majority class: no", (0,))
    assert board.about[None].chance.level == pytest.approx((0.25 + 0.62) / 2)
    text = markdown(board)
    assert "| chance |" in text.replace("|  |", "|")
    assert "0.620" in text
    assert "dense is at chance, 0-shot: boolq" in text
    assert "0.01 of the average is 0.02 of the 1 other task" in text
    records = {record["variant"]: record for record in flat_records(board)}
    assert records["dense"]["piqa acc chance"] == 0.25
    assert json.loads(json.dumps(nested(board)))["columns"][1]["chance"] == {"level": 0.62, "by": "majority class: no"}


def test_levels_that_are_not_known_are_not_made_up(tmp_path):
    folder = sweep_folder(
        tmp_path / "sweep", [Variant("own", "0.3", "0")], ("piqa", "copa"), chance={"piqa": {"acc": CHOICES}}
    )
    board = compare(read_collection([folder]))
    assert [board.about[column].chance is None for column in board.columns] == [False, True]
    assert board.about[None].chance is None
    assert "mean over the tasks" not in markdown(board)


@pytest.mark.parametrize(
    "level", [{**CHOICES, "level": 1.5}, {**CHOICES, "by": "luck"}, {**CHOICES, "choices": [4]}, 0.25]
)
def test_a_level_that_cannot_be_is_named(level, tmp_path):
    folder = sweep_folder(tmp_path / "s", [Variant("own", "0.3", "0")], ("piqa",), chance={"piqa": {"acc": CHOICES}})
    path = next((folder / "cells").glob("*.json"))
    content = json.loads(path.read_text())
    content["pruning"]["chance"]["piqa"]["acc"] = level
    path.with_name("loose.json").write_text(json.dumps(content))
    loose = tmp_path / "loose"
    loose.mkdir()
    path.with_name("loose.json").rename(loose / "results_1.json")
    (problem,) = read_collection([folder, loose]).problems
    assert "pruning.chance.piqa.acc" in problem.message
