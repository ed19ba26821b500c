"""Calibration examples are the harness's own requests, with few-shot contexts that depend on the document alone."""

from __future__ import annotations

import json
import logging

import datasets
import pytest
from fixtures_importance import few_tasks, save_checkpoint, write_super_glue, write_tasks

from lm_eval_prune.errors import ArgumentError, ExampleError
from lm_eval_prune.harness import requests
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.harness.requests import TaskObjective, build_documents, calibration
from lm_eval_prune.harness.tasks import load_tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def lm(folder):
    return PrunedOPT(str(save_checkpoint(folder / "model")), device="cpu")


@pytest.fixture(scope="module")
def tasks(folder):
    """Every toy task, and our two class-based ones on data in the working directory."""
    names = ["toy_choice", "toy_inputs", "toy_generate", "toy_prefix", "toy_likelihood", "toy_em", "toy_hidden"]
    names += ["toy_rolling", "toy_no_train", "toy_tested", "icl14_multirc", "icl14_record"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        patch.chdir(write_super_glue(folder / "data"))
        patch.setattr("lm_eval_prune.harness.tasks._task_manager", few_tasks)
        return load_tasks(names, str(write_tasks(folder / "tasks")))


def texts(task, index=0, **settings):
    """Context and continuation of one document's gold answer, before encoding."""
    documents = build_documents(task, **{"num_fewshot": 0, **settings})
    from lm_eval_prune.harness.gold import gold_pair

    return gold_pair(task, documents.docs[index], documents.instances[index])


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("toy_choice", ("train owl 2 sat\nAnswer:", " no")),
        ("toy_inputs", ("A train owl 2 sat", " on mat 2")),
        ("toy_generate", ("Q: train owl 2 sat\nA:", " on mat 2")),
        ("toy_prefix", ("Q: train owl 2 sat A:", " on mat 2")),
        ("toy_likelihood", ("train owl 2 sat", " on mat 2")),
        ("toy_em", ("train owl 2 sat", " no")),
    ],
)
def test_gold_answer_and_its_context(tasks, name, pair):
    assert texts(tasks[name], 2) == pair


def test_gold_context_of_a_task_whose_choices_are_contexts(tasks):
    assert texts(tasks["toy_inputs"], 3) == ("The train fox 3 sat", " on mat 3")


def test_gold_answer_of_multirc_and_record(tasks):
    """Label 1 is yes; ReCoRD's gold is the first correct entity, here of Bob and Zoe."""
    assert texts(tasks["icl14_multirc"], 0)[1].endswith("Is the answer correct? yes")
    assert texts(tasks["icl14_multirc"], 1)[1].endswith("Is the answer correct? no")
    context, answer = texts(tasks["icl14_record"], 4)
    assert context.startswith("hen met Zoe and Bob.")
    assert answer.strip() == "- On day 4 Bob smiled"


@pytest.mark.parametrize("name", ["toy_choice", "toy_inputs", "toy_prefix", "icl14_record"])
def test_fewshot_examples_end_as_gold_answers_do(tasks, name):
    """What a shot shows behind its question is what is asked for behind the document's own."""
    shot = texts(tasks[name], 3, num_fewshot=1)
    plain = texts(tasks[name], 3)
    assert shot[0].endswith(plain[0])
    assert shot[1] == plain[1]
    shown = shot[0][: -len(plain[0])]
    count = len(tasks[name].training_docs())
    assert shown in {"".join(texts(tasks[name], index)) + "\n\n" for index in range(count)}


def test_encoding_is_the_harness_own(tasks, lm, monkeypatch):
    """The pairs that HFLM itself would answer: one text tokenised whole, trailing spaces with the continuation."""
    documents = build_documents(tasks["icl14_record"], num_fewshot=1)
    seen = []
    monkeypatch.setattr(
        PrunedOPT, "_loglikelihood_tokens", lambda self, reqs, **_: seen.extend(reqs) or [(0.0, False)] * len(reqs)
    )
    lm.loglikelihood([instance for group in documents.instances for instance in group], disable_tqdm=True)
    assert seen
    assert TaskObjective(lm, documents).requests == [
        (context[-(lm.max_length + 1 - len(continuation)) :], continuation) for _, context, continuation in seen
    ]
    gold = calibration(lm, documents).examples
    assert all(lm.tok_decode(continuation).startswith("\n") for _, continuation in gold)  # moved from the context


def test_empty_context_becomes_the_prefix_token(lm):
    assert requests.encoded(lm, [("", "ab")]) == [([2], lm.tok_encode("ab", add_special_tokens=False))]


def test_long_contexts_are_cut_from_the_left(tasks, folder):
    short = PrunedOPT(str(folder / "model"), device="cpu", max_length=12)
    (context, continuation), *_ = calibration(short, build_documents(tasks["toy_choice"], num_fewshot=2)).examples
    assert len(context) + len(continuation) == 13
    assert short.tok_decode(continuation) == " yes"


def test_no_document_is_shown_its_own_answer(tasks):
    """Documents 0 and 1 read the same: neither may be in the other's context, nor any in its own."""
    for name in ("toy_choice", "toy_tested", "toy_no_train", "toy_inputs"):
        documents = build_documents(tasks[name], num_fewshot=4, seed=3)
        for doc, group in zip(documents.docs, documents.instances, strict=True):
            context = group[doc["label"]].args[0] if name == "toy_inputs" else group[0].args[0]
            assert context.count(doc["text"]) == 1, (name, doc)


def test_all_other_documents_can_be_shots(tasks):
    documents = build_documents(tasks["toy_choice"], num_fewshot=10)
    for doc, group in zip(documents.docs, documents.instances, strict=True):
        shown = {number for number in range(1, 12) if f" {number} sat\n" in group[0].args[0]}
        assert len(shown) == (11 if doc["number"] in (0, 1) else len(shown))
    with pytest.raises(ExampleError, match="toy_choice: 13 shots, but only 12 documents"):
        build_documents(tasks["toy_choice"], num_fewshot=13)
    with pytest.raises(ExampleError, match=r"toy_choice: 12 shots, but only 1[01] other documents"):
        build_documents(tasks["toy_choice"], num_fewshot=12)


def test_draws_depend_on_seed_and_document_alone(tasks):
    def contexts(**settings):
        documents = build_documents(tasks["toy_choice"], num_fewshot=2, **settings)
        return [group[0].args[0] for group in documents.instances]

    whole = contexts(seed=5)
    assert contexts(seed=5) == whole
    assert contexts(seed=5, limit=3) == whole[:3]
    assert contexts(seed=6) != whole
    shots = {context[: -len("train cat 1 sat\nAnswer:")] for context in whole}
    assert len(shots) > 6  # not one draw for all
    tasks["toy_choice"].set_fewshot_seed(99)  # what ran before does not matter
    assert contexts(seed=5) == whole


def test_task_comes_back_as_it_was(tasks):
    task = tasks["toy_choice"]
    sampler, shots = task.sampler, task.config.num_fewshot
    build_documents(task, num_fewshot=2)
    assert task.sampler is sampler
    assert task.config.num_fewshot == shots


def test_splits(tasks, caplog):
    assert build_documents(tasks["toy_choice"], num_fewshot=0).split == "training"
    with caplog.at_level(logging.WARNING):
        documents = build_documents(tasks["toy_no_train"], num_fewshot=0)
    assert documents.split == "validation"
    assert "toy_no_train has no training split" in caplog.text
    assert documents.docs[2]["text"].startswith("valid")
    chosen = build_documents(tasks["toy_choice"], num_fewshot=0, split="validation", limit=4)
    assert (chosen.split, chosen.doc_ids) == ("validation", (0, 1, 2, 3))
    with pytest.raises(ExampleError, match="toy_choice has no test split; it has training and validation"):
        build_documents(tasks["toy_choice"], num_fewshot=0, split="test")
    with pytest.raises(ArgumentError, match="split 'train': unknown; expected one of training, validation, test"):
        build_documents(tasks["toy_choice"], num_fewshot=0, split="train")


def test_limit_is_a_number_or_a_share(tasks):
    assert len(build_documents(tasks["toy_choice"], num_fewshot=0, limit=5).docs) == 5
    assert len(build_documents(tasks["toy_choice"], num_fewshot=0, limit=0.26).docs) == 4
    assert len(build_documents(tasks["toy_choice"], num_fewshot=0).docs) == 12
    with pytest.raises(ArgumentError, match="limit=0"):
        build_documents(tasks["toy_choice"], num_fewshot=0, limit=0)


def test_hashes_identify_prompts_and_tokens(tasks, lm):
    def hashes(**settings):
        gold = calibration(lm, build_documents(tasks["toy_choice"], **{"num_fewshot": 1, **settings}))
        return gold.prompts_sha256, gold.tokens_sha256

    assert hashes() == hashes()
    assert hashes()[0] != hashes(seed=2)[0]
    assert hashes()[1] != hashes(seed=2)[1]
    assert hashes()[0] != hashes(limit=11)[0]


@pytest.mark.parametrize("name", ["toy_hidden", "toy_rolling"])
def test_task_without_gold_answers(tasks, lm, name):
    documents = build_documents(tasks[name], num_fewshot=0)
    with pytest.raises(ExampleError, match=f"task {name}: document 0 of its training split has no gold answer"):
        calibration(lm, documents)


def test_unknown_task_names_near_ones(tasks, folder, monkeypatch):
    monkeypatch.setattr("lm_eval_prune.harness.tasks._task_manager", few_tasks)
    with pytest.raises(ArgumentError, match="task 'toy_choise': unknown to the harness; did you mean toy_choice"):
        load_tasks(["toy_choise"], str(folder / "tasks"))


def test_tasks_by_pattern_and_by_file(folder, monkeypatch):
    monkeypatch.setattr("lm_eval_prune.harness.tasks._task_manager", few_tasks)
    assert set(load_tasks(["toy_no*", "toy_em"], str(folder / "tasks"))) == {"toy_no_train", "toy_em"}
    assert list(load_tasks([str(folder / "tasks" / "toy_inputs.yaml")], str(folder / "tasks"))) == ["toy_inputs"]


# -- metrics ------------------------------------------------------------------------------------------------------


def test_accuracy_through_the_tasks_own_results(tasks, lm):
    objective = TaskObjective(lm, build_documents(tasks["toy_choice"], num_fewshot=0))
    assert objective.metric == "acc"
    assert len(objective.requests) == 24
    always_yes = [(-2.0, False), (-1.0, False)] * 12
    labels = [doc["label"] for doc in objective.documents.docs]
    assert objective.value(always_yes) == pytest.approx(sum(labels) / 12)
    right = [(-1.0 - abs(choice - label), False) for label in labels for choice in (0, 1)]
    assert objective.value(right) == 1
    assert objective.value(always_yes) == pytest.approx(sum(labels) / 12)  # nothing is left from the call before


def test_metric_is_em_where_there_is_no_acc(tasks, lm):
    objective = TaskObjective(lm, build_documents(tasks["toy_em"], num_fewshot=0))
    assert objective.metric == "em"
    assert objective.value([(-2.0, False), (-1.0, False)] * 12) == pytest.approx(7 / 12)


def test_accuracy_of_record_is_its_exact_match(tasks, lm):
    objective = TaskObjective(lm, build_documents(tasks["icl14_record"], num_fewshot=0))
    wrong = [
        (
            -1.0
            if "smiled" in instance.args[1] and "Zoe" not in instance.args[1] and "Bob" not in instance.args[1]
            else -2.0,
            False,
        )
        for group in objective.documents.instances
        for instance in group
    ]
    assert objective.value(wrong) == 0
    assert objective.value([(-score, False) for score, _ in wrong]) == 1


def test_less_is_better_counts_negatively(tasks, lm):
    objective = TaskObjective(lm, build_documents(tasks["toy_likelihood"], num_fewshot=0), "perplexity")
    assert objective.value([(-1.0, False)] * 12) == pytest.approx(-2.718281828)


def test_metrics_that_cannot_be(tasks, lm):
    with pytest.raises(ArgumentError, match="toy_choice has no metric f2; it has acc"):
        TaskObjective(lm, build_documents(tasks["toy_choice"], num_fewshot=0), "f2")
    with pytest.raises(
        ExampleError, match=r"toy_generate: its answers come from generate_until.*its metric can only be loss"
    ):
        TaskObjective(lm, build_documents(tasks["toy_generate"], num_fewshot=0), "exact_match")


@pytest.mark.parametrize(
    ("lines", "shots", "reason"),
    [
        ("doc_to_target: '{{[0, 1]}}'\ndoc_to_choice: [one, two]", 1, "AssertionError: Answer is not a string!"),
        ("doc_to_target: !function broken.raises\ndoc_to_choice: [one, two]", 1, "KeyError: 'nothing'"),
        ("doc_to_target: 0\ndoc_to_choice: !function broken.raises", 0, "KeyError: 'nothing'"),
    ],
)
def test_a_prompt_that_cannot_be_made_is_one_line(lines, shots, reason, tmp_path, monkeypatch):
    """Not where the harness checks a task's first document, without shots, but where importance asks for them."""
    rows = [{"text": f"the river {number}"} for number in range(5)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "broken.py").write_text(
        "def raises(doc):\n    if doc['text'].endswith(('3', '4')): raise KeyError('nothing')\n"
        f"    return 0 if {shots} else ['one', 'two']\n"
    )
    (tmp_path / "odd.yaml").write_text(
        f"task: odd\ndataset_path: json\ndataset_kwargs: {{data_files: {{train: {tmp_path}/data.jsonl}}}}\n"
        f"training_split: train\nvalidation_split: train\noutput_type: multiple_choice\ndoc_to_text: '{{{{text}}}}'\n"
        f"{lines}\nmetric_list: [{{metric: acc}}]\n"
    )
    task = load_tasks(["odd"], str(tmp_path), include_defaults=False)["odd"]
    with pytest.raises(ExampleError) as error:
        build_documents(task, num_fewshot=shots)
    assert str(error.value).startswith("task odd: no prompt of document ")
    assert f"with {shots} shots: {reason}" in str(error.value)
    assert "\n" not in str(error.value)
