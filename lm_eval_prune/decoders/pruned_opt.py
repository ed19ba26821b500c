"""Where the code beside OPT checkpoints compacted by earlier versions looks for its classes."""

from lm_eval_prune.decoders.compacted import __getattr__  # noqa: F401
