"""Several grids in one folder, computed as one; importance at a fixed number of shots, by a chosen metric."""

import json

import pytest
from small_sweep import cells, samples, settings

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.harness import templates
from lm_eval_prune.harness.cells import TaskRun
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.ranking import parse_ranking
from lm_eval_prune.sweep.run import run_sweep, run_sweeps

GRIDS = [
    {"ranking": ["aggregate:1"], "prune_heads": ["0", "0.3"]},
    {"ranking": ["random:0+1"], "prune_heads": ["0.5"], "prune_ffns": ["0.2"]},
    {"ranking": ["most:aggregate:1"], "prune_heads": ["0.1"]},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(the folder of all grids at once, what was noted, how often requests were built; that of one after the other)"""
    together, apart = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("apart")
    noted, built = [], []
    with pytest.MonkeyPatch.context() as patch:
        original = TaskRun.__init__

        def counted(self, lm, name, **settings):
            built.append((name.task, settings["num_fewshot"]))
            original(self, lm, name, **settings)

        patch.setattr(TaskRun, "__init__", counted)
        configs = [settings(together, masks_at_once=8, **grid) for grid in GRIDS]
        run_sweeps(configs, note=noted.append, progress=False)
    for grid in GRIDS:
        run_sweep(settings(apart, **grid), progress=False)
    return together, noted, built, apart


def test_grids_together_are_those_one_after_the_other(folders):
    together, _, _, apart = folders
    found, expected = cells(together), cells(apart)
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 2 * (1 + 1 + 2 + 1)
    for name, content in expected.items():
        assert found[name]["results"] == content["results"]
    assert samples(together).keys() == samples(apart).keys()
    assert {path.name for path in disk.plan_paths(together)} == {path.name for path in disk.plan_paths(apart)}
    assert sorted(disk.read_rows(together)) == sorted(disk.read_rows(apart))


def test_requests_are_built_once_for_the_masks_of_all_grids(folders):
    built = folders[2]
    assert sorted(built) == [("demo_facts", 0), ("demo_facts", 2), ("demo_recall", 0), ("demo_recall", 2)]


def test_it_is_noted_what_will_be_computed_and_what_was(folders):
    noted = folders[1]
    assert noted[0] == "20 cells on 2 tasks, 2 importance files"
    assert [line.split(", 1-shot: 6 examples, ")[0] for line in noted[1:]] == [
        "importance of heads to demo_recall",
        "importance of heads to demo_facts",
    ]


def test_an_aggregate_at_a_number_of_shots_is_the_mean_at_that_number(folders):
    together = folders[0]
    names = sorted(path.name for path in (together / "importance").iterdir())
    assert names == [
        "aggregate-1shot-heads-gradient.json",
        "demo_facts-1shot-heads-gradient.json",
        "demo_recall-1shot-heads-gradient.json",
    ]
    mean, *parts = (ImportanceScores.load(together / "importance" / name).tensor() for name in names)
    assert mean.flatten().tolist() == pytest.approx((sum(parts) / 2).flatten().tolist())
    rows = [row for row in disk.read_rows(together) if row.variant.ranking == "aggregate:1"]
    assert {row.num_fewshot for row in rows} == {0, 2}
    masks = {
        json.dumps(disk.read_cell(disk.cell_path(together, row.cell))["pruning"]["mask"]["pruned_heads"])
        for row in rows
    }
    lowest = mean.flatten().argsort(stable=True)[: int(0.3 * mean.numel())]
    expected = sorted((int(place) // mean.shape[1], int(place) % mean.shape[1]) for place in lowest)
    assert len(masks) == 1
    assert sorted((int(k), h) for k, heads in json.loads(masks.pop()).items() for h in heads) == expected


@pytest.mark.parametrize(("name", "value"), [("limit", 5), ("tasks", ["demo_facts"]), ("seed", 7), ("batch_size", 2)])
def test_sweeps_that_differ_in_more_are_refused(tmp_path, name, value):
    with pytest.raises(ArgumentError, match=f"^{name}: .* in one sweep, .* in another of one folder$"):
        run_sweeps([settings(tmp_path / "s"), settings(tmp_path / "s", **{name: value})], progress=False)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "text",
    [
        "aggregate:", "aggregate:-1", "aggregate:1.5", "aggregate:99999", "aggregate:@5", "aggregate:0+1",
        "aggregate:a+", "aggregate:+a",
        "aggregate:a++b", "aggregate:a@", "aggregate:a@b", "aggregate:a@5@1", "aggregate: @5", "aggregate:a@99999",
    ],
)  # fmt: skip
def test_an_aggregate_of_no_tasks_or_number_of_shots_is_refused(text):
    with pytest.raises(ArgumentError, match="aggregate:5"):
        parse_ranking(text)


@pytest.mark.parametrize(
    ("text", "shots", "order", "unit"),
    [
        ("aggregate", None, "least", "head"),
        ("aggregate:0", 0, "least", "head"),
        ("most:aggregate:5", 5, "most", "head"),
        ("kv_group:most:aggregate:12", 12, "most", "kv_group"),
    ],
)
def test_rankings_by_an_aggregate(text, shots, order, unit):
    found = parse_ranking(text)
    assert (found.kind, found.num_fewshot, found.order, found.unit) == ("aggregate", shots, order, unit)


def test_the_metric_of_knockouts_is_the_one_asked_for_and_another_is_refused(tmp_path):
    one = {"tasks": ["demo_facts"], "num_fewshot": [0], "ranking": ["own"], "prune_heads": ["0"], "prune_ffns": ["0.2"]}
    run_sweep(settings(tmp_path, **one, knockout_metric="loss"), progress=False)
    (path,) = (tmp_path / "importance").iterdir()
    assert ImportanceScores.load(path).settings["metric"] == "loss"
    with pytest.raises(ArgumentError, match="computed with metric="):
        run_sweep(settings(tmp_path, **one), progress=False)


def test_a_template_is_compiled_once_and_renders_as_ever(monkeypatch):
    import lm_eval.utils
    from jinja2 import UndefinedError

    plain = type(lm_eval.utils.env).from_string
    compiled = []

    def counted(source, *args, **settings):
        compiled.append(source)
        return plain(lm_eval.utils.env, source, *args, **settings)

    monkeypatch.setattr(lm_eval.utils.env, "from_string", counted, raising=False)
    templates.compile_once()
    templates.compile_once()
    try:
        for number in range(5):
            for source, expected in (
                ("{{a}} and {{b|upper}}", f"{number} and X"),
                ("{% if a > 2 %}many{% endif %}\n", "many\n" if number > 2 else "\n"),
                ("{{a}}", str(number)),
            ):
                assert lm_eval.utils.apply_template(source, {"a": number, "b": "x"}) == expected
        with pytest.raises(UndefinedError):
            lm_eval.utils.apply_template("{{c}}", {"a": 1})
    finally:
        monkeypatch.undo()
    assert sorted(compiled) == sorted(["{{a}} and {{b|upper}}", "{% if a > 2 %}many{% endif %}\n", "{{a}}", "{{c}}"])
