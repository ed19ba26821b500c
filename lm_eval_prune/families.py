"""Which decoders are supported, found out by trying: a tiny random model of each type that transformers has.

A type is proven (tests hold it to computations of their own), accepted (its model passes the proof that is made of
every such model when it is loaded), or refused with the reason. What works in it is what a tiny model was seen to do.
"""

from __future__ import annotations

import importlib.metadata
import logging
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import PruneError, UnsupportedModelError
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ABILITIES", "FamilyRow", "as_markdown", "as_record", "survey", "try_type"]

FORMAT, VERSION = "lm-eval-prune-families", 1
SECONDS = 120
"""Time for one type; beyond, its process is ended."""
TOKENS = 24
MARK = {True: "yes", False: "no"}


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """What was found of one model type."""

    model_type: str
    status: str
    """proven, accepted, refused; or untried, where no tiny model of it can be made."""
    reason: str = ""
    """Why it is refused or untried, in one line."""
    heads_per_group: int = 0
    """Query heads that share keys and values in the tiny model; 0 where it is not supported."""
    works: dict[str, bool] = field(default_factory=dict)
    """Each of `ABILITIES`."""
    notes: dict[str, str] = field(default_factory=dict)
    """Why what does not work does not."""


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
                row = FamilyRow(model_type=model_type, status="refused", reason=row)
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
        heads_per_group=decoder.num_attention_heads // decoder.num_key_value_heads,
        works={name: name not in notes for name in ABILITIES},
        notes=notes,
    )


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
            _line(f"`{row.model_type}`", row.status, *(MARK[row.works[name]] for name in ABILITIES)) for row in known
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


# -- what a model can do ----------------------------------------------------------------------------------------------


def _ids(count: int = TOKENS, seed: int = 0) -> list[int]:
    import torch

    from lm_eval_prune.decoders.tiny import VOCABULARY

    generator = torch.Generator().manual_seed(seed)
    return (5 + torch.randperm(VOCABULARY - 6, generator=generator)[:count]).tolist()


def _mask(model: Any) -> PruningMask:
    from lm_eval_prune.decoders import shape_of

    layers, heads = shape_of(model.config)
    return PruningMask(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pruned_heads={0: (0,), layers - 1: tuple(range(heads))},
        pruned_ffns=(layers // 2,),
    )


def _logits(model: Any) -> Tensor:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([_ids()]), use_cache=False).logits


def _masks(model: Any) -> None:
    """A mask changes the logits, and is gone afterwards."""
    from lm_eval_prune.ablation import masked

    dense = _logits(model)
    with masked(model, _mask(model)):
        _require(not _equal(_logits(model), dense), "a mask changes nothing")
    _require(_equal(_logits(model), dense), "a mask leaves something behind")


def _generation(model: Any) -> None:
    """Under a mask, the last token's logits are the same with a cache as without."""
    import torch

    from lm_eval_prune.ablation import masked
    from lm_eval_prune.compaction.trial import behind_cache

    ids = torch.tensor([_ids()])
    with masked(model, _mask(model)), torch.no_grad():
        found = list(behind_cache(model, ids, 1))
        _require(bool(found), "it has no cache of keys and values")
        _require(_equal(found[0][:, -1], _logits(model)[:, -1]), "with a cache the logits are others")


def _gradients(model: Any) -> None:
    from lm_eval_prune.importance.gradient import head_importance

    scores = head_importance(model, [(_ids(), _ids(3, seed=1))])
    _require(bool(scores.isfinite().all() and (scores > 0).any()), "no scores")


def _packed(model: Any) -> None:
    """The packed scorer gives the log-likelihood that the model gives."""
    from lm_eval_prune.ablation import masked
    from lm_eval_prune.scoring.scorer import score

    context, continuation = _ids()[:-2], _ids()[-2:]
    (answers,) = score(model, [(context, continuation)], [_mask(model)])
    with masked(model, _mask(model)):
        rows = _logits(model)[0, -3:-1].log_softmax(-1)
    expected = sum(float(row[token]) for row, token in zip(rows, continuation, strict=True))
    _require(abs(answers[0].log_likelihood - expected) < 1e-3, "other log-likelihoods than the model's")


def _induction(model: Any) -> None:
    from lm_eval_prune.induction import prefix_matching_scores

    scores = prefix_matching_scores(model, [_ids(10)], repeats=2, bos_token_id=3)
    _require(bool(scores.isfinite().all() and (scores > 0).any()), "no scores")


def _compaction(model: Any) -> None:
    """The compacted model has the masked one's logits, and fewer parameters."""
    from lm_eval_prune.ablation import masked
    from lm_eval_prune.compaction.memory import compact

    smaller = compact(model, _mask(model))
    with masked(model, _mask(model)):
        _require(_equal(_logits(smaller), _logits(model)), "other logits than the masked model's")
    _require(smaller.num_parameters() < model.num_parameters(), "nothing is gone")


def _plan(model: Any) -> None:
    """Parameters are counted as the model has them."""
    from lm_eval_prune.decoders.skeleton import empty_model, products, skeleton_of

    counted = sum(parameter.numel() for parameter in empty_model(model.config).parameters())
    _require(counted == model.num_parameters() and products(skeleton_of(model.config)) > 0, "other parameters")


def _require(right: bool, wrong: str) -> None:
    if not right:
        raise UnsupportedModelError(wrong)


def _equal(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-4 * (1 + expected.abs().max()))


ABILITIES: dict[str, Callable[[Any], None]] = {
    "masks": _masks,
    "generation": _generation,
    "gradient importance": _gradients,
    "packed scoring": _packed,
    "induction": _induction,
    "compaction": _compaction,
    "plan": _plan,
}
"""What is tried of a supported model; each raises where it does not work."""


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
