"""The pictures of docs/pictures: the page in Chromium at the sizes that people have, and the demo's terminal.

    pip install -e '.[dev]' pyte && python packaging/pictures.py [--terminal] LEADERBOARD.html

Draws docs/pictures/page-*.png of that page; with `--terminal` it runs `lm-eval-prune demo` on a pseudo-terminal of 80
columns, draws what stands there half-way and at the end, and the page is the demo's own.
"""

from __future__ import annotations

import argparse
import html
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from fcntl import ioctl
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import Opened, chromium

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
COLUMNS, LINES = 80, 110
HALF_WAY = b" 7/10 files"
"""Seen on the terminal in the middle of the demo."""
COLOURS = {"default": "#d8d8d8", "red": "#ff7b72", "green": "#7ee787", "cyan": "#79d6e8", "yellow": "#e3b341"}


def pictures_of_page(browser: Any, page: Path) -> None:
    for name, size, scheme in (
        ("page-wide", (1280, 900), "light"), ("page-dark", (1280, 900), "dark"), ("page-phone", (390, 844), "light"),
    ):  # fmt: skip
        with Opened(browser, page, width=size[0], height=size[1], scheme=scheme) as opened:
            opened.page.wait_for_timeout(3000)  # the figure in view is drawn
            opened.page.screenshot(path=PICTURES / f"{name}.png")
    with Opened(browser, page, width=1280, height=900) as opened:
        row = opened.page.locator("#board .more").nth(5)
        row.click()
        opened.page.wait_for_selector("#board canvas")
        opened.page.locator("#board .documents summary").first.click()
        row.scroll_into_view_if_needed()
        opened.page.evaluate("document.querySelector('#board .opened').scrollIntoView()")
        opened.page.wait_for_timeout(1000)
        opened.page.screenshot(path=PICTURES / "page-opened-row.png")
    with Opened(browser, page, width=1123, height=794) as opened:  # A4, with the style's margins
        opened.draw_all()
        opened.page.emulate_media(media="print")
        opened.page.add_style_tag(content="html { padding: 38px; background: white }")
        opened.page.evaluate("dispatchEvent(new Event('beforeprint')); scrollTo(0, 0)")
        opened.page.wait_for_timeout(1000)
        opened.page.screenshot(path=PICTURES / "page-printed.png")


def demo_on_a_terminal(folder: Path) -> tuple[str, str]:
    """What stands on the terminal half-way and at the end, as HTML."""
    import pyte

    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "lm_eval_prune", "demo", "-o", "demo_results"]
    middle = ""
    with subprocess.Popen(command, cwd=folder, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not part:
                break
            stream.feed(part)
            if HALF_WAY in part and not middle:
                middle = shown(screen)
    if process.returncode:
        raise SystemExit("\n".join(screen.display))
    return middle, shown(screen)


def shown(screen: Any) -> str:
    lines = ["".join(drawn(screen.buffer[row][column]) for column in range(COLUMNS)) for row in range(LINES)]
    texts = [line.rstrip() for line in screen.display]
    last = max(place for place, text in enumerate(texts) if text)
    return "<br>".join(["$ lm-eval-prune demo", *lines[: last + 1]])


def drawn(cell: Any) -> str:
    colour, weight = COLOURS.get(cell.fg, COLOURS["default"]), "bold" if cell.bold else "normal"
    return f'<span style="color:{colour};font-weight:{weight}">{html.escape(cell.data)}</span>'


def picture_of_terminal(browser: Any, text: str, path: Path) -> None:
    page = browser.new_page(viewport={"width": 700, "height": 400}, device_scale_factor=1.5)
    style = "display:inline-block;margin:0;padding:14px;background:#161616;color:#d8d8d8;font:13px/17px monospace"
    page.set_content(f'<body style="margin:0;background:#161616"><pre style="{style}">{text}</pre>')
    page.locator("pre").screenshot(path=path)
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--terminal", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        page = arguments.page
        if arguments.terminal:
            for name, text in zip(("half-way", "end"), demo_on_a_terminal(Path(folder)), strict=True):
                picture_of_terminal(browser, text, PICTURES / f"terminal-demo-{name}.png")
            page = page or Path(folder) / "demo_results" / "leaderboard" / "leaderboard.html"
        pictures_of_page(browser, page.absolute())


if __name__ == "__main__":
    main()
