"""Runs of one name told apart: by the model, the question, and how they were computed, each named by what differs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lm_eval_prune.identity import COMMIT, FURTHER_FILES, UNKNOWN
from lm_eval_prune.report.runs import Problem, Run

__all__ = ["told_apart"]

Identity = tuple[tuple[str, str], ...]

FOLLOWS = ("probe_token_ids", "peft_sha", "delta_sha", "weights", "bos_prepended", "max_length", "dtype")
"""Settings that often only follow from another: left out of a name where the rest says what differs."""
LONGEST = 40
"""Characters of a value in a name."""
MOST = 20
"""Settings in a name: where more differ, and these do not tell, a number does."""


def told_apart(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """The runs, their models named such that one name is one model asked one question.

    Runs of known equal weights go by the first one's name and by one revision (a branch, a tag and the commit itself
    may be the same), and `(peft=me/lora)` or the like stands behind a name that
    several share. `Run.apart` is set where nothing but the way of computing differs.
    """
    runs = _one_revision_for_equal_weights(_one_name_for_equal_weights(runs))
    identities: dict[str, dict[Identity, None]] = defaultdict(dict)
    for run in runs:
        identities[run.model].setdefault(_frozen(run.identity))
    names: dict[tuple[str, Identity], str] = {}
    problems = []
    for model, found in identities.items():
        settings = _telling(list(found))
        for identity in found:
            names[model, identity] = _name(model, dict(identity), settings, names)
        if len(found) > 1:
            listed = ", ".join(names[model, identity] for identity in found)
            problems.append(
                Problem("different models of one name", f"{', '.join(settings)} differ, or are not said: {listed}")
            )
    named = [replace(run, model=names[run.model, _frozen(run.identity)], name=run.model) for run in runs]
    return _ways_apart(named), problems


def _one_name_for_equal_weights(runs: Sequence[Run]) -> list[Run]:
    names: dict[str, str] = {}
    for run in runs:
        if run.weights:
            names.setdefault(run.weights, run.model)
    return [replace(run, model=names[run.weights]) if run.weights else run for run in runs]


def _one_revision_for_equal_weights(runs: Sequence[Run]) -> list[Run]:
    """Where a tokenizer, an adapter or a delta is of a repository of its own, the revision is of that one too: kept."""
    revisions: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if run.weights and not run.identity.keys() & set(FURTHER_FILES):
            revisions[run.weights].add(run.identity.get("revision", ""))
    told = {weights: min(found, key=_how_telling) for weights, found in revisions.items() if len(found) > 1}
    return [
        replace(run, identity=_with_revision(run.identity, told[run.weights]))
        if run.weights in told and not run.identity.keys() & set(FURTHER_FILES)
        else run
        for run in runs
    ]


def _how_telling(revision: str) -> tuple[bool, int, str]:
    """The default branch (no revision) before tags and branches, these before commits."""
    return bool(COMMIT.fullmatch(revision)), len(revision), revision


def _with_revision(identity: Mapping[str, str], revision: str) -> dict[str, str]:
    kept = {name: value for name, value in identity.items() if name != "revision"}
    return {**kept, **({"revision": revision} if revision else {})}


def _frozen(identity: Mapping[str, str]) -> Identity:
    return tuple(sorted(identity.items()))


def _telling(identities: Sequence[Identity]) -> list[str]:
    """As few settings as tell all of them apart, by name; at most MOST."""
    known = [dict(identity) for identity in identities]
    every = {name for identity in known for name in identity}
    settings = sorted(name for name in every if len({identity.get(name) for identity in known}) > 1)
    if len(settings) > MOST:
        follows = [name for name in FOLLOWS if name in settings]
        settings = [*(name for name in settings if name not in FOLLOWS), *follows][:MOST]
    doubtful = [name for name in settings if any(identity.get(name) == UNKNOWN for identity in known)]
    for name in [*doubtful, *(name for name in FOLLOWS if name in settings and name not in doubtful)]:
        rest = [other for other in settings if other != name]
        if len({tuple(identity.get(other) for other in rest) for identity in known}) == len(identities):
            settings = rest
    return settings


def _name(
    model: str, identity: Mapping[str, str], settings: Iterable[str], taken: Mapping[tuple[str, Identity], str]
) -> str:
    said = ", ".join(_said(setting, identity[setting]) for setting in settings if setting in identity)
    name = plain = f"{model} ({said})" if said else model
    number = 2
    while name in taken.values():
        name, number = f"{plain} #{number}", number + 1
    return name


def _said(setting: str, value: str) -> str:
    if value == UNKNOWN:
        return f"{setting} unknown"
    if setting == "weights":
        return f"weights {value[:12]}"
    return f"{setting}={value if len(value) <= LONGEST else value[: LONGEST - 1] + '…'}"


def _ways_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs that would be taken for repetitions of one another, though computed in other ways or on other documents."""
    alike: dict[tuple[object, ...], list[Run]] = defaultdict(list)
    for run in runs:
        alike[run.model, run.backend, run.variant, run.task, run.num_fewshot, run.fewshot_seed].append(run)
    telling: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for own in alike.values():
        for way in {way for run in own for way in run.ways}:
            if len({run.ways.get(way) for run in own}) > 1:
                telling[own[0].model, own[0].backend].setdefault(way)
    return [replace(run, apart=_apart(run, sorted(telling.get((run.model, run.backend), ())))) for run in runs]


def _apart(run: Run, ways: Iterable[str]) -> str:
    return ", ".join(f"{way}={run.ways[way]}" for way in ways if way in run.ways)
