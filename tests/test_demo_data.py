"""The demo tasks' documents are right, as generated, and nothing that the model was trained on."""

import json
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from training import documents, generate_tasks, held_out, mixture
from training.vocabulary import CATEGORIES, COUNTRIES, NEWLINE, VOCABULARY, build_tokenizer

TRAINING_SEQUENCES = 300
ROOT = Path(__file__).parents[1]


def packaged(task, split):
    path = generate_tasks.packaged_data_path() / f"{task}.{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def everything(task):
    return [document for split in documents.SPLITS for document in packaged(task, split)]


def completed(document):
    """The lines of a document with its right answer in place, as lists of words."""
    text = f"{document['text']} {document['choices'][document['answer']]}"
    return [line.split(" ") for line in text.split(NEWLINE)]


def mappings_of_labels(task):
    """Category of a line's words -> the labels that lines of the whole task give it, by an independent reading."""
    labels = {}
    for document in everything(task):
        for *words, label in completed(document):
            labels.setdefault(category_of(task, words), set()).add(label)
    return labels


def category_of(task, words):
    if task == "recall":
        return words[0]
    (category,) = [name for name, members in CATEGORIES.items() if words[0] in members]
    return category


@pytest.mark.parametrize("task", documents.TASKS)
@pytest.mark.parametrize("split", documents.SPLITS)
def test_splits_are_large_distinct_and_well_formed(task, split):
    found = packaged(task, split)
    assert len(found) == documents.DOCUMENTS_PER_SPLIT >= 300
    for document in found:
        assert set(document) == {"text", "choices", "answer"}
        assert len(set(document["choices"])) == len(document["choices"]) >= 3
        assert 0 <= document["answer"] < len(document["choices"])
        words = document["text"].replace(NEWLINE, " ").split(" ") + document["choices"]
        assert set(words) <= set(VOCABULARY)
    assert len({document["text"] for document in everything(task)}) == len(documents.SPLITS) * len(found)


@pytest.mark.parametrize("task", ["recall", "labels", "mixed"])
def test_gold_is_the_one_answer_that_the_whole_task_agrees_on(task):
    labels = mappings_of_labels(task)
    assert all(len(found) == 1 for found in labels.values())
    assert len(set().union(*labels.values())) == len(labels)  # no two categories share a label


def test_gold_of_pattern_is_the_next_word_of_one_cycle():
    following = {}
    for document in everything("pattern"):
        for line in completed(document):
            for word, after in pairwise(line):
                following.setdefault(word, set()).add(after)
    assert all(len(found) == 1 for found in following.values())
    (first, *_), walked = following, []
    word = first
    for _ in following:
        walked.append(word)
        (word,) = following[word]
    assert word == first
    assert set(walked) == set(following)


def test_gold_of_facts_is_true():
    for document in everything("facts"):
        for country, relation, answer in completed(document):
            assert COUNTRIES[country][("capital", "continent").index(relation)] == answer


@pytest.mark.parametrize("task", ["recall", "labels", "mixed"])
def test_a_document_alone_does_not_tell_its_answer(task):
    for document in everything(task):
        *stated, question = completed(document)
        assert category_of(task, question[:-1]) not in [category_of(task, line[:-1]) for line in stated]
        assert not {line[-1] for line in stated} & set(document["choices"])


def test_a_pattern_document_does_not_state_the_step_it_asks_for():
    for document in everything("pattern"):
        *lines, last = completed(document)
        stated = {step for line in [*lines, last[:-1]] for step in pairwise(line)}
        assert (last[-2], last[-1]) not in stated
        assert not {after for _, after in stated} & set(document["choices"])


@pytest.mark.parametrize("task", [task for task in documents.TASKS if task != "facts"])
def test_answers_are_spread_evenly(task):
    found = packaged(task, "validation")
    choices = len(found[0]["choices"])
    for place in range(choices):
        share = sum(document["answer"] == place for document in found) / len(found)
        assert abs(share - 1 / choices) < 0.1


def test_no_line_of_a_task_is_in_training_data():
    """Nor two facts that a document joins, nor a step of the pattern task's cycle within a line."""
    kept = {tuple(line) for task in ("recall", "labels", "mixed") for d in everything(task) for line in completed(d)}
    joined = set(held_out.HELD_OUT_FACT_PAIRS)
    steps = {step for document in everything("pattern") for line in completed(document) for step in pairwise(line)}
    assert len(steps) == len(held_out.CYCLE)
    rng = random.Random(7)
    for kind in mixture.KINDS:
        for _ in range(TRAINING_SEQUENCES):
            words = mixture.draw(rng, kind, 128).words[1:]
            lines = [tuple(line.split()) for line in " ".join(words).split(f" {NEWLINE} ")]
            assert not kept & set(lines)
            assert not joined & set(pairwise(lines))
            if kind == "pattern":
                assert not steps & {step for line in lines for step in pairwise(line)}
            # Random words may be neighbours in the cycle, but make no document: they have no lines.
            assert kind != "repeats" or NEWLINE not in words


def test_held_out_pairs_cannot_be_drawn_even_when_little_else_is_left():
    rng = random.Random(0)
    drawn = [mixture._mapping(rng, ["x"], ["a", "b"], 1, {"x": "a"}) for _ in range(50)]
    assert drawn == [{"x": "b"}] * 50


@pytest.mark.parametrize("kind", mixture.KINDS)
def test_training_sequences_mark_only_what_can_be_known(kind):
    rng = random.Random(3)
    for length in (16, 48, 128):
        sequence = mixture.draw(rng, kind, length)
        assert len(sequence.words) == len(sequence.known) == length
        assert sequence.words[0] == "</s>"
        assert not sequence.known[0]
        seen = {}
        for line in " ".join(sequence.words[1:]).split(f" {NEWLINE} ")[:-1]:
            *question, answer = line.split(" ")
            if kind == "recall":
                assert seen.setdefault(question[0], answer) == answer


def test_batches_depend_on_seed_and_step_alone():
    settings = {"batch_size": 4, "length": 32, "shares": dict.fromkeys(mixture.KINDS, 1.0)}
    first = mixture.batch(5, 17, **settings)
    random.random()
    assert mixture.batch(5, 17, **settings) == first
    assert mixture.batch(5, 18, **settings) != first
    assert mixture.batch(6, 17, **settings) != first


def test_tokenizer_round_trip_and_prompts():
    tokenizer = build_tokenizer(1024)
    for task in documents.TASKS:
        for document in packaged(task, "validation")[:20]:
            text, choice = document["text"], document["choices"][0]
            ids = tokenizer(text).input_ids
            assert ids[0] == tokenizer.bos_token_id == 2
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            # A context is the beginning of context and continuation, which the harness relies on.
            assert tokenizer(f"{text} {choice}").input_ids[: len(ids)] == ids
    assert len(tokenizer) == len(VOCABULARY)
    assert tokenizer.pad_token_id == 1


def test_packaged_files_are_the_generators_output(tmp_path):
    assert generate_tasks.check(generate_tasks.packaged_data_path()) is None
    generate_tasks.write(tmp_path)
    assert generate_tasks.check(tmp_path) is None


@pytest.mark.parametrize("damage", ["changed", "missing", "unknown"])
def test_check_names_the_file_that_is_not_the_generators(tmp_path, damage):
    generate_tasks.write(tmp_path)
    path = tmp_path / "recall.train.jsonl"
    if damage == "changed":
        path.write_text(path.read_text() + "\n")
    elif damage == "missing":
        path.unlink()
    else:
        path = tmp_path / "unknown.jsonl"
        path.write_text("")
    command = [sys.executable, "-m", "training.generate_tasks", "--check", "--output_path", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 1
    assert run.stderr.startswith(str(path))
    assert run.stderr.count("\n") == 1
