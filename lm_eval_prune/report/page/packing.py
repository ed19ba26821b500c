"""What the page's scripts read: JSON, deflated, in base64. A large study's rows are a tenth of their size so.

Nothing in base64 can end a script element or mean anything to HTML, whatever names the data holds.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

__all__ = ["packed", "packed_bytes"]


def packed(content: Any) -> str:
    """JSON values; `unpacked` of unpacking.js is the way back."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return packed_bytes(text.encode(errors="backslashreplace"))


def packed_bytes(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()
