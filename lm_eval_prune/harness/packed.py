"""`scorer=packed` and `scorer=flex`: the harness's log-likelihood requests, answered by `scoring/`.

What the harness does around its own loop is kept: progress bar, partial answers in the response cache, order.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from lm_eval_prune.decoders.forward import forward_of, why_not
from lm_eval_prune.importance.knockout import score_under_masks
from lm_eval_prune.progress import Bar
from lm_eval_prune.scoring.finite import require_finite
from lm_eval_prune.scoring.scorer import Answer, collected, score_packs
from lm_eval_prune.scoring.trie import TokenTrie, build_trie

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from lm_eval_prune.harness.model import PrunedModel
    from lm_eval_prune.importance.knockout import MaskScorer
    from lm_eval_prune.importance.processes import Processes
    from lm_eval_prune.masks import PruningMask

__all__ = ["SCORERS", "knockout_scorer", "log_once", "loglikelihood_tokens", "why_padded"]

logger = logging.getLogger(__name__)

SCORERS = ("packed", "flex")
"""Those that answer packs; `flex` attends by PyTorch's flex attention."""


def why_padded(lm: PrunedModel) -> str | None:
    """Why `lm` must compute the harness's own way; None where packing computes the same."""
    from lm_eval_prune.harness.model import PrunedModel

    if type(lm)._model_call is not PrunedModel._model_call or type(lm)._select_cont_toks is not HFLM._select_cont_toks:
        return f"{type(lm).__name__} computes its logits in a way of its own"
    if lm.backend != "causal":
        return f"the backend is {lm.backend}"
    if lm.mixed_precision_dtype is not None and lm.model.dtype != torch.float32:
        return f"mixed precision over {str(lm.model.dtype).removeprefix('torch.')} weights"
    return why_not(lm.model)


def loglikelihood_tokens(
    lm: PrunedModel, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool, override_bs: int | None
) -> list[tuple[float, bool]]:
    """What `HFLM._loglikelihood_tokens` returns: a (sum, is greedy) for each (cache key, context, continuation)."""
    trie = build_trie([(context, continuation) for _, context, continuation in requests], lm.max_length)
    if trie.num_truncated:
        logger.warning("%d requests are longer than %d tokens: cut from the left", trie.num_truncated, lm.max_length)
    batch_size = override_bs if lm.batch_size == "auto" and override_bs else lm.batch_size
    answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
    bar = tqdm(total=len(requests), disable=disable_tqdm or lm.rank != 0, desc="Running loglikelihood requests")
    packs = score_packs(
        forward_of(lm.model, lm.means),
        trie,
        [lm.mask],
        batch_size=batch_size,
        softmax_dtype=lm.softmax_dtype,
        flex=lm.scorer == "flex",
        around=autocast_of(lm),
    )
    with bar:
        for pack in packs:
            require_finite((answer.log_likelihood for answer in pack.answers[0]), lm.model_name)
            for index, answer in zip(pack.indices, pack.answers[0], strict=True):
                answers[index] = (answer.log_likelihood, answer.is_greedy)
                # Windows of a rolling log-likelihood have no key of their own; the harness stores their sum.
                if (key := requests[index][0]) is not None:
                    lm.cache_hook.add_partial("loglikelihood", key, answers[index])
            bar.update(len(pack.indices))
    return answers


def knockout_scorer(lm: PrunedModel, processes: Processes) -> MaskScorer:
    """`scoring.score` in the form that knockouts take, or `score_under_masks` where they must compute the padded way.

    Their masks come on top of the model's own. Several processes share the padded way only.
    """
    if lm.scorer not in SCORERS or processes.world_size > 1 or why_padded(lm) is not None:
        return lambda model, requests, masks, batch_size, **settings: score_under_masks(
            model, requests, [lm.mask | mask for mask in masks], batch_size, means=lm.means, **settings
        )

    def scorer(
        model: torch.nn.Module, requests: Sequence[Any], masks: Sequence[PruningMask], batch_size: int, **settings: Any
    ) -> list[list[Answer]]:
        packs = score_packs(
            forward_of(model, lm.means),
            build_trie(requests, lm.max_length),
            [lm.mask | mask for mask in masks],
            batch_size=batch_size,
            softmax_dtype=settings.get("softmax_dtype"),
            flex=lm.scorer == "flex",
        )
        silent = not settings.get("progress")
        with Bar(total=len(requests), desc="Knockout", unit="request", leave=None, disable=silent) as bar:
            return collected(packs, len(masks), len(requests), lambda pack: bar.update(len(pack.indices)))

    return scorer


def trie_of(lm: PrunedModel, instances: Sequence[Instance]) -> TokenTrie:
    """The token trie of log-likelihood requests, as the harness encodes them."""
    pairs: Any = TemplateLM.loglikelihood(EncodingOnly(lm), list(instances), disable_tqdm=True)
    return build_trie([(context, continuation) for _, context, continuation in pairs], lm.max_length)


def answers_under(
    lm: PrunedModel, trie: TokenTrie, masks: Sequence[PruningMask], progress: Callable[[float], None]
) -> list[list[Answer]]:
    """Per mask, the answer to every request of `trie`; the masks share what they agree on.

    `progress` is told, pack by pack, how many masks' worth of the work was done.
    """
    packs = score_packs(
        forward_of(lm.model, lm.means),
        trie,
        masks,
        batch_size=lm.batch_size,
        softmax_dtype=lm.softmax_dtype,
        flex=lm.scorer == "flex",
        around=autocast_of(lm),
    )
    share = len(masks) / max(len(trie), 1)
    return collected(packs, len(masks), len(trie), lambda pack: progress(share * len(pack.indices)))


def autocast_of(lm: PrunedModel) -> functools.partial[Any]:
    """The context of a forward pass, as `HFLM._model_call` opens it."""
    enabled = lm.mixed_precision_dtype is not None
    return functools.partial(torch.autocast, lm.device.type, lm.mixed_precision_dtype, enabled=enabled)


class EncodingOnly:
    """A harness model that hands back the encoded requests instead of answering them."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        return requests


@functools.cache
def log_once(message: str, *args: object) -> None:
    logger.warning(message, *args)
