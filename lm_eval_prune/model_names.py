"""The names by which the harness knows our models, and results name what gave them."""

__all__ = ["ANY_FAMILY", "ORIGINAL_FAMILY", "OURS"]

ANY_FAMILY = "pruned-hf"
"""Of every supported family."""
ORIGINAL_FAMILY = "pruned-opt"
"""The same model, of the study's family alone."""
OURS = (ORIGINAL_FAMILY, ANY_FAMILY)
