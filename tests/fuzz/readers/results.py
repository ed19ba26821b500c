"""A results file among good ones, for `leaderboard`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.exports import EXPORTS, write_exports
from lm_eval_prune.report.figures import figures
from lm_eval_prune.report.page.provenance import board_command, run_commands
from lm_eval_prune.report.page.render import write_page
from lm_eval_prune.report.reading import Collection, read_collection
from lm_eval_prune.report.tables import markdown, write_flips, write_tables
from lm_eval_prune.report.terminal import print_board
from lm_eval_prune.variants import Variant
from tests.fuzz.readers import Target
from tests.sweep_folders import harness_run, pruning, results, samples

WRITTEN = 4
"""Of so many inputs, one is written in every form; the others as Markdown only."""
DRAWN = 24
"""Of so many inputs, one's figures are drawn as well: they take longer than all the rest."""


def prepare(folder: Path) -> Target:
    beside = harness_run(folder, count=5).read_bytes()

    def read(data: bytes, own: Path) -> None:
        (own / "runs").mkdir()
        (own / "runs" / "good.json").write_bytes(beside)
        (own / "runs" / "results_2026.json").write_bytes(data)
        collection = read_collection([own / "runs"])
        assert any(run.path.name == "good.json" for run in collection.runs), "a good file beside was lost"
        if len(data) % WRITTEN == 0:
            show(collection, own, drawn=len(data) % DRAWN == 0)
        else:
            markdown(compare(collection, BoardConfig(flips=True)))

    return Target(good_results(), read)


def good_results() -> list[bytes]:
    """Files as the harness's releases and this package write them."""
    variant = Variant("own", "0.5", "0.25")
    lines = samples("piqa", 5, "x", 5, metrics=("acc", "acc_norm"))
    new = results("piqa", 5, lines, metrics=("acc", "acc_norm"))
    pruned: dict[str, Any] = {**new, "pruning": pruning(variant)}
    pruned["pruning"]["mask"]["provenance"] = {
        "head_importance": {"path": "s/piqa.json", "sha256": "00"}, "ffn_importance": "ffns.json", "ranking": "own",
        "prune_heads": "0.5", "prune_ffns": "0.25", "order": "least", "oracle_on": ["piqa"],
    }  # fmt: skip
    random: dict[str, Any] = {**new, "pruning": pruning(Variant("random", "0.5", "0"))}
    random["pruning"]["mask"]["provenance"] = {"order": "random", "seed": 3, "prune_heads": "0.5"}
    grouped = {
        **new,
        "groups": {"g": {"acc,none": 0.5, "acc_stderr,none": "N/A"}},
        "group_subtasks": {"g": ["piqa"]},
        "results": {**new["results"], "g": {"acc,none": 0.5, "acc_stderr,none": "N/A"}},
    }
    return [json.dumps(one).encode() for one in (new, pruned, random, grouped)]


def show(collection: Collection, own: Path, *, drawn: bool) -> None:
    """All that `leaderboard` writes and prints, but the charts' library."""
    config = BoardConfig(flips=True)
    board = compare(collection, config)
    write_tables(board, own)
    write_flips(board, own)
    write_exports(board, own / "exports", list(EXPORTS))
    print_board(board, board.entries, Console(file=io.StringIO(), width=100))
    commands = [*run_commands(board, collection), board_command([own], own, config)]
    write_page(own, board, [], commands)
    if drawn:
        for figure in figures(board, collection):
            figure.chart.to_dict()
