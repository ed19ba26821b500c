"""The proof that a model of a family which no test holds is masked as one is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval_prune.decoders.places import Places

__all__ = ["require_proof"]


def require_proof(places: Places) -> None:
    """Raise UnsupportedModelError where a model that no test holds fails the proof."""


def why_not_packed(places: Places) -> str | None:
    """Why a pack could differ from the model's own pass; None where it does not."""
    return None
