"""Made-up sweep folders and results files, as the sweep and the harness write them, for the tests of the report."""

from __future__ import annotations

import functools
import json
import random
from fractions import Fraction
from hashlib import sha256

from lm_eval_prune.files import digest
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.sweep.folder import write_cell, write_plan
from lm_eval_prune.sweep.schema import Row
from lm_eval_prune.variants import DENSE, Variant

OWN_NAME = "facebook/opt-125m"
LAYERS, HEADS = 4, 4
PER_HEAD, PER_FFN, OTHER = 1_000, 8_000, 50_000
FLOPS_OTHER = 20_000


def outcome(task, document, shots, variant, *, loss=0.0):
    """0.0 or 1.0, the same for the same arguments; `loss` is the chance that a right answer turns wrong."""
    draw = random.Random(f"{task}|{document}|{shots}")
    right = draw.random() < 0.6 + 0.05 * min(shots, 5)
    turned = random.Random(f"{task}|{document}|{shots}|{variant}").random() < loss
    return float(right and not turned)


def asked(task, document, text):
    """What a sweep keeps of a dense run's question."""
    return {
        "prompt": f"{text}{task}: what is {document}?\nAnswer:",
        "choices": [f" choice {text}A", f" choice {text}B"],
    }


def samples(task, shots, variant, count, *, loss=0.0, fewshot_seed=1234, metrics=("acc",), text=None):
    """Lines of a sample file, with what was asked, `text` in it, if it is not None."""
    lines = []
    for document in range(count):
        prompt = sha256(f"{task}{document}{shots}{fewshot_seed if shots else ''}".encode()).hexdigest()
        value = outcome(task, document, shots, variant, loss=loss)
        lines.append(
            {
                "doc_id": document,
                "doc_hash": sha256(f"{task}{document}".encode()).hexdigest(),
                "prompt_hash": prompt,
                "target_hash": "0",
                "target": "0",
                "filter": "none",
                "filtered_resps": [[-1.5, False], [-2.5, False]],
                "metrics": list(metrics),
                **dict.fromkeys(metrics, value),
                **({} if text is None else asked(task, document, text)),
            }
        )
    return lines


def standard_error(values):
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5


@functools.cache
def shuffled(seed, size):
    return random.Random(seed).sample(range(size), size)


def mask_of(variant, layers, heads, task="", shots=0):
    """Pruned heads by layer and pruned FFNs: those of a larger share hold those of a smaller one."""
    own = f"{task}{shots}" if variant.ranking == "own" else ""
    places = [shuffled(f"{variant.ranking}{variant.seed}{own}{size}", size) for size in (layers * heads, layers)]
    pruned = sorted(places[0][: int(Fraction(variant.prune_heads) * layers * heads)])
    by_layer = {}
    for place in pruned:
        by_layer.setdefault(str(place // heads), []).append(place % heads)
    return {"pruned_heads": by_layer, "pruned_ffns": sorted(places[1][: int(Fraction(variant.prune_ffns) * layers)])}


def pruning(variant, layers=LAYERS, heads=HEADS, **place):
    """The `pruning` block of a model of the made-up dimensions."""
    pruned_heads = int(Fraction(variant.prune_heads) * layers * heads)
    pruned_ffns = int(Fraction(variant.prune_ffns) * layers)
    removed = pruned_heads * PER_HEAD + pruned_ffns * PER_FFN
    total = layers * heads * PER_HEAD + layers * PER_FFN + OTHER
    flops = 2 * (layers * heads * PER_HEAD + layers * PER_FFN + FLOPS_OTHER)
    return {
        "mask": {**mask_of(variant, layers, heads, **place), "provenance": {}},
        "heads_pruned": pruned_heads,
        "heads_total": layers * heads,
        "ffns_pruned": pruned_ffns,
        "ffns_total": layers,
        "num_parameters_removed": removed,
        "num_parameters_left": total - removed,
        "flops_per_token": flops,
        "flops_per_token_left": flops - 2 * removed,
        "scorer": "packed",
        "dtype": "float32",
        "versions": {"lm_eval": "0.4.13", "lm_eval_prune": "0.1.0"},
    }


def results(task, shots, lines, *, version=1.0, limit=None, config=None, metrics=("acc",), date=1.0):
    """The harness's results JSON of one task with these outcomes."""
    numbers = {}
    for metric in metrics:
        values = [line[metric] for line in lines]
        numbers[f"{metric},none"] = sum(values) / len(values)
        numbers[f"{metric}_stderr,none"] = standard_error(values)
    return {
        "results": {task: {"name": task, "alias": task, "sample_len": len(lines), **numbers}},
        "group_subtasks": {},
        "configs": {
            task: {"task": task, "dataset_path": "org/data", "num_fewshot": shots, "output_type": "multiple_choice"}
        },
        "versions": {task: version},
        "n-shot": {task: shots},
        "higher_is_better": {task: dict.fromkeys(metrics, True)},
        "n-samples": {task: {"original": len(lines), "effective": len(lines)}},
        "config": {"model": "pruned-opt", "limit": limit, "fewshot_seed": 1234, **(config or {})},
        "date": date,
        "lm_eval_version": "0.4.13",
    }


def cell(
    folder, row, count, *, loss=0.0, model="facebook/opt-125m", fingerprint="f00d", version=1.0, metrics=("acc",),
    commit=None, arguments=None, chance=None, text=None,
):  # fmt: skip
    """Write the cell of `row`; `commit` is the model's on the hub, where the sweep had a network.

    chance: task -> metric -> its level, as the `pruning` block has it.
    """
    lines = samples(
        row.task, row.num_fewshot, str(row.variant), count, loss=loss, fewshot_seed=row.fewshot_seed, metrics=metrics,
        text=text if row.variant == DENSE else None,
    )  # fmt: skip
    config = {"model_sha": commit or ""}
    content = results(row.task, row.num_fewshot, lines, version=version, metrics=metrics, config=config)
    identity = {
        "model": {"name": model, "fingerprint": fingerprint, **(arguments or {})},
        "mask": {},
        "task": row.task,
        "task_version": version,
        "task_config_hash": "c0ffee",
        "num_fewshot": row.num_fewshot,
        "fewshot_seed": row.fewshot_seed,
        "limit": None,
        "dtype": "float32",
        "scorer": "packed",
        "lm_eval": "0.4.13",
    }
    content |= {
        "pruning": {
            **pruning(row.variant, task=row.task, shots=row.num_fewshot),
            **({"chance": {row.task: chance[row.task]}} if row.task in (chance or {}) else {}),
        },
        "cell": {"format": "lm-eval-prune-cell", "version": 1, "id": row.cell, "identity": identity, "timing": {}},
    }
    write_cell(folder, row.cell, content, lines)


def sweep(folder, variants, tasks=("piqa", "copa"), shots=(0,), *, count=60, losses=None, skip=(), **described):
    """A sweep folder of `variants` (and the dense model) on `tasks`; `losses` maps a variant to its chance of harm.

    Rows whose (variant, task, shots) is in `skip` have no cell.
    """
    rows = [
        Row(variant, task, number, 1234, digest([*variant, task, number, described])[:24])
        for variant in (DENSE, *variants)
        for task in tasks
        for number in shots
    ]
    write_plan(
        folder, {"tasks": list(tasks), "num_fewshot": list(shots), **described}, {"model": {"fingerprint": "0"}}, rows
    )
    for row in rows:
        if (row.variant, row.task, row.num_fewshot) not in skip:
            cell(folder, row, count, loss=(losses or {}).get(row.variant, 0.0), **described)
    return folder


def harness_run(folder, *, name="hf", count=60, tasks=("piqa", "copa"), shots=0, loss=0.0, logged=True, **changes):
    """A results file (and samples) as `lm_eval --model hf --output_path` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    merged = None
    for task in tasks:
        lines = samples(task, shots, name, count, loss=loss)
        config = {
            "model": "hf",
            "model_args": "pretrained=facebook/opt-125m,dtype=float32",
            "model_num_parameters": 98_000,
            "identity": {"weights": "f00d"},
        }
        one = results(task, shots, lines, config={**config, **changes})
        if logged:
            text = "".join(json.dumps({**line, "doc": {}, "resps": []}) + "\n" for line in lines)
            (folder / f"samples_{task}_2026-01-01T00-00-00.000001.jsonl").write_text(text, encoding="utf-8")
        if merged is None:
            merged = one
        for key in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
            merged[key] |= one[key]
    path = folder / "results_2026-01-01T00-00-00.000001.json"
    path.write_text(json.dumps(merged), encoding="utf-8")
    return path


def grid(rankings=("own",), heads=("0.3", "0.7"), ffns=("0",)):
    return [Variant(ranking, h, f) for ranking in rankings for h in heads for f in ffns if (h, f) != ("0", "0")]


def importance(folder, name, component, method, task, shots, *, seed=0, layers=LAYERS, heads=HEADS, near_zero=False):
    """An importance file of made-up scores; `near_zero` ones are rounded to 0 where they are shown."""
    draw = random.Random(f"{name}{seed}")
    rows = tuple(tuple(draw.random() for _ in range(heads)) for _ in range(layers))
    scores = rows if component == "heads" else tuple(draw.random() - 0.2 for _ in range(layers))
    if near_zero:
        scores = tuple(-1e-4 * score for score in scores)
    settings = {"method": method, "model": "facebook/opt-125m", "task": task, "num_fewshot": shots}
    if task is None:
        settings = {"method": method, "model": "facebook/opt-125m"}
    file = ImportanceScores(
        component=component, num_hidden_layers=layers, num_attention_heads=heads, scores=scores, settings=settings
    )
    file.save(folder / "importance" / f"{name}.json")
