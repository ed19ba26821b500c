"""Any decoder's forward pass over tokens that lie in no rectangle: its own layers, over a pack as one sequence.

`scoring/` puts the pieces together and says which tokens attend to which. Hidden states are [1, tokens, hidden_size].
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_prune.decoders import removed_from, unwrapped
from lm_eval_prune.decoders.attention import Attention, Handler, attending
from lm_eval_prune.decoders.family import length_dependent, text_config
from lm_eval_prune.decoders.maps import idle, narrowed
from lm_eval_prune.decoders.offloaded import at_hand, device_of
from lm_eval_prune.decoders.places import places_of, width_out
from lm_eval_prune.decoders.plain import KNOWN_ATTENTION, oddity
from lm_eval_prune.decoders.proof import why_unpacked
from lm_eval_prune.decoders.stages import Stage
from lm_eval_prune.decoders.trunk import LayerCall, Trunk
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.means import Means

__all__ = ["DecoderForward", "forward_of", "why_not"]


class DecoderForward:
    """The pieces of a model for which `why_not` finds no reason against."""

    def __init__(self, model: Any, means: Means | None = None) -> None:
        self.means = means
        """What pruned components give; None: nothing."""
        self.trunk = Trunk(unwrapped(model))
        self.places, self.model = self.trunk.places, self.trunk.model
        self.removed: PruningMask = removed_from(self.model.config)
        """What the model lacks: to be added to every mask, since there is nothing of it to compute."""
        self.num_hidden_layers = self.places.num_hidden_layers
        self.num_attention_heads = self.places.num_attention_heads
        self.hidden_size = self.trunk.hidden_size
        self.vocab_size = self.trunk.vocab_size
        widths = [sum(map(width_out, layer.up)) for layer in self.places.layers]
        self.ffn_width: int = max(widths) or getattr(text_config(self.model.config), "intermediate_size", 0) or 0
        """Inner width of an FFN, of all the maps that it begins with."""
        self.stages = self.trunk.stages

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return self.trunk.device

    @property
    def output_device(self) -> torch.device:
        """Where logits are."""
        return device_of(self.trunk.output_layer)

    def embed(self, token_ids: Tensor, positions: Tensor) -> tuple[Tensor, list[LayerCall]]:
        """[N] tokens and how many come before each -> layer 0's input, and what each layer is called with beside."""
        return self.trunk.embed(token_ids[None], positions[None], described=True)

    def at_hand(self, stage: Stage, mask: PruningMask) -> AbstractContextManager[None]:
        """A block in which the weights that `stage` needs under `mask` are there if they are offloaded."""
        left_out = {id(part) for module, _ in idle(self.places, stage, mask) for part in module.modules()}
        parts = (part for part in self.trunk.layers[stage.layer].modules() if id(part) not in left_out)
        return at_hand(*(part for part in parts if list(part.parameters(recurse=False))))

    def run(
        self,
        stage: Stage,
        stream: Tensor,
        calls: Sequence[LayerCall],
        mask: PruningMask,
        handler: Handler,
        *,
        rows: int,
        keys: bool = True,
    ) -> Tensor:
        """The stream behind `stage` under `mask`; `handler` gives the outputs of all heads, pruned ones zero.

        `rows` tokens go through an FFN together: bounds its inner width, and stays in cache. Without `keys` those and
        values are not computed: `handler` has them from elsewhere.
        """
        with (
            narrowed(self.places, stage, mask, keys=keys, ffn_rows=rows, means=self.means),
            attending(self.places, handler),
        ):
            if stage.attention or stream.shape[1] <= rows:
                return self.trunk.layer(stage.layer, stream, calls)
            first, *others = stream.split(rows, 1)
            found = self.trunk.layer(stage.layer, first, calls)
            output = found.new_empty(*stream.shape)
            output[:, :rows] = found
            for number, part in enumerate(others, 1):
                output[:, number * rows : (number + 1) * rows] = self.trunk.layer(stage.layer, part, calls)
            return output

    def attention(self, index: int, stream: Tensor, calls: Sequence[LayerCall], mask: PruningMask) -> Attention:
        """What layer `index` attends with, for its keys and values alone."""
        with narrowed(self.places, Stage(index, ffn=False), mask, queries=False):
            return self.trunk.attention(index, stream, calls)

    def logits(self, hidden: Tensor) -> Tensor:
        """The residual stream [n, hidden_size] behind the last layer -> logits [n, vocab_size]."""
        # As the model has it, and not by `linear`: of all maps, here other last bits show most in a log-likelihood.
        with at_hand(self.trunk.output_layer):
            return self.trunk.logits(hidden[None])[0]


def forward_of(model: nn.Module, means: Means | None = None) -> DecoderForward:
    """What computes packs of `model`, in which what is pruned gives nothing, or its `means`.

    Raises UnsupportedModelError where that could differ from the model itself; MaskShapeError.
    """
    if reason := why_not(model):
        raise UnsupportedModelError(f"the packed scorer computes plain models only: {reason}")
    forward = DecoderForward(model, means)
    if means is not None:
        shape = forward.num_hidden_layers, forward.num_attention_heads
        means.check_fits(shape, forward.places.head_dim, forward.hidden_size)
    return forward


def why_not(model: nn.Module) -> str | None:
    """Why packs could differ from `model(...)`; None where they cannot.

    Everything that is not as transformers makes it counts: adapters, quantised or sharded weights, hooks but
    accelerate's.
    """
    module = type(model).__module__
    if not module.startswith(("transformers.models.", "lm_eval_prune.")):
        return f"the model is a {type(model).__name__} of {module}"
    attention = getattr(model.config, "_attn_implementation", None)
    if attention not in KNOWN_ATTENTION:
        return f"attention implementation {attention!r} is unknown"
    for name, part in model.named_modules():
        if reason := oddity(part):
            return f"{name or 'the model'} {reason}"
    if kind := length_dependent(model.config):
        return f"its rotary positions ({kind}) depend on what else is in the input"
    try:
        return why_unpacked(places_of(model))
    except UnsupportedModelError as error:
        return str(error)
