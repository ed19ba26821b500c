"""The process of `vega.py`: a request as JSON on its input, texts and pictures in base64 as a JSON list on its output.

Run as a script, so that nothing of this package is imported, and nothing of its folder in place of other modules.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)

import base64
import json
from typing import Any

import vl_convert


def answer(request: dict[str, Any]) -> list[bytes]:
    """The script that draws charts on a page, or charts as files."""
    if "bundle" in request:
        return [vl_convert.javascript_bundle(vl_version=request["bundle"]).encode()]  # type: ignore[call-arg]
    return [_converted(chart, form, request["png_scale"]) for chart, form in request["charts"]]


def _converted(chart: dict[str, Any], form: str, png_scale: float) -> bytes:
    if form == "svg":
        return vl_convert.vegalite_to_svg(chart).encode()
    if form == "png":
        return vl_convert.vegalite_to_png(chart, scale=png_scale)
    return vl_convert.vegalite_to_pdf(chart)


if __name__ == "__main__":
    answers = answer(json.load(sys.stdin.buffer))
    json.dump([base64.b64encode(each).decode() for each in answers], sys.stdout)
