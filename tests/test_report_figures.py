"""The figures show the numbers of the board and of the files, and become files of every kind."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sweep_folders import grid, importance, sweep

from lm_eval_prune.analysis import pareto_front, spearman_matrix
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.comparison import compare
from lm_eval_prune.report.figures import figures
from lm_eval_prune.report.figures.files import write_figures
from lm_eval_prune.report.figures.form import Figure, unique_names
from lm_eval_prune.report.figures.scores import null_reach, score_figures
from lm_eval_prune.report.figures.style import DARK, LIGHT, category_dashes, ranking_order, spec
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.score_sets import score_sets
from lm_eval_prune.variants import Variant

TASKS = ("piqa", "copa")
RANDOM = [Variant("random", "0.5", "0", seed=seed) for seed in (0, 1)]
ODD = 'x<script>alert("1")</script>\'&😀|*' + "long" * 120


def made(folder):
    collection = read_collection([folder])
    board = compare(collection)
    return board, {figure.name: figure for figure in figures(board, collection)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    variants = grid(("own", "task:piqa"), heads=("0", "0.3", "0.7"), ffns=("0", "0.25"))
    folder = sweep(tmp_path_factory.mktemp("sweep"), [*variants, *RANDOM], TASKS, shots=(0, 5))
    for shots in (0, 5):
        for task in TASKS:
            importance(folder, f"{task}-{shots}-heads", "heads", "gradient", task, shots)
            importance(folder, f"{task}-{shots}-ffns", "ffns", "knockout", task, shots)
    importance(folder, "prefix-matching", "heads", "prefix-matching", None, None)
    importance(folder, "copying", "heads", "copying-olsson2022", None, None)
    return folder


@pytest.fixture(scope="module")
def shown(folder):
    return made(folder)


def values_of(node):
    """All data in a specification."""
    if isinstance(node, dict):
        if isinstance(node.get("values"), list):
            yield from (value for value in node["values"] if isinstance(value, dict))  # not the names in a legend
        for key, value in node.items():
            if key != "values":
                yield from values_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from values_of(value)


def points_of(figure):
    return list(values_of(spec(figure.chart)))


def short(value):
    return pytest.approx(value, rel=1e-4)


def test_there_is_a_figure_for_everything_that_has_data(shown):
    _, found = shown
    assert set(found) == {
        "pareto-parameters", "pareto-flops",
        "heads-rankings", "heads-tasks-own", "heads-transfer-0shot", "heads-transfer-5shot",
        "combined-own", "combined-own-0shot", "combined-own-5shot", "combined-task-piqa", "combined-task-piqa-0shot",
        "combined-task-piqa-5shot",
        "importance-heads-gradient", "importance-heads-gradient-0shot", "importance-heads-gradient-5shot",
        "importance-ffns-knockout", "agreement-heads-gradient", "agreement-ffns-knockout",
        "induction", "retained-capacity-gradient",
    }  # fmt: skip
    for figure in found.values():
        assert figure.title
        assert figure.caption.endswith(".")


def test_two_numbers_are_no_figure(tmp_path):
    """The dense model and one share: neither a curve nor a front."""
    assert made(sweep(tmp_path, grid(("own",), heads=("0.3",)), TASKS))[1] == {}


def test_a_dense_model_alone_has_no_figures(tmp_path):
    assert made(sweep(tmp_path, []))[1] == {}


def test_every_entry_is_a_point_of_both_sizes(shown):
    board, found = shown
    for name, share in (("pareto-parameters", "parameters_left"), ("pareto-flops", "flops_left")):
        points = {(point["variant"], point["shots"]): point for point in points_of(found[name])}
        assert len(points) == len(board.entries)
        for entry in board.entries:
            point = points[entry.label, f"{entry.num_fewshot}-shot"]
            assert point["left"] == short(100 * getattr(entry, share))
            assert point["value"] == short(entry.average.value)
            assert (point["low"], point["high"]) == (short(entry.average.low), short(entry.average.high))


def test_curves_show_every_cell_and_the_average_at_its_share(shown):
    board, found = shown
    points = [point for point in points_of(found["heads-tasks-own"]) if "value" in point]
    expected = []
    for entry in board.entries:
        if entry.ranking in ("dense", "own") and entry.prune_ffns == "0":
            where = f"{entry.num_fewshot}-shot", 100 * float(entry.prune_heads)
            expected += [(*where, str(column), cell.value) for column, cell in entry.cells.items()]
            expected.append((*where, "average", entry.average.value))
    assert len(points) == len(expected) == 2 * 3 * 3
    for shots, share, panel, value in expected:
        assert [p["value"] for p in points if (p["series"], p["share"], p["panel"]) == (shots, share, panel)] == [
            short(value)
        ]


def test_random_rankings_have_a_point_a_seed_and_no_band(shown):
    board, found = shown
    (entry,) = (e for e in board.entries if e.ranking == "random" and e.num_fewshot == 5)
    points = [
        p
        for p in points_of(found["heads-rankings"])
        if (p.get("series"), p["shots"], p.get("share")) == ("random", "5-shot", 50)
    ]
    assert [point["value"] for point in points if "seed" not in point] == [short(entry.average.value)]
    assert not any("low" in point for point in points)
    for seed in (0, 1):
        own = [run.values["acc"].value for run in entry.runs if run.variant.seed == seed]
        assert [point["value"] for point in points if point.get("seed") == seed] == [short(np.mean(own))]


CHANCE = {task: {"acc": {"level": 0.25, "by": "choices", "choices": [4, 4]}} for task in TASKS}


def test_chance_is_a_line_where_it_is_known(tmp_path):
    variants = grid(("own", "task:piqa"), heads=("0.3", "0.7"))
    _, found = made(sweep(tmp_path / "some", variants, TASKS, chance={"piqa": CHANCE["piqa"]}))
    levels = {name: [p for p in points_of(figure) if "chance" in p] for name, figure in found.items()}
    assert levels["heads-tasks-own"] == [{"panel": "piqa acc", "chance": 0.25}]
    assert levels["heads-transfer-0shot"] == [{"evaluated": "piqa acc", "chance": 0.25}]
    assert levels["heads-rankings"] == levels["pareto-parameters"] == []  # an average of which one task's is not known
    _, found = made(sweep(tmp_path / "all", variants, TASKS, (0, 5), chance=CHANCE))
    for name in ("heads-rankings", "pareto-parameters", "pareto-flops"):
        levels = [point for point in points_of(found[name]) if "chance" in point]
        assert levels == [{"shots": "0-shot", "chance": 0.25}, {"shots": "5-shot", "chance": 0.25}]


def colours_in(chart):
    """The domains of the rankings' colours."""
    if isinstance(chart, dict):
        colour = chart.get("encoding", {}).get("color", {})
        if colour.get("title") == "ranking":
            yield colour["scale"]["domain"]
        for value in chart.values():
            yield from colours_in(value)
    elif isinstance(chart, list):
        for value in chart:
            yield from colours_in(value)


def test_a_ranking_has_one_colour_in_all_figures_and_on_all_boards(shown, tmp_path):
    _, found = shown
    names = ("heads-rankings", "heads-transfer-5shot", "pareto-parameters", "pareto-flops")
    domains = [domain for name in names for domain in colours_in(spec(found[name].chart))]
    assert len(domains) >= len(names)
    assert all(domain == ["dense", "own", "aggregate", "random", "task:piqa"] for domain in domains)
    _, other = made(sweep(tmp_path, grid(("mine", "random"), heads=("0.3", "0.7")), TASKS))
    assert next(colours_in(spec(other["heads-rankings"].chart)))[:4] == ["dense", "own", "aggregate", "random"]


def test_rankings_of_one_kind_share_a_hue_and_have_dashes_of_their_own():
    others = ["task:piqa", "scores.json", "most:aggregate:5", "mine"]
    kin = ["aggregate:0", "aggregate:1", "aggregate:5", "own, oracle"]
    assert ranking_order(["aggregate:5", "dense", "mine"]) == ["dense", "own", "aggregate:5", "random", "mine"]
    order = ranking_order([*others, *kin, "dense", "own", "aggregate", "random"])
    hue = {name: LIGHT["range"]["category"][place] for place, name in enumerate(order)}
    dash = dict(zip(order, map(str, category_dashes(len(order))), strict=True))
    assert {hue[name] for name in kin[:3]} == {hue["aggregate"]}
    assert hue["own, oracle"] == hue["own"]
    assert len({hue[name] for name in [*others, "own", "aggregate", "random", "dense"]}) == 8
    assert len(set(order)) == len(order)
    assert set(order) >= {*others, *kin}
    look = [(hue[name], dash[name]) for name in [*others, *kin, "own", "aggregate", "random"]]
    assert len(set(look)) == len(look)


def test_fourteen_tasks_are_small_multiples(tmp_path):
    tasks = tuple(f"task{number}" for number in range(14))
    _, found = made(sweep(tmp_path, grid(("own",), heads=("0.3", "0.7")), tasks, count=20))
    chart = spec(found["heads-tasks-own"].chart)
    assert chart["columns"] == 5
    assert {point["panel"] for point in points_of(found["heads-tasks-own"])} == {
        "average", *(f"{task} acc" for task in tasks)
    }  # fmt: skip


def test_the_combined_grid_has_ffns_down_and_heads_across(shown):
    board, found = shown
    (row,) = (row for row in points_of(found["combined-own"]) if row["panel"] == "5-shot")
    expected = {
        (entry.prune_ffns, entry.prune_heads): entry.average.value
        for entry in board.entries
        if entry.ranking in ("dense", "own") and entry.num_fewshot == 5
    }
    order = [(f, h) for f in ("0.25", "0") for h in ("0", "0.3", "0.7")]
    assert row["value"] == [pytest.approx(expected[place], rel=1e-3) for place in order]


def test_the_combined_grid_of_every_task_has_its_cells(shown):
    board, found = shown
    rows = {row["panel"]: np.reshape(row["value"], (2, 3)) for row in points_of(found["combined-own-5shot"])}
    assert set(rows) == {str(column) for column in board.columns}
    checked = 0
    for entry in board.entries:
        if entry.num_fewshot != 5 or entry.ranking not in ("own", "dense"):
            continue
        place = {"0.25": 0, "0": 1}[entry.prune_ffns], {"0": 0, "0.3": 1, "0.7": 2}[entry.prune_heads]
        for column, cell in entry.cells.items():
            assert rows[str(column)][place] == short(cell.value)
            checked += 1
    assert checked == 2 * 6


def test_the_combined_grid_leaves_out_shares_of_one_component_alone(tmp_path):
    both = grid(("own",), heads=("0", "0.3"), ffns=("0", "0.25"))
    alone = grid(("own",), heads=("0.1", "0.2"))
    _, found = made(sweep(tmp_path, [*both, *alone], TASKS))
    (row,) = points_of(found["combined-own"])
    assert len(row["value"]) == 4
    assert None not in row["value"]


def test_an_unfinished_sweep_has_the_figures_of_what_is_there(tmp_path):
    import vl_convert

    variants = grid(("own",), heads=("0", "0.3", "0.5"), ffns=("0", "0.25", "0.5"))
    board, found = made(sweep(tmp_path, variants, TASKS, skip=[(variant, "copa", 0) for variant in variants]))
    assert all(entry.average is None for entry in board.entries if not entry.is_dense)
    assert set(found) == {"heads-tasks-own", "ffns-tasks-own"}
    for figure in found.values():
        assert "piqa acc" in vl_convert.vegalite_to_svg(spec(figure.chart))


def scores_of(folder, name):
    return np.array(next(s.scores for p, s in read_collection([folder]).importance if p.stem == name))


def test_maps_show_the_scores_of_the_files_layer_by_layer(folder, shown):
    _, found = shown
    rows = {row["panel"]: row["value"] for row in points_of(found["importance-heads-gradient-5shot"])}
    assert rows["copa"] == pytest.approx(scores_of(folder, "copa-5-heads").ravel().tolist(), rel=1e-2)
    rows = {row["panel"]: row["value"] for row in points_of(found["importance-heads-gradient"])}
    mean = np.mean([scores_of(folder, f"{task}-0-heads") for task in TASKS], axis=0)
    assert rows["0-shot"] == pytest.approx(mean.ravel().tolist(), rel=1e-3)
    rows = {row["panel"]: row["value"] for row in points_of(found["importance-ffns-knockout"])}
    ffns = [scores_of(folder, f"{task}-5-ffns") for task in ("copa", "piqa")]
    assert rows["5-shot"] == pytest.approx(np.concatenate([np.mean(ffns, axis=0), *ffns]).tolist(), rel=1e-3)


def test_agreement_is_scipys_over_the_model_and_within_layers(folder, shown):
    _, found = shown
    scores = [scores_of(folder, f"{task}-{shots}-heads") for shots in (0, 5) for task in ("copa", "piqa")]
    rows = {row["panel"]: np.reshape(row["value"], (6, 6)) for row in points_of(found["agreement-heads-gradient"])}
    for i, first in enumerate(scores):
        for j, second in enumerate(scores):
            whole = scipy.stats.spearmanr(first.ravel(), second.ravel()).statistic
            assert rows["whole model (at random ±0.51)"][i, j] == pytest.approx(whole, abs=1e-3)
            layers = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
            assert rows["within layers (at random ±0.57)"][i, j] == pytest.approx(np.mean(layers), abs=1e-3)


@pytest.mark.parametrize(("shape", "within"), [((4, 4), False), ((4, 4), True), ((12, 12), False), ((12,), False)])
def test_two_random_rankings_agree_within_the_reach_95_times_of_100(shape, within):
    draw = np.random.default_rng(0)
    rhos = []
    for _ in range(2000):
        pair = [draw.random(shape) for _ in range(2)]
        parts = list(zip(*pair, strict=True)) if within else [tuple(one.ravel() for one in pair)]
        rhos.append(np.mean([scipy.stats.spearmanr(*part).statistic for part in parts]))
    inside = np.mean(np.abs(rhos) <= null_reach(shape, within_layers=within))
    assert 0.93 < inside < 0.98


def test_rank_correlations_with_ties_and_constant_scores():
    rng = np.random.default_rng(0)
    scores = [rng.integers(0, 3, (5, 6)).astype(float) for _ in range(3)] + [np.ones((5, 6))]
    overall, within = spearman_matrix(scores)
    for i in range(3):
        for j in range(3):
            assert overall[i, j] == pytest.approx(scipy.stats.spearmanr(scores[i].ravel(), scores[j].ravel()).statistic)
    assert np.isnan(overall[3]).all()
    assert np.isnan(within[:, 3]).all()
    assert np.isnan(spearman_matrix([row[0] for row in scores])[1]).all()


@pytest.mark.parametrize("variance", [None, "text", [[1.0]], [[math.nan] * 4] * 4])
def test_induction_without_a_variance_that_fits_is_means_alone(variance):
    def files(settings):
        scores = ImportanceScores.from_tensor(torch.rand(4, 4), num_attention_heads=4, settings=settings)
        return [(Path("prefix-matching.json"), scores)]

    settings = {"model": "m", "method": "prefix-matching"}
    (found,) = score_sets(files({**settings, "variance": variance} if variance else settings))
    (figure,) = [figure for figure in score_figures(found, [], []) if figure.name == "induction"]
    assert {row["panel"] for row in points_of(figure)} == {"prefix matching"}
    assert "variance" not in figure.caption


def test_induction_maps_have_the_variance_over_sequences_below_the_means():
    draw = np.random.default_rng(0)
    variances = {"prefix-matching": draw.random((4, 4)), "copying-olsson2022": draw.random((4, 4))}
    files = [
        (
            Path(method),
            ImportanceScores.from_tensor(
                torch.tensor(draw.random((4, 4))),
                num_attention_heads=4,
                settings={"model": "m", "method": method, "variance": values.tolist()},
            ),
        )
        for method, values in variances.items()
    ]
    (found,) = score_sets(files)
    (figure,) = [figure for figure in score_figures(found, [], []) if figure.name == "induction"]
    rows = {row["panel"]: row["value"] for row in points_of(figure)}
    assert len(rows) == 4
    for method, values in variances.items():
        (shown,) = [
            value for name, value in rows.items() if name.startswith(method[:6]) and name.endswith(", variance")
        ]
        assert shown == pytest.approx(values.ravel().tolist(), rel=1e-3)
    assert figure.caption.endswith("Below them their variance over the random sequences.")


def test_retained_capacity_counts_the_kept_heads(folder, shown):
    _, found = shown
    prefix = scores_of(folder, "prefix-matching").ravel()
    ranking = np.mean([scores_of(folder, f"{task}-5-heads") for task in TASKS], axis=0).ravel()
    kept = sorted(range(16), key=lambda place: ranking[place])[4:]  # floor(0.3 * 16) go
    (point,) = (
        p
        for p in points_of(found["retained-capacity-gradient"])
        if (p["panel"], p["series"], p["share"]) == ("prefix matching", "aggregate, 5-shot", 30)
    )
    assert point["value"] == short(100 * prefix[kept].sum() / prefix.sum())


def test_the_front_holds_what_no_other_point_beats():
    draw = random.Random(0)
    for _ in range(50):
        points = [(draw.randrange(8), draw.randrange(8)) for _ in range(12)]
        beaten = {
            place
            for place, (size, quality) in enumerate(points)
            if any(s <= size and q >= quality and (s, q) != (size, quality) for s, q in points)
        }
        assert pareto_front(points) == set(range(12)) - beaten


def test_files_are_what_their_names_say(shown, tmp_path):
    _, found = shown
    chosen = [found["heads-rankings"], found["combined-own"]]
    paths = write_figures(chosen, tmp_path / "figures", ("svg", "png", "pdf"))
    assert [path.name for path in paths[:3]] == ["heads-rankings.svg", "heads-rankings.png", "heads-rankings.pdf"]
    for path in paths:
        start = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}[path.suffix]
        assert path.read_bytes().startswith(start)
    with pytest.raises(ArgumentError, match="figures 'gif': unknown; expected some of svg, png, pdf"):
        write_figures(chosen, tmp_path, ("gif",))


@pytest.mark.slow
def test_every_figure_can_be_drawn_on_both_backgrounds(shown):
    import vl_convert

    _, found = shown
    for figure in found.values():
        for theme in (LIGHT, DARK):
            drawn = vl_convert.vegalite_to_svg(spec(figure.chart, theme))
            assert drawn.count("<path") > 10, figure.name


def test_odd_names_are_shown_as_text(tmp_path):
    import vl_convert

    variants = [Variant(ODD, "0.5", "0"), Variant(ODD, "0.7", "0")]
    board, found = made(sweep(tmp_path, variants, (ODD, "piqa"), model=ODD))
    assert all(re.fullmatch(r"[a-z0-9-]{1,100}", name) for name in found)
    assert len(found) == 4, found.keys()
    for figure in (found["heads-rankings"], found["pareto-parameters"]):
        drawn = vl_convert.vegalite_to_svg(spec(figure.chart))
        assert "<script" not in drawn
        assert "x&lt;script&gt;alert" in drawn
        assert len(figure.title) < 200
    assert any(point.get("series") == ODD for point in points_of(found["heads-rankings"]))
    assert board.problems == []


def test_equal_names_are_numbered():
    named = [Figure("a", "", "", None), Figure("a", "", "", None), Figure("b", "", "", None)]
    assert [figure.name for figure in unique_names(named)] == ["a", "a-2", "b"]
