"""The page of the study on SmolLM2-135M says what its kept results say, computed here anew from the outcomes."""

import gzip
import itertools
import json
import re
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "study-smollm2.md").read_text(encoding="utf-8")
FIVE = ("hellaswag", "piqa", "arc_easy", "copa", "icl14_record")
DENSE = ("dense", "0", "0", None)


@pytest.fixture(scope="module")
def kept():
    """Archive name -> content: plans, importance, and outcomes by document as {doc_id: acc}."""
    plans, importance, outcomes = {}, {}, {}
    with tarfile.open(DOCS / "study-smollm2" / "results.tar.xz") as archive:
        for member in archive:
            path, file = Path(member.name), archive.extractfile(member)
            if path.parent.name == "plans":
                plans[member.name] = json.load(file)
            elif path.name.endswith("heads-gradient.json"):
                importance[path.parts[1], path.name] = np.array(json.load(file)["scores"])
            elif path.name.endswith(".samples.jsonl.gz"):
                lines = [json.loads(line) for line in gzip.decompress(file.read()).splitlines()]
                name = path.name.removesuffix(".samples.jsonl.gz")
                outcomes[path.parts[1], name] = {line["doc_id"]: line["acc"] for line in lines}
    return plans, importance, outcomes


@pytest.fixture(scope="module")
def accuracies(kept):
    """(part, task, shots, (ranking, heads, FFNs, seed)) -> mean over documents."""
    plans, _, outcomes = kept
    found = {}
    for name, plan in plans.items():
        part = Path(name).parts[1]
        for row in plan["rows"]:
            variant = row["variant"]
            key = (variant["ranking"], variant["prune_heads"], variant["prune_ffns"], variant["seed"])
            answers = outcomes[part, row["cell"]]
            found[part, row["task"], row["num_fewshot"], key] = sum(answers.values()) / len(answers)
    return found


def rows_of(heading):
    """The cells of the first table below a heading or sentence of the page."""
    behind = PAGE[PAGE.index(heading) :]
    table = re.search(r"(?:^\|.*\n)+", behind, re.MULTILINE).group()
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    return [row for row in rows if not set("".join(row)) <= set("-:")]


def number(cell):
    """The number that a cell of a table begins with."""
    return float(re.match(r"[+-]?[\d.]+", cell).group())


def difference(accuracies, part, tasks, shots, variants):
    """Mean over tasks and variants, over that of the dense model."""
    pairs = list(itertools.product(tasks, variants))
    own = np.mean([accuracies[part, task, shots, variant] for task, variant in pairs])
    return own - np.mean([accuracies[part, task, shots, DENSE] for task in tasks])


def test_dense_accuracies(accuracies):
    rows = rows_of("## Where the dense model stands")[1:]
    assert len(rows) == 14
    for task, _, _, *by_shots, _ in rows:
        name = f"icl14_{task}" if task in ("multirc", "record") else task
        for shots, cell in zip((0, 1, 5), by_shots, strict=True):
            assert number(cell) == pytest.approx(accuracies["sweep", name, shots, DENSE], abs=5.1e-4)


def test_differences_by_share_of_heads(accuracies):
    rows = rows_of("## How many heads can go")[1:]
    assert [row[0] for row in rows] == ["10 %", "20 %", "30 %", "50 %", "70 %"]
    for share, *cells in rows:
        columns = itertools.product((0, 5), ("own", "aggregate"))
        for (shots, ranking), cell in zip(columns, cells, strict=True):
            variant = (ranking, f"0.{share[0]}", "0", None)
            found = difference(accuracies, "sweep", FIVE, shots, [variant])
            assert number(cell) == pytest.approx(found, abs=5.1e-4)


def test_controls_and_ffns(accuracies):
    def variants(name, share):
        if name == "least important heads":
            return [("own", share, "0", None)]
        if name == "random heads":
            return [("random", share, "0", seed) for seed in range(3)]
        if name == "most important heads":
            return [("most:own", share, "0", None)]
        return [("own", "0", share, None)]

    rows = rows_of("## Random and most important heads")[1:]
    assert len(rows) == 4
    for name, *cells in rows:
        for share, cell in zip(("0.1", "0.2", "0.3"), cells, strict=True):
            found = difference(accuracies, "float32", ("arc_easy", "piqa"), 0, variants(name, share))
            assert number(cell) == pytest.approx(found, abs=5.1e-4)


FOUR = ("hellaswag", "arc_easy", "piqa", "copa")


@pytest.mark.parametrize(
    ("part", "shots", "heading", "dense"),
    [
        ("zero", 0, "| pruned at 0 shots", 0.575),
        ("shots", 1, "| pruned at 1 shot", 0.568),
        ("shots", 5, "| pruned at 5 shots", 0.573),
    ],
)
def test_controls_and_ffns_on_four_tasks(accuracies, part, shots, heading, dense):
    variants = {
        "least important heads": lambda share: [("own", share, "0", None)],
        "random heads": lambda share: [("random", share, "0", seed) for seed in range(3)],
        "most important heads": lambda share: [("most:own", share, "0", None)],
        "least important FFNs, by knockout": lambda share: [("own", "0", share, None)],
    }
    rows = rows_of(heading)[1:]
    assert [name for name, *_ in rows] == list(variants)
    for name, *cells in rows:
        for share, cell in zip(("0.1", "0.2", "0.3"), cells, strict=True):
            found = difference(accuracies, part, FOUR, shots, variants[name](share))
            assert number(cell) == pytest.approx(found, abs=5.1e-4)
    assert np.mean([accuracies[part, task, shots, DENSE] for task in FOUR]) == pytest.approx(dense, abs=5.1e-4)


@pytest.mark.parametrize(
    ("heading", "part", "tasks", "shots"),
    [
        ("Both together", "float32", ("arc_easy", "piqa"), 0),
        ("At 0 shots, on the four tasks", "zero", FOUR, 0),
        ("At 5 shots, on the four tasks", "shots", FOUR, 5),
    ],
)
def test_heads_and_ffns_together(accuracies, heading, part, tasks, shots):
    rows = rows_of(heading)[1:]
    checked = 0
    for heads, *cells in rows:
        for ffns, cell in zip(("0", "0.1", "0.2", "0.3"), cells, strict=True):
            if cell:
                share = "0" if heads == "0 %" else f"0.{heads[0]}"
                found = difference(accuracies, part, tasks, shots, [("own", share, ffns, None)])
                assert number(cell) == pytest.approx(found, abs=5.1e-4)
                checked += 1
    assert checked == 15


def test_agreement_between_tasks(kept):
    _, importance, _ = kept
    scores = defaultdict(dict)
    for (part, name), values in importance.items():
        task, shots = re.fullmatch(r"(.*)-(\d)shot-heads-gradient.json", name).groups()
        if part == "sweep":
            scores[int(shots)][task] = values.ravel()
    rows = rows_of("## Are important heads shared?")[1:]
    assert len(rows) == 5
    for name, pairs, mean, bounds, *_ in rows:
        shots = int(re.search(r"(\d)-shot", name).group(1))
        tasks = sorted(scores[shots]) if name.startswith("14") else FIVE
        rhos = [spearmanr(scores[shots][a], scores[shots][b])[0] for a, b in itertools.combinations(tasks, 2)]
        assert int(pairs) == len(rhos)
        assert float(mean) == pytest.approx(np.mean(rhos), abs=5.1e-4)
        assert [float(part) for part in bounds.split(" to ")] == pytest.approx([min(rhos), max(rhos)], abs=5.1e-4)
