"""A harness model whose answers are there already: the harness evaluates them as if it had asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import LM

from lm_eval_prune.importance.processes import Processes

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from lm_eval_prune.harness.model import PrunedModel

__all__ = ["Replay", "Responses", "in_step"]

Responses = list[list[Any]]
"""What the model answered to each request of a document, in order; one or, where a request is repeated, more."""


class Replay(LM):
    """A harness model whose log-likelihoods have been computed; other requests go to the model itself."""

    def __init__(
        self, lm: PrunedModel, answers: Sequence[tuple[float, bool]] | None, known: Mapping[int, Responses]
    ) -> None:
        """`answers` are to the requests of which nothing is `known`, in order."""
        super().__init__()
        self._lm, self._answers, self._known = lm, answers, known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    @property
    def rank(self) -> int:
        return self._lm.rank

    @property
    def world_size(self) -> int:
        return self._lm.world_size

    def barrier(self) -> None:
        self._lm.barrier()

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._lm.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> Any:
        return self._lm.gather_object(obj, dst)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        if self._known:
            return self._grown(
                requests, lambda new: self._computed(new) if self._answers is None else list(self._answers)
            )
        if self._answers is None:
            return self._computed(requests)
        # With several processes the harness repeats the last request, so that all have as many.
        return [*self._answers, *[self._answers[-1]] * (len(requests) - len(self._answers))]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self._grown(requests, lambda new: self._lm.loglikelihood_rolling(new, disable_tqdm=True))

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._grown(requests, lambda new: self._lm.generate_until(new, disable_tqdm=True))

    def _computed(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        with in_step(self._lm):
            return self._lm.loglikelihood(requests, disable_tqdm=True)

    def _grown(self, requests: list[Instance], compute: Callable[[list[Instance]], list[Any]]) -> list[Any]:
        """What is known, and what is computed of the rest. A request that is repeated stands there as often."""
        known: dict[int, Iterator[Any]] = {}
        by_document: dict[int, list[Instance]] = {}
        for request in requests:
            if request.doc_id in self._known and id(request) not in known:
                known[id(request)] = iter(())
                by_document.setdefault(request.doc_id, []).append(request)
        for number, own in by_document.items():
            ordered = sorted(own, key=lambda request: request.idx)
            for request, responses in zip(ordered, self._known[number], strict=True):
                known[id(request)] = iter([_as_answered(response) for response in responses])
        new = [request for request in requests if id(request) not in known]
        computed = iter(compute(new) if new else [])
        return [next(known.get(id(request), computed)) for request in requests]


def _as_answered(response: Any) -> Any:
    """A response as a model gives it, which JSON has as a list."""
    return tuple(response) if isinstance(response, list) else response


@contextlib.contextmanager
def in_step(lm: PrunedModel) -> Iterator[None]:
    """An error in one of several processes is raised in all: those without it would wait for that one for ever."""
    error: Exception | None = None
    try:
        yield
    except Exception as raised:  # of any kind: it is raised again below
        error = raised
    failed = Processes.current().sum(torch.tensor(float(error is not None))) if lm.world_size > 1 else error is not None
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("another process of this launch failed at it")
