"""A plan as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.filesize import decimal as size
from rich.table import Table
from rich.text import Text

from lm_eval_prune.text import printable

__all__ = ["amount", "duration", "tables"]


def amount(count: float) -> str:
    """A large number in words that are read at a glance."""
    for unit, factor in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= factor:
            return f"{count / factor:,.3g} {unit}" if count < 1000 * factor else f"{count / factor:,.0f} {unit}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def tables(plan: dict[str, Any]) -> Iterator[Table | Text]:
    """What `cli/plan.py` prints, one after another, from the plan's JSON content."""
    plan = _printable(plan)
    yield _model(plan["model"])
    yield _removals(plan["removals"])
    if "devices" in plan:
        yield _devices(plan["devices"])
        yield Text(_verdict(plan["devices"]))
    yield _stages(plan)
    if plan["margins"]["rows"]:
        yield _margins(plan["margins"])
    for note in plan["notes"]:
        yield Text(note, style="dim")


def _printable(value: Any) -> Any:
    """JSON values with every text in them made fit to be printed: names of models and tasks come from files."""
    if isinstance(value, dict):
        return {key: _printable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_printable(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < left else "right")
    return table


def _model(model: dict[str, Any]) -> Table:
    title = (
        f"{model['name']}: {model['num_hidden_layers']} layers of {model['num_attention_heads']} heads, "
        f"width {model['hidden_size']:,}"
    )
    if model["num_key_value_heads"] < model["num_attention_heads"]:
        title += f"; {model['num_key_value_heads']} key/value heads, of {model['parameters_per_group']:,} parameters"
    if model["pruning_mask"] is not None:
        title += f"; compacted to {model['num_heads']:,} heads and {model['num_ffns']:,} FFNs"
    table = _table(title, "parameters", "each", "number", "together", "share")
    total = model["num_parameters"]
    for name, each, count, together in (
        ("attention heads", model["parameters_per_head"], model["num_heads"], model["parameters_in_heads"]),
        ("FFNs", model["parameters_per_ffn"], model["num_ffns"], model["parameters_in_ffns"]),
    ):
        table.add_row(name, f"{each:,}", f"{count:,}", f"{together:,}", f"{together / total:.1%}")
    rest = total - model["parameters_in_heads"] - model["parameters_in_ffns"]
    table.add_row("embeddings, norms, output biases", "", "", f"{rest:,}", f"{rest / total:.1%}")
    table.add_row("total", "", "", f"{total:,}", "", style="bold")
    return table


def _removals(rows: list[dict[str, Any]]) -> Table:
    grouped = any("removed_as_groups" in row for row in rows)
    columns = ["what", "number", "parameters removed", *["in whole groups"] * grouped, "left"]
    table = _table("Pruned", *columns)
    for row in rows:
        in_groups = [f"{row['removed_as_groups']:,}" if "removed_as_groups" in row else ""] * grouped
        table.add_row(row["what"], row["number"], f"{row['removed']:,}", *in_groups, f"{row['left']:,}")
    return table


def _devices(devices: dict[str, Any]) -> Table:
    title = (
        f"Device map for {devices['given']}, {devices['dtype']}, batches of {devices['batch_size']} x "
        f"{devices['length']:,} tokens"
    )
    table = _table(title, "device", "layers", "weights", "computing", "memory", "left", left=2)
    for row in devices["map"]:
        memory, left = ("", "")
        if row["size"] is not None:
            memory = size(row["size"])
            spare = row["size"] - row["weights"] - row["working"]
            left = size(spare) if spare >= 0 else f"-{size(-spare)}"
        name = f"GPU {row['device']}" if isinstance(row["device"], int) else row["device"]
        table.add_row(
            name,
            _ranges(row["layers"]),
            size(row["weights"]),
            size(row["working"]) if row["working"] else "",
            memory,
            left,
            style="" if row["fits"] else "red",
        )
    return table


def _ranges(layers: list[int]) -> str:
    """Layers, which follow one another, as 0-8."""
    if not layers:
        return ""
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def _verdict(devices: dict[str, Any]) -> str:
    if not devices["fits"]:
        return (
            "Does not fit: a smaller --batch_size, a smaller --dtype, more devices, or room for weights that are "
            "brought in when they are needed (cpu:SIZE, disk)."
        )
    lines = [f"Fits. --model_args pretrained={devices['pretrained']},{devices['model_args']}"]
    if devices["offloaded"]:
        lines.append(f"{size(devices['offloaded'])} of weights are offloaded, and brought in for every batch or pack.")
    if devices["copies"] > 1:
        lines.append(
            f"{devices['devices_per_copy']} GPUs hold the model, and of one copy's GPUs one works at a time: "
            f"{devices['copies']} processes on {devices['devices_per_copy']} GPUs each "
            "(CUDA_VISIBLE_DEVICES) share a sweep."
        )
    elif devices["devices_per_copy"] > 1:
        lines.append("A batch goes through the devices one after another: one of them works at a time.")
    lines.append(
        f"Gradient importance holds up to {size(devices['gradients'])} more on a device, or "
        f"{size(devices['gradients_checkpointing'])} with --checkpointing."
    )
    return "\n".join(lines)


def _margins(margins: dict[str, Any]) -> Table:
    names = list(margins["rows"][0]["needed"])
    title = (
        "Documents for a margin: to be within it four times of five, if nothing is lost and "
        f"{100 * margins['changed']:g} % of the answers change. Detects: the smallest loss that is shown as often "
        "(in brackets: passages that tell as much; ≤: quoted, not counted here)"
    )
    table = _table(title, "task", "documents", "detects", "margin shown", *names)
    table.box, table.padding, table.pad_edge = SIMPLE_HEAD, (0, 0, 0, 1), False  # fits on 80 columns
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for row in margins["rows"]:
        most = "≤" if row["units_at_most"] else ""
        passages = "" if row["units"] is None else f" ({most}{row['units']:,})"
        needed = [f"{row['needed'][name]:,}" if row["needed"] else "" for name in names]
        shown = (f"{row[name]:.4f}" for name in ("detectable", "shown"))
        table.add_row(row["task"], f"{row['documents']:,}{passages}", *shown, *needed)
    return table


def _stages(plan: dict[str, Any]) -> Table:
    moved = any(stage["moved"] for stage in plan["stages"])
    timed = any(stage["seconds"] is not None for stage in plan["stages"])
    columns = ["stage", "of", "tokens", "FLOPs", *["weights moved"] * moved, *["time"] * timed]
    table = _table(plan["stages_title"], *columns, left=2)
    for stage in plan["stages"]:
        cells = [stage["name"], stage["work"], amount(stage["tokens"]), amount(stage["flops"])]
        cells += [size(int(stage["moved"]))] * moved
        cells += ["" if stage["seconds"] is None else duration(stage["seconds"])] * timed
        table.add_row(*cells)
    return table
