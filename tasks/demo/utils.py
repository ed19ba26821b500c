"""Loads the demo tasks' documents from the `data` folder beside this file, wherever it is installed."""

import json
from pathlib import Path

import datasets


def load_documents(documents: str, **_metadata: object) -> datasets.DatasetDict:
    """The `train` and `validation` documents of `data/<documents>.<split>.jsonl`, held in memory: no cache is written.

    The harness passes the task's metadata along; nothing here depends on it.
    """
    data = Path(__file__).parent / "data"
    splits = {}
    for split in ("train", "validation"):
        text = (data / f"{documents}.{split}.jsonl").read_text(encoding="utf-8")
        splits[split] = datasets.Dataset.from_list([json.loads(line) for line in text.splitlines()])
    return datasets.DatasetDict(splits)
