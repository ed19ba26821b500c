"""What a model is, as far as its numbers go: a hash of its configuration, weights and tokenizer files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lm_eval_prune.demo import BUNDLED_NAME, bundled_model_path
from lm_eval_prune.errors import FileFormatError

__all__ = ["model_files_fingerprint", "model_folder"]

SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model")


def model_folder(arguments: dict[str, str]) -> Path:
    """The folder that `pretrained` (and `revision`) load from; a hub id's is where the hub's cache has it.

    Raises FileFormatError where there is none.
    """
    name = arguments.get("pretrained", BUNDLED_NAME)
    if name == BUNDLED_NAME:
        return bundled_model_path()
    if Path(name).is_dir():
        return Path(name)
    from transformers.utils import cached_file

    try:
        found = cached_file(name, "config.json", revision=arguments.get("revision", "main"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"pretrained={name}: no such model: {' '.join(str(error).split())}") from None
    return Path(str(found)).parent


def model_files_fingerprint(folder: Path) -> str:
    """SHA-256 over names and contents of the model's files.

    Of a model in the hub's cache, over its commit: the same before and after its weights are downloaded.
    """
    digest = hashlib.sha256()
    if folder.parent.name == "snapshots" and len(folder.name) == 40:
        digest.update(f"{folder.parent.parent.name} {folder.name}".encode())
        return digest.hexdigest()
    for path in sorted(folder.iterdir()):
        if path.suffix not in SUFFIXES or not path.is_file() or path.name.startswith("."):
            continue
        digest.update(f"{path.name} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
