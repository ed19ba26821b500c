"""Induction scores of a harness model, from seeded sequences to files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.ablation import masked
from lm_eval_prune.decoders import trunk_of
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.files import json_line, require_ours, require_writable
from lm_eval_prune.harness.importance import processes_of
from lm_eval_prune.harness.model_record import model_record
from lm_eval_prune.harness.per_task import finished
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.induction import COPYING_DEFINITIONS, copying_scores, prefix_matching_scores
from lm_eval_prune.sequences import FIRST_LENGTH, NUM_SEQUENCES, fitting_lengths, random_sequences, ranked_tokens

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["InductionConfig", "compute_induction", "finished_prefix_matching", "prefix_matching_of", "sequence_lengths"]

TIMES = {"copying-bansal2023": 4}
"""How much longer than 25, 27, ... tokens sequences are: Algorithm 2 of Bansal et al. takes 100 to 892 for copying."""


@dataclass(frozen=True, kw_only=True)
class InductionConfig:
    """What to compute; checked when made. Raises ArgumentError."""

    output_path: Path
    """Folder of the files."""
    num_sequences: int = NUM_SEQUENCES
    """Of 25, 27, ... tokens, and four times as many for copying by `bansal2023`; fewer where the model or the
    vocabulary is too small."""
    repeats: int = 4
    definition: str = "olsson2022"
    """Of copying, one of `induction.COPYING_DEFINITIONS`."""
    seed: int = 1234
    overwrite: bool = False
    model: Mapping[str, Any] | None = None
    """As `ImportanceConfig.model`."""

    def __post_init__(self) -> None:
        if self.definition not in COPYING_DEFINITIONS:
            known = ", ".join(COPYING_DEFINITIONS)
            raise ArgumentError(f"definition {self.definition!r}: unknown; expected one of {known}")


def compute_induction(config: InductionConfig, load_model: Callable[[], PrunedModel]) -> Iterator[tuple[Path, bool]]:
    """Write `prefix-matching.json` and `copying-<definition>.json`; yields each path, and whether it was computed.

    The files hold means over the sequences, `"variance"` beside them (of the sample). A mask in the model's arguments
    counts. Raises PruneError.
    """
    lm: PrunedModel | None = None
    for method in ("prefix-matching", f"copying-{config.definition}"):
        path = config.output_path / f"{method}.json"
        if path.exists() and not config.overwrite:
            _require_same(config, method, path)
            yield path, False
            continue
        require_ours(path)
        if lm is None:
            require_writable(config.output_path)
            lm = load_model()
        scores = _measured(config, lm, method)
        if scores is not None:
            scores.save(path)
        yield path, True


def prefix_matching_of(config: InductionConfig, lm: PrunedModel) -> ImportanceScores | None:
    """The scores that `prefix-matching.json` holds, as a value; None in all processes but the first."""
    return _measured(config, lm, "prefix-matching")


def finished_prefix_matching(config: InductionConfig, hint: str) -> ImportanceScores:
    """The same from the file that is there. Raises PruneError, which ends in `hint`, where it is another's."""
    return _require_same(config, "prefix-matching", config.output_path / "prefix-matching.json", hint)


def sequence_lengths(config: InductionConfig, lm: PrunedModel, method: str = "prefix-matching") -> list[int]:
    """Tokens of each sequence that is drawn, before it is repeated."""
    trunk, times = trunk_of(lm.model), TIMES.get(method, 1)
    ranked = ranked_tokens(lm.tokenizer, trunk.vocab_size)
    repeats = config.repeats if times == 1 else 1
    return fitting_lengths(ranked, trunk.max_length, repeats, config.num_sequences, times=times)


def _measured(config: InductionConfig, lm: PrunedModel, method: str) -> ImportanceScores | None:
    ranked = ranked_tokens(lm.tokenizer, trunk_of(lm.model).vocab_size)
    lengths = sequence_lengths(config, lm, method)
    processes = processes_of(lm)
    sequences = random_sequences(ranked, lengths, config.seed)
    common: dict[str, Any] = {"bos_token_id": lm.prefix_token_id, "progress": processes.rank == 0}
    mine = list(range(len(sequences)))[processes.rank :: processes.world_size]
    shape = lm.mask.shape
    scores = torch.zeros(len(sequences), *shape, dtype=torch.float64)
    if mine:
        own = [sequences[index] for index in mine]
        with masked(lm.model, lm.mask):
            if method == "prefix-matching":
                scores[mine] = prefix_matching_scores(lm.model, own, repeats=config.repeats, **common).double()
            else:
                scores[mine] = copying_scores(lm.model, own, definition=config.definition, **common).double()
    scores = processes.sum(scores) * lm.mask.head_mask  # a pruned head does nothing, however it would attend
    settings: dict[str, Any] = {
        "method": method,
        **model_record(lm),
        "seed": config.seed,
        "num_sequences": len(sequences),
        "num_sequences_wanted": config.num_sequences,
        "lengths": lengths,
        "bos_token_id": lm.prefix_token_id,
        "variance": scores.var(0, correction=1).nan_to_num(0).tolist(),
    }
    if method == "prefix-matching":
        settings["repeats"] = config.repeats
    if processes.rank > 0:
        return None
    return ImportanceScores.from_tensor(scores.mean(0), num_attention_heads=shape[1], settings=settings)


def _require_same(
    config: InductionConfig, method: str, path: Path, hint: str = "--overwrite computes it again"
) -> ImportanceScores:
    asked: dict[str, Any] = {"method": method, "seed": config.seed, "num_sequences_wanted": config.num_sequences}
    if method == "prefix-matching":
        asked["repeats"] = config.repeats
    found = finished(path, lambda path: ImportanceScores.load(path, "heads"), asked, config.model, hint)
    first = TIMES.get(method, 1) * FIRST_LENGTH
    if (lengths := found.settings.get("lengths")) and lengths[0] != first:
        raise ArgumentError(
            f"{path}: computed on sequences from {json_line(lengths[0])} tokens on, now {first}; {hint}"
        )
    return found
