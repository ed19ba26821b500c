"""From the last layer's residual stream to answers: output layer and log-softmax, a slice of positions at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_prune.decoders.forward import DecoderForward
    from lm_eval_prune.scoring.packing import Pack

__all__ = ["OutputLayer"]

MOST_LOGITS = 2**26
"""Logits of a slice at most, positions x vocabulary."""
SOFTMAX_ROWS = 64
"""Positions whose log-softmax a CPU computes at once: the result lies in memory that is used again and again."""


class OutputLayer:
    """Scores what packs ask for."""

    def __init__(self, model: DecoderForward, rows: int, softmax_dtype: torch.dtype | None) -> None:
        """`rows` positions a slice, fewer where the vocabulary is very large.

        Log-softmax in `softmax_dtype` (None: the logits'), float32 at least.
        """
        self.model, self.softmax_dtype = model, softmax_dtype
        self.rows = max(1, min(rows, MOST_LOGITS // model.vocab_size))

    def answers(self, hidden: Tensor, pack: Pack) -> tuple[np.ndarray, np.ndarray]:
        """hidden: [S, hidden_size] at the pack's asked-for tokens, behind the last layer.

        Returns, for each request of the pack, the sum of its log-probabilities and whether it is greedy.
        """
        order = np.argsort(pack.pair_asked, kind="stable")
        values, hits = torch.empty(len(order), dtype=torch.float64), np.empty(len(order), dtype=bool)
        first = 0
        for logits in self._logits(hidden):
            bounds = np.searchsorted(pack.pair_asked, (first, first + len(logits)), sorter=order)
            pairs = order[slice(*bounds)]
            row = torch.from_numpy(pack.pair_asked[pairs] - first).to(logits.device)
            target = torch.from_numpy(pack.pair_targets[pairs]).to(logits.device)
            hits[pairs] = _greedy(logits, row, target).cpu().numpy()
            values[torch.from_numpy(pairs)] = self._log_softmax(logits)[row, target].cpu().double()
            first += len(logits)
        # hf sums in float32, whose steps are 6.1e-5 from 512 on: rounded as well, sums would differ by two of them.
        sums = np.add.reduceat(values.numpy(), pack.pair_starts)
        return sums, np.logical_and.reduceat(hits, pack.pair_starts)

    def _logits(self, hidden: Tensor) -> Iterator[Tensor]:
        """[n, vocab_size] for each of the slices that [S, hidden_size] is taken in."""
        for part in hidden.split(self.rows):
            logits = self.model.logits(part)
            yield from logits.split(SOFTMAX_ROWS if logits.device.type == "cpu" else self.rows)

    def _log_softmax(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1, dtype=torch.promote_types(torch.float32, self.softmax_dtype or logits.dtype))


def _greedy(logits: Tensor, row: Tensor, target: Tensor) -> Tensor:
    """Whether `target` is the likeliest token of its `row`.

    Of equally likely tokens hf calls the first one greedy. In float32 this calls any of them so, since argmax takes
    longer; in half precision, where many are equal, the first.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        return logits.argmax(-1)[row] == target
    return logits[row, target] == logits.amax(-1)[row]
