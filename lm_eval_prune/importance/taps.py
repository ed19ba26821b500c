"""Where heads' and FFNs' outputs show up in a pass, and what is added up of their gradients there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from lm_eval_prune.errors import ScoreError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["UNQUANTISED", "Taps"]

UNQUANTISED = "where weights are quantised, take the scores from the model before quantising"


class Taps:
    """Where the outputs of a kind of component show up, and how their share of a gradient is added up."""

    def __init__(
        self, modules: Sequence[nn.Module | None], kept: Sequence[Sequence[int]], per_layer: int, *, of_input: bool
    ) -> None:
        """`kept` are the components of each layer that are there, side by side, out of `per_layer`."""
        self.modules = modules
        self.kept = kept
        self.there = [layer for layer, components in enumerate(kept) if components]
        self.per_layer = per_layer
        self.of_input = of_input
        self.checkpointing = False
        """Whether one layer's graph is kept at a time."""
        self.means: list[Tensor] | None = None
        """Layer -> what is taken off its outputs."""
        self.scale: float | None = None
        """The loss scale that the last float16 batch was computed with."""
        self.leaves: list[Tensor] = []
        """Where the graph begins: layer 0's outputs, and those that a mask has replaced by zeros."""
        self.outputs: dict[int, Tensor] = {}
        """Layer -> its outputs; only while explaining."""
        self.sums: dict[int, Tensor] = {}
        """Layer -> (batch, components): |<gradient, output>| summed over tokens."""
        self.gradients: dict[int, Tensor] = {}
        """Layer -> the largest absolute gradient; only while explaining."""

    def forget(self) -> None:
        """Let go of what a pass has left."""
        self.leaves, self.outputs, self.sums, self.gradients = [], {}, {}, {}

    @contextmanager
    def attached(self, batch_size: int, *, explaining: bool = False) -> Iterator[None]:
        """Watch one forward and backward pass over `batch_size` examples."""
        self.outputs, self.sums, self.gradients = {}, {}, {}
        with self.tapped(range(len(self.modules)), batch_size, explaining=explaining):
            yield

    @contextmanager
    def tapped(self, layers: Sequence[int], batch_size: int, *, explaining: bool = False) -> Iterator[None]:
        """The same for some layers of a pass, beside what was seen of it before."""
        self.leaves = []
        with ExitStack() as hooks:
            for layer in layers:
                module = self.modules[layer]
                if module is None:
                    continue
                tap = partial(self._tap, layer, batch_size, explaining)
                if self.of_input:
                    hook = module.register_forward_pre_hook(lambda module, args, tap=tap: (tap(args[0]), *args[1:]))
                else:
                    hook = module.register_forward_hook(lambda module, args, output, tap=tap: tap(output))
                hooks.enter_context(hook)
            yield

    def _tap(self, layer: int, batch_size: int, explaining: bool, output: Tensor) -> Tensor:
        if not output.requires_grad:
            output = output.detach().requires_grad_()
            self.leaves.append(output)
        values = output.detach()
        if explaining:
            self.outputs[layer] = values

        mean = 0.0 if self.means is None else self.means[layer].to(values.device)

        def add_up(gradient: Tensor | None) -> None:
            if gradient is None:
                raise ScoreError(f"layer {layer}: no gradient comes through the layers behind it; {UNQUANTISED}")
            product = gradient.float() * (values.float() - mean)
            kept = list(self.kept[layer])
            by_component = product.view(batch_size, -1, len(kept), values.shape[-1] // len(kept))
            sums = by_component.sum(-1).abs().sum(1)
            self.sums[layer] = sums.new_zeros(batch_size, self.per_layer)
            self.sums[layer][:, kept] = sums
            if explaining:
                self.gradients[layer] = gradient.abs().amax()

        output.register_hook(add_up)
        return output
