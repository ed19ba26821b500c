"""Every error that is raised on purpose.

    PruneError                 base; the command line prints it as one line, without a traceback, exit code 2
    |-- FileFormatError        a file is missing, too large, not JSON, or not of the documented format
    |-- MaskError              heads or FFNs that do not exist, are repeated, or are no integers
    |   `-- MaskShapeError     a mask or scores for another number of layers or heads
    |-- FractionError          a share of components outside 0 to 1, or not a number
    |-- ArgumentError          model arguments that are missing, or that exclude one another
    |-- ExampleError           calibration examples that are missing, malformed, or have no gold answer
    |-- ChartError             the charts' library ended, or cannot draw a figure
    |-- ScoreError             scores that cannot be computed (not finite, no gradient), compared or aggregated
    `-- UnsupportedModelError  a model whose heads and FFNs this package cannot find

Messages are one line: what was wrong, where, and what would be right.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "ChartError",
    "ExampleError",
    "FileFormatError",
    "FractionError",
    "MaskError",
    "MaskShapeError",
    "PruneError",
    "ScoreError",
    "UnsupportedModelError",
]


LONGEST = 2000
"""Characters of a message. What a stranger's file holds may have any length, and a message may repeat it."""
END = 500


class PruneError(ValueError):
    """Base of every error raised on purpose. A message of more than LONGEST characters is cut in its middle."""

    def __init__(self, message: str = "") -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST - END]} [...] {message[-END:]}"
        super().__init__(message)


class FileFormatError(PruneError):
    """A file cannot be read as what it should be."""


class MaskError(PruneError):
    """A mask names heads or FFNs that cannot be."""


class MaskShapeError(MaskError):
    """A mask or scores do not fit the model's layers and heads."""


class FractionError(PruneError):
    """A share of components is not a number from 0 to 1."""


class ArgumentError(PruneError):
    """Arguments are missing or contradict one another."""


class ExampleError(PruneError):
    """Calibration examples are missing, malformed, or have no gold answer."""


class ChartError(PruneError):
    """Figures cannot be drawn."""


class ScoreError(PruneError):
    """Scores cannot be computed, compared or aggregated."""


class UnsupportedModelError(PruneError):
    """The model's family is not supported."""
