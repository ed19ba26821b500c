"""What the report of the paper says of a claim: quantities against their definitions, verdicts, and what is data."""

import itertools
import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats
from sweep_folders import grid, importance, sweep
from test_docs import require_accepted

from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import PruneError
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.paper import report
from lm_eval_prune.paper.claims import CLAIMS, SECTIONS, UNCHECKED, Claim
from lm_eval_prune.paper.commands import command_for
from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.paper.measuring import Measured, over_pairs, over_tasks
from lm_eval_prune.paper.quantities import QUANTITIES, measured
from lm_eval_prune.paper.rankings import middle_layers
from lm_eval_prune.paper.study import GRIDS, TASKS, make_study
from lm_eval_prune.paper.verdicts import CANNOT_BE_TOLD, FAILS, HOLDS, finding_of, verdict_of
from lm_eval_prune.report.score_sets import ScoreSet
from lm_eval_prune.sweep.config import load_configs

DOCS = Path(__file__).parent.parent / "docs"
LAYERS, HEADS = 6, 5
GENERATOR = np.random.default_rng(7)
SCORES = {
    (task, shots): GENERATOR.random((LAYERS, HEADS)) + np.linspace(0, 1, LAYERS)[:, None]
    for task in "abcd"
    for shots in (0, 1, 5)
}
CAPACITY = GENERATOR.random((LAYERS, HEADS)) ** 4
MATCHING = GENERATOR.random((LAYERS, HEADS)) ** 2


@pytest.fixture
def evidence(tmp_path):
    variance = GENERATOR.random((LAYERS, HEADS)).tolist()
    induction = {
        method: ImportanceScores(
            component="heads",
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            scores=tuple(map(tuple, capacity.tolist())),
            settings={"method": method, "num_sequences": 50, "variance": variance},
        )
        for method, capacity in (("copying-olsson2022", CAPACITY), ("prefix-matching", MATCHING))
    }
    scores = ScoreSet("m", importance={("heads", "gradient"): dict(SCORES)})
    scores.importance["ffns", "knockout"] = {(task, 0): values[:, 0] for (task, k), values in SCORES.items() if k == 0}
    return Evidence(tmp_path, "m", scores=scores, induction=induction)


def top(scores):
    """Flat places of the 9 of 30 that stay when floor(0.7 * 30) go."""
    return set(np.argsort(scores.ravel(), kind="stable")[21:].tolist())


def kept(scores, capacity, pruned):
    """The share of the capacity that is left without so many heads."""
    return capacity.ravel()[np.argsort(scores.ravel(), kind="stable")[pruned:]].sum() / capacity.sum()


def of(evidence, quantity, **where):
    return measured(evidence, quantity, where, 0.0)


def parts(found):
    return found.value, found.low, found.high, found.basis, found.count


def by_student(values):
    """The mean over tasks with Student's t."""
    interval = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return (*map(pytest.approx, (np.mean(values), *interval)), "tasks", len(values))


def test_quantities_over_tasks_are_their_definitions(evidence):
    tasks = [SCORES[task, 5] for task in "abcd"]
    assert parts(of(evidence, "retained", kind="copying", pruned="0.7", num_fewshot=5)) == by_student(
        [kept(scores, CAPACITY, 21) - 0.3 for scores in tasks]
    )
    rho = {
        pair: [stats.spearmanr(*(SCORES[task, shots].ravel() for shots in pair)).statistic for task in "abcd"]
        for pair in ((1, 5), (0, 5))
    }
    assert parts(of(evidence, "agreement_of_shots_over", pair=(1, 5), over=(0, 5))) == by_student(
        np.subtract(rho[1, 5], rho[0, 5])
    )
    assert parts(of(evidence, "retained_over", pruned="0.2", num_fewshot=5)) == by_student(
        [kept(scores, MATCHING, 6) - kept(scores, CAPACITY, 6) for scores in tasks]
    )
    assert parts(of(evidence, "early_ffns", num_fewshot=0)) == by_student(
        [SCORES[task, 0][:3, 0].mean() for task in "abcd"]
    )
    assert parts(of(evidence, "agreement_with_mean", num_fewshot=5)) == by_student(
        [stats.spearmanr(scores.ravel(), np.mean(tasks, axis=0).ravel()).statistic for scores in tasks]
    )
    assert parts(of(evidence, "overlap_with_induction", kind="copying", num_fewshot=5)) == by_student(
        [len(top(scores) & top(CAPACITY)) / 9 - 0.3 for scores in tasks]
    )
    assert parts(of(evidence, "important_in_middle", num_fewshot=5)) == by_student(
        [sum(place // HEADS in (1, 2, 3) for place in top(scores)) / 9 - 0.5 for scores in tasks]
    )
    assert parts(of(evidence, "later_ffns", num_fewshot=0)) == by_student(
        [SCORES[task, 0][3:, 0].mean() - SCORES[task, 0][:3, 0].mean() for task in "abcd"]
    )
    assert parts(of(evidence, "agreement_of_shots", first=0, second=5)) == by_student(
        [stats.spearmanr(SCORES[task, 0].ravel(), SCORES[task, 5].ravel()).statistic for task in "abcd"]
    )


def jackknife(value, left):
    error = math.sqrt((len(left) - 1) / len(left) * sum((one - np.mean(left)) ** 2 for one in left))
    reach = stats.t.ppf(0.975, len(left) - 1) * error
    return tuple(map(pytest.approx, (value, value - reach, value + reach)))


def test_quantities_over_pairs_and_of_the_mean_ranking_leave_out_one_task_at_a_time(evidence):
    rho = {
        pair: stats.spearmanr(SCORES[pair[0], 5].ravel(), SCORES[pair[1], 5].ravel()).statistic
        for pair in itertools.combinations("abcd", 2)
    }
    left = [np.mean([value for pair, value in rho.items() if task not in pair]) for task in "abcd"]
    assert parts(of(evidence, "agreement_of_tasks", num_fewshot=5))[:3] == jackknife(np.mean(list(rho.values())), left)

    shared = {pair: len(top(SCORES[pair[0], 5]) & top(SCORES[pair[1], 5])) / 9 - 0.3 for pair in rho}
    left = [np.mean([value for pair, value in shared.items() if task not in pair]) for task in "abcd"]
    assert parts(of(evidence, "overlap_of_tasks", num_fewshot=5))[:3] == jackknife(np.mean(list(shared.values())), left)

    def held(tasks, shots=5, capacity=CAPACITY, pruned=21):
        return kept(np.mean([SCORES[task, shots] for task in tasks], axis=0), capacity, pruned)

    def over(value_of):
        return jackknife(value_of("abcd"), [value_of(set("abcd") - {task}) for task in "abcd"])

    found = of(evidence, "retained_by_mean", kind="copying", pruned="0.7", num_fewshot=5)
    assert parts(found)[:3] == over(lambda tasks: held(tasks) - 0.3)
    found = of(evidence, "retained_by_mean_over", pruned="0.2", num_fewshot=5)
    assert parts(found)[:3] == over(lambda tasks: held(tasks, capacity=MATCHING, pruned=6) - held(tasks, pruned=6))
    found = of(evidence, "retained_by_mean_at", kind="copying", pruned="0.4", shots=5, over=0)
    assert parts(found)[:3] == over(lambda tasks: held(tasks, pruned=12) - held(tasks, shots=0, pruned=12))


def test_few_heads_is_the_least_share_that_holds_half_of_a_score(evidence):
    def least(capacity):
        held = np.cumsum(sorted(capacity.ravel(), reverse=True))
        return next(count for count in range(1, 31) if held[count - 1] >= capacity.sum() / 2)

    found = of(evidence, "heads_for_half", kind="copying")
    assert found.value == pytest.approx(least(CAPACITY) / 30)
    over = of(evidence, "heads_for_half_over")
    assert over.value == pytest.approx((least(CAPACITY) - least(MATCHING)) / 30)
    for one in (found, over):
        assert (one.basis, one.count) == ("sequences", 50)
        assert one.low < one.high


@pytest.mark.parametrize(("layers", "first"), [(0.5, 3), (0.375, 4), (1.0, 0)])
def test_the_last_layers_share_of_a_score(evidence, layers, first):
    found = of(evidence, "in_last_layers", kind="copying", layers=layers)
    assert found.value == pytest.approx(CAPACITY[first:].sum() / CAPACITY.sum())
    assert found.low <= found.value + 0.2
    assert found.low <= found.high


def test_what_is_not_there_is_no_data_and_too_few_tasks_have_no_interval(evidence):
    assert of(evidence, "retained", kind="prefix-matching", pruned="0.7", num_fewshot=2) is None
    evidence.induction.pop("prefix-matching")
    assert of(evidence, "retained", kind="prefix-matching", pruned="0.7", num_fewshot=5) is None
    assert of(evidence, "retained_over", pruned="0.2", num_fewshot=5) is None
    assert of(evidence, "retained_by_mean_over", pruned="0.2", num_fewshot=5) is None
    assert of(evidence, "heads_for_half_over") is None
    assert of(evidence, "agreement_of_shots_over", pair=(1, 2), over=(0, 2)) is None
    assert of(evidence, "agreement_of_tasks", num_fewshot=2) is None
    assert of(evidence, "loss", part="heads", ranking="own", heads="0.7", ffns="0", num_fewshot=0) is None
    assert over_tasks([]) is None
    assert math.isnan(over_tasks([0.5]).low)
    assert over_pairs(["a"], lambda one, other: 1.0) is None
    assert math.isnan(over_pairs(["a", "b"], lambda one, other: 1.0).low)
    claim = next(claim for claim in CLAIMS if claim.key == "agreement-5shot")
    assert finding_of(claim, None).verdict == "no data"
    assert finding_of(claim, over_tasks([0.5])).verdict == CANNOT_BE_TOLD


@pytest.mark.parametrize(
    ("relation", "low", "high", "obstacle", "verdict"),
    [
        ("at most", 0.01, 0.05, "", HOLDS),
        ("at most", 0.01, 0.051, "", CANNOT_BE_TOLD),
        ("at most", 0.051, 0.2, "", FAILS),
        ("at most", 0.01, 0.02, "at chance", CANNOT_BE_TOLD),
        ("at most", 0.06, 0.2, "at chance", FAILS),
        ("more than", 0.051, 0.2, "", HOLDS),
        ("more than", 0.05, 0.2, "", CANNOT_BE_TOLD),
        ("more than", -0.2, 0.05, "", FAILS),
        ("more than", math.nan, math.nan, "", CANNOT_BE_TOLD),
    ],
)
def test_a_verdict_is_of_the_whole_interval(relation, low, high, obstacle, verdict):
    claim = Claim("key", "figure-4", "text", "loss", relation=relation, threshold=0.05)
    found, why = verdict_of(claim, Measured((low + high) / 2, low, high, "documents", 300, obstacle=obstacle))
    assert found == verdict
    assert bool(why) == (verdict == CANNOT_BE_TOLD)


def test_the_middle_half_of_the_layers():
    assert middle_layers(64) == range(16, 48)
    assert middle_layers(6) == range(1, 4)
    assert middle_layers(1) == range(0, 1)


def test_claims_and_sections_are_whole():
    keys = [section.key for section in SECTIONS]
    assert len(set(keys)) == len(keys)
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.section for claim in CLAIMS} <= set(keys)
    assert {claim.quantity for claim in CLAIMS} == set(QUANTITIES)
    numbers = {int(n) for s in SECTIONS if "Fig" in s.number for n in re.findall(r"\d+", s.number)}
    assert numbers | {13} == set(range(3, 20))  # 12 to 14
    assert [claim.key for claim in CLAIMS if not re.fullmatch(r"[1-6A][\d.]*( and [\d.]+)?", claim.checked)] == []
    assert UNCHECKED


def test_the_page_of_the_docs_lists_today_s_claims():
    rows = re.findall(r"^\| (.+) \|$", (DOCS / "paper.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = [tuple(cell.strip() for cell in row.split(" | ")) for row in rows]
    numbers = {section.key: section.number for section in SECTIONS}
    for claim in CLAIMS:
        (row,) = [r for r in listed if r[:2] == (numbers[claim.section], claim.text)]
        assert claim.num_fewshot is None or str(claim.num_fewshot) in row[2].split(", "), claim
        assert row[3] == f"{claim.relation} {claim.threshold:g}"


def test_the_grids_are_those_of_the_settings_for_the_papers_model(tmp_path):
    study = make_study(
        tmp_path, {"model_args": "pretrained=some/model"}, num_sequences=2, unseen=["mathqa", "lambada_openai"]
    )
    own, theirs = study.sweeps, load_configs("opt-66b", output_path="x")
    names = ("ranking", "prune_heads", "prune_ffns", "tasks", "num_fewshot")
    for one, other in zip(own[: len(GRIDS)], theirs, strict=True):
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    assert own[-1].ranking == ("task:closest", "task:farthest")
    mean = "aggregate:" + "+".join(TASKS)
    # LAMBADA has a test split alone: no documents for importance of its own.
    assert [(one.tasks, one.ranking) for one in study.unseen] == [
        (("mathqa",), (mean, "own")),
        (("lambada_openai",), (mean,)),
    ]


def test_a_study_of_one_task_has_nobody_to_take_scores_from(tmp_path):
    study = make_study(tmp_path, {"tasks": ("demo_facts",)}, num_sequences=2)
    assert len(study.sweeps) == len(GRIDS)


def test_every_section_names_a_command_that_is_taken(evidence):
    lacking = Evidence(evidence.folder, "m", settings={"tasks": ["piqa", "copa"], "num_fewshot": [0, 1], "limit": 30.0})
    for found in (evidence, lacking):
        for section in SECTIONS:
            words = shlex.split(command_for(section.key, found))
            assert words[0] == "lm-eval-prune"
            require_accepted(words[1:])
    assert "--limit 30" in command_for("figure-5", lacking)
    assert "induction" in command_for("figure-18", evidence)
    assert "importance" in command_for("figure-18", lacking)


def test_a_command_is_of_the_shots_that_are_lacking(tmp_path):
    """A study of 0 and 1 shots: what 5 shots say is lacking, and no command computes the others again."""
    folder = sweep(tmp_path / "sweep", grid(("own", "aggregate"), heads=("0.5", "0.7")), ("piqa", "copa"), (0, 1))
    for task, shots in itertools.product(("piqa", "copa"), (0, 1)):
        importance(folder, f"{task}-{shots}shot-heads-gradient", "heads", "gradient", task, shots)
    commands = {part.section.key: part.command for part in report.paper_report(tmp_path).parts}
    for section in ("figure-3", "figure-5", "figure-8", "table-1"):
        assert "--num_fewshot 5 " in commands[section], section
    assert commands["figure-10"].startswith("lm-eval-prune induction ")
    assert "--num_fewshot 0,1 " in commands["figure-6"]


def test_a_task_without_importance_of_its_own_is_no_problem(tmp_path):
    """Three tasks outside, one of which can only be pruned by the mean over those inside."""
    inside, mean = ("piqa", "copa"), "aggregate:piqa+copa"
    place = tmp_path / "sweep"
    sweep(place, grid(("own", "aggregate"), heads=("0.5",)), inside)
    sweep(place, grid((mean, "own"), heads=("0.5",)), ("mathqa", "sciq"))
    sweep(place, grid((mean,), heads=("0.5",)), ("lambada_openai",))
    for plan in (place / "plans").glob("*.json"):  # as the sweep writes it, with the rankings of its grid
        content = json.loads(plan.read_text(encoding="utf-8"))
        content["config"]["ranking"] = sorted({row["variant"]["ranking"] for row in content["rows"]} - {"dense"})
        plan.write_text(json.dumps(content), encoding="utf-8")
    made = report.paper_report(tmp_path)
    assert made.problems == []
    (part,) = [part for part in made.parts if part.section.key == "figure-9d"]
    assert "Not pruned by importance of their own, so by the study's mean alone: lambada_openai" in part.notes
    (table,) = part.tables
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert {row["ranking"] for row in rows} == {"dense", "own", mean}
    for row in rows:
        there = {task for task in ("mathqa", "sciq", "lambada_openai") if row[f"{task} acc"] is not None}
        assert there == {"mathqa", "sciq"} | ({"lambada_openai"} if row["ranking"] != "own" else set())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--report_only"], "no such file"),
        (["--tasks", "no_such_task", "--dry_run"], "no_such_task"),
        (["--model_args", "pretrained=x,mask=m.json", "--tasks", "demo_facts", "--dry_run"], "mask"),
        (["--num_fewshot", "many"], "num_fewshot"),
        (["--tasks", "demo_facts,demo_recall", "--unseen", "no_such_task"], "no_such_task"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, arguments, said):
    found = CliRunner().invoke(cli, ["paper", *arguments, "--output_path", str(tmp_path / "out")])
    assert isinstance(found.exception, PruneError), found.output
    assert said in str(found.exception)
    assert "\n" not in str(found.exception)
    assert not (tmp_path / "out").exists()


def test_a_page_without_charts_says_so_and_has_the_rest(evidence, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "read_evidence", lambda folder: evidence)
    monkeypatch.setattr(report, "why_no_charts", lambda: "altair is not installed: pip install 'lm-eval-prune[report]'")
    made = report.paper_report(tmp_path)
    page = (tmp_path / "paper.html").read_text(encoding="utf-8")
    assert [problem.kind for problem in made.problems] == ["no charts on the page"]
    assert "altair is not installed" in page
    assert 'id="data-vega"' not in page
    assert not any(part.figures for part in made.parts)
    for section in SECTIONS:
        assert f'<section class="section" id="{section.key}">' in page
    assert page.count("<table") > len(SECTIONS)
    assert "The most important heads, by the mean over tasks" in page
