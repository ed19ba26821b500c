"""Models without the heads and FFNs that were removed from them: transformers' own classes, cut when they are built.

One pair of classes for each of transformers' causal language models, made when it is asked for: `PrunedXForCausalLM` of
`XForCausalLM`. Weights are named as in the original; what is removed from its layers, `cutting.py` takes out.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lm_eval_prune.decoders.compacted_config import FOREIGN, HOME, OWN, CompactedConfig, config_class
from lm_eval_prune.decoders.cutting import cut
from lm_eval_prune.errors import FileFormatError, UnsupportedModelError
from lm_eval_prune.files import is_folder
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.means import Means

__all__ = ["classes_of", "compacted_config", "is_stock", "plain_config", "pruned_from"]


class _Cut:
    """`from_pretrained` in one line where a checkpoint is broken, and never with weights that were drawn at random."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        cut(self)
        self.post_init()  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(
        cls, *args: Any, output_loading_info: bool = False, ignore_mismatched_sizes: bool = False, **kwargs: Any
    ) -> Any:
        """As transformers' own. Raises FileFormatError for weights that are missing, cut short or misshapen."""
        try:
            loaded = super().from_pretrained(  # type: ignore[misc]
                *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        except SafetensorError as error:
            where = args[0] if args else kwargs.get("pretrained_model_name_or_path")
            raise FileFormatError(f"{where}: weights cannot be read, a file may be cut short: {error}") from error
        model, info = loaded
        where = model.config.name_or_path
        if missing := sorted(info["missing_keys"]):
            raise FileFormatError(f"{where}: the weight {missing[0]} is missing ({len(missing)} in all)")
        if not ignore_mismatched_sizes and (misshapen := sorted(info["mismatched_keys"])):
            name, found, expected = misshapen[0]
            raise FileFormatError(f"{where}: {name} is {tuple(found)}; expected {tuple(expected)} by config.json")
        return (model, info) if output_loading_info else model

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration's `save_pretrained` writes what other programs need."""


@functools.cache
def classes_of(stock: Any) -> tuple[Any, Any, Any]:
    """(configuration, base model, causal language model) of compacted models, for transformers' configuration class.

    transformers' Auto classes know them from then on. Raises UnsupportedModelError where it has no such models.
    """
    from transformers.models.auto import modeling_auto as auto
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES as TOKENIZERS

    base, causal = auto.MODEL_MAPPING.get(stock, None), auto.MODEL_FOR_CAUSAL_LM_MAPPING.get(stock, None)
    if base is None or causal is None:
        raise UnsupportedModelError(f"model type {stock.model_type!r} has no causal language model in transformers")
    configuration = config_class(stock)
    models = [_model_class(each, configuration) for each in (base, causal)]
    configuration.class_names = tuple(model.__name__ for model in models)
    auto.AutoModel.register(configuration, models[0], exist_ok=True)
    auto.AutoModelForCausalLM.register(configuration, models[1], exist_ok=True)
    # The names are what the harness's `hf` model looks at to tell a causal model from an encoder-decoder.
    auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[configuration.model_type] = models[1].__name__
    if stock.model_type in TOKENIZERS:
        TOKENIZERS[configuration.model_type] = TOKENIZERS[stock.model_type]
    return configuration, *models


def _model_class(stock: Any, configuration: Any) -> Any:
    own = {"__module__": HOME, "__doc__": f"{stock.__name__}, compacted.", "config_class": configuration}
    return type(f"Pruned{stock.__name__}", (_Cut, stock), own)


def is_stock(model: Any) -> bool:
    """Whether a model is of transformers' own causal language model class, or that class compacted: a subclass may do
    anything."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind: Any = type(getattr(model, "config", None))
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None) is type(model)


def compacted_config(config: Any, mask: PruningMask, name: str | None = None, means: Means | None = None) -> Any:
    """The configuration of `config`'s model without what `mask` prunes, on top of what it lacks already.

    `name` is the original model's, where `config` is not a compacted model's, which says. With `means`, constants stand
    for what is gone.
    """
    content = config.to_dict()
    removed = config.removed if isinstance(config, CompactedConfig) else None
    stock: Any = config.stock if isinstance(config, CompactedConfig) else type(config)
    name = content.pop("original_model", None) or _public(name or getattr(config, "_name_or_path", ""))
    constants = content.get("pruning_means")
    for key in (*OWN, *FOREIGN):
        content.pop(key, None)
    if means is not None:
        before = {} if constants is None else {"compacted_before": constants}
        constants = {"sha256": means.digest, **means.settings, **before}
    whole = mask
    if removed is not None:
        provenance = {**mask.provenance, "compacted_before": dict(removed.provenance)}
        whole = replace(removed | mask, provenance=provenance)
    configuration, _, causal = classes_of(stock)
    content |= {"pruning_mask": whole.to_dict(), "original_model": name, "architectures": [causal.__name__]}
    content["pruning_means"] = constants
    return configuration(**content)


def plain_config(config: Any) -> Any:
    """The configuration of a whole model with zeros where the compacted model of `config` lacks something.

    `zeroed_mask` in it says where; other programs pass over it.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    content = {key: value for key, value in config.to_dict().items() if key not in (*OWN, *FOREIGN)}
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING[config.stock]
    return config.stock(**content, zeroed_mask=config.pruning_mask, architectures=[causal.__name__])


def pruned_from(config: Any, layout: str) -> dict[str, Any]:
    """What a smaller model of the stock class says of where it comes from, in the original's numbers; for readers."""
    before = getattr(config, "pruned_from", None)
    return {
        "original_model": config.original_model,
        "layout": layout,
        "pruning_mask": config.pruning_mask,
        **({} if before is None else {"before": before}),
    }


def _public(name: str | None) -> str | None:
    """Of a folder only its own name: where it lies is nobody else's business."""
    return Path(name).resolve().name if name and is_folder(name) else name or None


def __getattr__(name: str) -> Any:
    """Classes of compacted models by name: for pickles, and for the code beside checkpoints."""
    from transformers.models.auto import configuration_auto, modeling_auto

    stock = name.removeprefix("Pruned")
    if stock != name:
        for names in (
            configuration_auto.CONFIG_MAPPING_NAMES,
            modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            modeling_auto.MODEL_MAPPING_NAMES,
        ):
            for model_type, found in list(names.items()):
                if found == stock:
                    configuration: Any = configuration_auto.CONFIG_MAPPING[model_type]
                    ours = next(each for each in classes_of(configuration) if each.__name__ == name)
                    if getattr(ours.__mro__[2], "config_class", configuration) is configuration:
                        return ours
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
