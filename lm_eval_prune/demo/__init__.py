"""The bundled model: a small decoder that learns in context. How it was trained is in `training/` of the repository."""

from pathlib import Path

__all__ = ["BUNDLED_NAME", "bundled_model_path", "is_bundled"]

BUNDLED_NAME = "lm-eval-prune/bundled"
"""What files call the bundled model, wherever it is installed; and what it may be asked for by."""


def bundled_model_path() -> Path:
    """Folder of the bundled checkpoint and its tokenizer, for `from_pretrained`."""
    return Path(__file__).parent / "model"


def is_bundled(pretrained: object) -> bool:
    """Whether the bundled model is asked for: by its name, or by no name at all."""
    return pretrained is None or (isinstance(pretrained, str) and pretrained == BUNDLED_NAME)
