import json

import pytest
from click.testing import CliRunner

from lm_eval_prune import PruningMask
from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import ArgumentError, FileFormatError, FractionError, MaskError, MaskShapeError
from lm_eval_prune.ranked_masks import random_mask
from lm_eval_prune.selection import select_mask


def write_importance(path, **changes):
    content = {
        "format": "lm-eval-prune-importance",
        "version": 1,
        "component": "heads",
        "method": "gradient",
        "model": "facebook/opt-125m",
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "task": "piqa",
        "num_fewshot": 5,
        "num_examples": 200,
        "seed": 1234,
        "scores": [[0.6, 0.1, 0.5], [0.2, 0.4, 0.3]],
    }
    path.write_text(json.dumps({**content, **changes}))
    return path


@pytest.fixture
def heads(tmp_path):
    return write_importance(tmp_path / "heads.json")


@pytest.fixture
def ffns(tmp_path):
    return write_importance(tmp_path / "ffns.json", component="ffns", scores=[0.2, 0.1])


def test_no_argument_asks_for_no_mask():
    assert select_mask() is None


def test_importance_files_and_fractions(heads, ffns):
    mask = select_mask(head_importance=heads, prune_heads="0.5", ffn_importance=ffns, prune_ffns=0.5)
    assert dict(mask.pruned_heads) == {0: (1,), 1: (0, 2)}
    assert mask.pruned_ffns == (1,)
    assert mask.provenance["prune_heads"] == 0.5
    assert mask.provenance["head_importance"]["path"] == str(heads)
    assert len(mask.provenance["ffn_importance"]["sha256"]) == 64


def test_whole_groups_of_a_file_and_at_random(tmp_path):
    scores = [[3.0, 0.0, 1.0, 1.0], [0.5, 0.0, 2.0, 2.0]]
    file = write_importance(tmp_path / "four.json", num_attention_heads=4, scores=scores)
    groups = {"unit": "kv_group", "num_key_value_heads": 2}
    mask = select_mask(head_importance=file, prune_heads="0.5", **groups)
    assert mask.pruned_heads == {0: (2, 3), 1: (0, 1)}
    assert {key: mask.provenance[key] for key in groups} == groups
    assert select_mask(head_importance=file, prune_heads="0.5", unit="kv_group", num_key_value_heads=lambda: 2) == mask
    most = select_mask(head_importance=file, prune_heads="0.5", order="most", **groups)
    assert most.pruned_heads == {0: (0, 1), 1: (2, 3)}
    layer = select_mask(head_importance=file, prune_heads="0.5", layers=(1, 1), **groups)
    assert layer.pruned_heads == {1: (0, 1)}
    drawn = [random_mask(6, 8, prune_heads="0.4", seed=seed, unit="kv_group", num_key_value_heads=2) for seed in (1, 2)]
    assert drawn[0] != drawn[1]
    for each in drawn:
        assert each.num_pruned_heads == 4 * 4  # 4 of 12 groups
        assert all(set(heads) in ({0, 1, 2, 3}, {4, 5, 6, 7}, set(range(8))) for heads in each.pruned_heads.values())


def test_ffns_alone_know_the_number_of_heads_from_their_file(ffns):
    assert select_mask(ffn_importance=ffns, prune_ffns=1).shape == (2, 3)


def test_a_mask_file_is_named_in_the_provenance(tmp_path):
    PruningMask(num_hidden_layers=2, num_attention_heads=3, pruned_ffns=(1,), provenance={"seed": 1}).save(
        tmp_path / "mask.json"
    )
    mask = select_mask(mask=tmp_path / "mask.json")
    assert mask.pruned_ffns == (1,)
    assert mask.provenance["seed"] == 1
    assert mask.provenance["mask_file"]["path"] == str(tmp_path / "mask.json")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prune_heads": 0.7}, ArgumentError, "prune_heads=0.7 needs head_importance=FILE"),
        ({"prune_ffns": 0.2}, ArgumentError, "prune_ffns=0.2 needs ffn_importance=FILE"),
        ({"head_importance": "HEADS"}, ArgumentError, "needs prune_heads=FRACTION"),
        ({"head_importance": "HEADS", "prune_heads": 1.5}, FractionError, "prune_heads=1.5: expected a number"),
        ({"head_importance": "HEADS", "prune_heads": True}, FractionError, "prune_heads=True"),
        ({"head_importance": "HEADS", "prune_heads": "many"}, FractionError, "prune_heads='many'"),
        ({"mask": "m.json", "prune_heads": 0.5}, ArgumentError, "exclude one another"),
        ({"mask": "m.json", "ffn_importance": "f.json"}, ArgumentError, "exclude one another"),
        ({"head_importance": "FFNS", "prune_heads": 0.5}, FileFormatError, "expected scores of heads"),
    ],
)
def test_contradictions_are_one_clear_line(heads, ffns, arguments, error, message):
    files = {"HEADS": heads, "FFNS": ffns}
    with pytest.raises(error, match=message):
        select_mask(**{name: files.get(value, value) for name, value in arguments.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "reads version 1"),
        ({"component": "experts"}, 'expected "heads", "ffns", "attention" or "layers"'),
        ({"scores": [[0.1, 0.2, 0.3]]}, "1 layers; expected 2"),
        ({"scores": [[0.1, 0.2], [0.1, 0.2]]}, "expected a list of 3 numbers"),
        ({"scores": [[0.1, 0.2, True], [1, 2, 3]]}, "true is not a finite number"),
        ({"scores": [[0.1, 0.2, None], [1, 2, 3]]}, "null is not a finite number"),
        ({"scores": "high"}, "expected a list with one row a layer"),
        ({"num_hidden_layers": 0}, "expected an integer from 1"),
    ],
)
def test_importance_files_that_are_not_as_documented(tmp_path, changes, message):
    path = write_importance(tmp_path / "bad.json", **changes)
    with pytest.raises(FileFormatError, match=message) as caught:
        select_mask(head_importance=path, prune_heads=0.5)
    assert str(path) in str(caught.value)


def test_files_of_different_models_do_not_mix(heads, tmp_path):
    other = write_importance(tmp_path / "other.json", component="ffns", num_attention_heads=4, scores=[0.2, 0.1])
    with pytest.raises(MaskShapeError, match="different models"):
        select_mask(head_importance=heads, prune_heads=0.5, ffn_importance=other, prune_ffns=0.5)


@pytest.mark.parametrize("shape", [(10**20, 4), (4, 10**20), (10**8, 1), (10**4, 10**4)], ids=str)
def test_a_random_mask_of_more_than_any_model_has_is_refused_before_it_is_made(shape):
    with pytest.raises(MaskError, match="more than any model"):
        random_mask(*shape, prune_heads="0.5")


@pytest.mark.parametrize("option", ["prune_heads", "prune_ffns"])
@pytest.mark.parametrize("empty", ["", " ", ","])
def test_an_empty_share_is_no_share_of_nothing(option, empty, tmp_path):
    """As from a shell's variable that is not set."""
    words = ["mask", "--random", "--num_hidden_layers=4", "--num_attention_heads=4", f"--{option}={empty}"]
    found = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "mask.json")])
    assert isinstance(found.exception, FractionError)
    assert str(found.exception).startswith(f"{option}={empty!r}: expected a number from 0 to 1")
    assert not (tmp_path / "mask.json").exists()
