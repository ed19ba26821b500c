"""What `test_large_models.py` launches: a masked evaluation, importance and induction, written by the first process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

from lm_eval_prune.harness.importance import ImportanceConfig, compute_importance, processes_of
from lm_eval_prune.harness.induction import InductionConfig, compute_induction
from lm_eval_prune.harness.model import PrunedOPT


def main(folder: Path, out: Path) -> None:
    lm = PrunedOPT(str(folder / "model"), device="cpu", dtype="float32", mask=folder / "mask.json", batch_size=2)
    tasks = TaskManager(include_path=[str(folder / "tasks")], include_defaults=False)
    results = lm_eval.simple_evaluate(model=lm, tasks=["toy_choice", "toy_generate"], num_fewshot=0, task_manager=tasks)
    scores = folder / f"scores-{processes_of(lm).world_size}"
    task = str(folder / "tasks" / "toy_choice.yaml")
    importance = ImportanceConfig(
        component="heads", method="gradient", tasks=(task,), num_fewshot=(1,), output_path=scores, batch_size=1
    )
    written = [outcome.path for outcome in compute_importance(importance, lambda: lm)]
    written += [path for path, _ in compute_induction(InductionConfig(output_path=scores, num_sequences=3), lambda: lm)]
    if processes_of(lm).rank:
        return
    content = {"processes": processes_of(lm).world_size, "results": results["results"]}
    samples = [sample for task in results["samples"].values() for sample in task]
    content["answers"] = [answer[0] for one in samples for answer in one["filtered_resps"] if len(answer) == 2]
    for name, path in zip(("importance", "prefix-matching", "copying"), written, strict=True):
        content[name] = json.loads(path.read_text())["scores"]
    out.write_text(json.dumps(content, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
