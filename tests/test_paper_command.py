"""`lm-eval-prune paper`, run: every section's numbers read back from outcomes by document and scores in the files."""

import gzip
import itertools
import json
import re
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lm_eval_prune.cli.main import cli
from lm_eval_prune.paper.claims import CLAIMS, SECTIONS
from lm_eval_prune.paper.report import paper_report

pytestmark = pytest.mark.slow

TASKS = ("demo_recall", "demo_pattern", "demo_facts")
SHOTS = (0, 5)
ARGUMENTS = ["paper", "--tasks", ",".join(TASKS), "--num_fewshot", "0,5", "--limit", "4", "--importance_limit", "4"]
ARGUMENTS += ["--num_sequences", "4", "--device", "cpu", "--unseen", "demo_mixed"]
KEPT = Path(__file__).parent.parent / "docs" / "study-smollm2" / "results.tar.xz"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    found = CliRunner().invoke(cli, [*ARGUMENTS, "--output_path", str(folder)], env={"COLUMNS": "80"})
    assert found.exit_code == 0, found.output
    return folder, found.output


@pytest.fixture(scope="module")
def report(study):
    return json.loads((study[0] / "paper.json").read_text(encoding="utf-8"))


def table(report, key, place=0):
    """Records of a section's table."""
    (section,) = [one for one in report["sections"] if one["key"] == key]
    found = section["tables"][place]
    return [dict(zip(found["header"], row, strict=True)) for row in found["rows"]]


def claim(report, key):
    return next(one for section in report["sections"] for one in section["claims"] if one["key"] == key)


def outcomes(folder, metric="acc"):
    """(task, shots, ranking, heads, FFNs) -> {document: outcome}, from plans and samples."""
    found = {}
    for path in (folder / "plans").glob("*.json"):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            variant = row["variant"]
            shares = float(variant["prune_heads"]), float(variant["prune_ffns"])
            lines = gzip.decompress((folder / "cells" / f"{row['cell']}.samples.jsonl.gz").read_bytes()).splitlines()
            answers = {line["doc_id"]: line[metric] for line in map(json.loads, lines)}
            found[(row["task"], row["num_fewshot"], variant["ranking"], *shares)] = answers
    return found


def plan_of(folder, ranking):
    """The plan whose grid has the ranking."""
    plans = (folder / "plans").glob("*.json")
    return next(path for path in plans if ranking in json.loads(path.read_text(encoding="utf-8"))["config"]["ranking"])


def scores(folder, name):
    return np.array(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["scores"])


def importance(folder, shots, component="heads", method="gradient"):
    return {task: scores(folder / "importance", f"{task}-{shots}shot-{component}-{method}") for task in TASKS}


def mean(answers):
    return sum(answers.values()) / len(answers)


@pytest.mark.parametrize(
    ("section", "rows"),
    [("figure-5", 1 + 18), ("figure-6", 1 + 9 + 5), ("figure-7", 1 + 9 + 5 + 35), ("figure-9", 1 + 18 + 10)],
)
def test_accuracies_are_those_of_the_documents(study, report, section, rows):
    answers = outcomes(study[0] / "sweep")
    found = table(report, section)
    assert len(found) == rows * len(SHOTS)
    for row in found:
        key = row["shots"], row["ranking"], row["heads pruned"], row["FFNs pruned"]
        own = {task: answers[(task, *key)] for task in TASKS}
        dense = {task: answers[task, row["shots"], "dense", 0.0, 0.0] for task in TASKS}
        assert row["average"] == pytest.approx(np.mean([mean(own[task]) for task in TASKS]))
        assert [row[f"{task} acc"] for task in TASKS] == pytest.approx([mean(own[task]) for task in TASKS])
        assert row["documents"] == sum(len(own[task]) for task in TASKS) == 12
        if row["ranking"] != "dense":
            changes = [[own[task][d] - dense[task][d] for d in dense[task]] for task in TASKS]
            assert row["difference"] == pytest.approx(np.mean([np.mean(one) for one in changes]))
            assert row["difference low"] <= row["difference"] <= row["difference high"]


@pytest.mark.parametrize(
    ("key", "ranking", "heads", "ffns"),
    [
        ("heads-0shot", "own", 0.7, 0.0),
        ("heads-5shot", "own", 0.7, 0.0),
        ("ffns-0shot", "own", 0.0, 0.2),
        ("ffns-5shot", "own", 0.0, 0.1),
        ("combined-0shot", "aggregate", 0.7, 0.2),
        ("combined-5shot", "aggregate", 0.6, 0.2),
        ("aggregate-5shot", "aggregate", 0.5, 0.0),
        ("farthest-0shot", "task:farthest", 0.5, 0.0),
    ],
)
def test_losses_are_those_of_the_documents(study, report, key, ranking, heads, ffns):
    answers, shots, found = outcomes(study[0] / "sweep"), int(key[-5]), claim(report, key)
    dense = [mean(answers[task, shots, "dense", 0.0, 0.0]) for task in TASKS]
    lost = np.subtract(dense, [mean(answers[task, shots, ranking, heads, ffns]) for task in TASKS])
    assert found["value"] == pytest.approx(np.mean(lost))
    assert found["low"] <= found["value"] <= found["high"]
    assert (found["over"], found["count"]) == ("documents", 12)
    assert found["verdict"] != "holds"  # nothing can be shown to be small with twelve


@pytest.mark.parametrize("shots", SHOTS)
def test_transfer_is_of_the_tasks_that_agree_most_and_least(study, report, shots):
    answers, ranks = outcomes(study[0] / "sweep"), importance(study[0] / "sweep", shots)
    for task in TASKS:
        rho = {o: stats.spearmanr(ranks[task].ravel(), ranks[o].ravel()).statistic for o in TASKS if o != task}
        donors = {"task:closest": max(rho, key=rho.get), "task:farthest": min(rho, key=rho.get)}
        assert donors["task:closest"] != donors["task:farthest"]
        rows = json.loads(plan_of(study[0] / "sweep", "task:closest").read_text(encoding="utf-8"))["rows"]
        own = [row for row in rows if (row["task"], row["num_fewshot"]) == (task, shots) and "donor" in row]
        assert {(row["variant"]["ranking"], row["donor"]) for row in own} == set(donors.items())
        named = [row for row in table(report, "figure-9", 1) if (row["shots"], row["task"]) == (shots, task)]
        assert {row["ranking"]: row["pruned by the importance to"] for row in named} == donors
        assert {row["ranking"]: row["rho"] for row in named} == pytest.approx({r: rho[o] for r, o in donors.items()})

    def average(ranking):
        return np.mean([mean(answers[task, shots, ranking, 0.7, 0.0]) for task in TASKS])

    gained = average("task:closest") - average("task:farthest")
    if shots == 5:
        assert claim(report, "settled-5shot")["value"] == pytest.approx(gained)
    else:
        assert claim(report, f"closest-{shots}shot")["value"] == pytest.approx(gained)


def test_agreement_is_spearmans_rho_of_the_files(study, report):
    found = {(row["shots"], row["task"], row["other task"]): row for row in table(report, "figure-8")}
    assert len(found) == 2 * (3 + 3)
    for shots in SHOTS:
        ranks = importance(study[0] / "sweep", shots)
        rhos = []
        for one, other in itertools.combinations(sorted(TASKS), 2):
            row = found[shots, one, other]
            rhos.append(stats.spearmanr(ranks[one].ravel(), ranks[other].ravel()).statistic)
            within = [stats.spearmanr(x, y).statistic for x, y in zip(ranks[one], ranks[other], strict=True)]
            assert (row["rho"], row["within layers"]) == pytest.approx((rhos[-1], np.mean(within)))
            assert 0 < row["Holm p"] <= 1
        assert claim(report, f"agreement-{shots}shot")["value"] == pytest.approx(np.mean(rhos))
        whole = np.mean(list(ranks.values()), axis=0).ravel()
        rhos = {task: stats.spearmanr(values.ravel(), whole).statistic for task, values in ranks.items()}
        assert rhos == pytest.approx({task: found[shots, task, "mean of all tasks"]["rho"] for task in TASKS})
        assert claim(report, f"mean-ranking-{shots}shot")["value"] == pytest.approx(np.mean(list(rhos.values())))


def test_table_1_is_over_tasks(study, report):
    first, second = (importance(study[0] / "sweep", shots) for shots in SHOTS)
    rhos = [stats.spearmanr(first[task].ravel(), second[task].ravel()).statistic for task in TASKS]
    (row,) = table(report, "table-1")
    assert (row["shots"], row["tasks"]) == ("0 and 5", 3)
    assert (row["mean rho"], row["variance"]) == pytest.approx((np.mean(rhos), np.var(rhos)))
    assert claim(report, "shots-0-5")["value"] == pytest.approx(np.mean(rhos))
    assert claim(report, "shots-0-1")["verdict"] == "no data"


def top(values, pruned=0.7):
    return set(np.argsort(values.ravel(), kind="stable")[int(pruned * values.size + 1e-9) :].tolist())


def left(values, capacity, pruned):
    return capacity.ravel()[sorted(top(values, pruned))].sum() / capacity.sum()


def test_overlap_and_retained_capacity_are_of_the_files(study, report):
    capacities = {"prefix-matching": "prefix-matching", "copying": "copying-olsson2022"}
    capacities = {kind: scores(study[0] / "induction", name) for kind, name in capacities.items()}
    for shots, (kind, capacity) in itertools.product(SHOTS, capacities.items()):
        ranks = importance(study[0] / "sweep", shots)
        size, by_chance = len(top(capacity)), len(top(capacity)) / capacity.size
        shared = [len(top(values) & top(capacity)) / size - by_chance for values in ranks.values()]
        assert claim(report, f"induction-{kind}-{shots}shot")["value"] == pytest.approx(np.mean(shared))
        whole = np.mean(list(ranks.values()), axis=0)
        place = (kind, shots, 0.7)
        rows = [r for r in table(report, "figure-11") if (r["score"], r["shots"], r["heads pruned"]) == place]
        assert [row["retained"] for row in rows] == pytest.approx([left(whole, capacity, 0.7)])
        key = {"prefix-matching": "figure-18", "copying": "figure-19"}[kind]
        rows = [row for row in table(report, key) if (row["shots"], row["heads pruned"]) == (shots, 0.7)]
        assert {row["task"]: row["retained"] for row in rows} == pytest.approx(
            {task: left(values, capacity, 0.7) for task, values in ranks.items()}
        )
    matching, copying = capacities.values()
    for shots in SHOTS:
        ranks = importance(study[0] / "sweep", shots)
        whole, least = np.mean(list(ranks.values()), axis=0), 22 / 36  # floor(0.4 x 36) go
        held = {
            f"prefix-matching-{shots}shot": [left(one, matching, 0.4) - least for one in ranks.values()],
            f"copying-{shots}shot": [left(one, matching, 0.2) - left(one, copying, 0.2) for one in ranks.values()],
            f"mean-prefix-matching-{shots}shot": left(whole, matching, 0.4) - least,
            f"mean-copying-{shots}shot": left(whole, matching, 0.2) - left(whole, copying, 0.2),
        }
        for key, values in held.items():
            assert claim(report, key)["value"] == pytest.approx(np.mean(values)), key
        pairs = [len(top(ranks[a]) & top(ranks[b])) / 11 for a, b in itertools.combinations(TASKS, 2)]
        (row,) = [r for r in table(report, "section-6-1-2") if (r["shots"], r["top"]) == (shots, 0.3)]
        # The top 30 % of 36 heads are 10 here, where what 25 of 36 pruned leave are 11.
        assert claim(report, f"overlap-{shots}shot")["value"] == pytest.approx(np.mean(pairs) - 11 / 36)
        assert row["pairs"] == 3
        tops = [set(np.argsort(-values.ravel(), kind="stable")[:10].tolist()) for values in ranks.values()]
        ps = [stats.hypergeom.sf(len(a & b) - 1, 36, 10, 10) for a, b in itertools.combinations(tops, 2)]
        assert row["pairs with Holm p below 0.05"] == sum(multipletests(ps, method="holm")[1] < 0.05)
    first = table(report, "figure-10", 1)
    for name, share in itertools.product(("prefix-matching", "copying-olsson2022"), (0.1, 0.2, 0.3, 0.5)):
        rows = [row for row in first if (row["score"], row["top"]) == (name, share)]
        assert len(rows) == len(SHOTS)
        ps = [stats.hypergeom.sf(row["shared"] - 1, 36, row["of"], row["of"]) for row in rows]
        assert [row["p"] for row in rows] == pytest.approx(ps)
        assert [row["Holm p"] for row in rows] == pytest.approx(multipletests(ps, method="holm")[1])


def test_maps_are_of_the_files(study, report):
    for shots in SHOTS:
        ranks = importance(study[0] / "sweep", shots)
        whole = np.mean(list(ranks.values()), axis=0)
        first = next(row for row in table(report, "figure-3") if row["shots"] == shots)
        assert (first["layer"], first["head"]) == np.unravel_index(whole.argmax(), whole.shape)
        assert first["importance"] == pytest.approx(whole.max())
        for task in TASKS:
            first = next(r for r in table(report, "figure-12") if (r["shots"], r["task"]) == (shots, task))
            assert first["importance"] == pytest.approx(ranks[task].max())
        middle = [sum(place // 6 in (1, 2, 3) for place in top(values)) / len(top(values)) for values in ranks.values()]
        assert claim(report, f"middle-layers-{shots}shot")["value"] == pytest.approx(np.mean(middle) - 0.5)
        ffns = importance(study[0] / "sweep", shots, "ffns", "knockout")
        rows = [row["importance"] for row in table(report, "figure-4") if row["shots"] == shots]
        assert rows == pytest.approx(np.mean(list(ffns.values()), axis=0))
        later = [values[3:].mean() - values[:3].mean() for values in ffns.values()]
        early = [values[:3].mean() for values in ffns.values()]
        if shots == 0:  # the paper says neither of 5 shots
            assert claim(report, "later-ffns-0shot")["value"] == pytest.approx(np.mean(later))
            assert claim(report, "early-ffns-0shot")["value"] == pytest.approx(np.mean(early))
    best = next(row for row in table(report, "figure-10") if row["score"] == "prefix-matching")
    assert best["mean"] == pytest.approx(scores(study[0] / "induction", "prefix-matching").max())


def test_tasks_outside_are_pruned_by_the_mean_importance_of_those_inside(study, report):
    answers, ranking = outcomes(study[0] / "sweep"), "aggregate:demo_recall+demo_pattern+demo_facts"
    found = table(report, "figure-9d")
    assert len(found) == len(SHOTS) * (1 + 5 + 5)
    for row in found:
        own = answers["demo_mixed", row["shots"], row["ranking"], row["heads pruned"], 0.0]
        assert row["average"] == pytest.approx(mean(own))
        assert row["ranking"] in ("dense", "own", ranking)
    for shots in SHOTS:
        own, by_mean = (answers["demo_mixed", shots, key, 0.5, 0.0] for key in ("own", ranking))
        assert claim(report, f"unseen-{shots}shot")["value"] == pytest.approx(mean(own) - mean(by_mean))
        assert claim(report, f"mathqa-{shots}shot")["verdict"] == "no data"
    # It has importance of its own, and no part in the study's.
    assert (study[0] / "sweep" / "importance" / "demo_mixed-0shot-heads-gradient.json").exists()
    for key in ("figure-8", "figure-12", "figure-18", "figure-9"):
        assert "demo_mixed" not in str(table(report, key))


def test_every_section_has_data_figures_and_verdicts(study, report):
    page = (study[0] / "paper.html").read_text(encoding="utf-8")
    assert all(section["has_data"] for section in report["sections"])
    for section in report["sections"]:
        assert f'<section class="section" id="{section["key"]}">' in page
        assert bool(section["figures"]) == (section["key"] not in ("section-6-1-2", "table-1"))
    assert len(report["sections"]) == len(SECTIONS)
    assert sum(report["verdicts"].values()) == len(CLAIMS)
    for one in CLAIMS:
        assert f'id="claim-{one.key}"' in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_its_table_is_whole_at_80_columns(study):
    shown = study[1][study[1].index("The claims of Bansal") :].splitlines()
    lines = [line.rstrip() for line in shown if not line.startswith("/")]
    assert max(map(len, lines)) <= 80
    assert re.search(r"^Figure 5 +70 % of the heads", "\n".join(lines), re.MULTILINE)
    assert re.search(rf"^Of {len(CLAIMS)} claims ", "\n".join(lines), re.MULTILINE)


def test_a_second_time_nothing_is_computed_and_the_report_is_the_same(study, report):
    folder = study[0]
    files = [*(folder / "sweep" / "cells").iterdir(), *(folder / "induction").iterdir()]
    before = {path: path.stat().st_mtime_ns for path in files if not path.name.startswith(".")}
    assert len(before) > 400
    again = CliRunner().invoke(cli, [*ARGUMENTS, "--output_path", str(folder)], env={"COLUMNS": "80"})
    assert again.exit_code == 0, again.output
    assert re.search(r"(\d+) of \1 cells are there already", again.output)
    assert "prefix-matching.json (there already)" in again.output
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert json.loads((folder / "paper.json").read_text(encoding="utf-8")) == report


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(KEPT) as archive:
        archive.extractall(folder, filter="data")
    return folder / "smollm2", paper_report(folder / "smollm2", folder / "report")


def test_a_folder_that_other_commands_filled_is_reported(kept):
    folder, report = kept
    there = {part.section.key for part in report.parts if part.has_data}
    assert there == {section.key for section in SECTIONS} - {"figure-9", "figure-9d"}
    found = {finding.claim.key: finding for finding in report.findings}
    answers = defaultdict(dict)
    for (task, shots, *variant), documents in outcomes(folder / "sweep").items():
        answers[(shots, *variant)][task] = mean(documents)
    for key, shots, share in (("heads-0shot", 0, 0.7), ("heads-1shot", 1, 0.7), ("heads-5shot", 5, 0.7)):
        dense, pruned = answers[shots, "dense", 0.0, 0.0], answers[shots, "own", share, 0.0]
        assert len(pruned) == 14
        lost = np.mean(list(dense.values())) - np.mean(list(pruned.values()))
        assert found[key].measured.value == pytest.approx(lost)
        assert found[key].verdict in ("does not hold", "cannot be told")
    # What docs/study-smollm2.md says of them, computed from the same files by other code.
    rhos = [found[f"agreement-{shots}shot"].measured.value for shots in (0, 1, 5)]
    assert rhos == pytest.approx([0.859, 0.884, 0.904], abs=5e-4)
    between = [found[f"shots-{pair}"].measured.value for pair in ("0-1", "0-5", "1-5")]
    assert between == pytest.approx([0.947, 0.886, 0.971], abs=5e-4)
    # FFNs: most cells are those at 1 and 5 shots; those at 0 shots have other limits and precisions, and stay apart.
    assert found["ffns-1shot"].measured.value == pytest.approx(-0.0075, abs=5e-4)
    assert found["ffns-5shot"].measured.value == pytest.approx(0.0425, abs=5e-4)
    assert found["ffns-0shot"].verdict == "no data"
    (ffns,) = [part for part in report.parts if part.section.key == "figure-6"]
    assert any("the most cells of 3 ways" in note for note in ffns.notes)
    assert found["combined-0shot"].verdict == "no data"
    (part,) = [part for part in report.parts if part.section.key == "figure-7"]
    assert part.command.startswith("lm-eval-prune sweep --model_args pretrained=smollm2-135m")
