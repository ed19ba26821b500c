"""The bundled model: a small decoder that learns in context. How it was trained is in `training/` of the repository."""

from pathlib import Path

__all__ = ["BUNDLED_NAME", "bundled_model_path"]

BUNDLED_NAME = "lm-eval-prune/bundled"
"""What files call the bundled model, wherever it is installed."""


def bundled_model_path() -> Path:
    """Folder of the bundled checkpoint and its tokenizer, for `from_pretrained`."""
    return Path(__file__).parent / "model"
