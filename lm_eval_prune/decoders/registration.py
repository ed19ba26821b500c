"""What transformers' Auto classes and PEFT are told of compacted models: names, and a module to find them in.

Told when the modules of the Auto classes are imported, at which moment the rest of transformers may be half loaded:
nothing is imported here before it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["register_adapters", "register_configuration", "register_models", "register_tokenizer"]

MODEL_TYPE = "pruned_opt"
HOMES = {
    "PrunedOPTConfig": "lm_eval_prune.decoders.pruned_opt_config",
    "PrunedOPTModel": "lm_eval_prune.decoders.pruned_opt",
    "PrunedOPTForCausalLM": "lm_eval_prune.decoders.pruned_opt",
}


class _Family(ModuleType):
    """Stands where transformers looks for the classes of a model type; imports ours when one is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name not in HOMES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(HOMES[name]), name)


def register_configuration(auto: ModuleType) -> None:
    """`AutoConfig` reads the configurations of compacted models. `auto` is transformers' module configuration_auto."""
    name = f"transformers.models.{MODEL_TYPE}"
    sys.modules.setdefault(name, _Family(name))
    auto.CONFIG_MAPPING_NAMES[MODEL_TYPE] = "PrunedOPTConfig"


def register_tokenizer(auto: ModuleType) -> None:
    """`AutoTokenizer` treats a compacted model as what it was made of. `auto` is tokenization_auto."""
    auto.TOKENIZER_MAPPING_NAMES[MODEL_TYPE] = auto.TOKENIZER_MAPPING_NAMES["opt"]


def register_adapters(constants: ModuleType) -> None:
    """PEFT's adapters go by default where they go in an OPT. `constants` is peft.utils.constants."""
    for name, places in vars(constants).items():
        if name.endswith(("_TARGET_MODULES_MAPPING", "_FEEDFORWARD_MODULES_MAPPING")) and "opt" in places:
            places.setdefault(MODEL_TYPE, places["opt"])


@functools.cache
def register_models() -> None:
    """`AutoModel` and `AutoModelForCausalLM` load compacted models; called with the first configuration of one."""
    from transformers.models.auto import modeling_auto as auto

    from lm_eval_prune.decoders.pruned_opt import PrunedOPTForCausalLM, PrunedOPTModel
    from lm_eval_prune.decoders.pruned_opt_config import PrunedOPTConfig

    auto.AutoModel.register(PrunedOPTConfig, PrunedOPTModel, exist_ok=True)
    auto.AutoModelForCausalLM.register(PrunedOPTConfig, PrunedOPTForCausalLM, exist_ok=True)
    # The names are what the harness's `hf` model looks at to tell a causal model from an encoder-decoder.
    auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[MODEL_TYPE] = "PrunedOPTForCausalLM"
