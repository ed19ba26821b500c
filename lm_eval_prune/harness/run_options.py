"""The harness's `run` as ours shows it: its help with our model's arguments, its log without what is said twice."""

from __future__ import annotations

import argparse
import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["describe", "each_warning_once"]

USAGE = "lm-eval-prune run --tasks <task> ... --model_args <arg=value> [options]"
MODEL = "Model name (default: pruned-hf, or pruned-opt for a model of that family)"
EPILOG = """\
arguments of pruned-hf and pruned-opt, in --model_args beside those of hf:
  pretrained=NAME                         default: the bundled model
  mask=FILE                               the mask: what is pruned
  head_importance=FILE,prune_heads=SHARE  prune the share of heads scored lowest
  ffn_importance=FILE,prune_ffns=SHARE    the same of FFNs
  unit=head|kv_group                      pruned as one (default: head)
  scorer=packed|flex|padded               packed computes no token twice, flex
                                          the same on a GPU by flex attention,
                                          padded is hf's way (default: packed)
  load=masked|compact                     compact loads only what the mask
                                          leaves (default: masked)
  ablation=zero|mean,means=FILE           what is pruned gives zero, or its mean
                                          output (default: zero)

examples:
  $ lm-eval-prune run --tasks icl_demo
  $ lm-eval-prune run --model_args pretrained=facebook/opt-125m,mask=mask.json \\
        --tasks icl14_1shot --batch_size 8 --output_path results

On a CPU the model computes in float32 unless dtype says otherwise.
"""
HINTS = ("Custom kwargs can be passed to `--metadata`",)
"""Beginnings of what every task of some kinds says, behind its name, whatever was asked for."""


def describe(parser: argparse.ArgumentParser) -> None:
    """Let the parser of the harness's `run` tell what is different in ours."""
    parser.usage, parser.epilog = USAGE, textwrap.dedent(EPILOG)
    parser.description = "Evaluate a pruned model: the harness's own run, with our model as the default."
    for action in parser._actions:
        if action.dest == "model":
            action.help = MODEL


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Inside, the harness's log holds each warning once."""
    filters = [(handler, _SaidOnce()) for handler in logging.getLogger("lm_eval").handlers]
    for handler, once in filters:
        handler.addFilter(once)
    try:
        yield
    finally:
        for handler, once in filters:
            handler.removeFilter(once)


class _SaidOnce(logging.Filter):
    """Lets each warning through once."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        new = text not in self.said and not any(hint in text for hint in HINTS)
        self.said.add(text)
        return new
