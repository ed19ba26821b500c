"""How large the leaderboard's page is for the paper's full grid, and how soon it can be used.

    python benchmarks/bench_page.py [--repeats 7] [--paper]

Writes the page of a made-up leaderboard of 14 tasks, 3 numbers of shots and 60 variants of OPT-66B with all figures,
opens it from disk in a fresh headless Chromium each time, and takes the time from the start of navigation until the
table is there, sorted, its filters work, and a frame has been drawn. Then one column is sorted, and all figures drawn.
With `--paper` the page of `lm-eval-prune paper` of the same runs and scores, which has no column to sort.
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


def measure(page: Path, sorts: bool) -> tuple[float, float, float]:
    """Milliseconds until usable, for one sort (0 where there is none), and for all figures."""
    from browser import Opened, chromium

    with chromium() as browser, Opened(browser, page) as opened:
        usable, sort = opened.page.evaluate(USABLE), opened.page.evaluate(SORTED) if sorts else 0.0
        start = time.perf_counter()
        opened.draw_all()
        drawn = 1e3 * (time.perf_counter() - start)
        if opened.complaints or opened.requests != [opened.url]:
            raise SystemExit(f"the page complained or asked for something: {opened.complaints} {opened.requests}")
        return usable, sort, drawn


def leaderboard_page(folder: Path) -> tuple[Path, int]:
    """The page, and how many figures it has."""
    from full_grid import full_grid

    from lm_eval_prune.report.figures import figures
    from lm_eval_prune.report.page.provenance import run_commands
    from lm_eval_prune.report.page.render import write_page

    board, collection = full_grid()
    drawn = figures(board, collection)
    page, *_ = write_page(folder, board, drawn, run_commands(board, collection))
    return page, len(drawn)


def paper_page(folder: Path) -> tuple[Path, int]:
    """The same of `lm-eval-prune paper`."""
    from full_grid import full_grid

    from lm_eval_prune.paper import evidence, report

    _, collection = full_grid()
    evidence.read_collection = lambda paths: collection
    made = report.paper_report(folder)
    return made.paths[0], sum(len(part.figures) for part in made.parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--paper", action="store_true", help="the page of `lm-eval-prune paper`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        page, count = (paper_page if arguments.paper else leaderboard_page)(Path(folder))
        made = time.perf_counter() - start
        size = page.stat().st_size
        found = [measure(page, sorts=not arguments.paper) for _ in range(arguments.repeats)]
    usable, sort, all_drawn = ([round(value) for value in column] for column in zip(*found, strict=True))
    results = {
        "size, MB": round(size / 1e6, 2),
        "figures": count,
        "making it, seconds": round(made, 2),
        "usable after, ms": {"median": statistics.median(usable), "all": usable},
        **({} if arguments.paper else {"sorting a column, ms": {"median": statistics.median(sort), "all": sort}}),
        "drawing all figures while scrolling, ms": {"median": statistics.median(all_drawn), "all": all_drawn},
    }
    record("paper-page" if arguments.paper else "page", results, repeats=arguments.repeats)


if __name__ == "__main__":
    main()
