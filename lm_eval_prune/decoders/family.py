"""Where a model family keeps its heads and FFNs: found by the names in a layer, and what the table (table.py) adds.

A family is what transformers calls a model type. Paths are those of submodules: of the layers, from the base model
(the causal language model without its output layer); of everything else, from one layer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
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
    """The places of one family, such as Llama's `layers`, `self_attn`, `self_attn.q_proj`."""

    layers: str
    attention: str
    """Module that calls the attention function."""
    queries: str
    keys: str
    """"" where `queries` is one map to queries, keys and values."""
    values: str
    """"" also where `keys` makes keys and values of all heads out of what they share (latent attention)."""
    fused: str = ""
    """How `queries` lays out all three: "groups" (group after group, each its queries, its key and its value), "kinds"
    (all queries, then all keys, then all values), or "quarters" (four times queries, values and keys of a quarter)."""
    output: str
    """Map whose input is the heads' outputs side by side, head 0 first."""
    ffn: tuple[str, ...]
    """Modules that are the FFN and nothing else."""
    up: tuple[str, ...]
    """Maps that the FFN begins with; () where it is a mixture of experts."""
    down: str
    """Map that the FFN ends with; "" where it is a mixture of experts."""
    added: str
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
DOWNS = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "w2", "fc_out", "Wo")
NORMS = (
    ("input_layernorm", "post_attention_layernorm"),
    ("ln_1", "ln_2"),
    ("norm_1", "norm_2"),
    ("attn_norm", "mlp_norm"),
)
"""Names that the common shape goes by, the usual one first; of norms those before attention and before the FFN."""
NORMS_BEHIND_FFN = ("post_feedforward_layernorm", "post_mlp_layernorm")
BEHIND_ATTENTION = "post_self_attn_layernorm"
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
    """The family of the model around `base`, its base model: from the shape of its first layer, and the table.

    Raises UnsupportedModelError where no heads or no FFN are found.
    """
    from lm_eval_prune.decoders.table import FAMILIES

    family = _found(base, FAMILIES.get(model_type_of(config), {}))
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


def _found(base: nn.Module, told: Mapping[str, Any]) -> Family:
    """What the names in a layer say, and in its place what the table has `told`."""
    layers = _first(base, [told["layers"]] if "layers" in told else LAYERS, "layers")
    blocks = submodule(base, layers)
    if not len(blocks):
        raise UnsupportedModelError("it has no layers")
    # Of a hybrid, a layer that attends: the others are found to lack what it has.
    block = next((each for each in blocks if any(submodule(each, name) is not None for name in ATTENTIONS)), blocks[0])
    attention = told.get("attention") or _first(block, ATTENTIONS, "attention")
    ffn = {} if "down" in told else _ffn(block, _first(block, FFNS, "FFN"))
    outputs = [f"{attention}.{name}" for name in OUTPUTS]
    found = {
        "layers": layers,
        "attention": attention,
        "output": told.get("output") or _first(block, outputs, "map from its heads to the residual stream"),
        **({} if "queries" in told else _attention_maps(block, attention)),
        **ffn,
    }
    return Family(**{**found, **told})


def _attention_maps(block: nn.Module, attention: str) -> dict[str, str]:
    """Where a layer's maps to queries, keys and values are."""

    def one_of(names: Sequence[str]) -> str:
        return next((f"{attention}.{name}" for name in names if submodule(block, f"{attention}.{name}")), "")

    if latent := one_of(LATENT):
        queries = [f"{attention}.{name}" for name in ("q_b_proj", "q_proj")]
        return {"queries": _first(block, queries, "map to queries"), "keys": latent, "values": ""}
    if fused := one_of(FUSED):
        return {"queries": fused, "keys": "", "values": "", "fused": "kinds"}
    return {
        kind: _first(block, [f"{attention}.{kind[0]}_proj"], f"map to {kind}") for kind in ("queries", "keys", "values")
    }


def _ffn(block: nn.Module, ffn: str) -> dict[str, Any]:
    """The maps that an FFN begins and ends with, none for a mixture of experts; and which norms of a layer serve what,
    by the names that transformers gives them: norms of other names stay."""
    children = dict(submodule(block, ffn).named_children())
    maps = [name for name, child in children.items() if hasattr(child, "weight") or hasattr(child, "in_features")]
    down = "" if {"experts", "router"} & {*children} else next((name for name in DOWNS if name in maps), "")
    return {
        "ffn": (ffn,),
        "up": tuple(f"{ffn}.{name}" for name in maps if name != down) if down else (),
        "down": down and f"{ffn}.{down}",
        "added": ffn,
        **_norms({name for name, _ in block.named_children()}),
    }


def _norms(names: set[str]) -> dict[str, Any]:
    before, after = NORMS[0]
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
    for pair in NORMS:
        if {*pair} <= names:
            return {"attention_norms": pair[:1], "ffn_norms": pair[1:]}
    return {"shared_norms": (before,)} if before in names else {}


def _first(parent: nn.Module, paths: Sequence[str], what: str) -> str:
    """The first of `paths` that is there. Raises UnsupportedModelError where none is."""
    for path in paths:
        if submodule(parent, path) is not None:
            return path
    raise UnsupportedModelError(f"no {what} found in its {type(parent).__name__}; looked for {', '.join(paths)}")
