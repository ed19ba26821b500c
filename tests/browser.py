"""Chromium for the tests of the page: found on the machine, and started without a network of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHED_OFF = ("gpu", "background-networking", "component-update", "sync")
REQUIRED = "LM_EVAL_PRUNE_REQUIRE_BROWSER"
"""Set by .ci/run: there a missing browser is a failure and no skip."""
AXE_CORE = "axe-core@4.14.1"
"""The npm package that looks for what keeps people from using a page."""


def executable():
    """The path of a Chromium; skips the test where there is none, unless REQUIRED is set."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        message = f"no Chromium on this machine (looked for {', '.join(NAMES)}); see tests/README.md"
        if os.environ.get(REQUIRED):
            pytest.fail(message)
        pytest.skip(message)
    return found


def axe_source(folder):
    """The script of axe-core: of the file that AXE_CORE names, or got by npm into `folder`; skips without either."""
    named = os.environ.get("AXE_CORE")
    if named:
        return Path(named).read_text(encoding="utf-8")
    if shutil.which("npm"):
        command = ["npm", "pack", "--silent", AXE_CORE]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            with tarfile.open(folder / done.stdout.split()[-1]) as archive:
                return archive.extractfile("package/axe.min.js").read().decode()
    message = f"no {AXE_CORE}: set AXE_CORE to its axe.min.js, or install npm; see tests/README.md"
    if os.environ.get(REQUIRED):
        pytest.fail(message)
    pytest.skip(message)


@contextlib.contextmanager
def chromium():
    """A playwright browser."""
    from playwright.sync_api import sync_playwright

    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    off = [f"--disable-{name}" for name in SWITCHED_OFF]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-first-run", *off, *as_root])
        try:
            yield browser
        finally:
            browser.close()


class Opened:
    """A page opened from disk, with all that it complained of and asked for."""

    def __init__(self, browser, path, *, width=1280, height=900, scheme="light", fragment=""):
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.complaints, self.requests = [], []
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = path.as_uri()
        self.page.goto(self.url + fragment)
        self.page.wait_for_selector("body.ready", timeout=60_000)

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.context.close()

    def draw_all(self):
        """Bring every chart into view, and wait until it is drawn."""
        for chart in self.page.query_selector_all("[data-chart]"):
            chart.scroll_into_view_if_needed()
            self.page.wait_for_function("chart => chart.classList.contains('drawn')", arg=chart, timeout=60_000)

    def rows(self, column="variant"):
        """The texts of a column's cells on this page of the table, first lines only."""
        return self.page.evaluate(
            """column => {
                const heads = [...document.querySelectorAll('#board thead th')];
                const place = heads.findIndex(th => th.dataset.sort === column);
                return [...document.querySelectorAll('#board tbody tr[data-id]')].map(row =>
                    (row.cells[place].querySelector('.name, b') || row.cells[place]).textContent);
            }""",
            column,
        )

    def sort(self, column):
        self.page.click(f'#board th[data-sort="{column}"] .sort')

    def columns(self):
        """The ids of the columns that are shown."""
        return self.page.eval_on_selector_all("#board thead th", "all => all.map(th => th.dataset.sort)")

    def saved(self, button):
        """The text of the file that a button saves."""
        with self.page.expect_download() as download:
            self.page.click(button)
        return Path(download.value.path()).read_text(encoding="utf-8")
