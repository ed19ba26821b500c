"""`compare`: a leaderboard as data frames, for programs. The numbers are those of the page and its files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lm_eval_prune.report.board import Board
from lm_eval_prune.report.comparison import BoardConfig
from lm_eval_prune.report.comparison import compare as compared
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.records import nested

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """A leaderboard's tables. Columns are called as in leaderboard.json; what is not known is None or nan."""

    averages: pd.DataFrame
    """A row for each variant and number of shots, best first: the average over the tasks, its interval and verdict.

    `prune_heads`, `prune_ffns` (as in a sweep's settings), `parameters_left` and `flops_left` are shares.
    """
    cells: pd.DataFrame
    """A row for each of them on each task: the metric's `value`, and the `difference` to the dense model.

    The difference has a 95 % interval from `difference_low` to `difference_high`, `difference_p` and
    `difference_p_holm` (corrected over the variants on the task at this number of shots), and a `verdict`.
    """
    declines: pd.DataFrame
    """How far each ranking can go before the average's decline may exceed the margin."""
    flips: pd.DataFrame
    """Documents that the dense model and a variant answer differently; filled with `flips=True`."""
    problems: list[str]
    """What was left out, or is not comparable."""
    board: Board
    """The whole."""

    def __repr__(self) -> str:
        columns = ["variant", "num_fewshot", "parameters_left", "value", "difference", "verdict"]
        shown = [column for column in columns if column in self.averages]
        return self.averages[shown].to_string(index=False)


def compare(
    *results: str | os.PathLike[str],
    tasks: tuple[str, ...] = (),
    shots: tuple[int, ...] | Literal["own"] = (),
    metrics: tuple[str, ...] = BoardConfig.metrics,
    margin: float | None = None,
    baseline: str | None = None,
    flips: bool = False,
    cluster: tuple[str, ...] = (),
    strict: bool = False,
) -> Comparison:
    """Compare evaluated variants, each with the dense model, as `lm-eval-prune leaderboard` does.

    `results` are sweeps (`run_sweep`'s, or their folders), what `evaluate(output_path=...)` wrote, and results files of
    the harness. The settings are those of `BoardConfig`: all tasks and numbers of shots, where none are named, and the
    first of `metrics` that a task has.
    Raises ArgumentError where nothing was evaluated, with `strict` also for what is not comparable; PruneError.
    """
    import pandas as pd

    config = BoardConfig(
        tasks=tuple(tasks),
        shots=shots if isinstance(shots, str) else tuple(shots),
        metrics=tuple(metrics),
        margin=margin,
        baseline=baseline,
        flips=flips,
        cluster=tuple(cluster),
        strict=strict,
    )
    board = compared(read_collection(results), config)
    content = nested(board)
    tasks_of = {str(column): {"task": column.task, "metric": column.metric} for column in board.columns}
    averages, cells = [], []
    for entry in content["entries"]:
        about = {key: value for key, value in entry.items() if key not in ("average", "tasks", "seeds", "files")}
        averages.append({**about, **_flat(entry["average"])})
        cells += [{**about, **tasks_of[name], **_flat(value)} for name, value in entry["tasks"].items()]
    return Comparison(
        averages=pd.DataFrame(averages),
        cells=pd.DataFrame(cells),
        declines=pd.DataFrame(content["declines"]),
        flips=pd.DataFrame([flip._asdict() for flip in board.flips]),
        problems=[f"{problem.kind}: {problem.message}" for problem in board.problems],
        board=board,
    )


def _flat(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """A value and its difference to the dense model in one record: `difference`, `difference_low` and so on."""
    if value is None:
        return {}
    record = {key: part for key, part in value.items() if key != "difference"}
    for key, part in (value["difference"] or {}).items():
        record["difference" if key == "value" else f"difference_{key}"] = part
    return record
