"""The claims as a table for a terminal, whole at 80 columns: a line a claim, the numbers of shots side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lm_eval_prune.paper.report import PaperReport
from lm_eval_prune.paper.verdicts import CANNOT_BE_TOLD, FAILS, HOLDS, VERDICTS, Finding
from lm_eval_prune.paper.wording import SIGNS, told
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.wording import fixed

__all__ = ["print_report"]

COLOURS = {HOLDS: "green", FAILS: "red", CANNOT_BE_TOLD: "yellow"}
"""Of verdicts; no data has none."""
DIGITS = 2
CELL = 14
"""Characters of a number of shots: `[-0.34, -0.12]`."""


def print_report(report: PaperReport, console: Console | None = None) -> None:
    """Print what is to be known of the folder, then each claim with its number and verdict, then how many hold."""
    console = console or Console()
    for problem in report.problems:
        console.print(Text.assemble(("Warning: ", "yellow"), f"{problem.kind}: {problem.message}"), soft_wrap=True)
    shots = sorted({finding.claim.num_fewshot for finding in report.findings if finding.claim.num_fewshot is not None})
    table = Table(
        title=Text(f"The claims of Bansal et al. 2023, on {report.model}"), title_justify="left", title_style="bold",
        header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("figure", width=9, overflow="fold")
    table.add_column("claim", overflow="fold")
    for number in shots:
        table.add_column(shots_name(number), width=CELL, overflow="fold")
    for part in report.parts:
        name = part.section.number
        for text, found in _families(part.findings).items():
            cells = [_cell(next((one for one in found if one.claim.num_fewshot == k), None)) for k in shots]
            if found[0].claim.num_fewshot is None:  # of no number of shots, or of several: in the first column
                cells[0] = _cell(found[0])
            table.add_row(name, Text(text), *cells)
            name = ""
    console.print(table)
    signs = ", ".join(f"{SIGNS[verdict]} {verdict}" for verdict in VERDICTS)
    console.print(Text(f"{signs}; in brackets: 95 %", style="dim"))
    console.print(Text(f"Of {len(report.findings)} claims {told(report.findings)}.", style="bold"))
    if lacking := [part.section.number for part in report.parts if not part.has_data]:
        console.print(Text(f"No data: {'; '.join(lacking)}. The page says which command makes it."))


def _families(found: Sequence[Finding]) -> dict[str, list[Finding]]:
    """A claim's text -> its findings at each number of shots."""
    families: dict[str, list[Finding]] = {}
    for finding in found:
        families.setdefault(finding.claim.text, []).append(finding)
    return families


def _cell(finding: Finding | None) -> Text:
    if finding is None:
        return Text("")
    text = SIGNS[finding.verdict]
    if (found := finding.measured) is not None:
        text += f" {fixed(found.value, DIGITS)}"
        if not math.isnan(found.low):
            text += f"\n[{fixed(found.low, DIGITS)}, {fixed(found.high, DIGITS)}]"
    return Text(text, style=COLOURS.get(finding.verdict, ""))
