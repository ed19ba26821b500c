"""The harness's response cache, made safe: one cache file holds each pruned model's answers apart.

`--use_cache` keys an answer by the request's text alone, so a second mask with the same cache file would be served the
first one's answers. Each of our models therefore reads and writes a table of its own inside the file, named by a hash
of everything that decides an answer (`fingerprint.py`), taken anew for each batch of requests: a program may have given
the model another mask or other weights since. Answers are stored as JSON, so that reading a file runs no code from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lm_eval_prune.harness.fingerprint import loaded_fingerprint
from lm_eval_prune.scoring.finite import require_finite

if TYPE_CHECKING:
    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["OwnAnswers", "point_at_own_answers"]


class OwnAnswers:
    """A method that answers requests, behind the cache: before it is called, the model's own table is opened.

    The harness looks the method up on the model at the start of every batch, before it asks the cache.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method

    def __get__(self, lm: PrunedModel | None, owner: type) -> Any:
        if lm is None:
            return self.method
        point_at_own_answers(lm.cache_hook, lm)
        return self.method.__get__(lm, owner)


def point_at_own_answers(cache_hook: Any, lm: PrunedModel) -> None:
    """Point the cache behind `cache_hook` (and the `CachingLM` that shares it) at this model's own table."""
    database = getattr(cache_hook, "dbdict", None)
    if database is None:
        return
    table = f"pruned_opt_{loaded_fingerprint(lm)[:32]}"
    if database.tablename == table:
        return
    database.tablename = table
    database.encode, database.decode = _encoded, _decoded
    database.conn.execute(f'CREATE TABLE IF NOT EXISTS "{table}" (key TEXT PRIMARY KEY, value BLOB)')
    database.conn.commit()


def _encoded(answer: Any) -> str:
    """Raises ScoreError: what is no number would be served to later runs, unlooked at."""
    first = answer[0] if isinstance(answer, tuple | list) else answer
    if isinstance(first, float):
        require_finite([first], "--use_cache")
    return json.dumps(answer)


def _decoded(value: Any) -> Any:
    answer = json.loads(value)
    return tuple(answer) if isinstance(answer, list) else answer
