"""The report: findings, figures and numbers by section of the paper, as one page and as JSON."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_prune.errors import ChartError
from lm_eval_prune.files import write_bytes, write_json
from lm_eval_prune.paper.claims import SECTIONS, UNCHECKED, Section
from lm_eval_prune.paper.commands import command_for
from lm_eval_prune.paper.evidence import Evidence, read_evidence
from lm_eval_prune.paper.tables import Table, paper_tables
from lm_eval_prune.paper.verdicts import NO_DATA, VERDICTS, Finding, findings
from lm_eval_prune.paper.wording import claim_text
from lm_eval_prune.report.agreement import agreement_sentences
from lm_eval_prune.report.chance import diluted
from lm_eval_prune.report.figures.form import Figure
from lm_eval_prune.report.runs import Problem
from lm_eval_prune.report.vega import start_bundling, why_no_charts

__all__ = ["FORMAT", "PaperReport", "Part", "paper_report"]

FORMAT = "lm-eval-prune-paper"
OF_PARTS = {"figure-5": "heads", "figure-6": "ffns", "figure-7": "combined", "figure-9": "transfer",
            "figure-9d": "unseen"}  # fmt: skip
"""Section -> the board whose notes are its own."""


@dataclass(frozen=True)
class Part:
    """A section of the paper with what this run says to it."""

    section: Section
    findings: Sequence[Finding]
    figures: Sequence[Figure]
    tables: Sequence[Table]
    notes: Sequence[str]
    command: str
    """That makes what is lacking; empty where nothing is."""

    @property
    def has_data(self) -> bool:
        return bool(self.tables)


@dataclass(frozen=True)
class PaperReport:
    """What the folder says to the paper, and the files that say so."""

    folder: Path
    model: str
    parts: Sequence[Part]
    problems: Sequence[Problem] = ()
    paths: Sequence[Path] = field(default=())

    @property
    def findings(self) -> list[Finding]:
        return [finding for part in self.parts for finding in part.findings]

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> number of claims, in the order of VERDICTS; none that no claim has."""
        counted = Counter(finding.verdict for finding in self.findings)
        return {verdict: counted[verdict] for verdict in VERDICTS if counted[verdict]}


def paper_report(folder: str | os.PathLike[str], output_path: str | os.PathLike[str] | None = None) -> PaperReport:
    """Read everything below `folder`, and write paper.html and paper.json to `output_path`, or else to the folder.

    Computes no cell. Without the packages of the extra `report` there are no charts, and a problem says so. Raises
    PruneError.
    """
    from lm_eval_prune.paper.page import write_page

    missing = why_no_charts()
    if not missing:
        start_bundling()
    evidence = read_evidence(Path(folder))
    figures: dict[str, list[Figure]] = {}
    try:
        if missing:
            raise ChartError(missing)
        from lm_eval_prune.paper.figures import paper_figures

        figures = paper_figures(evidence)
        start_bundling().result()
    except ChartError as error:
        figures = {}
        evidence.problems.append(Problem("no charts on the page", str(error)))
    report = PaperReport(Path(folder), evidence.model, _parts(evidence, figures), evidence.problems)
    place = Path(folder if output_path is None else output_path)
    write_json(place / "paper.json", nested(report))
    write_bytes(place / "paper.html", write_page(report).encode(errors="backslashreplace"))
    paths = [place / "paper.html", place / "paper.json"]
    return PaperReport(report.folder, report.model, report.parts, report.problems, paths)


def _parts(evidence: Evidence, figures: dict[str, list[Figure]]) -> list[Part]:
    found, tables = findings(evidence), paper_tables(evidence)
    computed = set(evidence.settings.get("num_fewshot") or ())
    parts = []
    for section in SECTIONS:
        own = [finding for finding in found if finding.claim.section == section.key]
        there = tables.get(section.key, [])
        lacking = [finding.claim for finding in own if finding.verdict == NO_DATA]
        shots = sorted({number for claim in lacking for number in claim.shots} - computed) if there else []
        command = command_for(section.key, evidence, shots) if lacking or not there else ""
        notes = _notes(evidence, section.key)
        parts.append(Part(section, own, figures.get(section.key, []), there, notes, command))
    return parts


def _notes(evidence: Evidence, section: str) -> list[str]:
    if section == "figure-8":
        return agreement_sentences([family for family in evidence.families if family.kind == "tasks"])
    part = OF_PARTS.get(section, "")
    if part not in evidence.boards:
        return []
    return [*evidence.notes[part], *diluted(evidence.boards[part])]


def nested(report: PaperReport) -> dict[str, Any]:
    """The report as JSON values: numbers unrounded, None for what is unknown."""
    return {
        "format": FORMAT,
        "version": 1,
        "model": report.model,
        "verdicts": report.counts,
        "sections": [_nested_part(part) for part in report.parts],
        "problems": [problem._asdict() for problem in report.problems],
    }


def _nested_part(part: Part) -> dict[str, Any]:
    return {
        "key": part.section.key,
        "number": part.section.number,
        "title": part.section.title,
        "paper": part.section.found,
        "has_data": part.has_data,
        "claims": [_nested_finding(finding) for finding in part.findings],
        "tables": [
            {
                "title": table.title,
                "header": table.header,
                "rows": [[_clean(value) for value in row] for row in table.rows],
            }
            for table in part.tables
        ],
        "figures": [{"name": figure.name, "title": figure.title} for figure in part.figures],
        "notes": list(part.notes),
        "command": part.command or None,
    }


def _nested_finding(finding: Finding) -> dict[str, Any]:
    claim, found = finding.claim, finding.measured
    return {
        "key": claim.key,
        "claim": claim_text(claim),
        "quantity": claim.quantity,
        "where": dict(claim.where),
        "relation": claim.relation,
        "threshold": claim.threshold,
        "checked": claim.checked or UNCHECKED,
        "not_the_papers": claim.ours or None,
        "value": found and _clean(found.value),
        "low": found and _clean(found.low),
        "high": found and _clean(found.high),
        "over": found and found.basis,
        "count": found and found.count,
        "note": found and found.note,
        "verdict": finding.verdict,
        "why": finding.why or None,
    }


def _clean(value: Any) -> Any:
    """None for what is no finite number, which JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
