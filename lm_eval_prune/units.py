"""What of a benchmark was drawn independently: the passage that several documents ask about, not each of them.

A task says so in its definition (`metadata: {cluster: FIELD}`); for those whose documents are known to share a text the
field is listed here. Imports nothing heavy: the harness writes units into a sweep's samples, the report reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["UNIT_FIELDS", "unit_field", "unit_of"]

UNIT_FIELDS = {
    "boolq": "passage",
    "drop": "passage",
    "icl14_multirc": "paragraph",
    "icl14_record": "passage",
    "multirc": "paragraph",
    "race": "article",
    "record": "passage",
    "squadv2": "context",
    "wsc": "text",
}
"""Task -> the field of its documents whose value several of them share. MultiRC's questions lie within paragraphs, WSC
asks about several spans of one text."""


def unit_field(task: str, metadata: Any = None) -> str:
    """The field that names a document's unit; empty where each document is its own. `metadata` is the definition's."""
    declared = metadata.get("cluster") if isinstance(metadata, Mapping) else None
    return declared if isinstance(declared, str) else UNIT_FIELDS.get(task, "")


def unit_of(document: Any, field: str) -> str | None:
    """A short hash of the document's `field`; None where it has none."""
    if not field or not isinstance(document, Mapping) or field not in document:
        return None
    text = json.dumps(document[field], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
