"""paper.html: the report as one self-contained file, in the leaderboard's style and under its policy."""

from __future__ import annotations

import itertools
from typing import Any

from lm_eval_prune.paper.claims import UNCHECKED
from lm_eval_prune.paper.report import PaperReport, Part
from lm_eval_prune.paper.tables import Table
from lm_eval_prune.paper.verdicts import Finding
from lm_eval_prune.paper.wording import MARKS, READING, claim_text, number_of, told
from lm_eval_prune.report.figures import Figure
from lm_eval_prune.report.page.render import charts_of
from lm_eval_prune.report.page.templates import STYLES, joined_scripts, joined_styles, policy, template
from lm_eval_prune.version import __version__

__all__ = ["write_page"]

SCRIPTS = ("unpacking.js", "charts.js", "paper.js")
MOST_ROWS = 400
"""Of a table on the page; paper.json has all."""


def write_page(report: PaperReport) -> str:
    """The page's HTML."""
    figures = [figure for part in report.parts for figure in part.figures]
    script = joined_scripts(SCRIPTS) if figures else ""
    charts, library = charts_of(figures)
    places = itertools.count()
    return template("paper.html").render(
        version=__version__,
        policy=policy([script, *library] if script else []),
        css=joined_styles((*STYLES, "paper.css")),
        script=script,
        title=f"The paper, on {report.model}",
        summary=_summary(report),
        reading=READING,
        counts=[{"count": count, "verdict": name, "mark": MARKS[name]} for name, count in report.counts.items()],
        problems=report.problems,
        sections=[_section(part, places) for part in report.parts],
        packed=charts,
    )


def _summary(report: PaperReport) -> str:
    there = sum(part.has_data for part in report.parts)
    return f"{len(report.findings)} claims · {there} of {len(report.parts)} sections have data · 95 % intervals"


def _section(part: Part, places: itertools.count[int]) -> dict[str, Any]:
    figures: list[tuple[Figure, int]] = [(figure, next(places)) for figure in part.figures]
    return {
        "key": part.section.key,
        "number": part.section.number,
        "title": part.section.title,
        "found": part.section.found,
        "told": told(part.findings),
        "claims": [_claim(finding) for finding in part.findings],
        "notes": part.notes,
        "command": part.command,
        "lacks": "A part of it is not in this folder; this makes it:" if part.has_data else "No data; made by:",
        "figures": figures,
        "tables": [_listing(table) for table in part.tables],
    }


def _claim(finding: Finding) -> dict[str, str]:
    found = finding.measured
    return {
        "key": finding.claim.key,
        "text": claim_text(finding.claim),
        "ours": finding.claim.ours,
        "checked": f"section {finding.claim.checked}" if finding.claim.checked else UNCHECKED,
        "number": f"{number_of(found)} {finding.quantity}" if found else "",
        "note": found.note if found else "",
        "verdict": finding.verdict,
        "mark": MARKS[finding.verdict],
        "why": finding.why,
    }


def _listing(table: Table) -> dict[str, Any]:
    rows = [[_shown(value) for value in row] for row in table.rows[:MOST_ROWS]]
    cut = f" (the first {MOST_ROWS}; paper.json has all)" if len(table.rows) > MOST_ROWS else ""
    return {"title": table.title + cut, "header": table.header, "rows": rows}


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
