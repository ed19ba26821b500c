"""What each variant prunes: its masks, packed, since those of a large model's whole grid are some megabytes of text."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from lm_eval_prune.report.board import Board
from lm_eval_prune.report.runs import shots_name

__all__ = ["VariantMasks", "masks_of", "packed"]

SEPARATOR = "; "
"""Between the heads and the FFNs of a mask's text."""


class VariantMasks(NamedTuple):
    """The masks of a variant: with a ranking of its own, one for each task and number of shots."""

    label: str
    masks: list[tuple[str, str]]
    """(Where it was used, what it prunes); equal masks once."""


def masks_of(board: Board) -> list[VariantMasks]:
    """The variants whose files say what was pruned, in order of appearance."""
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for entry in board.entries:
        all_tasks = {run.task for run in entry.runs}
        tasks: dict[tuple[str, int | None], dict[str, None]] = {}
        for run in entry.runs:
            if run.mask:
                tasks.setdefault((run.mask, run.variant.seed), {})[run.task] = None
        for (mask, seed), own in tasks.items():
            where = "all tasks" if len(own) > 1 and own.keys() == all_tasks else ", ".join(own)
            where += "" if seed is None else f", seed {seed}"
            places = found.setdefault(entry.label, {}).setdefault(mask, {})
            places.setdefault(where, []).append(shots_name(entry.num_fewshot))
    return [
        VariantMasks(label, [("; ".join(map(_place, places.items())), mask) for mask, places in masks.items()])
        for label, masks in found.items()
    ]


def packed(variants: Sequence[VariantMasks]) -> str:
    """Their lists of masks as JSON, deflated, in base64; the page unpacks it when one is opened.

    `parts` are the texts of heads and of FFNs, each once: masks that differ in one only are most of a grid. A mask is
    the place where it was used, and the numbers of its parts.
    """
    parts: dict[str, int] = {}
    masks = [
        [[where, [parts.setdefault(part, len(parts)) for part in mask.split(SEPARATOR)]] for where, mask in own]
        for _, own in variants
    ]
    text = json.dumps({"parts": list(parts), "masks": masks}, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(errors="backslashreplace"), 9)).decode()


def _place(place: tuple[str, list[str]]) -> str:
    where, shots = place
    return f"{where}, {', '.join(shots)}"
