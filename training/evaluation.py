"""Accuracies of a checkpoint on the demo tasks, measured by the harness as any user would measure them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.documents import TASKS
from training.generate_tasks import packaged_data_path

__all__ = ["accuracies"]


def accuracies(
    pretrained: Path, *, num_fewshot: Sequence[int] = (0, 1, 5), device: str = "cpu", limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Number of shots, as text -> task -> `acc` in [0, 1] of the checkpoint in the folder `pretrained`.

    limit: only the first documents of each task. Few-shot documents are drawn with the harness's own seed.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(pretrained), dtype="float32", device=device, batch_size=32)
    tasks = [f"demo_{task}" for task in TASKS]
    manager = TaskManager(include_path=str(packaged_data_path().parent))
    measured = {}
    for shots in num_fewshot:
        results = simple_evaluate(
            model, tasks=tasks, num_fewshot=shots, limit=limit, task_manager=manager, bootstrap_iters=0
        )
        measured[str(shots)] = {task: results["results"][f"demo_{task}"]["acc,none"] for task in TASKS}
    return measured
