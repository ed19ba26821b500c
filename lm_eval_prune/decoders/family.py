"""Where a model family keeps its heads and FFNs, and the common shape that needs no line in the table (table.py).

A family is what transformers calls a model type. Paths are those of submodules: of the layers, from the base model
(the causal language model without its output layer); of everything else, from one layer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "POSITIONS",
    "Family",
    "family_of",
    "is_known",
    "is_proven",
    "kind_and_settings",
    "length_dependent",
    "model_type_of",
    "submodule",
    "text_config",
]


@dataclass(frozen=True, kw_only=True)
class Family:
    """The places of one family; defaults are the common shape (Llama's)."""

    layers: str = "layers"
    attention: str = "self_attn"
    """Module that calls the attention function."""
    queries: str = "self_attn.q_proj"
    keys: str = "self_attn.k_proj"
    """"" where `queries` is one map to queries, keys and values."""
    values: str = "self_attn.v_proj"
    """"" also where `keys` makes keys and values of all heads out of what they share (latent attention)."""
    fused: str = ""
    """How `queries` lays out all three: "groups" (group after group, each its queries, its key and its value), "kinds"
    (all queries, then all keys, then all values), or "quarters" (four times queries, values and keys of a quarter)."""
    output: str = "self_attn.o_proj"
    """Map whose input is the heads' outputs side by side, head 0 first."""
    ffn: tuple[str, ...] = ("mlp",)
    """Modules that are the FFN and nothing else."""
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    """Maps that the FFN begins with; () where it is a mixture of experts."""
    down: str = "mlp.down_proj"
    """Map that the FFN ends with; "" where it is a mixture of experts."""
    added: str = "mlp"
    """Module whose output is what the FFN adds to the residual stream: the FFN, its last map, or the norm behind it."""
    attention_norms: tuple[str, ...] = ()
    """Norms that only serve attention: they go with the layer's last head."""
    attention_norms_behind: tuple[str, ...] = ()
    """The same, of attention's output."""
    ffn_norms: tuple[str, ...] = ()
    """Norms that only serve the FFN, before or behind it."""
    project_out: str = ""
    """Map from the residual stream to the output layer where their widths may differ; from the base model."""
    shared_norms: tuple[str, ...] = ()
    """Norms before both, which go when neither is left."""
    norms_first: str = ""
    """Field of the configuration that, where false, puts all norms into the residual stream, where they stay."""
    norms_in_stream: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Those that stand there, behind attention and behind the FFN."""
    parallel: str = ""
    """Field of the configuration that, where true, lets attention and FFN read the same stream."""
    proven: bool = False
    """The tests hold this family to an independent computation; others are proven when they are loaded."""

    @property
    def is_latent(self) -> bool:
        """Whether `keys` maps what all heads share, a short vector a token, to the keys and values of each."""
        return bool(self.keys) and not self.values


LAYERS = ("layers", "decoder.layers", "h", "blocks", "language_model.layers", "text_model.layers")
ATTENTIONS = ("self_attn", "attention", "attn", "self_attention")
OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
LATENT = ("kv_b_proj",)
FUSED = ("qkv_proj", "query_key_value", "c_attn", "wqkv", "Wqkv")
FFNS = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")
DOWNS = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "w2", "fc_out")
NORMS_BEHIND_FFN = ("post_feedforward_layernorm", "post_mlp_layernorm")
BEHIND_ATTENTION = "post_self_attn_layernorm"
"""Names that the common shape goes by, the usual one first."""
LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Kinds of rotary positions that change with the length of an input."""
POSITIONS = ("embed_positions", "wpe", "positions_embed")
"""Names of a table of learned positions, beside the layers; most families compute theirs."""


def text_config(config: Any) -> Any:
    """The configuration of the text decoder: `config` itself but for models of text and more."""
    nested = getattr(config, "get_text_config", None)
    return config if nested is None else nested(decoder=True)


def kind_and_settings(config: Any) -> tuple[Any, str]:
    """The class of a transformers `config`, and all that it says: what is found of it once is kept by these."""
    return type(config), json.dumps(config.to_dict(), default=str, sort_keys=True)


def length_dependent(config: Any) -> str:
    """The kind of rotary positions that depends on the longest input of a batch, padding included; "" for others."""
    rotary = getattr(text_config(config), "rope_parameters", None) or {}
    kinds = [each.get("rope_type") for each in (rotary, *rotary.values()) if isinstance(each, dict)]
    return next((kind for kind in kinds if kind in LENGTH_DEPENDENT), "")


def model_type_of(config: Any) -> str:
    """The family's name as transformers has it, a compacted model's that of its original; "" where there is none."""
    text = text_config(config)
    return getattr(getattr(text, "stock", text), "model_type", None) or ""


def is_known(config: Any) -> bool:
    """Whether a model of this configuration may be supported: its family is in the table, or transformers has a causal
    language model of its type, to be looked at once it is there."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from lm_eval_prune.decoders.table import FAMILIES

    return model_type_of(config) in FAMILIES or (
        getattr(config, "model_type", None) in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )


def is_proven(config: Any) -> bool:
    """Whether the tests hold the family of this configuration to their own computations; none has cross-attention."""
    from lm_eval_prune.decoders.table import PROVEN

    return model_type_of(config) in PROVEN and not getattr(text_config(config), "add_cross_attention", False)


def family_of(config: Any, base: nn.Module) -> Family:
    """The family of the model around `base`, its base model: from the table, or from the shape of its first layer.

    Raises UnsupportedModelError where no heads or no FFN are found.
    """
    from lm_eval_prune.decoders.table import FAMILIES

    family = FAMILIES.get(model_type_of(config)) or _common_shape(base)
    if family.norms_first and not getattr(text_config(config), family.norms_first):
        family = dataclasses.replace(
            family, attention_norms=(), ffn_norms=(), norms_in_stream=(family.attention_norms, family.ffn_norms)
        )
    return family


def submodule(parent: Any, path: str) -> Any:
    """The module at `path` below `parent`, or None: also where compaction has put a function in its place."""
    for name in filter(None, path.split(".")):
        parent = getattr(parent, name, None)
    return None if isinstance(parent, FunctionType) else parent


def _common_shape(base: nn.Module) -> Family:
    layers = _first(base, LAYERS, "layers")
    blocks = submodule(base, layers)
    if not len(blocks):
        raise UnsupportedModelError("it has no layers")
    # Of a hybrid, a layer that attends: the others are found to lack what it has.
    block = next((each for each in blocks if any(submodule(each, name) is not None for name in ATTENTIONS)), blocks[0])
    attention, ffn = _first(block, ATTENTIONS, "attention"), _first(block, FFNS, "FFN")
    output = _first(block, [f"{attention}.{name}" for name in OUTPUTS], "map from its heads to the residual stream")
    fused = next((f"{attention}.{name}" for name in FUSED if submodule(block, f"{attention}.{name}")), "")
    latent = next((f"{attention}.{name}" for name in LATENT if submodule(block, f"{attention}.{name}")), "")
    maps: dict[str, Any] = {"queries": fused, "keys": "", "values": "", "fused": "kinds"} if fused else {}
    if latent:
        queries = [f"{attention}.{name}" for name in ("q_b_proj", "q_proj")]
        maps = {"queries": _first(block, queries, "map to queries"), "keys": latent, "values": ""}
    for kind in () if maps else ("queries", "keys", "values"):
        maps[kind] = _first(block, [f"{attention}.{kind[0]}_proj"], f"map to {kind}")
    down, up = _ffn_maps(block, ffn)
    return Family(
        layers=layers,
        attention=attention,
        output=output,
        ffn=(ffn,),
        up=up,
        down=down,
        **maps,
        **_norms(block, ffn),
    )


def _ffn_maps(block: nn.Module, ffn: str) -> tuple[str, tuple[str, ...]]:
    """The map that an FFN ends with, and those that it begins with; none for a mixture of experts."""
    module = submodule(block, ffn)
    maps = [name for name, child in module.named_children() if hasattr(child, "weight")]
    down = next((name for name in DOWNS if name in maps), "")
    if not down or any(name in dict(module.named_children()) for name in ("experts", "router")):
        return "", ()
    return f"{ffn}.{down}", tuple(f"{ffn}.{name}" for name in maps if name != down)


def _norms(block: nn.Module, ffn: str) -> dict[str, Any]:
    """Which norms of a layer serve what, by the names that transformers gives them; norms of other names stay."""
    names = {name for name, _ in block.named_children()}
    before, after = "input_layernorm", "post_attention_layernorm"
    if behind := next((name for name in NORMS_BEHIND_FFN if name in names), ""):
        in_front = behind.replace("post", "pre")
        of_attention = after
        if BEHIND_ATTENTION in names:  # where the usual name is that of the norm before the FFN
            in_front, of_attention = after, BEHIND_ATTENTION
        return {
            "attention_norms": (before,) if before in names else (),
            "attention_norms_behind": (of_attention,) if of_attention in names else (),
            "ffn_norms": tuple(name for name in (in_front, behind) if name in names),
            "added": behind,
        }
    if {before, after} <= names:
        return {"attention_norms": (before,), "ffn_norms": (after,), "added": ffn}
    if before in names:
        return {"shared_norms": (before,), "added": ffn}
    return {"added": ffn}


def _first(parent: nn.Module, paths: Sequence[str], what: str) -> str:
    """The first of `paths` that is there. Raises UnsupportedModelError where none is."""
    for path in paths:
        if submodule(parent, path) is not None:
            return path
    raise UnsupportedModelError(f"no {what} found in its {type(parent).__name__}; looked for {', '.join(paths)}")
