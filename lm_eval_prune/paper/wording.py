"""How findings are worded, the same on the page and in the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from lm_eval_prune.paper.claims import Claim
from lm_eval_prune.paper.measuring import Measured
from lm_eval_prune.paper.verdicts import CANNOT_BE_TOLD, FAILS, HOLDS, NO_DATA, Finding
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.wording import fixed

__all__ = ["MARKS", "READING", "SIGNS", "claim_text", "number_of", "told"]

MARKS = {HOLDS: "holds", FAILS: "fails", CANNOT_BE_TOLD: "open", NO_DATA: "none"}
"""Verdict -> its style on the page."""
SIGNS = {HOLDS: "✓", FAILS: "✗", CANNOT_BE_TOLD: "?", NO_DATA: "–"}
"""Verdict -> its sign, where there is little room."""
COUNTED = {HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold"),
           CANNOT_BE_TOLD: ("cannot be told", "cannot be told"), NO_DATA: ("has no data", "have no data")}  # fmt: skip
READING = (
    "A claim holds where the whole 95 % interval is on the right side of its threshold, and does not hold where the "
    "whole interval is on the other; otherwise it cannot be told with so many documents (tasks, sequences). Each claim "
    "is judged by itself: of forty that are on their thresholds, one would be wrong by chance."
)
DIGITS = 3


def number_of(found: Measured) -> str:
    """`0.047 [0.009, 0.085]`."""
    value = fixed(found.value, DIGITS)
    return value if math.isnan(found.low) else f"{value} [{fixed(found.low, DIGITS)}, {fixed(found.high, DIGITS)}]"


def told(found: Iterable[Finding]) -> str:
    """`2 hold, 1 does not hold`; empty without claims."""
    counts = Counter(finding.verdict for finding in found)
    counted = [(counts[verdict], words) for verdict, words in COUNTED.items()]
    return ", ".join(f"{count} {words[count > 1]}" for count, words in counted if count)


def claim_text(claim: Claim) -> str:
    """The claim with its number of shots."""
    return claim.text if claim.num_fewshot is None else f"{shots_name(claim.num_fewshot)}: {claim.text}"
