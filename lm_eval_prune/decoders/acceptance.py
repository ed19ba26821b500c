"""Whether a model will be taken when it is loaded, as far as its configuration tells: the one answer before weights.

Every command that reads a configuration asks here, and so does loading. What only weights or code of a model's own can
show, `decoder_of` finds on the model itself.
"""

from __future__ import annotations

import functools
from typing import Any

from lm_eval_prune.decoders import require_supported
from lm_eval_prune.decoders.family import is_proven, kind_and_settings
from lm_eval_prune.errors import UnsupportedModelError

__all__ = ["require_accepted"]

SEQUENCE_TO_SEQUENCE = "seq2seq"
"""What the harness's argument `backend` calls encoder-decoders."""


def require_accepted(config: Any, name: str, backend: str | None = None) -> None:
    """Raise UnsupportedModelError, which begins with `name`, for a model that is refused when it is loaded.

    `backend` is the harness's argument. Of what transformers builds, the heads and FFNs are looked for in the whole
    model, on the meta device. Where no test holds the family, a small random model of its classes and settings must
    pass the proof; a model of which none can be made is left to the proof of its own.
    """
    from lm_eval_prune.decoders.skeleton import skeleton_of

    require_supported(config, name)
    reason = None
    if _is_encoder_decoder(config, backend):
        reason = "it is loaded with its encoder; backend=causal in model_args loads its decoder alone"
    elif type(config).__module__.startswith(("transformers.", "lm_eval_prune.")):  # others: code of the model's own
        original: Any = getattr(config, "original_config", config)
        try:
            skeleton_of(original)
        except UnsupportedModelError as error:
            reason = str(error)
        else:
            reason = None if is_proven(original) else _refusal(*kind_and_settings(original))
    if reason is not None:
        reason = reason.rpartition("not supported: ")[2]
        raise UnsupportedModelError(f"{name}: model type {config.model_type!r} is not supported: {reason}")


def _is_encoder_decoder(config: Any, backend: str | None) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as WITH_ENCODERS

    known = getattr(config, "model_type", None) in WITH_ENCODERS
    return backend == SEQUENCE_TO_SEQUENCE or (known and backend in (None, "default"))


@functools.lru_cache(maxsize=8)
def _refusal(kind: Any, settings: str) -> str | None:
    """Why a small model with these settings fails the proof; None also where there is none that computes."""
    import torch

    from lm_eval_prune.decoders.places import places_of
    from lm_eval_prune.decoders.proof import require_proof
    from lm_eval_prune.decoders.specimen import sample_ids
    from lm_eval_prune.decoders.tiny import small_model

    try:
        model = small_model(kind, settings)
        places = places_of(model)
        with torch.no_grad():
            model(input_ids=sample_ids(model), use_cache=False)
    except Exception:  # of any kind: small dimensions that do not fit one another say nothing of the real ones
        return None
    try:
        require_proof(places)
    except UnsupportedModelError as error:
        return str(error)
    return None
