"""Heatmaps (layers x heads) of the bundled model: importance at 0, 1 and 5 shots, and prefix matching.

    pip install altair vl-convert-python
    python docs/heatmaps.py SCORES

SCORES is a folder with `aggregate-<k>shot-heads-gradient.json` for each number of shots and `prefix-matching.json`, as
`lm-eval-prune importance`, `aggregate` and `induction` write them. Writes docs/heatmaps.svg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import altair as alt

from lm_eval_prune.importance.files import ImportanceScores


def heatmap(path: Path, title: str) -> alt.Chart:
    rows = ImportanceScores.load(path).tensor().tolist()
    values = [
        {"layer": layer, "head": head, "score": score}
        for layer, row in enumerate(rows)
        for head, score in enumerate(row)
    ]
    scale = alt.Scale(scheme="viridis", type="log" if "importance" in title else "linear")
    return (
        alt.Chart(alt.Data(values=values), title=title, width=170, height=170)
        .mark_rect()
        .encode(
            alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0)),
            alt.Y("layer:O", title="layer", sort="descending"),
            alt.Color("score:Q", title=None, scale=scale, legend=alt.Legend(format=".1e", gradientLength=150)),
        )
    )


def main() -> None:
    folder = Path(sys.argv[1])
    charts = [
        heatmap(folder / f"aggregate-{shots}shot-heads-gradient.json", f"importance, {shots}-shot")
        for shots in (0, 1, 5)
    ]
    charts.append(heatmap(folder / "prefix-matching.json", "prefix matching"))
    figure = alt.hconcat(*charts).resolve_scale(color="independent")
    figure.save(Path(__file__).with_name("heatmaps.svg"))


if __name__ == "__main__":
    main()
