"""What works in a model, found out by trying it: each ability raises where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.masks import PruningMask

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ABILITIES"]

TOKENS = 24


def _ids(count: int = TOKENS, seed: int = 0) -> list[int]:
    import torch

    from lm_eval_prune.decoders.tiny import VOCABULARY

    generator = torch.Generator().manual_seed(seed)
    return (5 + torch.randperm(VOCABULARY - 6, generator=generator)[:count]).tolist()


def _mask(model: Any) -> PruningMask:
    from lm_eval_prune.decoders import shape_of

    layers, heads = shape_of(model.config)
    return PruningMask(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pruned_heads={0: (0,), layers - 1: tuple(range(heads))},
        pruned_ffns=(layers // 2,),
    )


def _logits(model: Any) -> Tensor:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([_ids()]), use_cache=False).logits


def _masks(model: Any) -> None:
    """A mask changes the logits, and is gone afterwards."""
    from lm_eval_prune.ablation import masked

    dense = _logits(model)
    with masked(model, _mask(model)):
        _require(not _equal(_logits(model), dense), "a mask changes nothing")
    _require(_equal(_logits(model), dense), "a mask leaves something behind")


def _generation(model: Any) -> None:
    """Under a mask, the last token's logits are the same with a cache as without."""
    import torch

    from lm_eval_prune.ablation import masked
    from lm_eval_prune.compaction.trial import behind_cache

    ids = torch.tensor([_ids()])
    with masked(model, _mask(model)), torch.no_grad():
        found = list(behind_cache(model, ids, 1))
        _require(bool(found), "it has no cache of keys and values")
        _require(_equal(found[0][:, -1], _logits(model)[:, -1]), "with a cache the logits are others")


def _gradients(model: Any) -> None:
    from lm_eval_prune.importance.gradient import head_importance

    scores = head_importance(model, [(_ids(), _ids(3, seed=1))])
    _require(bool(scores.isfinite().all() and (scores > 0).any()), "no scores")


def _packed(model: Any) -> None:
    """The packed scorer gives the log-likelihood that the model gives."""
    from lm_eval_prune.ablation import masked
    from lm_eval_prune.scoring.scorer import score

    context, continuation = _ids()[:-2], _ids()[-2:]
    (answers,) = score(model, [(context, continuation)], [_mask(model)])
    with masked(model, _mask(model)):
        rows = _logits(model)[0, -3:-1].log_softmax(-1)
    expected = sum(float(row[token]) for row, token in zip(rows, continuation, strict=True))
    _require(abs(answers[0].log_likelihood - expected) < 1e-3, "other log-likelihoods than the model's")


def _induction(model: Any) -> None:
    from lm_eval_prune.induction import prefix_matching_scores

    scores = prefix_matching_scores(model, [_ids(10)], repeats=2, bos_token_id=3)
    _require(bool(scores.isfinite().all() and (scores > 0).any()), "no scores")


def _compaction(model: Any) -> None:
    """The compacted model has the masked one's logits, and fewer parameters."""
    from lm_eval_prune.ablation import masked
    from lm_eval_prune.compaction.memory import compact

    smaller = compact(model, _mask(model))
    with masked(model, _mask(model)):
        _require(_equal(_logits(smaller), _logits(model)), "other logits than the masked model's")
    _require(smaller.num_parameters() < model.num_parameters(), "nothing is gone")


def _plan(model: Any) -> None:
    """Parameters are counted as the model has them."""
    from lm_eval_prune.decoders.skeleton import empty_model, products, skeleton_of

    counted = sum(parameter.numel() for parameter in empty_model(model.config).parameters())
    _require(counted == model.num_parameters() and products(skeleton_of(model.config)) > 0, "other parameters")


def _require(right: bool, wrong: str) -> None:
    if not right:
        raise UnsupportedModelError(wrong)


def _equal(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-4 * (1 + expected.abs().max()))


ABILITIES: dict[str, Callable[[Any], None]] = {
    "masks": _masks,
    "generation": _generation,
    "gradient importance": _gradients,
    "packed scoring": _packed,
    "induction": _induction,
    "compaction": _compaction,
    "plan": _plan,
}
"""What is tried of a supported model; each raises where it does not work."""
