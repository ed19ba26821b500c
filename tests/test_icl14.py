import importlib
import json
import statistics
import sys
from pathlib import Path

import lm_eval
import lm_eval.tasks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.metrics import stderr_for_metric
from lm_eval.tasks._yaml_loader import load_yaml

from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.sweep.config import make_config
from lm_eval_prune.sweep.folder import cell_path, read_cell
from lm_eval_prune.sweep.run import run_sweep
from lm_eval_prune.tasks.icl14 import corrections
from tests.helpers import build

TASKS = {
    "hellaswag", "piqa", "arc_easy", "arc_challenge", "openbookqa", "winogrande", "boolq", "cb", "copa", "wic", "wsc",
    "icl14_multirc", "rte", "icl14_record",
}  # fmt: skip


@pytest.mark.parametrize("shots", [0, 1, 5])
def test_groups_hold_the_14_tasks_with_their_shots_fixed(task_manager, in_benchmarks, shots):
    loaded = task_manager.load([f"icl14_{shots}shot"])
    assert set(loaded["tasks"]) == TASKS
    assert {task.config.num_fewshot for task in loaded["tasks"].values()} == {shots}


def test_no_task_of_the_harness_is_replaced(task_manager):
    ours = {path.stem for path in tasks_folder().rglob("*.yaml")}
    stock = {entry.name for entry in task_manager.task_index.values() if "lm_eval_prune" not in str(entry.yaml_path)}
    assert {name for name in ours if task_manager.task_index[name].yaml_path.is_relative_to(tasks_folder())} == ours
    assert {"multirc", "record", "hellaswag"} <= stock


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 1, 5])
def test_every_task_runs_and_every_task_weighs_the_same(task_manager, in_benchmarks, checkpoint, shots):
    from lm_eval_prune.harness.model import PrunedOPT

    results = lm_eval.simple_evaluate(
        model=build(PrunedOPT, checkpoint, batch_size=16, max_length=512),
        tasks=[f"icl14_{shots}shot"],
        limit=8 if shots == 0 else 3,
        task_manager=task_manager,
    )
    by_task = {name: results["results"][name] for name in TASKS}
    metrics = [row["em,none"] if name == "icl14_record" else row["acc,none"] for name, row in by_task.items()]
    assert results["groups"][f"icl14_{shots}shot"]["acc,none"] == pytest.approx(sum(metrics) / 14)
    assert {results["n-shot"][name] for name in TASKS} == {shots}


@pytest.fixture(scope="module")
def multirc(task_manager, benchmarks_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(benchmarks_folder)
        return task_manager.load(["icl14_multirc"])["tasks"]["icl14_multirc"]


# -- MultiRC --------------------------------------------------------------------------------------------------------


def test_multirc_points_at_yes_for_a_correct_answer(task_manager, in_benchmarks):
    loaded = task_manager.load(["icl14_multirc", "multirc"])["tasks"]
    ours, stock = loaded["icl14_multirc"], loaded["multirc"]
    assert {doc["label"] for doc in ours.validation_docs()} == {0, 1}
    for doc in ours.validation_docs():
        choices = ours.doc_to_choice(doc)
        right = choices[int(ours.doc_to_target(doc))]
        assert right.endswith("yes" if doc["label"] == 1 else "no")
        assert choices == stock.doc_to_choice(doc)
        assert ours.doc_to_text(doc) == stock.doc_to_text(doc)


def test_multirc_accuracy_is_that_of_the_right_answers(task_manager, in_benchmarks):
    task = task_manager.load(["icl14_multirc"])["tasks"]["icl14_multirc"]
    docs = list(task.validation_docs())
    says_yes, says_no = [(-1.0, False), (-2.0, False)], [(-2.0, False), (-1.0, False)]
    for doc in docs:
        assert task.process_results(doc, says_yes)["acc"] == doc["label"]
        assert task.process_results(doc, says_no)["acc"] == 1 - doc["label"]


@given(answers=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.booleans()), min_size=2, max_size=12))
def test_acc_all_is_the_share_of_questions_with_all_answers_right(multirc, answers):
    """Of questions 0 to 2, by the definition; the standard error is that of the mean over questions."""
    doc = next(iter(multirc.validation_docs()))
    right, items = {}, []
    for question, label, says_yes in answers:
        lls = [(-1.0, False), (-2.0, False)] if says_yes else [(-2.0, False), (-1.0, False)]
        asked = {**doc, "label": label, "idx": {"paragraph": 7, "question": question, "answer": 0}}
        metrics = multirc.process_results(asked, lls)
        assert metrics["acc"] == (says_yes == (label == 1))
        items.append(metrics["acc_all"])
        right.setdefault(question, []).append(says_yes == (label == 1))
    share = [float(all(found)) for found in right.values()]
    aggregated = multirc.aggregation()["acc_all"]
    assert aggregated(items) == pytest.approx(sum(share) / len(share))
    stderr = stderr_for_metric(aggregated, 100)
    if len(share) > 1:
        assert stderr(items) == pytest.approx(statistics.stdev(share) / len(share) ** 0.5)


def test_acc_all_is_reported_and_leaves_the_average_alone(task_manager, in_benchmarks, checkpoint):
    results = lm_eval.simple_evaluate(
        model=build(PrunedOPT, checkpoint, batch_size=16, max_length=256),
        tasks=["icl14_multirc"],
        limit=6,
        task_manager=task_manager,
    )
    found = results["results"]["icl14_multirc"]
    by_question = {}
    for sample in results["samples"]["icl14_multirc"]:
        by_question.setdefault(sample["doc"]["idx"]["question"], []).append(sample["acc"])
    assert found["acc,none"] == pytest.approx(sum(map(sum, by_question.values())) / 6)
    assert found["acc_all,none"] == pytest.approx(sum(map(all, by_question.values())) / len(by_question))
    assert task_manager.load(["icl14_0shot"])["groups"]["icl14_0shot"].aggregate_metric_list[0].metric == "acc"


def test_the_multirc_correction_stands_back_once_the_harness_lists_no_first():
    config = {"doc_to_choice": "['''{{answer}}? no''', '''{{answer}}? yes''']", "doc_to_target": "label"}
    corrections.MultiRC.correct(None, config)
    assert config["doc_to_target"] == "label"


def test_multirc_shots_show_the_right_answers(task_manager, in_benchmarks):
    task = task_manager.load(["icl14_multirc"])["tasks"]["icl14_multirc"]
    task.set_config(key="num_fewshot", value=4)
    task.set_fewshot_seed(1)
    context = task.fewshot_context(next(iter(task.validation_docs())), num_fewshot=4)
    labels = {doc["answer"]: doc["label"] for doc in task.training_docs()}
    shots = [shot for shot in context.split("\n\n") if "Is the answer correct?" in shot]
    assert len(shots) == 4
    for shot in shots:
        answer = shot.split("Answer: ")[1].split("\n")[0]
        assert shot.endswith("yes" if labels[answer] else "no")


# -- ReCoRD ---------------------------------------------------------------------------------------------------------


def test_record_scores_the_most_likely_entity_by_exact_match_and_f1(task_manager, in_benchmarks):
    task = task_manager.load(["icl14_record"])["tasks"]["icl14_record"]
    doc = {"entities": ["Acme Corp", "Paris", "the Acme"], "answers": ["Acme"]}
    prefers = {0: (0, 2 / 3), 1: (0, 0), 2: (1, 1)}  # "the Acme" is "Acme" once articles are dropped
    for index, (exact, f1) in prefers.items():
        answers = [(0.0 if index == choice else -1.0, False) for choice in range(3)]
        metrics = task.process_results(doc, answers)
        assert (metrics["em"], metrics["acc"]) == (exact, exact)
        assert metrics["f1"] == pytest.approx(f1)


def test_record_is_the_harness_definition(task_manager, in_benchmarks):
    task = task_manager.load(["icl14_record"])["tasks"]["icl14_record"]
    stock = load_yaml(
        Path(lm_eval.tasks.__file__).parent / corrections.ReCoRD.definition, resolve_func=False, recursive=True
    )
    assert task.config.metadata["version"] == stock["metadata"]["version"]
    assert task.config.dataset_path == stock["dataset_path"]
    doc = next(iter(task.validation_docs()))
    assert len(task.doc_to_choice(doc)) == len(set(doc["entities"]))


def test_the_stand_in_for_squad_metrics_is_gone_afterwards():
    with corrections._squad_metrics_importable():
        importlib.import_module(corrections.SQUAD_METRICS)
    assert corrections.SQUAD_METRICS not in sys.modules or hasattr(
        sys.modules[corrections.SQUAD_METRICS], "squad_evaluate"
    )


@pytest.mark.parametrize(
    ("gold", "predicted", "exact", "f1"),
    [
        ("The Eiffel Tower", "eiffel tower!", 1, 1.0),
        ("Eiffel Tower", "the tall tower", 0, 0.5),
        ("Paris", "London", 0, 0.0),
        ("the", "", 1, 1.0),
        ("", "Paris", 0, 0.0),
        ("a b b c", "b b d", 0, 2 * (2 / 3 * 2 / 3) / (2 / 3 + 2 / 3)),
        ("U.S.", "us", 1, 1.0),
    ],
)
def test_squad_metrics_by_hand(gold, predicted, exact, f1):
    assert corrections.compute_exact(gold, predicted) == exact
    assert corrections.compute_f1(gold, predicted) == pytest.approx(f1)


WORDS = st.sampled_from(["red", "the", "Green", "blue,", "a", "an", "x-ray", "RED"])


@given(st.lists(WORDS), st.lists(WORDS))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(gold, predicted):
    def counted(words):
        bare = [word.lower().strip(",").replace("-", "") for word in words]
        return [word for word in bare if word not in ("a", "an", "the")]

    g, p = counted(gold), counted(predicted)
    shared = sum(min(g.count(word), p.count(word)) for word in set(g))
    found = corrections.compute_f1(" ".join(gold), " ".join(predicted))
    if not g or not p:
        assert found == (g == p)
    elif shared == 0:
        assert found == 0
    else:
        precision, recall = shared / len(p), shared / len(g)
        assert found == pytest.approx(2 * precision * recall / (precision + recall))


# -- what docs/icl14.md says of today's prompts ---------------------------------------------------------------------


def asked(task, doc):
    requests = task.construct_requests(
        doc,
        task.fewshot_context(doc, 0),
        metadata=(task.task_name, 0, 1),
        apply_chat_template=False,
        chat_template=None,
    )
    return [request.args for request in requests]


@pytest.mark.parametrize(("name", "begins"), [("copa", "  "), ("icl14_record", "   - "), ("boolq", " "), ("piqa", " ")])
def test_blanks_before_the_choices(task_manager, in_benchmarks, name, begins):
    """As docs/icl14.md says of today's harness; the study's had one blank less before those of copa and record."""
    loaded = task_manager.load([name])["tasks"][name]
    for doc in list(loaded.validation_docs())[:3]:
        for _, continuation in asked(loaded, doc):
            assert continuation.startswith(begins)
            assert continuation[len(begins)] != " "


def test_without_a_delimiter_copa_and_record_are_asked_as_in_2022(task_manager, in_benchmarks):
    for name, begins in (("copa", " "), ("icl14_record", "  - ")):
        loaded = task_manager.load([name])["tasks"][name]
        loaded.set_config(key="target_delimiter", value="")
        doc = next(iter(loaded.validation_docs()))
        for _, continuation in asked(loaded, doc):
            assert continuation.startswith(begins)
            assert continuation[len(begins)] != " "


def test_cb_is_asked_with_a_comma(task_manager, in_benchmarks):
    loaded = task_manager.load(["cb"])["tasks"]["cb"]
    assert "True, False, or Neither?" in loaded.doc_to_text(next(iter(loaded.validation_docs())))


@pytest.mark.slow
def test_tasks_outside_the_14_are_pruned_by_the_mean_importance_to_the_14(in_benchmarks, checkpoint, tmp_path):
    settings = {
        "output_path": tmp_path / "sweep", "model_args": f"pretrained={checkpoint}", "device": "cpu",
        "tasks": ["mathqa", "lambada_openai"], "num_fewshot": [0, 1],
        "ranking": ["aggregate:icl14", "aggregate:icl14@1"],
        "prune_heads": ["0", "0.5"], "limit": 3, "importance_limit": 2, "bootstrap_iters": 10,
    }  # fmt: skip
    sweep = run_sweep(make_config(settings), progress=False)
    assert not sweep.failed
    names = [task for task in TASKS if not task.startswith("icl14")] + ["icl14_multirc", "icl14_record"]
    assert len(names) == 14
    for row in sweep.rows:
        content = read_cell(cell_path(sweep.folder, row.cell))
        assert 0 <= content["results"][row.task]["acc,none"] <= 1
        if row.variant.ranking == "dense":
            continue
        shots = 1 if row.variant.ranking.endswith("@1") else row.num_fewshot
        files = [sweep.folder / "importance" / f"{name}-{shots}shot-heads-gradient.json" for name in names]
        mean = np.mean([json.loads(path.read_text())["scores"] for path in files], axis=0)
        order = np.argsort(mean, axis=None, kind="stable")[: mean.size // 2]
        lowest = {divmod(int(place), mean.shape[1]) for place in order}
        pruned = content["pruning"]["mask"]["pruned_heads"]
        assert {(int(layer), head) for layer, heads in pruned.items() for head in heads} == lowest
