"""Which decoders are supported, found out by trying: a tiny random model of each type that transformers has.

A type is proven (tests hold it to computations of their own), accepted (its model passes the proof that is made of
every such model when it is loaded), or refused with the reason. What works in it is what a tiny model was seen to do.
"""

from __future__ import annotations

import importlib.metadata
import logging
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from lm_eval_prune.abilities import ABILITIES
from lm_eval_prune.errors import PruneError, UnsupportedModelError
from lm_eval_prune.text import one_line

__all__ = ["FamilyRow", "as_markdown", "as_record", "survey", "try_type"]

FORMAT, VERSION = "lm-eval-prune-families", 1
SECONDS = 120
"""Time for one type; beyond, its process is ended."""
MARK = {True: "yes", False: "no"}


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """What was found of one model type."""

    model_type: str
    status: str
    """proven, accepted, refused; or untried, where no tiny model of it can be made, or not in time."""
    needs: str = ""
    """What a checkpoint of its usual settings must be told to be taken; else it is loaded as another kind of model."""
    reason: str = ""
    """Why it is refused or untried, in one line."""
    heads_per_group: int = 0
    """Query heads that share keys and values in the tiny model; 0 where it is not supported."""
    works: dict[str, bool] = field(default_factory=dict)
    """Each of `ABILITIES`."""
    notes: dict[str, str] = field(default_factory=dict)
    """Why what does not work does not."""

    @property
    def told_status(self) -> str:
        """The status, and on what condition."""
        return f"{self.status} with {self.needs}" if self.needs else self.status


def survey(model_types: Sequence[str], *, seconds: float = SECONDS) -> Iterator[FamilyRow]:
    """A row for each type, in order, each tried in a process that is ended after `seconds`."""
    worker: _Worker | None = None
    try:
        for model_type in model_types:
            worker = worker or _Worker()
            row = worker.row(model_type, seconds)
            if isinstance(row, str):
                worker.process.kill()
                worker = None
                row = FamilyRow(model_type=model_type, status="untried", reason=row)
            yield row
    finally:
        if worker is not None:
            worker.end()


def try_type(model_type: str) -> FamilyRow:
    """The row of one type, found in this process."""
    from lm_eval_prune.decoders import decoder_of
    from lm_eval_prune.decoders.table import PROVEN, REFUSED
    from lm_eval_prune.decoders.tiny import tiny_model

    if model_type in REFUSED:
        return FamilyRow(model_type=model_type, status="refused", reason=REFUSED[model_type])
    try:
        model = tiny_model(model_type)
    except UnsupportedModelError as error:
        return FamilyRow(model_type=model_type, status="untried", reason=_reason(error, model_type))
    try:
        decoder = decoder_of(model)
    except UnsupportedModelError as error:
        return FamilyRow(model_type=model_type, status="refused", reason=_reason(error, type(model).__name__))
    notes: dict[str, str] = {}
    for name, ability in ABILITIES.items():
        try:
            ability(model)
        except Exception as error:  # whatever a model of any kind raises: it is what the row tells
            notes[name] = _reason(error, type(model).__name__)
    return FamilyRow(
        model_type=model_type,
        status="proven" if model_type in PROVEN else "accepted",
        needs=_needed(model_type),
        heads_per_group=decoder.num_attention_heads // decoder.num_key_value_heads,
        works={name: name not in notes for name in ABILITIES},
        notes=notes,
    )


def _needed(model_type: str) -> str:
    """What makes a checkpoint of the type's usual settings the decoder that was tried; "" where nothing has to."""
    from lm_eval_prune.decoders.acceptance import require_accepted
    from lm_eval_prune.decoders.tiny import tiny_config

    for told, backend in (("", None), ("backend=causal", "causal")):
        try:
            require_accepted(tiny_config(model_type, as_decoder=False), model_type, backend)
            return told
        except UnsupportedModelError:
            continue
    return "is_decoder=true"


def as_record(rows: Sequence[FamilyRow]) -> dict[str, Any]:
    """The rows as JSON values."""
    return {"format": FORMAT, "version": VERSION, **_versions(), "families": [asdict(row) for row in rows]}


def as_markdown(rows: Sequence[FamilyRow]) -> str:
    """The rows as two tables: what is supported, and what is not."""
    known = [row for row in rows if row.works]
    others = [row for row in rows if not row.works]
    counts = ", ".join(
        f"{sum(row.status == status for row in rows)} {status}"
        for status in ("proven", "accepted", "refused", "untried")
    )
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    lines = [f"{len(rows)} types: {counts} ({versions}).", ""]
    if known:
        lines += [_line("type", "status", *ABILITIES), _line(*["---"] * (2 + len(ABILITIES)))]
        lines += [
            _line(f"`{row.model_type}`", row.told_status, *(MARK[row.works[name]] for name in ABILITIES))
            for row in known
        ]
    if others:
        lines += ["", _line("type", "status", "why"), _line("---", "---", "---")]
        lines += [_line(f"`{row.model_type}`", row.status, row.reason.replace("|", "\\|")) for row in others]
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _versions() -> dict[str, str]:
    names = ("lm-eval-prune", "transformers", "torch")
    return {name.replace("-", "_"): importlib.metadata.version(name) for name in names}


def _reason(error: Exception, name: str) -> str:
    text = one_line(error)
    if not isinstance(error, PruneError):
        text = f"{type(error).__name__}: {text}"
    return text.removeprefix(f"{name}: ").removeprefix("not supported: ")


# -- a process of its own ---------------------------------------------------------------------------------------------


class _Worker:
    """A process that tries types, one after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def row(self, model_type: str, seconds: float) -> FamilyRow | str:
        """The row, or why there is none; then the process is of no more use."""
        try:
            self.connection.send(model_type)
            if not self.connection.poll(seconds):
                return f"a tiny model of it was not done in {seconds:g} seconds"
            found: FamilyRow = self.connection.recv()
            return found
        except (EOFError, OSError):
            return "a tiny model of it ended the process"

    def end(self) -> None:
        """Let it go; at once where it is at work."""
        self.connection.close()
        self.process.join(timeout=2)
        self.process.kill()


def _serve(connection: Connection) -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    while True:
        try:
            connection.send(try_type(connection.recv()))
        except EOFError:
            return
