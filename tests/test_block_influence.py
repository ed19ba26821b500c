"""Block influence of layers, attention and FFNs against float64, and whole layers as units of masks and sweeps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_sweep import GRID, settings

from lm_eval_prune import PruningMask, masked
from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import ArgumentError, FileFormatError, PruneError
from lm_eval_prune.importance.block_influence import PARTS, block_influence
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.importance.methods import COMPONENTS, METHODS, Inputs, method_for
from lm_eval_prune.ranked_masks import random_mask, ranked_mask
from lm_eval_prune.report.frames import compare
from lm_eval_prune.selection import select_mask
from lm_eval_prune.sweep import folder as disk
from lm_eval_prune.sweep.config import make_config
from lm_eval_prune.sweep.estimate import estimate_sweep
from lm_eval_prune.sweep.ranking import parse_ranking
from lm_eval_prune.sweep.run import run_sweep
from tests import families, reference_families

EXAMPLES = [(families.tokens(20, 1), families.tokens(3, 2)), (families.tokens(11, 3), families.tokens(2, 4))]
WRITTEN = ("llama", "qwen3", "gemma2", "gpt_neox", "gpt2")
"""Families whose forward pass is written from the weights."""
ADDED = {
    "opt": ("model.decoder.layers", "fc2"),
    "mistral": ("model.layers", "mlp"),
    "qwen2": ("model.layers", "mlp"),
    "olmo2": ("model.layers", "post_feedforward_layernorm"),
    "smollm3": ("model.layers", "mlp"),
}
"""Of the others: the layers, and in one the module whose output is added to the stream behind attention."""


def streams(model, ids):
    """Layer -> its (before, between, after), (tokens, hidden) in float64."""
    model = model.double()
    seen, kind = {}, model.config.model_type
    if kind in WRITTEN:
        reference_families.logits(model, ids, PruningMask.dense(*families.shape(model).values()), seen=seen)
        return [tuple(seen[at, layer] for at in ("before", "between", "after")) for layer in range(families.LAYERS)]
    path, name = ADDED[kind]
    layers, found = model.get_submodule(path), []
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda module, args, given: seen.update(before=args[0] if args else given["hidden_states"]),
            with_kwargs=True,
        )
        layer.get_submodule(name).register_forward_hook(lambda module, args, output: seen.update(added=output))

        def noted(module, args, output):
            after = output[0] if isinstance(output, tuple) else output
            added = seen["added"].view(after.shape)
            if kind == "opt" and not model.config.do_layer_norm_before:  # the last norm runs without the FFN too
                between = module.final_layer_norm(seen["normed"])
            else:
                between = after - added
            found.append(tuple(each[0].detach() for each in (seen["before"], between, after)))

        layer.register_forward_hook(noted)
        if kind == "opt":
            layer.self_attn_layer_norm.register_forward_hook(lambda module, args, output: seen.update(normed=output))
    with torch.no_grad():
        model(torch.tensor([ids]))
    return found


@pytest.mark.parametrize("variant", families.VARIANTS)
def test_of_every_family_it_is_what_float64_says(variant):
    model = families.made(variant)
    sums, tokens = {part: torch.zeros(families.LAYERS, dtype=torch.float64) for part in PARTS}, 0
    for context, continuation in EXAMPLES:
        ids = [*context, *continuation][:-1]
        tokens += len(ids)
        for layer, (before, between, after) in enumerate(streams(families.made(variant), ids)):
            pairs = {"layers": (before, after), "attention": (before, between), "ffns": (between, after)}
            for part, (one, other) in pairs.items():
                sums[part][layer] += (1 - (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))).sum()
    for part in PARTS:
        expected = (sums[part] / tokens).float()
        for batch_size in (1, 2):  # padding does not count
            found = block_influence(model, EXAMPLES, part, batch_size=batch_size)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6)


def test_a_layer_that_is_pruned_turns_nothing_but_by_its_bias():
    model = families.made("llama")
    mask = PruningMask.dense(families.LAYERS, families.HEADS).prune_layer(1)
    with masked(model, mask):
        assert [block_influence(model, EXAMPLES, part)[1].item() for part in PARTS] == [0, 0, 0]
        assert (block_influence(model, EXAMPLES)[[0, 2]] > 0.01).all()


@pytest.mark.parametrize("variant", ["llama", "gemma2, windows and caps", "olmo2", "gpt2"])
def test_a_pruned_layer_is_skipped_where_attention_has_no_bias(variant):
    model, skipped = families.made(variant), families.made(variant)
    ids = torch.tensor([families.tokens(12)])
    with masked(model, PruningMask.dense(families.LAYERS, families.HEADS).prune_layer(1)), torch.no_grad():
        found = model(ids).logits
    path = "transformer.h" if variant == "gpt2" else "model.layers"
    layer = skipped.get_submodule(path)[1]

    def passed(hidden_states, *args, **kwargs):
        if variant == "gpt2":  # what stays of attention: the output map's bias
            return hidden_states + layer.attn.c_proj.bias
        return hidden_states

    layer.forward = passed
    with torch.no_grad():
        torch.testing.assert_close(found, skipped(ids).logits, rtol=1e-4, atol=1e-5)


def test_methods_score_what_they_say_and_refuse_the_rest_in_a_line():
    for name, method in METHODS.items():
        for component in COMPONENTS:
            if component in method.of:
                assert method_for(component, name) is method
            else:
                with pytest.raises(ArgumentError, match=f"^method {name} scores .*; for {component} take "):
                    method_for(component, name)
    assert tuple(METHODS["block_influence"].of) == ("ffns", "attention", "layers")
    with pytest.raises(ArgumentError, match="component 'experts': unknown"):
        method_for("experts", "gradient")


@pytest.mark.parametrize("component", ["attention", "layers"])
def test_knockouts_of_layers_are_the_loss_without_them(component):
    model = families.made("llama")
    found = METHODS["knockout"].of[component](Inputs(model=model, examples=EXAMPLES))
    dense = PruningMask.dense(families.LAYERS, families.HEADS)

    def loss(mask):
        total = 0.0
        with masked(model, mask), torch.no_grad():
            for context, continuation in EXAMPLES:
                ids = torch.tensor([[*context, *continuation]])
                logits = model(ids[:, :-1]).logits[0, -len(continuation) :]
                total += torch.nn.functional.cross_entropy(logits, ids[0, -len(continuation) :]).item()
        return total / len(EXAMPLES)

    for layer in range(families.LAYERS):
        mask = dense.prune_layer(layer)
        mask = mask - dense.prune_ffn(layer) if component == "attention" else mask
        assert found[layer].item() == pytest.approx(loss(mask) - loss(dense), rel=1e-3, abs=1e-5)


def whole(mask):
    """The layers of which all heads go."""
    return [layer for layer, heads in mask.pruned_heads.items() if len(heads) == mask.num_attention_heads]


def test_masks_of_layers_and_of_whole_attention():
    scores = torch.tensor([0.4, 0.1, 0.3, 0.2, 0.2])
    layers = {"num_attention_heads": 3, "layer_scores": scores}
    mask = ranked_mask(**layers, layer_fraction="0.5")  # floor(2.5); of equal ones the lower
    assert (whole(mask), mask.pruned_ffns, mask.num_pruned_heads) == ([1, 3], (1, 3), 6)
    mask = ranked_mask(**layers, layer_fraction="0.5", order="most", layers=(1, 4))
    assert (whole(mask), mask.pruned_ffns) == ([2, 3], (2, 3))
    by_head = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    mask = ranked_mask(head_scores=by_head, head_fraction="0.4", num_attention_heads=3, unit="attention")
    assert (whole(mask), mask.pruned_ffns) == (sorted(by_head.sum(1).argsort()[:2].tolist()), ())
    both = ranked_mask(**layers, layer_fraction="0.2", head_scores=by_head, head_fraction="0.4")
    assert both == ranked_mask(**layers, layer_fraction="0.2") | ranked_mask(
        head_scores=by_head, head_fraction="0.4", num_attention_heads=3
    )
    mask = random_mask(10, 3, prune_layers="0.3", seed=4)
    assert (len(whole(mask)), mask.num_pruned_heads, mask.pruned_ffns) == (3, 9, tuple(whole(mask)))
    assert mask != random_mask(10, 3, prune_layers="0.3", seed=5)
    assert mask.provenance["prune_layers"] == 0.3


def write(path, component, scores):
    ImportanceScores.from_tensor(torch.tensor(scores), num_attention_heads=2, component=component).save(path)
    return str(path)


def test_the_mask_command_prunes_layers_and_attention(tmp_path):
    layers = write(tmp_path / "layers.json", "layers", [0.3, 0.1, 0.2])
    attention = write(tmp_path / "attention.json", "attention", [0.1, 0.3, 0.2])
    ffns = write(tmp_path / "ffns.json", "ffns", [0.1, 0.3, 0.2])

    def made(*arguments):
        path = tmp_path / "mask.json"
        asked = ["mask", *arguments, "-o", str(path)]
        result = CliRunner().invoke(cli, asked, catch_exceptions=False, standalone_mode=False)
        assert not result.exit_code
        mask = PruningMask.load(path)
        return whole(mask), mask.pruned_ffns

    assert made("--layer_importance", layers, "--prune_layers", "0.34") == ([1], (1,))
    assert made("--layer_importance", layers, "--prune_layers", "0.34", "--unit", "layer") == ([1], (1,))
    assert made("--head_importance", attention, "--prune_heads", "0.34", "--unit", "attention") == ([0], ())
    named = made("--random", "--num_hidden_layers", "3", "--num_attention_heads", "2", "--prune_layers", "0.67")
    assert (len(named[0]), named[1]) == (2, tuple(named[0]))
    for arguments, told in (
        (["--head_importance", attention, "--prune_heads", "0.4"], "scores of attention; .* for those give unit=att"),
        (["--layer_importance", ffns, "--prune_layers", "0.4"], "holds scores of ffns; expected scores of layers"),
        (["--head_importance", layers, "--prune_heads", "0.4", "--unit", "attention"], "expected scores of heads"),
        (["--layer_importance", layers], "needs prune_layers=FRACTION"),
        (["--prune_layers", "0.4"], "prune_layers=0.4 needs layer_importance=FILE"),
        (
            ["--head_importance", attention, "--prune_heads", "0.4", "--unit", "layer"],
            "give --prune_layers, not --prune_h",
        ),
    ):
        with pytest.raises(PruneError, match=told):
            made(*arguments)
    content = json.loads((tmp_path / "ffns.json").read_text()) | {"component": "experts"}
    (tmp_path / "odd.json").write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=r'component.*expected "heads", "ffns", "attention" or "layers"'):
        select_mask(ffn_importance=tmp_path / "odd.json", prune_ffns="0.5")


RANKINGS = [
    "block_influence",
    "most:block_influence",
    "layer:block_influence",
    "layer:most:block_influence",
    "attention:own",
]
SMALL = {
    "tasks": ["demo_labels"],
    "num_fewshot": [2],
    "limit": 4,
    "importance_limit": 4,
    "prune_heads": ["0", "0.34"],
    "prune_ffns": ["0", "0.17"],
    "prune_layers": ["0.34"],
    "ffn_method": "gradient",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers") / "sweep"
    sweep = run_sweep(
        settings(folder, ranking=[*RANKINGS, "layer:random:0+1", "attention:random:0"], **SMALL), progress=False
    )
    assert not sweep.failed
    return sweep


def scores_in(folder, component, method="block_influence"):
    path = folder / "importance" / f"demo_labels-2shot-{component}-{method}.json"
    content = json.loads(path.read_text())
    assert content["component"] == component
    return np.array(content["scores"])


def test_cells_prune_whole_layers_by_the_files_in_the_folder(finished):
    folder = finished.folder
    layers, attention, ffns = (scores_in(folder, part) for part in PARTS)
    heads, own_ffns = scores_in(folder, "heads", "gradient").sum(1), scores_in(folder, "ffns", "gradient")
    counted = {}
    for row in finished.rows:
        mask = PruningMask.from_dict(disk.read_cell(disk.cell_path(folder, row.cell))["pruning"]["mask"])
        ranking, shares = row.variant.ranking, (float(row.variant.prune_heads), float(row.variant.prune_ffns))
        counted[ranking] = counted.get(ranking, 0) + 1
        assert mask.num_pruned_heads == len(whole(mask)) * mask.num_attention_heads
        assert (len(whole(mask)), len(mask.pruned_ffns)) == (int(6 * shares[0]), int(6 * shares[1]))
        by = {
            "block_influence": (attention, ffns),
            "most:block_influence": (-attention, -ffns),
            "layer:block_influence": (layers, layers),
            "layer:most:block_influence": (-layers, -layers),
            "attention:own": (heads, own_ffns),
        }.get(ranking)
        if by is not None:
            assert whole(mask) == sorted(np.argsort(by[0], kind="stable")[: len(whole(mask))])
            assert list(mask.pruned_ffns) == sorted(np.argsort(by[1], kind="stable")[: len(mask.pruned_ffns)])
        elif ranking == "layer:random":
            assert tuple(whole(mask)) == mask.pruned_ffns
    both = dict.fromkeys(("block_influence", "most:block_influence", "attention:own", "attention:random"), 3)
    assert counted == {
        **both,
        "dense": 1,
        "layer:block_influence": 1,
        "layer:most:block_influence": 1,
        "layer:random": 2,
    }


def test_boards_show_them_and_a_second_sweep_computes_nothing(finished, tmp_path):
    shown = {entry.ranking for entry in compare(finished.folder).board.entries}
    assert {"layer:block_influence", "layer:random", "block_influence", "attention:own"} <= shown
    result = CliRunner().invoke(cli, ["leaderboard", str(finished.folder), "-o", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (page,) = tmp_path.glob("*.html")
    for told in ("layer:block_influence", *(f"importance-{part}-block" for part in PARTS)):
        assert told in page.read_text(), told
    grid = settings(finished.folder, ranking=[*RANKINGS, "layer:random:0+1", "attention:random:0"], **SMALL)
    found = estimate_sweep(grid)
    assert (found.importance, sum(part.missing for part in found.cells)) == ([], 0)


def test_a_dry_run_counts_them(tmp_path):
    grid = settings(tmp_path / "sweep", ranking=RANKINGS, **SMALL)
    found = {part.name: part for part in estimate_sweep(grid).importance}
    named = ["attention-block_influence", "ffns", "ffns-block_influence", "heads", "layers-block_influence"]
    assert sorted(found) == [f"importance-demo_labels-2shot-{name}" for name in named]
    assert all(part.flops > 0 and part.documents == 4 and not part.problem for part in found.values())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ranking": ["layer:own"]}, "expected own"),
        ({"ranking": ["layer:kv_group:block_influence"]}, "expected own"),
        ({"ranking": ["kv_group:block_influence"]}, "expected own"),
        ({"ranking": ["layer:heads.json+ffns.json"]}, "expected own"),
        ({"ranking": ["layer:block_influence"]}, "ranking layer:block_influence: give prune_layers"),
        ({"prune_layers": ["0.5"]}, "prune_layers: give a ranking, such as layer:block_influence"),
        (
            {"prune_layers": ["2"], "ranking": ["layer:random:0"]},
            "prune_layers: share=2: expected a number from 0 to 1",
        ),
        ({"head_method": "block_influence"}, "method block_influence scores ffns, attention, layers"),
        ({"ffn_method": "function_vector"}, "method function_vector scores heads"),
    ],
)
def test_settings_that_cannot_be_are_told(changes, told):
    with pytest.raises(ArgumentError, match=told):
        make_config({**GRID, "output_path": "x", **changes})


def test_units_are_read_from_rankings():
    units = {"own": "head", "kv_group:own": "kv_group", "attention:most:own": "attention", "layer:random:1": "layer"}
    assert {text: parse_ranking(text).unit for text in units} == units
    assert parse_ranking("block_influence").unit == "attention"
