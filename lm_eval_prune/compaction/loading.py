"""A checkpoint loaded as the smaller model that a mask leaves of it: pruned weights are never read."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lm_eval_prune.compaction.checkpoint import check_means, located, original_config
from lm_eval_prune.compaction.weights import Weights
from lm_eval_prune.decoders import check_fits, shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lm_eval_prune.masks import PruningMask
    from lm_eval_prune.means import Means

__all__ = ["CompactingLoader", "check_weights"]


class CompactingLoader:
    """Stands where transformers' `AutoModelForCausalLM` is asked for a model, and makes a compact one."""

    def __init__(self, mask: PruningMask, means: Means | None = None) -> None:
        """What `mask` prunes gives zero, or `means`, which become biases."""
        self.mask, self.means = mask, means

    def from_pretrained(
        self, pretrained: str, *, revision: str | None = None, dtype: Any = None, **kwargs: Any
    ) -> PreTrainedModel:
        """`compact(AutoModelForCausalLM.from_pretrained(pretrained, ...), mask, means)`, without what goes.

        Pruned weights are not read, but for those that means go through, a layer at a time. transformers puts each
        weight where `device_map` says, in `dtype`. Raises PruneError as `compact_checkpoint`.
        """
        from transformers import GenerationConfig

        from lm_eval_prune.decoders.compacted import classes_of, compacted_config

        config = original_config(pretrained, revision)
        check_fits(self.mask, *shape_of(config), where=pretrained)
        if self.means is not None:
            check_means(self.means, config, pretrained)
        new_config = compacted_config(config, self.mask, pretrained, self.means)
        weights = Weights.of(pretrained, revision)
        if dtype in (None, "auto"):
            dtype = getattr(config, "dtype", None) or weights.dtype
        for name in ("trust_remote_code", "gguf_file", "subfolder"):  # for a path, which is not given below
            kwargs.pop(name, None)
        lazy = located(weights, config, new_config, pretrained, self.means)
        whole: Any = classes_of(new_config.stock)[2]
        model = whole.from_pretrained(None, config=new_config, state_dict=lazy, dtype=dtype, **kwargs)
        model.config._name_or_path = pretrained
        with suppress(OSError, ValueError):  # without a file, what follows from the configuration stays
            model.generation_config = GenerationConfig.from_pretrained(pretrained, revision=revision or "main")
        return model


def check_weights(pretrained: str, revision: str | None, config: Any) -> None:
    """Raise FileFormatError where a weight of a compacted checkpoint is missing, cut short or of the wrong shape."""
    weights = Weights.of(pretrained, revision)
    located(weights, config, config, pretrained)
