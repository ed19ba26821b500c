"""Two of the harness's task definitions, loaded from the harness and corrected. Each says what changes, and until when.

Everything else of the definitions (data, prompts, choices, splits, version) is the harness's own at run time.
"""

from __future__ import annotations

import re
import string
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from lm_eval_prune.harness.releases import share_of_questions

SQUAD_METRICS = "transformers.data.metrics.squad_metrics"


class _CorrectedTask(ConfigurableTask):
    """A task whose configuration is the harness's own file, then `correct`, then what the caller overrides."""

    definition = ""
    """The harness's YAML file, from its tasks folder."""

    def __init__(self, config: dict[str, Any]) -> None:
        stock = self.load_stock(Path(lm_eval.tasks.__file__).parent / self.definition)
        for structural in ("tag", "group", "task"):
            stock.pop(structural, None)
        self.correct(stock)
        overrides = {key: value for key, value in config.items() if key != "class"}
        metadata = {**stock.get("metadata", {}), **overrides.pop("metadata", {})}
        super().__init__(config={**stock, **overrides, "metadata": metadata})

    def load_stock(self, path: Path) -> dict[str, Any]:
        return load_yaml(path, resolve_func=True)

    def correct(self, config: dict[str, Any]) -> None:
        raise NotImplementedError


class MultiRC(_CorrectedTask):
    """MultiRC with its answers the right way round.

    The harness (seen in 0.4.13) lists the choices as (yes, no) and takes `label` as the index of the right one, but
    label 1 means that the answer is correct: its accuracy is that of the mirrored task. Here label 1 points at "yes".
    Can go when the harness's `doc_to_target` does: the correction is not made where the choices begin with "no".

    Beside `acc`, over answers, `acc_all` is the share of questions all of whose answers are judged right: what the
    harness reported as `acc` when the study was made, computed by the harness's own function.
    """

    definition = "super_glue/multirc/default.yaml"

    def correct(self, config: dict[str, Any]) -> None:
        choices = str(config["doc_to_choice"])
        if config["doc_to_target"] == "label" and choices.find("? yes") < choices.find("? no"):
            config["doc_to_target"] = "{{1 - label}}"
        if (acc_all := share_of_questions()) is not None:
            config["metric_list"] = [
                *config.get("metric_list", ()),
                {"metric": "acc_all", "aggregation": acc_all, "higher_is_better": True},
            ]

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
        metrics = super().process_results(doc, results)
        if not metrics or share_of_questions() is None:  # 0.5, whose scorers take `acc`
            return metrics
        is_correct = doc["label"] == 1
        said_correct = is_correct if metrics["acc"] else not is_correct
        return {**metrics, "acc_all": (said_correct, {"idx": doc["idx"], "label": doc["label"]})}


class ReCoRD(_CorrectedTask):
    """ReCoRD where transformers 5 is installed, its exact match reported as `acc` too.

    The harness imports `transformers.data.metrics.squad_metrics`, which transformers 5 no longer has; while its file
    loads, a module with SQuAD's two functions stands in. Can go when the harness stops importing it. `acc` equals
    `em`, so that an average over tasks by `acc` counts ReCoRD by `em`, as the paper does.
    """

    definition = "super_glue/record/default.yaml"

    def load_stock(self, path: Path) -> dict[str, Any]:
        with _squad_metrics_importable():
            return super().load_stock(path)

    def correct(self, config: dict[str, Any]) -> None:
        config["metric_list"] = [
            *config["metric_list"],
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ]

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
        metrics = super().process_results(doc, results)
        return {**metrics, "acc": float(metrics["em"])}


@contextmanager
def _squad_metrics_importable() -> Iterator[None]:
    """Inside the block `import transformers.data.metrics.squad_metrics` works, with our functions where need be."""
    parent, _, name = SQUAD_METRICS.rpartition(".")
    if find_spec(parent) is not None and find_spec(SQUAD_METRICS) is not None:
        yield
        return
    module = ModuleType(SQUAD_METRICS)
    module.compute_exact, module.compute_f1 = compute_exact, compute_f1  # type: ignore[attr-defined]
    stand_ins = {SQUAD_METRICS: module}
    if find_spec(parent) is None:
        package = ModuleType(parent)
        package.__path__ = []
        setattr(package, name, module)
        stand_ins[parent] = package
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for added in stand_ins:
            sys.modules.pop(added, None)


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD, Rajpurkar et al. 2016, section 6.1)."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def compute_exact(gold: str, predicted: str) -> int:
    """1 if both answers are equal once normalised, else 0."""
    return int(normalize_answer(gold) == normalize_answer(predicted))


def compute_f1(gold: str, predicted: str) -> float:
    """F1 over the bags of tokens of both normalised answers; where either is empty, 1 if both are, else 0."""
    gold_tokens, predicted_tokens = normalize_answer(gold).split(), normalize_answer(predicted).split()
    if not gold_tokens or not predicted_tokens:
        return float(gold_tokens == predicted_tokens)
    common = sum((Counter(gold_tokens) & Counter(predicted_tokens)).values())
    return 2 * common / (len(gold_tokens) + len(predicted_tokens))
