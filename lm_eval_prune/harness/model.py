"""`pruned-hf`: the harness's own `hf` model, with heads and FFNs pruned; `pruned-opt` is the same, of one family.

`PrunedModel` takes every argument of `HFLM` and the mask's. The mask is on the model only while a request is computed,
so that a model handed over from Python comes back as it was.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import lm_eval.evaluator
import torch
from jinja2 import TemplateError
from lm_eval.models.huggingface import HFLM
from safetensors import SafetensorError

from lm_eval_prune.ablation import masked
from lm_eval_prune.compaction.loading import CompactingLoader, check_weights
from lm_eval_prune.decoders import (
    ORIGINAL_TYPE,
    check_fits,
    decoder_of,
    input_device,
    is_original_family,
    removed_from,
    require_supported,
)
from lm_eval_prune.decoders.acceptance import require_accepted
from lm_eval_prune.decoders.configuration import (
    configuration_errors,
    effective_mask,
    key_value_heads_asked_for,
    shape_asked_for,
)
from lm_eval_prune.demo import bundled_model_path, is_bundled
from lm_eval_prune.errors import ArgumentError, FileFormatError, PruneError, ScoreError, UnsupportedModelError
from lm_eval_prune.harness import packed, recording, results, told
from lm_eval_prune.harness.arguments import check_arguments, check_fits_config, without_absent_default
from lm_eval_prune.harness.cache import OwnAnswers
from lm_eval_prune.importance.processes import leave_group_at_exit
from lm_eval_prune.masks import PruningMask
from lm_eval_prune.means import Means, means_asked_for
from lm_eval_prune.model_args import parse_model_args
from lm_eval_prune.model_names import ANY_FAMILY, ORIGINAL_FAMILY
from lm_eval_prune.progress import loading_the_model
from lm_eval_prune.scoring.finite import ADVICE, require_finite
from lm_eval_prune.selection import select_mask
from lm_eval_prune.text import message_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PrunedModel", "PrunedOPT"]

NOT_COMPACT = ("peft", "delta", "autogptq", "gptqmodel", "gguf_file", "subfolder")
"""Arguments of `hf` that `load=compact` cannot follow."""


class PrunedModel(HFLM):
    """The harness model `pruned-hf`.

    Arguments beside those of `hf`: `mask=FILE` (or a `PruningMask`), or `head_importance=FILE,prune_heads=0.7` and
    `ffn_importance=FILE,prune_ffns=0.2`; `unit=kv_group` for whole groups of heads; `scorer`; `load`. Without any of
    them the model is dense; without `pretrained` it is the bundled one. `ablation=mean,means=FILE` (or a `Means`): what
    is pruned gives its mean output instead of zero. Raises PruneError: before weights are loaded for a mask that does
    not fit or a model that is not supported.
    """

    default_scorer = "packed"

    def __init__(
        self,
        pretrained: str | os.PathLike[str] | torch.nn.Module | None = None,
        *,
        mask: str | os.PathLike[str] | PruningMask | None = None,
        head_importance: str | os.PathLike[str] | None = None,
        prune_heads: str | float | None = None,
        ffn_importance: str | os.PathLike[str] | None = None,
        prune_ffns: str | float | None = None,
        unit: str = "head",
        scorer: str | None = None,
        load: str = "masked",
        ablation: str | None = None,
        means: str | os.PathLike[str] | Means | None = None,
        **kwargs: Any,
    ) -> None:
        scorer = scorer or self.default_scorer
        check_arguments({**kwargs, "scorer": scorer, "load": load})
        if load == "compact" and (given := [name for name in NOT_COMPACT if kwargs.get(name)]):
            raise ArgumentError(f"load=compact and {given[0]} exclude one another; leave one of the two out")
        self.load = load
        self.means = means_asked_for(ablation, means)
        """What pruned heads and FFNs give; None: zero."""
        if pretrained is None or is_bundled(pretrained):
            pretrained = bundled_model_path()
        shares = {"prune_heads": prune_heads, "prune_ffns": prune_ffns}
        files = {"head_importance": head_importance, "ffn_importance": ffn_importance}
        if isinstance(mask, PruningMask):
            if given := [name for name, value in {**shares, **files}.items() if value is not None]:
                raise ArgumentError(f"mask and {given[0]} exclude one another; give one of the two")
            self._requested: PruningMask | None = mask
        else:
            shape = partial(shape_asked_for, pretrained, kwargs)
            groups = partial(key_value_heads_asked_for, pretrained, kwargs)
            choice: Any = {**shares, **files, "unit": unit, "num_key_value_heads": groups}
            self._requested = select_mask(mask=mask, shape=shape, **choice)
        self.scorer = scorer
        self.arguments = dict(kwargs)
        """Those of `hf` that were given, beside `pretrained`."""
        # Unless it is told, transformers asks the terminal whether a model's own code may run: never so here.
        kwargs["trust_remote_code"] = kwargs.get("trust_remote_code") is True
        # The harness's own default is "cuda" whether or not there is one.
        kwargs["device"] = kwargs.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
        if isinstance(pretrained, torch.nn.Module):
            if load == "compact":
                raise ArgumentError("load=compact: the given model is loaded already; compact(model, mask) makes it so")
            self._take_configuration(pretrained.config, "the given model")
        else:
            pretrained = os.fspath(pretrained)
        self._load(pretrained, kwargs)
        decoder_of(self.model)
        leave_group_at_exit()
        if self.device.type == "meta":  # a model handed over, with its first weights offloaded
            self._device = input_device(self.model)
        recording.record_evaluator(lm_eval.evaluator)
        named = mask if isinstance(mask, str | os.PathLike) else None
        told.tell(self, os.fspath(named) if named is not None else told.spelt({**files, **shares}))

    def _load(self, pretrained: str | torch.nn.Module, arguments: dict[str, Any]) -> None:
        """What `hf` does when it is made. Raises PruneError for whatever goes wrong."""
        try:
            with loading_the_model():
                super().__init__(pretrained, **arguments)
        except PruneError:
            raise
        except Exception as error:  # of many kinds: no tokenizer, no weights, arguments that the model does not know
            reason = message_of(error)
            if "unexpected keyword argument" in reason:
                reason += " (from model_args; it takes those of `hf`)"
            raise PruneError(f"the model cannot be loaded: {type(error).__name__}: {reason}") from error

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """From arguments as text, in any form that `lm_eval run` takes."""
        return cls.create_from_arg_obj(parse_model_args(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """From `--model_args`, and from what the harness's command says beside them."""
        return super().create_from_arg_obj(arg_dict, without_absent_default(additional_config or {}))

    @property
    def harness_name(self) -> str:
        """The harness model that files name for this one's results, whichever of the two it was made as."""
        return ORIGINAL_FAMILY if is_original_family(self.config) else ANY_FAMILY

    @property
    def model_name(self) -> str:
        """What files call this model."""
        return results.name_of(self)

    # -- the mask -------------------------------------------------------------------------------------------------

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        with configuration_errors(pretrained):
            super()._get_config(pretrained, **kwargs)
        require_accepted(self.config, pretrained, self.arguments.get("backend"))
        self._take_configuration(self.config, pretrained)

    def _take_configuration(self, config: Any, name: str) -> None:
        """Settle the mask; raises before weights are loaded."""
        check_fits_config(self.arguments, config)
        self.mask = effective_mask(config, self._requested, name)
        if self.means is not None and self.means.shape != self.mask.shape:
            check_fits(self.mask, *self.means.shape, "the file of means", "the model")

    def _create_model(self, pretrained: str, revision: str | None = "main", **kwargs: Any) -> None:
        if not removed_from(self.config).is_dense:
            check_weights(pretrained, revision, self.config)
        whole: Any = self.AUTO_MODEL_CLASS  # type: ignore[has-type]
        try:
            if self.load == "compact" and not self.mask.is_dense:
                self.AUTO_MODEL_CLASS = CompactingLoader(self.mask, self.means)
            super()._create_model(pretrained, revision=revision, **kwargs)
        except SafetensorError as error:
            raise FileFormatError(
                f"pretrained={pretrained}: weights cannot be read, a file may be cut short"
            ) from error
        finally:
            self.AUTO_MODEL_CLASS = whole
        if self.load == "compact":
            if "disk" in getattr(self.model, "hf_device_map", {}).values():
                raise ArgumentError(
                    "load=compact: weights would lie on disk, where whole ones are looked for; give a folder that "
                    "lm-eval-prune compact wrote, or load=masked"
                )
            self._config = self.model.config

    # -- computing under the mask ---------------------------------------------------------------------------------

    def _model_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with masked(self.model, self.mask, self.means):
            return super()._model_call(*args, **kwargs)

    def _model_generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with masked(self.model, self.mask, self.means):
            return super()._model_generate(*args, logits_processor=[self._require_finite_logits], **kwargs)

    def _require_finite_logits(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if logits.isnan().any():
            raise ScoreError(f"{self.model_name}: a logit is NaN: {ADVICE}")
        return logits

    # -- log-likelihoods ------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        if self.scorer in packed.SCORERS:
            if (reason := packed.why_padded(self)) is None:
                return packed.loglikelihood_tokens(self, requests, disable_tqdm, override_bs)
            packed.log_once("scorer=%s: computing as scorer=padded does, since %s", self.scorer, reason)
        answers = super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
        require_finite((answer[0] for answer in answers), self.model_name)
        return answers

    # -- chat templates -------------------------------------------------------------------------------------------

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that is asked for. Raises ArgumentError where the tokenizer has none, or none of that name."""
        if chat_template:
            self._require_chat_template()
        try:
            return super().chat_template(chat_template)
        except ValueError as error:
            raise ArgumentError(f"apply_chat_template={chat_template}: {message_of(error)}") from error

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation. Raises ArgumentError where the tokenizer's template is missing or fails."""
        self._require_chat_template()
        try:
            return super().apply_chat_template(chat_history, add_generation_prompt)
        except (TemplateError, ValueError, TypeError) as error:  # of templates, which are programs of the model's own
            raise ArgumentError(f"apply_chat_template: the model's template fails: {error}") from error

    def _require_chat_template(self) -> None:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ArgumentError(
                f"apply_chat_template: the tokenizer of {self.model_name} has no chat template; leave it out"
            )

    # -- what the harness asks of a model -------------------------------------------------------------------------

    loglikelihood = OwnAnswers(HFLM.loglikelihood)
    loglikelihood_rolling = OwnAnswers(HFLM.loglikelihood_rolling)
    generate_until = OwnAnswers(HFLM.generate_until)

    def get_model_info(self) -> dict[str, Any]:
        return results.with_identity(self, super().get_model_info())


class PrunedOPT(PrunedModel):
    """The harness model `pruned-opt`: of the study's family alone."""

    def _take_configuration(self, config: Any, name: str) -> None:
        require_supported(config, name)
        if not is_original_family(config):
            raise UnsupportedModelError(
                f"{name}: {ORIGINAL_FAMILY} takes models of type {ORIGINAL_TYPE!r}, and this one's type is "
                f"{config.model_type!r}; use {ANY_FAMILY}"
            )
        super()._take_configuration(config, name)
