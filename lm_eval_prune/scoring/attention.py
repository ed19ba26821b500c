"""Which tokens of a pack attend to which, as a few small attention calls.

A token attends to itself and to the tokens above it in the trie. One mask over the whole pack would be mostly empty, so
a pack is taken apart: a document's trunk attends causally, and what branches off it attends to the trunk and,
under a small mask, to itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_eval_prune.scoring.packing import Pack
from lm_eval_prune.scoring.trie import Integers

__all__ = ["AttentionCall", "allowed", "asked_calls", "plan", "sees"]

Range = tuple[int, int]

BLOCK = 128
"""Tokens of neighbouring trees or branches that one masked call takes together: more waste arithmetic."""
QUERIES = 512
"""Tokens that one masked call takes at most."""
MAX_DEPTH = 8
"""Branchings below branchings; what lies deeper attends to its whole subtree, under a mask."""


@dataclass(frozen=True)
class AttentionCall:
    """One call: a range of query rows, and the ranges of the pack's tokens that hold its keys and values."""

    queries: Range
    """Rows of the query tensor: the pack's tokens or, in calls from `asked_calls`, its asked-for tokens."""
    keys: tuple[Range, ...]
    """Ascending, and not touching."""
    causal: bool
    """Each query attends to the keys up to its own: queries and keys are the same tokens. Otherwise masked."""


def plan(pack: Pack) -> list[AttentionCall]:
    """The attention of all tokens of `pack`."""
    return _Planner(pack).forest(0, len(pack), ())


def asked_calls(calls: list[AttentionCall], asked: Integers) -> list[AttentionCall]:
    """The calls whose query rows are the tokens `asked` alone; calls that serve none of them are left out."""
    kept = []
    for call in calls:
        start, stop = (int(row) for row in np.searchsorted(asked, call.queries))
        if start < stop:
            whole = stop - start == call.queries[1] - call.queries[0]
            kept.append(AttentionCall((start, stop), call.keys, call.causal and whole))
    return kept


def sees(query: Any, key: Any, ends: Any, positions: Any, window: int | None) -> Any:
    """Whether the pack's token `query` attends to its token `key`, all of them arrays or all tensors: `ends` and
    `positions` are the pack's, `query` and `key` of shapes that go together. A token sees `window` tokens at most."""
    seen = (key <= query) & (query < ends[key])
    return seen if window is None else seen & (positions[query] - positions[key] < window)


def allowed(pack: Pack, queries: Integers, keys: tuple[Range, ...], window: int | None = None) -> np.ndarray:
    """bool [queries, keys]: True where the pack's token `queries[i]` attends to the j-th token of `keys`."""
    tokens = np.concatenate([np.arange(start, stop) for start, stop in keys])
    return np.asarray(sees(queries[:, None], tokens, pack.ends, pack.positions, window))


class _Planner:
    def __init__(self, pack: Pack) -> None:
        self.ends, self.branches = pack.ends, pack.branches

    def forest(self, start: int, stop: int, path: tuple[Range, ...], depth: int = 0) -> list[AttentionCall]:
        """Calls of the sibling subtrees from `start` to `stop`, whose common ancestors are `path`."""
        # A group's own square costs no more than its rectangle over the path: then little of the call is masked out.
        limit = max(BLOCK, min(QUERIES, sum(last - first for first, last in path)))
        calls: list[AttentionCall] = []
        group = start
        while group < stop:
            end = int(self.ends[group])
            if end - group > limit:
                calls += self.tree(group, end, path, depth)
            else:
                while end < stop and self.ends[end] - group <= limit:
                    end = int(self.ends[end])
                calls.append(AttentionCall((group, end), _joined(path, (group, end)), causal=False))
            group = end
        return calls

    def tree(self, start: int, stop: int, path: tuple[Range, ...], depth: int) -> list[AttentionCall]:
        """Calls of one subtree: its trunk up to the first branching, then what branches off."""
        place = np.searchsorted(self.branches, start)
        branch = int(self.branches[place]) + 1 if place < len(self.branches) else stop
        trunk = min(branch, stop) if depth < MAX_DEPTH else stop
        if not path and trunk == min(branch, stop):
            calls = [AttentionCall((start, trunk), ((start, trunk),), causal=True)]
        else:
            calls = [
                AttentionCall((first, last), _joined(path, (start, last)), causal=False)
                for first in range(start, trunk, QUERIES)
                for last in (min(first + QUERIES, trunk),)
            ]
        return calls + self.forest(trunk, stop, _joined(path, (start, trunk)), depth + 1)


def _joined(path: tuple[Range, ...], last: Range) -> tuple[Range, ...]:
    if path and path[-1][1] == last[0]:
        return (*path[:-1], (path[-1][0], last[1]))
    return (*path, last)
