"""Tiny random models of any causal-LM class that the installed transformers has.

For proofs that the real dimensions would make slow: the classes are the same, so what holds for them holds at any size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.text import described

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "NUM_HEADS",
    "NUM_LAYERS",
    "VOCABULARY",
    "causal_lm_types",
    "shrunk",
    "small_model",
    "tiny_config",
    "tiny_model",
]

NUM_LAYERS = 4
NUM_HEADS = 4
NUM_KEY_VALUE_HEADS = 2
WIDTH = 64
HEAD_DIM = 16
VOCABULARY = 512
POSITIONS = 256
NOISE = 0.05
WINDOW = 16
"""Tokens of a sliding window: shorter than the texts of a proof."""

_LAYERS = "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers"
_HEADS = "num_attention_heads num_heads n_head n_heads decoder_attention_heads encoder_attention_heads"
_WIDTHS = "hidden_size d_model n_embd n_embed dim word_embed_proj_dim"
_FFN_WIDTHS = (
    "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner d_inner dff dim_ff "
    "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size"
)
_HEAD_WIDTHS = (
    "head_dim d_kv kv_channels global_head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim q_lora_rank kv_lora_rank "
    "rotary_dim"
)
_EXPERTS = "num_local_experts num_experts n_routed_experts"
_GROUPS = "n_group topk_group num_expert_group first_k_dense_replace"
_POSITIONS = "max_position_embeddings n_positions n_ctx max_sequence_length max_seq_len"
_WINDOWS = "sliding_window attention_window window_size attention_chunk_size"
_VOCABULARIES = "vocab_size vocab_size_per_layer_input ngram_vocab_size_base"

_SIZES: dict[str, int] = {
    name: size
    for names, size in (
        (_LAYERS, NUM_LAYERS),
        (_HEADS, NUM_HEADS),
        ("num_key_value_heads num_kv_heads", NUM_KEY_VALUE_HEADS),
        (_WIDTHS, WIDTH),
        (_FFN_WIDTHS, WIDTH),
        (_HEAD_WIDTHS, HEAD_DIM),
        ("qk_head_dim", 2 * HEAD_DIM),
        (_EXPERTS, 4),
        ("num_experts_per_tok moe_topk", 2),
        (_GROUPS, 1),
        (_POSITIONS, POSITIONS),
        (_WINDOWS, WINDOW),
        (_VOCABULARIES, VOCABULARY),
    )
    for name in names.split()
}
"""Names that configurations use for their dimensions -> the largest value here."""

_UNGROUPED = {"num_key_value_heads": NUM_HEADS}
_LATENT = (
    "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa longcat_flash minicpm3 nemotron "
    "sarvam_mla youtu"
)
_NOTES = {**_UNGROUPED, "head_dim": 2 * HEAD_DIM, "n_group": 1, "topk_group": 1, "index_head_dim": 2 * HEAD_DIM}
_INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_DIM,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}
_ODD: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_LATENT.split(), _UNGROUPED),
    **{name: {"head_dim": HEAD_DIM} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "bailing_hybrid": {**_UNGROUPED, "n_group": 1, "topk_group": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "bloom": {"n_layer": NUM_LAYERS, "n_head": NUM_HEADS},
    "blt": {"encoder_hash_byte_group_vocab": 64, "encoder_hash_byte_group_nb_functions": 1},
    "blenderbot": {"encoder_layers": 2, "decoder_layers": NUM_LAYERS},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        },
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {**_UNGROUPED, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note": {
        "text_config": _NOTES,
        "vision_config": {"adapter_in_dim": WIDTH, "adapter_out_dim": WIDTH},
        "audio_config": {"adapter_input_size": WIDTH, "adapter_out_dim": WIDTH},
    },
    "dots3_note_text": _NOTES,
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant": {
        "text_config": {
            **dict.fromkeys(("hidden_size_per_layer_input", "vocab_size_per_layer_input"), 0),
            **dict.fromkeys(("enable_moe_block", "use_double_wide_mlp"), False),
            **dict.fromkeys(("num_kv_shared_layers", "num_hidden_layers"), NUM_LAYERS),
        },
    },
    "gpt_neo": {"attention_types": [[["global", "local"], NUM_LAYERS // 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * (NUM_LAYERS // 2)},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {**_UNGROUPED, "num_experts_per_tok": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * (NUM_LAYERS // 2)},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (NUM_LAYERS // 2)},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [32, 32]},
    "xglm": {"attention_heads": NUM_HEADS},
    "xlstm": {"num_heads": 4, "embedding_dim": WIDTH},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["mamba", "hybrid"] * (NUM_LAYERS // 2)},
}
"""Model types whose dimensions depend on one another in a way that names do not tell."""


def causal_lm_types() -> tuple[str, ...]:
    """Every model type for which the installed transformers has a causal language model, in its order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if not name.startswith("pruned_"))


def tiny_config(model_type: str, *, as_decoder: bool = True) -> PreTrainedConfig:
    """The type's default configuration with small dimensions; `as_decoder` where it could be an encoder's.

    Raises UnsupportedModelError where that fails.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config_class = CONFIG_MAPPING[model_type]
        odd = _ODD.get(model_type, {})
        default = config_class(**_required(model_type)).to_dict()
        decoder = {"is_decoder": True} if as_decoder and "is_decoder" in default else {}
        return config_class(**_merged({**_shrunk(default), **decoder}, odd))
    except Exception as error:  # whatever a class of another library raises for dimensions that do not fit
        why = described(error, width=200)
        raise UnsupportedModelError(f"{model_type}: no small configuration can be made: {why}") from error


def shrunk(kind: Any, settings: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of class `kind` with `settings`, but small dimensions. Raises UnsupportedModelError."""
    small = {key: value for key, value in settings.items() if key not in ("model_type", "auto_map", "dtype")}
    try:
        return kind(**_merged({**small, **_shrunk(settings)}, _ODD.get(kind.model_type, {})))
    except Exception as error:  # as above
        why = described(error, width=200)
        raise UnsupportedModelError(f"{kind.model_type}: no small configuration can be made: {why}") from error


def tiny_model(config: str | PreTrainedConfig, *, seed: int = 0, **kwargs: Any) -> PreTrainedModel:
    """A model of random weights in evaluation mode, float32; `config` as `tiny_config` makes it, or a model type.

    Biases, norms and gates are noisy, too, so that nothing that they do is hidden by zeros and ones.
    kwargs: `attn_implementation` and the like, as `AutoModelForCausalLM.from_config` takes them. The global random
    state is as before afterwards. Raises UnsupportedModelError where the class cannot be built.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if isinstance(config, str):
        config = tiny_config(config)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False, **kwargs)
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.data += NOISE * torch.randn_like(parameter)
    except Exception as error:  # as above, in its models
        why = described(error, width=200)
        raise UnsupportedModelError(f"{config.model_type}: no small model can be built: {why}") from error
    return model.eval()


def small_model(kind: Any, settings: str) -> PreTrainedModel:
    """A tiny model of the classes of configuration class `kind`, with `settings` (of `kind_and_settings`) otherwise.

    Raises UnsupportedModelError where none can be made.
    """
    return tiny_model(shrunk(kind, json.loads(settings)))


def _shrunk(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What to give instead of the default `settings` of a configuration, nested ones included."""
    small: dict[str, Any] = {}
    for name, value in settings.items():
        if name.endswith(("token_id", "token_index")) and isinstance(value, int) and not isinstance(value, bool):
            small[name] = min(value, VOCABULARY // 2 + len(small))
        elif name.endswith("token_id") and isinstance(value, list):
            small[name] = [min(token, VOCABULARY - 1) for token in value]
        elif name in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            small[name] = min(value, _SIZES[name])
        elif name in ("layer_types", "mlp_layer_types", "layers_block_type") and isinstance(value, list):
            kinds = list(dict.fromkeys(value))
            small[name] = (kinds + value)[: min(NUM_LAYERS, len(value))]
        elif name.endswith("_config") and isinstance(value, dict):
            small[name] = {**_shrunk(value), **{key: value[key] for key in ("model_type",) if key in value}}
    return small


def _required(model_type: str) -> Mapping[str, Any]:
    """Settings without which a type has no default configuration at all."""
    return _ODD[model_type] if model_type in ("gemma4_assistant",) else {}


def _merged(settings: dict[str, Any], odd: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with those of `odd` in their place, nested configurations likewise."""
    nested = {
        name: _merged(settings[name], value)
        for name, value in odd.items()
        if isinstance(value, dict) and isinstance(settings.get(name), dict) and name.endswith("_config")
    }
    return {**settings, **odd, **nested}
