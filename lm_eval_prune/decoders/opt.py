"""OPT (Zhang et al. 2022, arXiv 2205.01068) as transformers builds it, 125m to 66B.

Two shapes: layer norm before attention and FFN (all sizes but one), or after them, with embeddings projected up and
down (350m). `self_attn.out_proj` takes the heads side by side; `fc2` ends the FFN. Compacted models (pruned_opt.py)
lack some of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_prune.decoders import Decoder, LinearWeights, Trunk, removed_from
from lm_eval_prune.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import OPTConfig

__all__ = [
    "decoder",
    "linear_weights",
    "parameters_per_ffn",
    "parameters_per_head",
    "parameters_per_headless_layer",
    "trunk",
]


def decoder(model: nn.Module) -> Decoder:
    """The places of an `OPTForCausalLM` or `OPTModel`. Raises UnsupportedModelError for another OPT class."""
    config: OPTConfig = model.config  # type: ignore[assignment]
    inner = getattr(getattr(model, "model", model), "decoder", None)
    if inner is None:
        raise UnsupportedModelError(f"{type(model).__name__} has no OPT decoder; expected OPTForCausalLM")
    layers: list[Any] = list(inner.layers)
    removed = removed_from(config)
    return Decoder(
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        removed=removed,
        head_outputs=tuple(
            layer.self_attn.out_proj if removed.kept_heads(index) else None for index, layer in enumerate(layers)
        ),
        ffn_outputs=tuple(getattr(layer, "fc2", None) for layer in layers),
    )


def trunk(model: nn.Module) -> Trunk:
    """The pieces of an `OPTForCausalLM`'s forward pass. Raises UnsupportedModelError without an output layer."""
    output_layer: nn.Module | None = getattr(model, "lm_head", None)
    if output_layer is None:
        raise UnsupportedModelError(f"{type(model).__name__} has no output layer; expected OPTForCausalLM")
    config: OPTConfig = model.config  # type: ignore[assignment]
    inner: Any = model.model.decoder  # type: ignore[union-attr]
    layers: list[Any] = list(inner.layers)
    norm_first = config.do_layer_norm_before
    removed = removed_from(config)
    attentions = [layer.self_attn if removed.kept_heads(index) else None for index, layer in enumerate(layers)]

    def body(input_ids: Tensor) -> Tensor:
        return inner(input_ids=input_ids, use_cache=False).last_hidden_state

    def finish(hidden: Tensor) -> Tensor:
        if inner.final_layer_norm is not None:
            hidden = inner.final_layer_norm(hidden)
        return hidden if inner.project_out is None else inner.project_out(hidden)

    return Trunk(
        layers=tuple(layers),
        body=body,
        embed=lambda input_ids: _entering_first_layer(body, layers[0], input_ids),
        finish=finish,
        output_layer=output_layer,
        project_out=inner.project_out,
        queries=tuple(part and part.q_proj for part in attentions),
        keys=tuple(part and part.k_proj for part in attentions),
        values=tuple(part and part.v_proj for part in attentions),
        attention_norms=tuple(
            layer.self_attn_layer_norm if norm_first and part is not None else None
            for layer, part in zip(layers, attentions, strict=True)
        ),
        ffn_entries=tuple(getattr(layer, "final_layer_norm" if norm_first else "fc1", None) for layer in layers),
        ffn_norms=tuple(None if norm_first else layer.final_layer_norm for layer in layers),
        ffn_inputs=tuple(getattr(layer, "fc1", None) for layer in layers),
        max_length=config.max_position_embeddings,
        vocab_size=config.vocab_size,
    )


class _Entered(Exception):  # noqa: N818 - no error: it carries a result out of the model
    """Ends a forward pass at the door of the first layer."""


def _entering_first_layer(body: Any, first: nn.Module, input_ids: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """What the model itself hands to its first layer: positions, projections and masks are transformers' business."""
    entered: list[Any] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.extend((args[0], kwargs))
        raise _Entered

    handle = first.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        body(input_ids)
    except _Entered:
        pass
    finally:
        handle.remove()
    hidden, kwargs = entered
    return hidden, kwargs


def parameters_per_head(config: OPTConfig) -> int:
    """Query, key and value rows with their biases, and output columns; the output bias serves all heads and stays."""
    head_dim = config.hidden_size // config.num_attention_heads
    return 4 * head_dim * config.hidden_size + (3 * head_dim if config.enable_bias else 0)


def parameters_per_ffn(config: OPTConfig) -> int:
    """fc1, fc2, their biases and, before the FFN, its layer norm.

    After the FFN (`do_layer_norm_before=False`) the norm is part of the residual stream and stays.
    """
    weights = 2 * config.hidden_size * config.ffn_dim
    biases = config.ffn_dim + config.hidden_size if config.enable_bias else 0
    own_norm = config.do_layer_norm_before and config.layer_norm_elementwise_affine
    return weights + biases + (2 * config.hidden_size if own_norm else 0)


def parameters_per_headless_layer(config: OPTConfig) -> int:
    """What goes with a layer's last head: the layer norm before attention, where it serves nothing else."""
    own_norm = config.do_layer_norm_before and config.layer_norm_elementwise_affine
    return 2 * config.hidden_size if own_norm else 0


def linear_weights(config: OPTConfig) -> LinearWeights:
    """Of every linear map; OPT-350m alone projects its embeddings."""
    width, embedding = config.hidden_size, config.word_embed_proj_dim or config.hidden_size
    return LinearWeights(
        head=4 * (width // config.num_attention_heads) * width,
        ffn=2 * width * config.ffn_dim,
        projection=width * embedding if embedding != width else 0,
        output=embedding * config.vocab_size,
    )
