"""Masks that take the same number of heads, or of groups, from every layer: ranked within layers, and within groups."""

from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner

from lm_eval_prune import PruningMask
from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import MaskError, MaskShapeError
from lm_eval_prune.ranked_masks import random_mask
from tests.test_selection import write_importance

LAYERS, HEADS = 3, 12
SCORES = np.random.default_rng(5).normal(size=(LAYERS, HEADS))
SHARES = ["0", "0.29", "0.5", "0.99", "1"]


def least(scores, share):
    """Places of the floor(share * n) least scores, from the definition."""
    return set(np.argsort(scores, kind="stable")[: int(Fraction(share) * len(scores))].tolist())


@pytest.mark.parametrize("share", SHARES)
def test_every_layer_loses_its_least_heads(share):
    mask = PruningMask.from_importance(head_scores=SCORES, head_fraction=share, layout="uniform")
    for layer in range(LAYERS):
        assert set(mask.pruned_heads.get(layer, ())) == least(SCORES[layer], share)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("groups", [2, 3, 12])
def test_where_groups_share_keys_every_group_loses_as_many(share, groups):
    mask = PruningMask.from_importance(
        head_scores=SCORES, head_fraction=share, layout="uniform", num_key_value_heads=groups
    )
    size = HEADS // groups
    for layer in range(LAYERS):
        parts = SCORES[layer].reshape(groups, size) if size > 1 else SCORES[layer][None]
        expected = {at * parts.shape[1] + head for at, part in enumerate(parts) for head in least(part, share)}
        assert set(mask.pruned_heads.get(layer, ())) == expected


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("groups", [2, 3, 6])
def test_whole_groups_of_every_layer(share, groups):
    mask = PruningMask.from_importance(
        head_scores=SCORES, head_fraction=share, layout="uniform", unit="kv_group", num_key_value_heads=groups
    )
    size = HEADS // groups
    for layer in range(LAYERS):
        gone = least(SCORES[layer].reshape(groups, size).sum(1), share)
        assert set(mask.pruned_heads.get(layer, ())) == {group * size + head for group in gone for head in range(size)}


def test_at_random_too():
    mask = random_mask(4, 8, prune_heads=0.5, layout="uniform", num_key_value_heads=4, seed=3)
    assert mask.provenance["layout"] == "uniform"
    assert all(len({head // 2 for head in heads}) == len(heads) == 4 for heads in mask.pruned_heads.values())
    assert len(set(mask.pruned_heads.values())) > 1, "layers were drawn alike"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layout": "layers"}, MaskError, "layout=layers: unknown; expected global or uniform"),
        ({"layout": "uniform", "num_key_value_heads": 5}, MaskShapeError, "12 query heads cannot share 5"),
        ({"layout": "uniform", "unit": "kv_group"}, MaskError, "needs num_key_value_heads"),
    ],
)
def test_what_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        PruningMask.from_importance(head_scores=SCORES, head_fraction=0.5, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--layout", "uniform"], {0: (1,), 1: (0,)}),
        (["--layout", "uniform", "--num_key_value_heads", "3"], {0: (1,), 1: (0,)}),
        (["--layout", "kv-groups", "--num_key_value_heads", "3"], {0: (1,), 1: (0,)}),
        (["--layout", "global"], {0: (1,), 1: (0,)}),
    ],
)
def test_the_command(options, expected, tmp_path):
    scores = [[0.6, 0.1, 0.5], [0.2, 0.4, 0.3]]
    file = write_importance(tmp_path / "heads.json", scores=scores)
    given = ["mask", "--head_importance", str(file), "--prune_heads", "0.4", *options, "-o", str(tmp_path / "m.json")]
    ended = CliRunner().invoke(cli, given)
    assert ended.exit_code == 0, ended.output
    assert dict(PruningMask.load(tmp_path / "m.json").pruned_heads) == expected


def test_the_command_ranks_within_layers_where_the_least_are_all_in_one(tmp_path):
    file = write_importance(tmp_path / "heads.json", scores=[[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]])
    given = ["mask", "--head_importance", str(file), "--prune_heads", "0.34", "-o", str(tmp_path / "m.json")]
    for layout, expected in (("global", {0: (0, 1)}), ("uniform", {0: (0,), 1: (2,)})):
        ended = CliRunner().invoke(cli, [*given, "--layout", layout])
        assert ended.exit_code == 0, ended.output
        assert dict(PruningMask.load(tmp_path / "m.json").pruned_heads) == expected
