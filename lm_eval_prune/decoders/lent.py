"""What computes something else, or is something else, for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["emptied", "evaluating", "for_now", "lent"]


@contextmanager
def lent(methods: Iterable[tuple[nn.Module, Callable[..., Any]]], name: str = "forward") -> Iterator[None]:
    """Inside, modules compute what is given for each, in the place of their `forward`, or of another method. Hooks run
    as ever."""
    before: list[tuple[nn.Module, Any]] = []
    try:
        for module, method in methods:
            before.append((module, vars(module).get(name)))
            setattr(module, name, method)
        yield
    finally:
        for module, own in reversed(before):
            if own is None:
                delattr(module, name)
            else:
                setattr(module, name, own)


@contextmanager
def for_now(objects: Iterable[Any], name: str, value: object) -> Iterator[None]:
    """Inside, the attribute `name` of each of `objects` is `value`."""
    before = [(each, getattr(each, name)) for each in objects]
    try:
        for each, _ in before:
            setattr(each, name, value)
        yield
    finally:
        for each, own in before:
            setattr(each, name, own)


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """A block in which every module of `model` is in evaluation mode."""
    return for_now(model.modules(), "training", False)


@contextmanager
def emptied(*tensors: Tensor) -> Iterator[None]:
    """Inside, the numbers in `tensors` are zeros; without gradients."""
    before = [each.clone() for each in tensors]
    try:
        for each in tensors:
            each.zero_()
        yield
    finally:
        for each, values in zip(tensors, before, strict=True):
            each.copy_(values)
