"""YAML of strangers within bounds: plain values, keys that are texts and stand once, no aliases, little nesting.

A few lines of aliases stand for terabytes, and a tag may stand for code; neither is needed for settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.files import read_bytes
from lm_eval_prune.strict_json import decoded
from lm_eval_prune.text import message_of

__all__ = ["read_yaml"]

MAX_BYTES = 256 * 2**10
MAX_DEPTH = 20
TEXT = "tag:yaml.org,2002:str"


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """(the mapping in the YAML file, the line of each of its keys). Raises FileFormatError that names the line."""
    data = read_bytes(path, "YAML")
    if len(data) > MAX_BYTES:
        raise FileFormatError(
            f"{path}: {len(data) // 1024} KiB, too large for settings (limit {MAX_BYTES // 1024} KiB)"
        )
    try:
        loader = _Loader(decoded(data, path, "YAML"))
        root = loader.get_single_node()
        content = {} if root is None else loader.construct_document(root)
    except _Refused as error:
        raise FileFormatError(f"{path}, line {error.line}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or message_of(error)
        raise FileFormatError(f"{path}{line}: not valid YAML: {reason}") from None
    except FileFormatError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:  # odd dates and numbers
        raise FileFormatError(f"{path}: not valid YAML: {message_of(error)[:200]}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise FileFormatError(f"{path}: expected settings, such as tasks: [piqa]")
    keys = root.value if isinstance(root, yaml.MappingNode) else ()
    return content, {key.value: key.start_mark.line + 1 for key, _ in keys}


class _Refused(yaml.YAMLError):
    def __init__(self, message: str, mark: Any) -> None:
        super().__init__(message)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f"*{event.anchor}: an alias; write out what it stands for", event.start_mark)
        if self.depth == MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} deep", event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != TEXT:
                name = str(key.value)[:40] if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _Refused(f"{name}: Keys should be strings; write it in quotes", key.start_mark)
            if key.value in lines:
                raise _Refused(f"{key.value}: stands in line {lines[key.value]} already", key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node
