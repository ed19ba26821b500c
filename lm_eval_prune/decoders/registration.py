"""What transformers' Auto classes and PEFT are told of compacted models.

Told when the modules of the Auto classes are imported, at which moment the rest of transformers may be half loaded:
nothing is imported here before it is asked for.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

__all__ = ["register_adapters", "register_configuration"]

PREFIX = "pruned_"


class _OnDemand(dict[str, Any]):
    """What `AutoConfig` knows beside transformers' own configurations, by model type: compacted models' among them,
    which are made when they are asked for."""

    def __init__(self, auto: ModuleType) -> None:
        super().__init__(auto.CONFIG_MAPPING._extra_content)
        self.stock = auto.CONFIG_MAPPING_NAMES

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (
            isinstance(key, str) and key.startswith(PREFIX) and key.removeprefix(PREFIX) in self.stock
        )

    def __missing__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        from lm_eval_prune.decoders.compacted import classes_of
        from lm_eval_prune.errors import UnsupportedModelError

        original: Any = CONFIG_MAPPING[key.removeprefix(PREFIX)]
        try:
            self[key] = classes_of(original)[0]
        except UnsupportedModelError as error:
            raise KeyError(key) from error
        return self[key]


def register_configuration(auto: ModuleType) -> None:
    """`AutoConfig` reads the configurations of compacted models. `auto` is transformers' module configuration_auto."""
    auto.CONFIG_MAPPING._extra_content = _OnDemand(auto)


def register_adapters(constants: ModuleType) -> None:
    """PEFT's adapters go by default where they go in the original. `constants` is peft.utils.constants."""
    for name, places in vars(constants).items():
        if name.endswith(("_TARGET_MODULES_MAPPING", "_FEEDFORWARD_MODULES_MAPPING")):
            places.update({PREFIX + model_type: where for model_type, where in list(places.items())})
