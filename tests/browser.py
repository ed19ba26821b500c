"""Chromium for the tests of the page: found on the machine, and started without a network of its own."""

from __future__ import annotations

import contextlib
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHED_OFF = ("gpu", "background-networking", "component-update", "sync")
REQUIRED = "LM_EVAL_PRUNE_REQUIRE_BROWSER"
"""Set by .ci/run: there a missing browser is a failure and no skip."""


def executable():
    """The path of a Chromium; skips the test where there is none, unless REQUIRED is set."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        message = f"no Chromium on this machine (looked for {', '.join(NAMES)}); see tests/README.md"
        if os.environ.get(REQUIRED):
            pytest.fail(message)
        pytest.skip(message)
    return found


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

    def __init__(self, browser, path, *, width=1280, height=900, scheme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.complaints, self.requests = [], []
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = path.as_uri()
        self.page.goto(self.url)

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.context.close()

    def draw_all(self):
        """Bring every chart into view, and wait until it is drawn."""
        for chart in self.page.query_selector_all("[data-chart]"):
            chart.scroll_into_view_if_needed()
            self.page.wait_for_function("chart => chart.classList.contains('drawn')", arg=chart, timeout=60_000)

    def rows(self, table="board", place=1):
        """The texts of a column's visible cells, first lines only."""
        return self.page.eval_on_selector_all(
            f"#{table} tbody tr:not(.details) > :nth-child({place})",
            "cells => cells.map(cell => (cell.querySelector('.name, b') || cell).textContent)",
        )

    def become(self, expected, *, table="board", place=2, first=None):
        """Assert that a column's cells (the `first` of them) are `expected`, now or soon."""
        for _ in range(50):
            if self.rows(table, place)[:first] == expected:
                break
            self.page.wait_for_timeout(50)
        assert self.rows(table, place)[:first] == expected
