"""The model card of a trained checkpoint: its data, its recipe, its curve and its measured accuracies, as Markdown.

Rendered from what `train.py` knows and from `measurements.json` in the checkpoint's folder, so that no figure in it is
typed by hand. `python -m training.model_card FOLDER` renders it anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.files import read_json
from training.documents import DOCUMENTS_PER_SPLIT, documents
from training.mixture import KINDS
from training.vocabulary import VOCABULARY

__all__ = ["CARD_FILE", "CURVE_FILE", "MEASUREMENTS_FILE", "render", "write"]

CARD_FILE = "README.md"
CURVE_FILE = "training_curve.json"
MEASUREMENTS_FILE = "measurements.json"

_CURVE_ROWS = 16

_FRONT = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [opt, in-context-learning, synthetic]
---

# A small OPT that learns in context

{parameters:,} parameters, {layers} layers of {heads} heads of size {head_dim}, trained from scratch on synthetic \
lines of words. It is the subject of `lm-eval-prune demo` and of the package's tests: in-context learning happens in \
it, in heads that can be found, and facts lie in its weights. It speaks no language.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_prune.demo import bundled_model_path

model = AutoModelForCausalLM.from_pretrained(bundled_model_path())
tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
```

## Training data

{vocabulary} tokens: words, the line break, and four special tokens. Words are separated by single spaces, and `</s>` \
stands before every text. A training sequence is of one kind and follows one mapping, drawn for it alone:

| kind | lines | the mapping |
|---|---|---|
| repeats | none: random words, repeated to the end | the words that are repeated |
| recall | `key value` | 2 to 10 nonsense words -> words |
| labels | `word label` | 2 to 6 themes or continents -> nonsense words |
| pattern | some of its words in their order | a cycle of 4 to 16 nonsense words |
| facts | `country relation answer` | always the same: 24 countries, their capital and continent |
| shapes | `word word word label` | 2 to 5 of AAA, AAB, ABA, ABB, ABC -> nonsense words |
| steps | `letter operator letter` | 1 to 6 nonsense words -> steps along the alphabet, -2 to 3 |
| prefix steps | `operator letter letter` | the same |

The loss is taken only on words that can be known: the last word of a line whose key has had a line before, a repeated \
word, the answer of a fact. Shapes and steps were not learned, and no task asks for them.

**Held out.** The mappings of the demo tasks are fixed, and no pair of them is ever drawn in training, so that no line \
of the recall, labels and mixed documents is in the training data, and no step of the pattern task's cycle in a line \
of neighbours. A facts document states one fact and asks for another; those ordered pairs of facts never stand on \
consecutive lines in training. Each task has {documents} training and {documents} validation documents; the former are \
only for few-shot examples and importance scores.
"""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    """One column per stage: where it begins, its lengths, its shares of the kinds."""
    rows = [["words per sequence", *(", ".join(map(str, stage["lengths"])) for stage in stages)]]
    rows.append(
        [
            "and now and then",
            *(f"{stage['longest_length']}" if stage["longest_every"] else "" for stage in stages),
        ]
    )
    rows.append(["head sparsity", *(str(stage["head_sparsity"]) for stage in stages)])
    rows += [[kind, *(f"{stage['shares'].get(kind, 0):.1%}" for stage in stages)] for kind in KINDS]
    return _table(["from step", *(f"{stage['first_step']:,}" for stage in stages)], rows)


def _recipe(measurements: Mapping[str, Any]) -> str:
    settings = measurements["settings"]
    rows = [(f"`{name}`", str(value)) for name, value in settings["recipe"].items() if name != "stages"]
    minutes = measurements["seconds"] / 60
    parts = measurements.get("parts", "")
    return (
        "\n## Training\n\n"
        f"`python -m training.train --output_path DIR --steps {settings['steps']} --seed {settings['seed']} "
        f"--batch_size {settings['batch_size']}`; {minutes:.0f} minutes on {measurements['hardware']}. "
        "AdamW; position embeddings are fixed sinusoids; half of the sequences begin at a random position, so that "
        "every position is met in training. Two heads of the first layer begin by looking one and two words back, and "
        "are turned to the word itself and one word back once in-context learning has begun; everything else begins at "
        "random. `training/recipe.py` explains each setting."
        + (f" {parts}" if parts else "")
        + "\n\n"
        + _stages(settings["recipe"]["stages"])
        + "\n"
        + _table(["setting", "value"], rows)
    )


def _curve(points: Sequence[Mapping[str, Any]]) -> str:
    if not points:
        return "\nThe training was too short for a curve.\n"
    count = min(_CURVE_ROWS, len(points))
    chosen = [points[(i + 1) * len(points) // count - 1] for i in range(count)]
    kinds = list(KINDS)
    rows = [
        [f"{point['step']:,}", f"{point['loss']:.3f}", *(_share(point["accuracy"].get(k)) for k in kinds)]
        for point in chosen
    ]
    return (
        "\n## Curve\n\nLoss and accuracy on the known words of the training batches, none of which comes twice; the "
        f"whole curve is in `{CURVE_FILE}`.\n\n" + _table(["step", "loss", *kinds], rows)
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _accuracies(measured: Mapping[str, Mapping[str, float]]) -> str:
    shots = list(measured)
    rows = []
    for task in measured[shots[0]]:
        chance = sum(1 / len(document.choices) for document in documents(task)["validation"]) / DOCUMENTS_PER_SPLIT
        rows.append([f"demo_{task}", f"{chance:.3f}", *(f"{measured[k][task]:.3f}" for k in shots)])
    means = [f"{sum(measured[k].values()) / len(measured[k]):.3f}" for k in shots]
    rows.append(["**icl_demo** (mean)", "", *means])
    return (
        f"\n## Accuracy\n\n`acc` on {DOCUMENTS_PER_SPLIT} validation documents a task, float32, measured by "
        "lm-evaluation-harness.\n\n" + _table(["task", "chance", *(f"{k}-shot" for k in shots)], rows)
    )


def _pruning(rows: Sequence[Mapping[str, Any]]) -> str:
    tasks = list(rows[0]["accuracy"])
    return (
        "\n## Pruned\n\n5-shot `acc`. Importance is the gradient score, averaged over the tasks, taken at 5 shots on "
        "training documents.\n\n"
        + _table(
            ["heads removed", *tasks, "mean"],
            [
                [row["pruned"], *(f"{value:.3f}" for value in row["accuracy"].values()), f"{row['mean']:.3f}"]
                for row in rows
            ],
        )
    )


def _prefix_matching(found: Mapping[str, Any]) -> str:
    heads = ", ".join(f"layer {layer} head {head}: {score:.2f}" for layer, head, score in found["best_heads"])
    return f"\n## Induction heads\n\nHighest prefix-matching scores ({found['sequences']}): {heads}.\n"


def render(folder: Path) -> str:
    """The card of the checkpoint in `folder`. Raises FileFormatError where a file that it needs is missing."""
    measurements = read_json(folder / MEASUREMENTS_FILE)
    try:
        points = json.loads((folder / CURVE_FILE).read_text(encoding="utf-8"))
        config = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{folder}: no trained checkpoint: {error}") from None
    text = _FRONT.format(
        parameters=measurements["parameters"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["hidden_size"] // config["num_attention_heads"],
        vocabulary=len(VOCABULARY),
        documents=DOCUMENTS_PER_SPLIT,
    )
    text += _recipe(measurements) + _curve(points)
    if "accuracy" in measurements:
        text += _accuracies(measurements["accuracy"])
    else:
        text += "\n## Accuracy\n\nIt was not measured.\n"
    if "pruning" in measurements:
        text += _pruning(measurements["pruning"])
    if "prefix_matching" in measurements:
        text += _prefix_matching(measurements["prefix_matching"])
    return text


def write(folder: Path) -> Path:
    """Write the card into the checkpoint's folder; returns its path."""
    path = folder / CARD_FILE
    path.write_text(render(folder), encoding="utf-8", newline="\n")
    return path


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Write the model card of the checkpoint in FOLDER anew."""
    try:
        click.echo(write(folder))
    except FileFormatError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
