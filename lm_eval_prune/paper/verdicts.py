"""Does a claim hold in this run? Said of its interval, never of its number alone."""

from __future__ import annotations

import math
from typing import NamedTuple

from lm_eval_prune.paper.claims import CLAIMS, Claim
from lm_eval_prune.paper.evidence import Evidence
from lm_eval_prune.paper.measuring import Measured
from lm_eval_prune.paper.quantities import QUANTITIES, measured

__all__ = ["CANNOT_BE_TOLD", "FAILS", "HOLDS", "NO_DATA", "VERDICTS", "Finding", "findings", "verdict_of"]

HOLDS = "holds"
FAILS = "does not hold"
CANNOT_BE_TOLD = "cannot be told"
NO_DATA = "no data"
VERDICTS = (HOLDS, FAILS, CANNOT_BE_TOLD, NO_DATA)


class Finding(NamedTuple):
    """A claim, what this run says to it, and the verdict."""

    claim: Claim
    measured: Measured | None
    verdict: str
    """One of VERDICTS."""
    why: str = ""
    """Why it cannot be told."""

    @property
    def quantity(self) -> str:
        """What was measured, as a table calls it."""
        return QUANTITIES[self.claim.quantity].name


def findings(evidence: Evidence) -> list[Finding]:
    """Every claim, in the paper's order."""
    return [finding_of(claim, measured(evidence, claim.quantity, claim.where, claim.threshold)) for claim in CLAIMS]


def finding_of(claim: Claim, found: Measured | None) -> Finding:
    """The claim judged."""
    return Finding(claim, found, *(verdict_of(claim, found) if found else (NO_DATA, "")))


def verdict_of(claim: Claim, found: Measured) -> tuple[str, str]:
    """(verdict, why it cannot be told): it holds where the whole interval is on the threshold's right side.

    It does not hold where the whole interval is on the other one. An obstacle (a dense model at chance, documents too
    few for the threshold) keeps a claim from holding, not from failing.
    """
    if math.isnan(found.low):
        return CANNOT_BE_TOLD, f"no interval over so few {found.basis}: {found.count}"
    at_most = claim.relation == "at most"
    right = found.high <= claim.threshold if at_most else found.low > claim.threshold
    wrong = found.low > claim.threshold if at_most else found.high <= claim.threshold
    if wrong:
        return FAILS, ""
    if right and not found.obstacle:
        return HOLDS, ""
    return CANNOT_BE_TOLD, found.obstacle or f"with so many {found.basis}: {found.count:,}"
