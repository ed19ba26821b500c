"""The bundled model: a small OPT that learns in context, its training data, its training script and its tasks.

`vocabulary.py` holds the words and the tokenizer, `held_out.py` what the model never sees in training, `mixture.py` the
training sequences, `train.py` the training, `documents.py` and `generate_tasks.py` the documents of the harness tasks
`icl_demo`. Importing this package costs nothing: neither torch nor transformers is loaded.
"""

from pathlib import Path

__all__ = ["BUNDLED_NAME", "bundled_model_path"]

BUNDLED_NAME = "lm-eval-prune/bundled"
"""What files call the bundled model, wherever it is installed."""


def bundled_model_path() -> Path:
    """Folder of the bundled checkpoint and its tokenizer, for `from_pretrained`."""
    return Path(__file__).parent / "model"
