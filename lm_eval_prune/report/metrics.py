"""What is known of metrics by their names: between which numbers they lie, and which direction is better.

Results files of the harness say the direction from release 0.4.3 on; files of older releases and of tasks that leave it
open do not.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

__all__ = ["Metric", "Range", "known_direction", "range_of"]

ERRORS = {
    "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ppl", "loss", "nll", "mae", "mse", "rmse",
    "wer", "cer", "ter", "brier_score", "ece",
}  # fmt: skip
"""Lower is better: those of the harness's registry (and of 0.3), and errors by their common names."""


class Range(NamedTuple):
    """The numbers that a metric can be."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"at least {self.low:g}" if self.high == math.inf else f"between {self.low:g} and {self.high:g}"


ANY, SHARE, PERCENT = Range(-math.inf, math.inf), Range(0, 1), Range(0, 100)
RANGES = {
    **dict.fromkeys(("em", "exact_match", "mc1", "mc2"), SHARE),
    **dict.fromkeys(("f1", "bleu", "chrf"), PERCENT),  # some tasks give a share of 1, some of 100
    **dict.fromkeys(ERRORS, Range(0, math.inf)),
    **dict.fromkeys(("loss", "nll"), ANY),
    "brier_score": Range(0, 2),
    "mcc": Range(-1, 1),
}


def range_of(name: str) -> Range:
    """Of the metric of this name, without its filter; unknown ones may be any number."""
    if name == "acc" or name.startswith("acc_"):
        return SHARE
    return RANGES.get(name, ANY)


def known_direction(name: str) -> bool | None:
    """Whether higher is better, of a metric without its filter; None for names that say nothing."""
    if name in ERRORS:
        return False
    return True if name in RANGES or range_of(name) is SHARE else None


class Metric(BaseModel):
    """A metric's value and standard error in a results file. Raises pydantic's ValidationError for what cannot be."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: str
    """Without its filter."""
    value: Annotated[float, Field(allow_inf_nan=False)]
    stderr: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None

    @field_validator("value")
    @classmethod
    def _possible(cls, value: float, info: ValidationInfo) -> float:
        limits = range_of(info.data["name"])
        if not limits.low <= value <= limits.high:
            raise ValueError(f"expected a number {limits}")
        return value

    @field_validator("stderr")
    @classmethod
    def _within_range(cls, stderr: float | None, info: ValidationInfo) -> float | None:
        limits = range_of(info.data["name"])
        if stderr is not None and stderr > limits.high - limits.low:
            raise ValueError(f"expected no more than the metric itself can be, {limits}")
        return stderr
