"""The table of families: those that the tests hold, and those whose places have names of their own."""

from __future__ import annotations

from dataclasses import replace

from lm_eval_prune.decoders.family import Family

__all__ = ["FAMILIES", "PROVEN", "REFUSED"]

COMMON = Family(attention_norms=("input_layernorm",), ffn_norms=("post_attention_layernorm",), proven=True)
NORMS_BEHIND = replace(
    COMMON,
    attention_norms=(),
    attention_norms_behind=("post_attention_layernorm",),
    ffn_norms=("post_feedforward_layernorm",),
    added="post_feedforward_layernorm",
)
OPT = Family(
    layers="decoder.layers",
    output="self_attn.out_proj",
    ffn=("fc1", "fc2"),
    up=("fc1",),
    down="fc2",
    added="fc2",
    attention_norms=("self_attn_layer_norm",),
    ffn_norms=("final_layer_norm",),
    norms_first="do_layer_norm_before",
    project_out="decoder.project_out",
    proven=True,
)
GPT2 = Family(
    layers="h",
    attention="attn",
    queries="attn.c_attn",
    keys="",
    values="",
    fused="kinds",
    output="attn.c_proj",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    attention_norms=("ln_1",),
    ffn_norms=("ln_2",),
    proven=True,
)
GPT_NEOX = Family(
    attention="attention",
    queries="attention.query_key_value",
    keys="",
    values="",
    fused="groups",
    output="attention.dense",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    attention_norms=("input_layernorm",),
    ffn_norms=("post_attention_layernorm",),
    parallel="use_parallel_residual",
    proven=True,
)

# -- accepted after the proof that every model of them must pass ------------------------------------------------------

BART = replace(OPT, norms_first="", project_out="", proven=False)
"""Decoders of encoder-decoders, taken alone, and their like."""
BART_NORMS_LAST = replace(
    BART,
    attention_norms=(),
    ffn_norms=(),
    norms_in_stream=(("self_attn_layer_norm",), ("final_layer_norm",)),
)
BERT = Family(
    layers="encoder.layer",
    attention="attention.self",
    queries="attention.self.query",
    keys="attention.self.key",
    values="attention.self.value",
    output="attention.output.dense",
    ffn=("intermediate", "output.dense"),
    up=("intermediate.dense",),
    down="output.dense",
    added="output.dense",
    norms_in_stream=(("attention.output.LayerNorm",), ("output.LayerNorm",)),
)
BERT_NORMS_FIRST = replace(
    BERT, attention_norms=("attention.LayerNorm",), ffn_norms=("intermediate.LayerNorm",), norms_in_stream=((), ())
)
BLOOM = replace(
    GPT_NEOX,
    layers="h",
    attention="self_attention",
    queries="self_attention.query_key_value",
    output="self_attention.dense",
    ffn=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    added="mlp.dense_4h_to_h",
    parallel="",
    proven=False,
)
"""The FFN adds to the residual stream by itself."""

PERSIMMON = replace(
    GPT_NEOX,
    attention="self_attn",
    queries="self_attn.query_key_value",
    output="self_attn.dense",
    parallel="",
    proven=False,
)

FAMILIES = {
    "bloom": BLOOM,
    "codegen": replace(
        GPT2,
        queries="attn.qkv_proj",
        fused="quarters",
        output="attn.out_proj",
        up=("mlp.fc_in",),
        down="mlp.fc_out",
        attention_norms=(),
        ffn_norms=(),
        shared_norms=("ln_1",),
        proven=False,
    ),
    "ctrl": Family(
        layers="h",
        attention="multi_head_attention",
        queries="multi_head_attention.Wq",
        keys="multi_head_attention.Wk",
        values="multi_head_attention.Wv",
        output="multi_head_attention.dense",
        ffn=("ffn",),
        up=("ffn.0",),
        down="ffn.2",
        added="ffn",
        attention_norms=("layernorm1",),
        ffn_norms=("layernorm2",),
    ),
    "dbrx": Family(
        layers="blocks",
        attention="norm_attn_norm.attn",
        queries="norm_attn_norm.attn.Wqkv",
        keys="",
        values="",
        fused="kinds",
        output="norm_attn_norm.attn.out_proj",
        ffn=("ffn",),
        up=(),
        down="",
        added="ffn",
        attention_norms=("norm_attn_norm.norm_1",),
        ffn_norms=("norm_attn_norm.norm_2",),
    ),
    "falcon": replace(
        BLOOM, ffn=("mlp",), added="mlp", attention_norms=(), ffn_norms=()
    ),
    "fuyu": PERSIMMON,
    "gemma2": replace(
        NORMS_BEHIND,
        attention_norms=("input_layernorm",),
        ffn_norms=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ),
    "gpt2": GPT2,
    "gpt_bigcode": replace(GPT2, fused="groups", proven=False),
    "gpt_neo": replace(
        GPT2,
        attention="attn.attention",
        queries="attn.attention.q_proj",
        keys="attn.attention.k_proj",
        values="attn.attention.v_proj",
        fused="",
        output="attn.attention.out_proj",
        proven=False,
    ),
    "gpt_neox": GPT_NEOX,
    "gpt_neox_japanese": replace(GPT_NEOX, parallel="", proven=False),
    "llama": COMMON,
    "megatron-bert": replace(
        BERT, attention_norms=("attention.ln",), ffn_norms=("ln",), norms_in_stream=((), ())
    ),
    "mistral": COMMON,
    "modernbert-decoder": Family(
        attention="attn",
        queries="attn.q_proj",
        keys="attn.k_proj",
        values="attn.v_proj",
        output="attn.Wo",
        up=("mlp.Wi",),
        down="mlp.Wo",
        attention_norms=("attn_norm",),
        ffn_norms=("mlp_norm",),
    ),
    "mpt": replace(
        GPT2,
        layers="blocks",
        queries="attn.Wqkv",
        output="attn.out_proj",
        ffn=("ffn.up_proj", "ffn.down_proj"),
        up=("ffn.up_proj",),
        down="ffn.down_proj",
        added="ffn.down_proj",
        attention_norms=("norm_1",),
        ffn_norms=("norm_2",),
        proven=False,
    ),
    "olmo2": NORMS_BEHIND,
    "openai-gpt": replace(GPT2, attention_norms=(), ffn_norms=(), norms_in_stream=(("ln_1",), ("ln_2",)), proven=False),
    "opt": OPT,
    "persimmon": PERSIMMON,
    "qwen2": COMMON,
    "qwen3": COMMON,
    "roberta-prelayernorm": BERT_NORMS_FIRST,
    "smollm3": COMMON,
    "xlm-roberta-xl": replace(
        BERT, attention_norms=("attention.self_attn_layer_norm",), ffn_norms=("LayerNorm",), norms_in_stream=((), ())
    ),
    **dict.fromkeys(("bart", "blenderbot-small", "marian", "mvp", "plbart", "trocr"), BART_NORMS_LAST),
    **dict.fromkeys(("bigbird_pegasus", "blenderbot", "mbart", "pegasus", "whisper"), BART),
    **dict.fromkeys(("biogpt", "xglm"), replace(BART, layers="layers")),
    **dict.fromkeys(
        (
            "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "git", "rembert",
            "roberta", "roc_bert", "roformer", "xlm-roberta", "xmod",
        ),
        BERT,
    ),
}  # fmt: skip
"""transformers' `config.model_type` -> the family; what is not here is looked for in the common shape."""
PROVEN = tuple(sorted(name for name, family in FAMILIES.items() if family.proven))
"""Those that the tests hold to computations of their own."""
REFUSED = {
    **dict.fromkeys(("musicgen", "musicgen_melody"), "it reads and writes audio, several codes at a time"),
    "gemma3n": "its layers change the residual stream by more than attention and FFN",
}
"""Model types whose models are not looked at, and why."""
