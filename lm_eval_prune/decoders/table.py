"""The table of families: those that the tests hold, and what of a family the common shape does not find by itself."""

from __future__ import annotations

from typing import Any

__all__ = ["FAMILIES", "PROVEN", "REFUSED"]

PROVEN = ("gemma2", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "opt", "qwen2", "qwen3", "smollm3")
"""Those that the tests hold to computations of their own; a model of any other must pass a proof of its own."""

NO_NORMS: dict[str, Any] = {"attention_norms": (), "ffn_norms": (), "shared_norms": ()}
"""Of norms that stay whatever goes."""
BART: dict[str, Any] = {
    "ffn": ("fc1", "fc2"),
    "up": ("fc1",),
    "down": "fc2",
    "added": "fc2",
    "attention_norms": ("self_attn_layer_norm",),
    "ffn_norms": ("final_layer_norm",),
}
"""Decoders of encoder-decoders, taken alone, and their like."""
BART_NORMS_LAST = {**BART, **NO_NORMS, "norms_in_stream": (("self_attn_layer_norm",), ("final_layer_norm",))}
BERT: dict[str, Any] = {
    "layers": "encoder.layer",
    "attention": "attention.self",
    "queries": "attention.self.query",
    "keys": "attention.self.key",
    "values": "attention.self.value",
    "output": "attention.output.dense",
    "ffn": ("intermediate", "output.dense"),
    "up": ("intermediate.dense",),
    "down": "output.dense",
    "added": "output.dense",
}
BERT_NORMS_LAST = {**BERT, "norms_in_stream": (("attention.output.LayerNorm",), ("output.LayerNorm",))}

FAMILIES: dict[str, dict[str, Any]] = {
    **{name: {} for name in PROVEN},
    "bloom": {
        "fused": "groups",
        "ffn": ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),  # which adds to the residual stream by itself
        "added": "mlp.dense_4h_to_h",
    },
    "codegen": {"fused": "quarters", "shared_norms": ("ln_1",)},
    "ctrl": {
        "attention": "multi_head_attention",
        "queries": "multi_head_attention.Wq",
        "keys": "multi_head_attention.Wk",
        "values": "multi_head_attention.Wv",
        "output": "multi_head_attention.dense",
        "ffn": ("ffn",),
        "up": ("ffn.0",),
        "down": "ffn.2",
        "added": "ffn",
        "attention_norms": ("layernorm1",),
        "ffn_norms": ("layernorm2",),
    },
    "dbrx": {
        "attention": "norm_attn_norm.attn",
        "attention_norms": ("norm_attn_norm.norm_1",),
        "ffn_norms": ("norm_attn_norm.norm_2",),
    },
    "falcon": {"fused": "groups", **NO_NORMS},
    "fuyu": {"fused": "groups"},
    "gpt_bigcode": {"fused": "groups"},
    "gpt_neo": {"attention": "attn.attention"},
    "gpt_neox": {"fused": "groups", "parallel": "use_parallel_residual"},
    "gpt_neox_japanese": {"fused": "groups"},
    "megatron-bert": {**BERT, "attention_norms": ("attention.ln",), "ffn_norms": ("ln",)},
    "modernbert-decoder": {"output": "attn.Wo"},
    "mpt": {"ffn": ("ffn.up_proj", "ffn.down_proj"), "added": "ffn.down_proj"},
    "openai-gpt": {**NO_NORMS, "norms_in_stream": (("ln_1",), ("ln_2",))},
    "opt": {**BART, "norms_first": "do_layer_norm_before", "project_out": "decoder.project_out"},
    "persimmon": {"fused": "groups"},
    "roberta-prelayernorm": {
        **BERT,
        "attention_norms": ("attention.LayerNorm",),
        "ffn_norms": ("intermediate.LayerNorm",),
    },
    "xlm-roberta-xl": {**BERT, "attention_norms": ("attention.self_attn_layer_norm",), "ffn_norms": ("LayerNorm",)},
    **dict.fromkeys(("bart", "blenderbot-small", "marian", "mvp", "plbart", "trocr"), BART_NORMS_LAST),
    **dict.fromkeys(("bigbird_pegasus", "biogpt", "blenderbot", "mbart", "pegasus", "whisper", "xglm"), BART),
    **dict.fromkeys(
        (
            "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "git", "rembert",
            "roberta", "roc_bert", "roformer", "xlm-roberta", "xmod",
        ),
        BERT_NORMS_LAST,
    ),
}  # fmt: skip
"""transformers' `config.model_type` -> the fields of `Family` that differ from what its shape says."""
REFUSED = {
    **dict.fromkeys(("musicgen", "musicgen_melody"), "it reads and writes audio, several codes at a time"),
    "gemma3n": "its layers change the residual stream by more than attention and FFN",
}
"""Model types whose models are not looked at, and why."""
