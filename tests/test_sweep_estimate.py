"""`--dry_run` where importance is still to be computed: as many cells as the sweep will have."""

from __future__ import annotations

from small_sweep import settings

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
