"""The options of `plan`, as words of a command line."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import click
from huggingface_hub import constants

from lm_eval_prune import PruneError
from lm_eval_prune.cli.plan import command
from tests.fuzz.readers import Target

GOOD = [
    "66b --devices 8x80GB --tflops 200 --prune_heads 0,0.7 --prune_ffns 0,0.2",
    "facebook/opt-125m --devices 80GB,cpu:200GB,disk --bandwidth 20 --batch_size 4 --max_length 512 --dtype bfloat16",
    "1.3b --tasks copa,piqa --num_fewshot 0,1,5,40 --tokens mytask=1000x250 --limit 0.5 --importance_limit 100",
    "350m --ranking own --ranking random:0+1+2 --scorer padded --devices cpu:24GB --tflops 0.5 --limit 100",
]


def prepare(folder: Path) -> Target:
    os.environ["HF_HUB_OFFLINE"] = "1"  # a spoilt name is a hub id
    constants.HF_HUB_OFFLINE = True

    def read(data: bytes, own: Path) -> None:
        words = os.fsdecode(data.replace(b"\0", b"")).split(" ")
        words = [word for word in words if word not in ("--json", "--measure", "--help")]
        # Errors of usage are click's own, and one line, too.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(click.ClickException):
            try:
                command.main(words, standalone_mode=False)
            except PruneError as error:
                if len(str(error)) > 2 * len(data) + 1000:  # what somebody typed himself may be as long as that
                    raise

    return Target([good.encode() for good in GOOD], read, form="text")
