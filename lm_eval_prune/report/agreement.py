"""Whether rankings agree, as a report says it: families of pairs, in words, as a table and as files.

A family is pairs of one kind that are corrected together: the tasks at one number of shots, each task at two numbers of
shots, or an induction score and the mean importance at each number of shots.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_prune.agreement import PERMUTATIONS, PairAgreement, agreements
from lm_eval_prune.files import write_csv, write_json
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.runs import shots_name
from lm_eval_prune.report.score_sets import ScoreSet, is_aggregate, score_sets

__all__ = [
    "AGREEMENT_NOTE",
    "LEVEL",
    "Family",
    "agreement_families",
    "agreement_sentences",
    "agreement_table",
    "write_agreement",
]

LEVEL = 0.05
SHUFFLED = 200_000_000
"""Scores that are shuffled for one family at most; of a model with thousands of heads there are fewer permutations."""
A_PAIR = 40
"""Permutations for each pair at least: with fewer Holm's correction leaves no p below the level."""
SHOWN = (0, 2)
"""Places of the tops in a table: 10 and 30 %."""
NAMES = {"tasks": "between tasks", "shots": "between shots", "induction": "induction heads"}
AGREEMENT_NOTE = (
    "Spearman's rho between importance scores, its mean over pairs and least to largest; within layers, what is left "
    "without the depth profile. Significant: pairs whose rho shuffled heads (over the whole model; each within its "
    "layer) do not reach, p below 0.05 after Holm's correction over the pairs of the row. Shared: of the top 10 % "
    "(30 %) of components by the two rankings, those that both have, with what two random rankings share."
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Pairs of rankings of one kind."""

    model: str
    component: str
    method: str
    kind: str
    """`tasks`, `shots` or `induction`."""
    name: str
    """Such as `5-shot`, `0- and 5-shot`, or `prefix-matching`."""
    pairs: Sequence[PairAgreement]
    permutations: int

    def values(self, key: str) -> list[float]:
        """Of all pairs that have one, such as `rho`."""
        return [value for pair in self.pairs if not math.isnan(value := getattr(pair, key))]

    def significant(self, key: str) -> int:
        """Pairs below the level, by `p_holm` or `p_within_layers_holm`."""
        return sum(value < LEVEL for value in self.values(key))

    def shared(self, at: int) -> tuple[float, float]:
        """(mean share of the top that is shared, what chance shares) at the share of this place."""
        tops = [pair.tops[at] for pair in self.pairs if pair.tops[at].kept]
        if not tops:
            return math.nan, math.nan
        return float(np.mean([top.shared / top.kept for top in tops])), tops[0].expected / tops[0].kept


def agreement_families(files: Iterable[tuple[Path, ImportanceScores]]) -> list[Family]:
    """The families of all scores that were read, those of one model, component and method together."""
    return [family for found in score_sets(files) for family in _of_model(found)]


def _of_model(found: ScoreSet) -> Iterator[Family]:
    for (component, method), by_name in sorted(found.importance.items(), key=lambda item: item[0], reverse=True):
        by_shots: dict[int | None, dict[str, np.ndarray]] = {}
        for (task, shots), scores in by_name.items():
            if not is_aggregate(task):
                by_shots.setdefault(shots, {})[task] = scores
        about = {"model": found.model, "component": component, "method": method}
        order = sorted(by_shots, key=lambda shots: -1 if shots is None else shots)
        for shots in order:
            name = "any shots" if shots is None else shots_name(shots)
            tasks = dict(sorted(by_shots[shots].items()))
            yield from _family(about, "tasks", name, tasks, list(itertools.combinations(tasks, 2)))
        for first, second in itertools.combinations([shots for shots in order if shots is not None], 2):
            both = sorted(by_shots[first].keys() & by_shots[second].keys())
            named = {(task, shots): f"{task}, {shots_name(shots)}" for task in both for shots in (first, second)}
            at_both = {text: by_shots[shots][task] for (task, shots), text in named.items()}
            pairs = [(named[task, first], named[task, second]) for task in both]
            yield from _family(about, "shots", f"{first}- and {shots_name(second)}", at_both, pairs)
        if component == "heads":
            means = {
                f"mean importance{'' if shots is None else f', {shots_name(shots)}'}": scores
                for shots, scores in found.aggregates(component, method).items()
            }
            for capacity, scores in sorted(found.induction.items()):
                pairs = [(capacity, name) for name in means]
                yield from _family(about, "induction", capacity, {capacity: scores, **means}, pairs)


def _family(
    about: Mapping[str, str], kind: str, name: str, scores: Mapping[str, np.ndarray], pairs: list[tuple[str, str]]
) -> Iterator[Family]:
    """The family of these pairs, where there are any."""
    if not pairs:
        return
    size = next(iter(scores.values())).size
    number = min(PERMUTATIONS, max(SHUFFLED // (size * len(scores)), A_PAIR * len(pairs)))
    found = agreements(scores, pairs, permutations=number)
    yield Family(**about, kind=kind, name=name, pairs=found, permutations=number)


# -- in words, and as a table ---------------------------------------------------------------------------------------


def agreement_table(families: Sequence[Family]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): a row for each family; with the model where there are several."""
    several = len({family.model for family in families}) > 1
    header = ["rankings of", "agreement", "pairs", "mean rho", "least to largest", "within layers"]
    header += ["significant", "significant within layers", "top 10 % shared (by chance)", "top 30 % shared (by chance)"]
    return [*(["model"] if several else []), *header], [_row(family, several) for family in families]


def _row(family: Family, several: bool) -> list[str]:
    rhos, within = family.values("rho"), family.values("rho_within_layers")
    noun = "FFNs" if family.component == "ffns" else family.component
    kind = NAMES[family.kind] if family.kind != "induction" else "with"
    number = len(family.pairs)
    return [
        *([family.model] if several else []),
        f"{noun}, {family.method}",
        f"{kind} {family.name}" if family.kind == "induction" else f"{kind}, {family.name}",
        str(number),
        _mean(rhos),
        f"{min(rhos):.2f} to {max(rhos):.2f}" if rhos else "",
        _mean(within),
        f"{family.significant('p_holm')} of {number}" if rhos else "",
        f"{family.significant('p_within_layers_holm')} of {number}" if within else "",
        *(_shared(*family.shared(at)) for at in SHOWN),
    ]


def agreement_sentences(families: Sequence[Family]) -> list[str]:
    """Of each kind of ranking how far tasks agree at the most shots, in a line."""
    last = {(f.model, f.component, f.method): f for f in families if f.kind == "tasks"}
    return [_sentence(family, len({model for model, _, _ in last}) > 1) for family in last.values()]


def _sentence(family: Family, several: bool) -> str:
    what, _, number, rho, bounds, within, whole, inside, *_ = _row(family, several)[several:]
    of = f" of {family.model}" if several else ""
    text = f"Do tasks agree, {family.name}? {what}{of}: rho {rho} over {number} pair{'s' * (number != '1')} ({bounds})"
    if within:
        text += f", {within} within layers, significant there in {inside}"
    elif rho:
        text += f", significant in {whole}"
    share, by_chance = (f"{100 * each:.0f} %" for each in family.shared(SHOWN[-1]))
    return f"{text}; of the top 30 % {share} are shared, by chance {by_chance}"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" if values else ""


def _shared(share: float, by_chance: float) -> str:
    return "" if math.isnan(share) else f"{share:.0%} ({by_chance:.0%})".replace("%", " %")


# -- files ----------------------------------------------------------------------------------------------------------


def write_agreement(families: Sequence[Family], folder: Path) -> list[Path]:
    """Write agreement.csv, a line a pair, and agreement.json; nothing where there are no pairs."""
    if not families:
        return []
    paths = [folder / "agreement.csv", folder / "agreement.json"]
    records = [{**_about(family), **_flat(pair)} for family in families for pair in family.pairs]
    write_csv(paths[0], records)
    content = {"format": "lm-eval-prune-agreement", "version": 1, "families": [_nested(family) for family in families]}
    write_json(paths[1], content)
    return paths


def _about(family: Family) -> dict[str, Any]:
    return {key: getattr(family, key) for key in ("model", "component", "method", "kind", "name", "permutations")}


def _flat(pair: PairAgreement) -> dict[str, Any]:
    record = {key: _clean(value) for key, value in pair._asdict().items() if key != "tops"}
    for top in pair.tops:
        name = f"top {float(top.share):.0%}".replace("%", " %")
        record |= {f"{name} of": top.kept, f"{name} shared": top.shared}
        record |= {f"{name} by chance": top.expected, f"{name} p": top.p}
    return record


def _nested(family: Family) -> dict[str, Any]:
    rhos = family.values("rho")
    summary = None
    if rhos:
        mean, variance = float(np.mean(rhos)), float(np.var(rhos))
        summary = {"mean": mean, "variance": variance, "least": min(rhos), "most": max(rhos)}
    pairs = [
        {
            **{key: _clean(value) for key, value in pair._asdict().items() if key != "tops"},
            "tops": [{**top._asdict(), "share": float(top.share)} for top in pair.tops],
        }
        for pair in family.pairs
    ]
    return {**_about(family), "rho": summary, "pairs": pairs}


def _clean(value: Any) -> Any:
    """None for what is no finite number, which JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
