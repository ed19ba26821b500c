"""`--dry_run` where importance is still to be computed: as many cells as the sweep will have."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner
from small_sweep import settings

from lm_eval_prune import PruningMask
from lm_eval_prune.cli.main import cli
from lm_eval_prune.harness.probe import TaskCost
from lm_eval_prune.sweep.estimate import estimate_sweep


def counted(folder, **changes):
    """Task -> cells that the estimate counts."""
    config = settings(
        folder, tasks=["demo_facts", "demo_recall"], num_fewshot=[0], limit=2, importance_limit=2, **changes
    )
    return {part.name.split(",")[0]: part.total for part in estimate_sweep(config).cells}


def test_rankings_by_different_scores_are_different_cells(tmp_path):
    # Dense, own, aggregate and task:demo_recall, which on demo_recall is its own.
    found = counted(tmp_path, ranking=["own", "aggregate", "task:demo_recall"])
    assert found == {"demo_facts": 4, "demo_recall": 3}


def test_scores_that_look_at_no_task_are_the_same_for_all(tmp_path):
    assert counted(tmp_path, ranking=["own", "task:demo_recall"], head_method="magnitude") == {
        "demo_facts": 2,
        "demo_recall": 2,
    }


@pytest.mark.parametrize("flops", [math.nan, 0.0])
def test_what_cannot_be_counted_takes_what_the_probe_took_for_each_mask(flops):
    cost = TaskCost(documents=30, probed=3, seconds=2.0, overhead=0.5, flops=lambda masks: flops)
    masks = [PruningMask.dense(2, 2)] * 3
    assert cost.of(masks)[1] == pytest.approx(3 * (2.0 * 10 + 0.5))


def test_what_is_counted_takes_its_share():
    cost = TaskCost(documents=6, probed=3, seconds=2.0, overhead=0.5, flops=lambda masks: 10.0 + 5.0 * len(masks))
    found = cost.of([PruningMask.dense(2, 2)] * 4)
    assert found == (pytest.approx(60.0), pytest.approx(2.0 * 2 * 30 / 15 + 4 * 0.5))


KINDS = {
    "generated": "output_type: generate_until\ngeneration_kwargs: {until: ['.'], max_gen_toks: 3}\n"
    "doc_to_text: '{{text}}'\ndoc_to_target: '{{answer}}'\nmetric_list: [{metric: exact_match}]\n",
    "rolling": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: byte_perplexity}]\n",
    "chosen": "output_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: [one, two]\n"
    "doc_to_target: 0\nmetric_list: [{metric: acc}]\n",
}


def test_no_kind_of_task_takes_nan_seconds(tmp_path):
    rows = [{"text": f"the river {number}", "answer": "cold"} for number in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, lines in KINDS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/data.jsonl}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(f"{head}test_split: test\n{lines}")
    (tmp_path / "sweep.yaml").write_text(
        f"tasks: [{', '.join(KINDS)}]\nnum_fewshot: 0\nprune_heads: [0, 0.5]\nranking: ['random:0']\nlimit: 3\n"
        f"include_path: {tmp_path}\ninclude_defaults: false\ndevice: cpu\noutput_path: {tmp_path}/out\n"
    )
    found = CliRunner().invoke(cli, ["sweep", "-C", str(tmp_path / "sweep.yaml"), "--dry_run"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    lines = {line.split(",")[0].strip(): line for line in found.output.splitlines()}
    assert set(KINDS) <= lines.keys(), found.output
    assert "nan s" not in found.output
    for kind in KINDS:
        assert ("FLOP" in lines[kind]) == (kind == "chosen")
        assert "2 of 2 cells x 3 documents" in lines[kind]
    assert "together about " in found.output
