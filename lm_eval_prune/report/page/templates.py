"""The page's assets: templates that escape every value, styles and scripts, and the policy that forbids the network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from lm_eval_prune.report.runs import shots_name

__all__ = ["STYLES", "in_script", "joined_scripts", "joined_styles", "policy", "template"]

SCRIPTS = (
    "elements.js", "unpacking.js", "view.js", "rows.js", "table.js", "masks.js", "documents.js",
    "statistics.js", "answers.js", "compare.js", "details.js", "download.js", "charts.js", "page.js",
)  # fmt: skip
STYLES = ("page.css", "controls.css", "table.css", "details.css", "narrow.css", "print.css")


@cache
def template(name: str) -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=FunctionLoader(_asset)
    )
    environment.globals["shots_name"] = shots_name
    return environment.get_template(name)


def joined_styles(names: Sequence[str] = STYLES) -> str:
    return _joined("styles", tuple(names))


def joined_scripts(names: Sequence[str] = SCRIPTS) -> str:
    """The page's own scripts, which share one scope and leave nothing in the window's."""
    return in_script('"use strict";\n(() => {\n' + _joined("scripts", tuple(names)) + "\n})();")


def in_script(source: str) -> str:
    """JavaScript that stands in a script element and means the same there.

    The parser ends a script at `</script` and enters another state at `<!--`; both occur in strings and regular
    expressions alone, where a backslash before `/` and `!` changes nothing.
    """
    return re.sub(r"<(?=/script|!--)", r"<\\", source, flags=re.IGNORECASE)


def policy(scripts: Iterable[str]) -> str:
    """Content-Security-Policy: these scripts, styles and pictures from within the file, and no network."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


@cache
def _joined(folder: str, names: Sequence[str]) -> str:
    return "\n".join(_asset(f"{folder}/{name}") for name in names)


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", *name.split("/")).read_text(encoding="utf-8")
