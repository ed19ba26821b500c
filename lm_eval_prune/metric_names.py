"""What metrics are called: the harness keeps results under `acc,none`; people read `acc`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval_prune.text import printable

__all__ = ["metric_columns", "metric_name"]


def metric_name(name: str, filter_name: str) -> str:
    """`acc` with the filter `none` is `acc`; another filter stays in brackets, as in `exact_match (strict-match)`."""
    return printable(name if filter_name in ("", "none") else f"{name} ({filter_name})")


def metric_columns(record: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a task's `results` that are numbers, standard errors too, as further columns of a table's row.

    `acc,none` is called `acc`. A metric keeps the harness's key where `record`, the row, has a column of its name.
    """
    columns: dict[str, float] = {}
    for key, value in results.items():
        name, comma, filter_name = key.partition(",")
        if comma and isinstance(value, int | float) and not isinstance(value, bool):
            shown = metric_name(name, filter_name)
            columns[key if shown in record else shown] = value
    return columns
