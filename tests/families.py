"""Tiny random models of every proven family, in the variations in which they come; `tiny_model` goes through them.

Every bias and norm is noisy, so that one left out shows.
"""

import copy
import functools

import torch
import transformers

LAYERS, HEADS, VOCABULARY, POSITIONS = 3, 4, 61, 320
COMMON = {
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.15,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 1,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
OPT = {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.15}
GPT2 = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": 32, "n_inner": 48, "n_positions": POSITIONS, **{
    name: COMMON[name] for name in ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id")
}}  # fmt: skip
WINDOWED = {"sliding_window": 8, "use_sliding_window": True}
CAPS = {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0}
VARIANTS = {
    "opt": ("OPT", OPT),
    "opt, norms last, projected": ("OPT", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "llama": ("Llama", GROUPED),
    "llama, a head_dim of its own, biases, tied": (
        "Llama",
        {**COMMON, "head_dim": 12, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama, 8 query heads a key": ("Llama", {**COMMON, "num_attention_heads": 8, "num_key_value_heads": 1}),
    "mistral, a window": ("Mistral", {**GROUPED, "sliding_window": 8, "head_dim": 12}),
    "qwen2, a window above": ("Qwen2", {**GROUPED, **WINDOWED, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 16}),
    "gemma2, windows and caps": (
        "Gemma2",
        {**GROUPED, "head_dim": 12, "sliding_window": 8, "query_pre_attn_scalar": 20, **CAPS},
    ),
    "olmo2": ("Olmo2", GROUPED),
    "smollm3": ("SmolLM3", {**GROUPED, "no_rope_layer_interval": 3}),
    "gpt_neox": ("GPTNeoX", {**COMMON, "rotary_pct": 0.5}),
    "gpt_neox, one after the other, no biases": (
        "GPTNeoX",
        {**COMMON, "use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True},
    ),
    "gpt2": ("GPT2", GPT2),
}  # fmt: skip
"""Name -> (prefix of transformers' classes, fields of the configuration)."""
CLASSES = {"GPT2": "GPT2LMHeadModel"}


def config_of(variant, **changes):
    """The configuration of a variant."""
    prefix, fields = VARIANTS[variant]
    return getattr(transformers, f"{prefix}Config")(**{**fields, **changes})


@functools.cache
def _made(variant, dtype=torch.float32):
    prefix, _ = VARIANTS[variant]
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = getattr(transformers, CLASSES.get(prefix, f"{prefix}ForCausalLM"))(config_of(variant)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype)


def made(variant):
    """A model of a variant, of its own for the caller."""
    return copy.deepcopy(_made(variant))


def shape(model):
    """What a mask of `model` needs to know."""
    config = model.config
    return {"num_hidden_layers": config.num_hidden_layers, "num_attention_heads": config.num_attention_heads}


def tokens(count, seed=0):
    """Random token ids."""
    return torch.randint(4, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


OF_ANY_TYPE = {
    **GROUPED,
    "num_hidden_layers": 2,
    "initializer_range": 0.2,
    "head_dim": 8,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
}


def of_type(model_type):
    """A tiny random causal language model of any type that transformers has, as far as the usual names go."""
    kind = transformers.CONFIG_MAPPING[model_type]
    known = {*kind().to_dict(), *getattr(kind, "attribute_map", {})}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = kind(**{name: value for name, value in OF_ANY_TYPE.items() if name in known})
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model
