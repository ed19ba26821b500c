"""How large the leaderboard's page is for the paper's full grid, and how soon it can be used.

    python benchmarks/bench_page.py [--repeats 7]

Writes the page of a made-up leaderboard of 14 tasks, 3 numbers of shots and 60 variants of OPT-66B with all figures,
opens it from disk in a fresh headless Chromium each time, and takes the time from the start of navigation until the
table is there, sorted, its filters work, and a frame has been drawn. Then one column is sorted, and all figures drawn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

USABLE = """() => new Promise((done) => {
    const look = () => document.body.classList.contains('ready')
        ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))) : setTimeout(look, 5);
    look();
})"""
SORTED = """() => new Promise((done) => {
    const start = performance.now(), head = () => document.querySelector('#board th[data-sort="piqa acc"]');
    const end = () => done(performance.now() - start);
    const look = () => head().ariaSort ? requestAnimationFrame(end) : setTimeout(look, 2);
    head().querySelector('.sort').click();
    look();
})"""


def measure(page: Path) -> tuple[float, float, float]:
    """Milliseconds until usable, for one sort, and for all figures."""
    from browser import Opened, chromium

    with chromium() as browser, Opened(browser, page) as opened:
        usable, sort = opened.page.evaluate(USABLE), opened.page.evaluate(SORTED)
        start = time.perf_counter()
        opened.draw_all()
        drawn = 1e3 * (time.perf_counter() - start)
        if opened.complaints or opened.requests != [opened.url]:
            raise SystemExit(f"the page complained or asked for something: {opened.complaints} {opened.requests}")
        return usable, sort, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    from full_grid import full_grid

    from lm_eval_prune.report.figures import figures
    from lm_eval_prune.report.page.provenance import run_commands
    from lm_eval_prune.report.page.render import write_page

    board, collection = full_grid()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        drawn = figures(board, collection)
        page, *_ = write_page(Path(folder), board, drawn, run_commands(board, collection))
        made = time.perf_counter() - start
        size = page.stat().st_size
        found = [measure(page) for _ in range(arguments.repeats)]
    usable, sort, all_drawn = ([round(value) for value in column] for column in zip(*found, strict=True))
    results = {
        "size, MB": round(size / 1e6, 2),
        "figures": len(drawn),
        "making it, seconds": round(made, 2),
        "usable after, ms": {"median": statistics.median(usable), "all": usable},
        "sorting a column, ms": {"median": statistics.median(sort), "all": sort},
        "drawing all figures while scrolling, ms": {"median": statistics.median(all_drawn), "all": all_drawn},
    }
    record("page", results, repeats=arguments.repeats)


if __name__ == "__main__":
    main()
