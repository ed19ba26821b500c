"""What a results file or a sweep's cell says of its model and question, as fields of a run.

`identity.py` decides what counts; here it is looked up. A file may say it in an `identity` block (harness/results.py),
in the harness's `config`, or not at all, as those of a notebook that handed over a model of another class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval_prune.demo import BUNDLED_NAME
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.identity import UNKNOWN, identity_of_record, known_weights, said, spelt
from lm_eval_prune.model_args import parse_model_args
from lm_eval_prune.model_names import ANY_FAMILY, OURS
from lm_eval_prune.text import printable

__all__ = ["identified", "identified_cell"]


def identified(results: Mapping[str, Any], config: Mapping[str, Any], pruning: Mapping[str, Any]) -> dict[str, Any]:
    """`model`, `backend`, `weights`, `identity` and `ways` of the runs in a results file."""
    block = _mapping(config.get("identity")) or _mapping(pruning.get("identity"))
    arguments = _arguments(block.get("arguments", config.get("model_args")))
    if arguments is None or "model_args" in arguments:
        arguments = _arguments(block.get("loaded_with"))
    given = dict(arguments or {})
    if arguments is not None:
        arguments |= _mapping(block.get("files"))
    name = block.get("model") or _named(results, config, given)
    revision = given.get("revision") or config.get("model_revision")
    weights = known_weights(str(name), block.get("weights"), config.get("model_sha"), revision)
    probe = _mapping(pruning.get("probe")) or _mapping(block.get("probe"))
    identity, ways = identity_of_record(
        arguments,
        config,
        {**results, **_mapping(block.get("prompt"))},
        weights=weights,
        dtype=block.get("dtype") or pruning.get("dtype") or config.get("model_dtype"),
        bos_prepended=_known(pruning.get("bos_prepended"), block.get("bos_prepended")),
        probe_token_ids=probe.get("token_ids"),
    )
    backend = block.get("backend") or _backend(config, bool(pruning))
    backend = ANY_FAMILY if backend in OURS else backend  # one class under two names
    ways |= said({"scorer": pruning.get("scorer"), "limit": config.get("limit")})
    return _fields(str(name), str(backend), weights, identity, ways)


def identified_cell(
    content: Mapping[str, Any], model: Mapping[str, Any], cell: Mapping[str, Any], pruning: Mapping[str, Any]
) -> dict[str, Any]:
    """The same of a sweep's cell, of whose identity `cell` is the whole and `model` the part about the model."""
    config = _mapping(content.get("config"))
    name = str(model.get("name") or BUNDLED_NAME)
    weights = known_weights(name, model.get("fingerprint"), config.get("model_sha"), model.get("revision"))
    arguments = {key: value for key, value in model.items() if key not in ("name", "fingerprint", "identity")}
    identity, ways = identity_of_record(
        arguments,
        config,
        content,
        weights=weights,
        dtype=pruning.get("dtype") or cell.get("dtype"),
        bos_prepended=_known(pruning.get("bos_prepended")),
        probe_token_ids=_mapping(pruning.get("probe")).get("token_ids"),
    )
    processes, decided = cell.get("num_processes"), _mapping(_mapping(content.get("cell")).get("decide"))
    ways |= said(
        {
            "scorer": pruning.get("scorer") or cell.get("scorer"),
            "limit": cell.get("limit"),
            "num_processes": None if processes == 1 else processes,
            "decide": f"{decided.get('mode')}, margin {decided.get('margin')}" if decided else None,
        }
    )
    return _fields(name, ANY_FAMILY, weights, identity, ways)


def _fields(
    name: str, backend: str, weights: str | None, identity: Mapping[str, str], ways: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "model": printable(spelt("pretrained", name)),
        "backend": printable(backend),
        "weights": printable(weights) if weights else None,
        "identity": {printable(key): printable(value) for key, value in identity.items()},
        "ways": {printable(key): printable(value) for key, value in ways.items()},
    }


def _arguments(given: Any) -> dict[str, Any] | None:
    """The model's arguments; None where the file does not say them. A text that is no list of arguments is one."""
    if given is None:
        return None
    if not isinstance(given, str | Mapping | list):
        return {"model_args": given}
    try:
        return parse_model_args(given)
    except ArgumentError:
        return {"model_args": given}


def _named(results: Mapping[str, Any], config: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    backend = config.get("model")
    if named := given.get("pretrained") or given.get("model"):
        return named
    if backend in OURS:  # which load it without `pretrained`
        return BUNDLED_NAME
    if config.get("model_args") is None or "model_args" in given:
        # A model object: there the harness writes the model's own name where the backend's stands otherwise.
        return backend or results.get("model_name") or "unknown model"
    return results.get("model_name") or "unknown model"


def _backend(config: Mapping[str, Any], ours: bool) -> Any:
    if config.get("model_args") is None and ours:  # a model object, whose name stands in the backend's place
        return ANY_FAMILY
    return config.get("model") or UNKNOWN


def _known(*found: Any) -> bool | None:
    return next((value for value in found if isinstance(value, bool)), None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
