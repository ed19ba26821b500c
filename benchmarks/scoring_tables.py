"""The tables of docs/evidence/scoring.md, one a machine, from the files that bench_scoring.py writes.

    python benchmarks/scoring_tables.py [--write]

A row is one model in one precision at one number of shots. Without `--write` the tables are printed.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import click
from scoring_measure import shares_of_peak

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "evidence" / "scoring.md"
BEGIN, END = "<!-- tables of benchmarks/scoring_tables.py -->", "<!-- end of the tables -->"
HEADER = """\
| model | dtype | shots | tasks | ratio to `hf` | by FLOPs | peak GFLOP/s | packed, of peak | `hf`, of peak |
|---|---|---:|---:|---:|---:|---:|---:|---:|"""


def tables(folder: Path = RESULTS) -> str:
    """Markdown: a heading, a table for each machine, and where its figures lie."""
    machines: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path in sorted(folder.glob("scoring-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("cells") and "matmul_peak_gflops" in found:
            machines.setdefault(_machine(found["machine"]), []).append((path, found))
    return "\n\n".join(
        f"**{machine}**\n\n{HEADER}\n" + "\n".join(row for path, found in files for row in _rows(path, found))
        for machine, files in sorted(machines.items())
    )


def _machine(where: dict[str, Any]) -> str:
    if "gpu" in where:
        return str(where["gpu"])
    capability = where.get("capability")
    return f"{where['processor']}{f', {capability}' if capability else ''}, {where['threads']} threads"


def _rows(path: Path, found: dict[str, Any]) -> list[str]:
    """One for each number of shots: geometric means, and the least and the greatest share of a task."""
    rows = []
    for shots in sorted({cell["num_fewshot"] for cell in found["cells"]}):
        cells = [cell for cell in found["cells"] if cell["num_fewshot"] == shots]
        shares = [shares_of_peak(cell, found["matmul_peak_gflops"]) for cell in cells]
        ratio, by_flops = (
            statistics.geometric_mean(cell[key] for cell in cells) for key in ("ratio", "ratio_by_flops")
        )
        packed, hf = ([share[f"{name}_share_of_peak"] for share in shares] for name in ("packed", "hf"))
        # Files of before there were several models and precisions are of this one.
        dtype = found.get("dtype", "float32")
        model = path.stem.removeprefix("scoring-").partition("-cpu")[0].partition("-cuda")[0]
        model = "opt-125m" if model.startswith("cpu") else model
        link = f"[{model}](../../benchmarks/results/{path.name})"
        rows.append(
            f"| {link} | {dtype} | {shots} | {len(cells)} | {ratio:.2f} | {by_flops:.2f} | "
            f"{found['matmul_peak_gflops']:.0f} | {_range(packed)} | {_range(hf)} |"
        )
    return rows


def _range(shares: list[float]) -> str:
    return f"{statistics.geometric_mean(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"


def with_tables(page: str) -> str:
    """The page with today's tables in the place of those between the two marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise click.UsageError(f"{PAGE.name}: has no {BEGIN} before {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


@click.command()
@click.option("--write", is_flag=True, help="Into the page, in the place of those that are there.")
def main(write: bool) -> None:
    """Print the tables, or write them into docs/evidence/scoring.md."""
    if write:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        click.echo(tables())


if __name__ == "__main__":
    main()
