"""What the harness's results say of their model, added where it is missing. Imports nothing heavy before that.

A results file must say which model it is of, whatever road led to it. The harness writes down `--model_args`, which is
nothing where a program hands over a model, and of a compacted checkpoint loaded by its own `hf` model it does not say
that anything was pruned. Each function takes the module that was imported (`autoload.py` waits for it); twice is once.
No failure of these additions costs anybody a result.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from lm_eval_prune.demo import BUNDLED_NAME
from lm_eval_prune.model_names import OURS

__all__ = ["record_evaluator", "record_hf"]

logger = logging.getLogger(__name__)


def record_hf(huggingface: ModuleType) -> None:
    """Let `lm_eval.models.huggingface.HFLM` say of a compacted model what it lacks, and of any model which it is."""
    original = huggingface.HFLM.get_model_info
    if hasattr(original, "lm_eval_prune"):
        return

    @functools.wraps(original)
    def get_model_info(self: Any) -> dict[str, Any]:
        info: dict[str, Any] = original(self)
        if type(self) is not huggingface.HFLM:  # other classes load, or answer, in ways of their own
            return info
        try:
            from lm_eval_prune.harness.results import with_identity

            return with_identity(self, info)
        except Exception:  # whatever it is, the harness's results stay
            logger.debug("no identity of %s", info, exc_info=True)
            return info

    get_model_info.lm_eval_prune = True  # type: ignore[attr-defined]
    huggingface.HFLM.get_model_info = get_model_info


def record_evaluator(evaluator: ModuleType) -> None:
    """Let the results of `lm_eval.evaluator` carry `pruning` at the top level, and say how prompts were made.

    A model can add to `results["config"]` only (`get_model_info`); `simple_evaluate` calls `add_env_info(results)`
    right after that, and there the block moves up, and takes in the tasks' chance levels. Should a harness not call it,
    the block stays under `config`.
    """
    if hasattr(evaluator.add_env_info, "lm_eval_prune"):
        return
    add_env_info, simple_evaluate = evaluator.add_env_info, evaluator.simple_evaluate

    @functools.wraps(add_env_info)
    def with_block(storage: dict[str, Any]) -> None:
        add_env_info(storage)
        config = storage.get("config")
        if isinstance(config, dict) and "pruning" in config:
            storage["pruning"] = config.pop("pruning")
        chance = storage.pop("chance", None)
        if chance and isinstance(storage.get("pruning"), dict):
            storage["pruning"]["chance"] = chance

    @functools.wraps(simple_evaluate)
    def with_prompt(*args: Any, **kwargs: Any) -> Any:
        try:
            _name_results(inspect.signature(simple_evaluate).bind(*args, **kwargs).arguments)
        except Exception:  # whatever it is, the harness's results stay
            logger.debug("results not named", exc_info=True)
        results = simple_evaluate(*args, **kwargs)
        try:
            _add_prompt(results, inspect.signature(simple_evaluate).bind(*args, **kwargs))
        except Exception:  # whatever it is, the harness's results stay
            logger.debug("prompt not recorded", exc_info=True)
        return results

    with_block.lm_eval_prune = with_prompt.lm_eval_prune = True  # type: ignore[attr-defined]
    vars(evaluator).update(
        add_env_info=with_block, simple_evaluate=with_prompt, evaluate=_with_chance(evaluator.evaluate)
    )


def _with_chance(original: Any) -> Any:
    """The harness's `evaluate`; its results over a model of ours carry `chance`, task -> levels, for `with_block`."""

    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        results = original(*args, **kwargs)
        try:
            from lm_eval_prune.harness.chance import chance_of_tasks

            call = dict(zip(("lm", "task_dict"), args, strict=False)) | kwargs
            levels = chance_of_tasks(call["task_dict"], call["lm"])
            if results is not None and levels:
                results["chance"] = levels
        except Exception:  # whatever it is, the harness's results stay
            logger.debug("no chance levels", exc_info=True)
        return results

    return evaluate


def _name_results(asked: Mapping[str, Any]) -> None:
    """Let results of the bundled model, which no argument names, lie under its name: the harness makes up another."""
    tracker = asked.get("evaluation_tracker")
    if tracker is None or asked.get("model") not in OURS:
        return
    general = tracker.general_config_tracker
    original = general.log_experiment_args

    @functools.wraps(original)
    def log_experiment_args(**settings: Any) -> None:
        if general._get_model_name(settings.get("model_args")) is None:
            settings["model_args"] = {"pretrained": BUNDLED_NAME}
        original(**settings)

    general.log_experiment_args = log_experiment_args


def _add_prompt(results: Any, call: inspect.BoundArguments) -> None:
    """What the harness's own tracker writes beside the results, and a notebook's results lack."""
    call.apply_defaults()
    asked, block = call.arguments, results["config"].get("identity")
    if not isinstance(block, dict):
        return
    prompt: dict[str, Any] = {"system_instruction": asked["system_instruction"]}
    template = asked["apply_chat_template"]
    if not template:
        prompt["chat_template"] = None
    elif not isinstance(asked["model"], str):
        prompt["chat_template"] = asked["model"].chat_template(template)
        prompt["fewshot_as_multiturn"] = asked["fewshot_as_multiturn"]
    block["prompt"] = prompt
