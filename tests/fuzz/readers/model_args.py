"""`--model_args`, as text or JSON, of every command."""

from __future__ import annotations

from pathlib import Path

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.model_args import model_args_text, parse_model_args
from tests.fuzz.readers import Target

GOOD = [
    b"pretrained=facebook/opt-125m,dtype=float32,mask=mask.json,prune_heads=0.70",
    b"pretrained = a b , parallelize=True, max_memory_per_gpu=1e9,trust_remote_code=false",
    b'{"pretrained": "x", "max_length": 128, "device_map": {"": 0}, "list": [1, "2", null]}',
    b"pretrained=x,generation={'a': [1, 2], \"b\": (3, 4)},quoted='a,b',revision=1234567,seed=-1",
]


def prepare(folder: Path) -> Target:
    return Target(GOOD, read, "text")


def read(data: bytes, own: Path) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:  # no command line holds it otherwise
        text = data.decode(errors="surrogateescape")
    arguments = parse_model_args(text)
    assert all(isinstance(name, str) and name for name in arguments)
    try:
        again = parse_model_args(model_args_text(arguments))
    except ArgumentError:
        again = None
    if again is not None:
        assert again.keys() == arguments.keys()
