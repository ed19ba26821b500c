"""Which model, asked which question: all that decides a run's result.

The response cache, sweeps, the `identity` block of results files and the leaderboard all ask here. An identity is a
flat mapping of settings to texts. Everything counts but the short lists of this module (`PLACEMENT`, `MASK_ARGUMENTS`,
`NOT_ASKED`), so that an argument nobody has thought of keeps runs apart rather than mixing them. A setting at its
default is left out, whether it was written down or not; one that a file does not say is `UNKNOWN`, which equals no
known value. Masks are not part of it: they tell the variants of one model apart.

Imports neither torch nor lm_eval.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = [
    "COMMIT",
    "FURTHER_FILES",
    "MASK_ARGUMENTS",
    "PLACEMENT",
    "QUESTION",
    "UNKNOWN",
    "VERSION",
    "counting_arguments",
    "differing",
    "files_fingerprint",
    "files_of_arguments",
    "hub_fingerprint",
    "identity_of_record",
    "known_weights",
    "said",
    "spelt",
]

VERSION = 2
"""Of how models are told apart: sweeps of another one are refused. 1 was a list of the files that count."""

UNKNOWN = "unknown"
"""The value of a setting that a file does not say."""

MASK_ARGUMENTS = ("mask", "head_importance", "prune_heads", "ffn_importance", "prune_ffns", "unit")
"""Model arguments that say what is pruned; files record the mask itself."""

PLACEMENT = frozenset(
    {
        "device", "batch_size", "batch_sizes", "max_batch_size", "parallelize", "device_map", "device_map_option",
        "max_memory_per_gpu", "max_cpu_memory", "max_memory", "offload_folder", "offload_state_dict", "gpus", "tp_plan",
        "low_cpu_mem_usage", "cache_dir", "local_files_only", "token", "force_download", "use_safetensors",
        "tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization", "swap_space", "cpu_offload_gb",
        "download_dir", "num_concurrent", "max_retries", "timeout", "verbosity",
    }
)  # fmt: skip
"""Arguments of the harness's models that say where, how fast and from which cache, not what."""

DEFAULTS: Mapping[str, Any] = {
    "revision": "main", "subfolder": "", "backend": "default", "truncation": False, "trust_remote_code": False,
    "use_fast_tokenizer": True, "logits_cache": True, "autogptq": False, "gptqmodel": False, "load_in_4bit": False,
    "load_in_8bit": False, "load": "masked", "scorer": "packed", "ablation": "zero", "dtype": "auto", "random_seed": 0,
    "numpy_seed": 1234, "torch_seed": 1234,
}  # fmt: skip
"""What is so where nothing is said; None and an empty text are everybody's default."""

NOT_ASKED = frozenset(
    {
        "model", "model_args", "model_num_parameters", "model_dtype", "model_revision", "model_sha", "use_cache",
        "bootstrap_iters", "limit", "fewshot_seed", "pruning", "identity",
    }
)  # fmt: skip
"""Entries of the harness's `config` that say nothing further of the model and the question, or are read by name:
the few-shot seed and the limit tell runs of one row apart."""

WAYS = frozenset({"scorer", "load", "num_processes", "limit", "attn_implementation", "ablation", "means"})
"""How a result was computed, or on how many documents: such runs stay rows apart, and can be compared."""

QUESTION = frozenset(
    {
        "add_bos_token", "bos_prepended", "probe_token_ids", "max_length", "truncation", "prefix_token_id",
        "chat_template", "chat_template_args", "enable_thinking", "think_end_token", "system_instruction",
        "fewshot_as_multiturn", "gen_kwargs", "random_seed", "numpy_seed", "torch_seed",
    }
)  # fmt: skip
"""Settings of the question. They must agree even where another model is chosen as the baseline."""

FURTHER_FILES = ("tokenizer", "peft", "delta")
"""Arguments that may name a folder whose content counts."""

PATHS = frozenset({"pretrained", "model", "peft", "delta", "tokenizer", "gguf_file", "subfolder"})

LEFT_BEHIND = frozenset(
    {
        "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth", "trainer_state.json",
        "training_args.bin", "training_args.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
        "USE_POLICY.md",
    }
)  # fmt: skip
"""Files in a checkpoint's folder that no model or tokenizer is loaded from."""
NOT_LOADED = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".md", ".log", ".lock", ".tmp")
"""Endings of such files: pictures, texts for people, traces of programs."""
COMMIT = re.compile("[0-9a-f]{40}")


# -- values -------------------------------------------------------------------------------------------------------


def spelt(name: str, value: Any) -> str:
    """One spelling of a setting's value: `torch.float16` is `float16`, `./m/` is `m`, `1.0` is `1`."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    text = str(value).strip()
    if name.endswith("dtype"):
        return text.removeprefix("torch.")
    if name in PATHS and text and "://" not in text:
        return os.path.normpath(text).replace(os.sep, "/")
    return text.capitalize() if text.lower() in ("true", "false") else text


def said(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings that are not at their default, each in one spelling, by name."""
    return {
        name: spelt(name, value)
        for name, value in sorted(settings.items())
        if value not in (None, "", {}, [])
        and not (name in DEFAULTS and spelt(name, value) == spelt(name, DEFAULTS[name]))
    }


def counting_arguments(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The model arguments that decide a result beside the model's name and its mask."""
    return said(
        {
            name: value
            for name, value in arguments.items()
            if name not in PLACEMENT and name not in MASK_ARGUMENTS and name not in ("pretrained", "model", "scorer")
        }
    )


def files_of_arguments(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What stands for an argument that names a folder: its name and the hash of its files. Raises OSError."""
    folders = {
        name: Path(str(arguments[name]))
        for name in FURTHER_FILES
        if isinstance(arguments.get(name), str | os.PathLike) and Path(arguments[name]).is_dir()
    }
    return {name: f"{path.resolve().name}@{files_fingerprint(path)[:16]}" for name, path in folders.items()}


# -- identities ---------------------------------------------------------------------------------------------------


def identity_of_record(
    arguments: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    weights: str | None,
    dtype: Any = None,
    bos_prepended: bool | None = None,
    probe_token_ids: Any = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """(what identifies a run's model and question, in which way it was computed) from what its file says.

    `arguments` are the model's, None where the file does not say them; `config` is the harness's block of that name
    and `about` the top level of its file. What is recorded of the loaded model (`dtype`, `bos_prepended`, the length)
    stands above the argument that asked for it.
    """
    settings = counting_arguments(arguments or {})
    if arguments is None:
        settings["model_args"] = UNKNOWN
    if revision := said({"revision": config.get("model_revision")}):
        settings |= revision
    settings |= said({name: value for name, value in config.items() if name not in NOT_ASKED | PLACEMENT})
    settings |= _prompt(about)
    settings["weights"] = weights or UNKNOWN
    settings["dtype"] = spelt("dtype", dtype or settings.get("dtype") or UNKNOWN)
    settings["max_length"] = spelt("max_length", about.get("max_length") or settings.get("max_length") or UNKNOWN)
    asked = settings.pop("add_bos_token", UNKNOWN)
    settings["bos_prepended"] = asked if bos_prepended is None else str(bos_prepended)
    settings["probe_token_ids"] = UNKNOWN if probe_token_ids is None else spelt("probe_token_ids", probe_token_ids)
    ways = {name: settings.pop(name) for name in sorted(settings.keys() & WAYS)}
    return dict(sorted(settings.items())), ways


def _prompt(about: Mapping[str, Any]) -> dict[str, str]:
    """The system instruction and the chat template, by their first words and a hash; a file may not say them."""
    settings = {}
    for name in ("chat_template", "system_instruction"):
        text, known = about.get(name), about.get(f"{name}_sha")
        if name not in about and known is None:
            settings[name] = UNKNOWN
        elif text or known:
            settings[name] = str(known or hashlib.sha256(str(text).encode(errors="backslashreplace")).hexdigest())[:12]
    if settings.get("chat_template", UNKNOWN) != UNKNOWN:  # without a template nothing is a turn
        settings |= said({"fewshot_as_multiturn": about.get("fewshot_as_multiturn")})
    return settings


def differing(first: Mapping[str, str], second: Mapping[str, str], names: Iterable[str] | None = None) -> list[str]:
    """The settings (of `names`, if given) on which two identities are not known to agree, by name."""
    every = sorted(first.keys() | second.keys()) if names is None else sorted(names)
    return [name for name in every if first.get(name) != second.get(name)]


# -- weights ------------------------------------------------------------------------------------------------------


def known_weights(name: str, fingerprint: Any, commit: Any, revision: Any = None) -> str | None:
    """What is known of a model's files: their fingerprint, or that of the hub's commit; None for nothing.

    A `revision` that is a whole commit says as much as the commit.
    """
    if isinstance(fingerprint, str) and fingerprint:
        return fingerprint
    if not commit and isinstance(revision, str) and COMMIT.fullmatch(revision):
        commit = revision
    return hub_fingerprint(name, commit) if isinstance(commit, str) and commit else None


def hub_fingerprint(name: str, commit: str) -> str:
    """SHA-256 that stands for a hub repository at a commit: the same before and after its files are downloaded."""
    return hashlib.sha256(f"models--{name.replace('/', '--')} {commit}".encode(errors="backslashreplace")).hexdigest()


def files_fingerprint(folder: Path, subfolder: str = "") -> str:
    """SHA-256 over names and contents of all files that a model or tokenizer may be loaded from.

    Those of a `subfolder` count too where one is loaded from; other folders' do not, but for chat templates. Of a
    snapshot in the hub's cache its repository and commit stand for the files. Raises OSError.
    """
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--") and COMMIT.fullmatch(folder.name):
        return hub_fingerprint(repository.removeprefix("models--").replace("--", "/"), folder.name)
    places = [folder, folder / "additional_chat_templates", *([folder / subfolder] if subfolder else [])]
    paths = [path for place in places if place.is_dir() for path in sorted(place.iterdir()) if _counts(path)]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:  # hashing releases Python's lock
        for path, found in zip(paths, threads.map(_sha256, paths), strict=True):
            digest.update(f"{path.relative_to(folder).as_posix()} {found}\n".encode())
    return digest.hexdigest()


def _counts(path: Path) -> bool:
    return (
        path.name not in LEFT_BEHIND
        and not path.name.startswith(".")
        and path.suffix.lower() not in NOT_LOADED
        and path.is_file()
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
