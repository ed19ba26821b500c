import copy
import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_prune import PruningMask
from lm_eval_prune.errors import FileFormatError, FractionError, MaskError, MaskShapeError


@st.composite
def masks(draw):
    layers, heads = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    layer = st.integers(0, layers - 1)
    chosen = draw(st.dictionaries(layer, st.sets(st.integers(0, heads - 1)).map(tuple)))
    return PruningMask(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pruned_heads=chosen,
        pruned_ffns=tuple(draw(st.sets(layer))),
    )


def make(pruned_heads=None, pruned_ffns=(), layers=4, heads=3):
    return PruningMask(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pruned_heads=pruned_heads or {},
        pruned_ffns=pruned_ffns,
    )


def test_tensors_are_false_exactly_where_pruned():
    mask = make({1: (0, 2), 3: (1,)}, (2,))
    assert mask.head_mask.tolist() == [[True] * 3, [False, True, False], [True] * 3, [True, False, True]]
    assert mask.ffn_mask.tolist() == [True, True, False, True]
    assert (mask.num_pruned_heads, mask.num_heads, mask.num_pruned_ffns) == (3, 12, 1)
    assert mask.head_mask.dtype == torch.bool


def test_order_of_the_input_does_not_matter_and_empty_layers_vanish():
    a, b = make({3: [2, 0], 1: (1,), 0: ()}, [3, 1]), make({1: (1,), 3: (0, 2)}, (1, 3))
    assert a == b
    assert hash(a) == hash(b)
    assert dict(a.pruned_heads) == {1: (1,), 3: (0, 2)}


def test_a_mask_cannot_be_changed():
    mask = make({1: (1,)})
    with pytest.raises(AttributeError):
        mask.pruned_ffns = (1,)
    with pytest.raises(TypeError):
        mask.pruned_heads[2] = (0,)


@given(masks())
@settings(deadline=None)  # a disk may be busy
def test_saving_copying_and_pickling_keep_a_mask(tmp_path_factory, mask):
    path = tmp_path_factory.mktemp("masks") / "mask.json"
    mask.save(path)
    assert PruningMask.load(path) == mask
    assert copy.deepcopy(mask) == mask
    assert pickle.loads(pickle.dumps(mask)) == mask
    content = json.loads(path.read_text())
    assert content["pruned_heads"] == {str(layer): list(heads) for layer, heads in mask.pruned_heads.items()}


@given(masks(), st.data())
def test_set_operations_are_those_of_sets(mask, data):
    other = data.draw(masks().filter(lambda found: found.shape == mask.shape) | st.just(mask))

    def pruned(found):
        heads = {(layer, head) for layer, row in found.pruned_heads.items() for head in row}
        return heads | {("ffn", layer) for layer in found.pruned_ffns}

    assert pruned(mask | other) == pruned(mask) | pruned(other)
    assert pruned(mask & other) == pruned(mask) & pruned(other)
    assert pruned(mask - other) == pruned(mask) - pruned(other)


def test_prune_layer_takes_all_heads_and_the_ffn():
    assert make({0: (1,)}).prune_layer(2) == make({0: (1,), 2: (0, 1, 2)}, (2,))


def test_masks_of_other_shapes_do_not_combine():
    with pytest.raises(MaskShapeError, match="4 x 3 and 4 x 5"):
        make() | make(heads=5)


def test_provenance_is_saved_but_does_not_count():
    mask = PruningMask(num_hidden_layers=1, num_attention_heads=1, provenance={"seed": 3})
    assert mask == PruningMask.dense(1, 1)
    assert mask.to_dict()["provenance"] == {"seed": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pruned_heads": {4: (0,)}}, "layer 4 does not exist; expected 0 to 3"),
        ({"pruned_heads": {-1: (0,)}}, "layer -1 does not exist"),
        ({"pruned_heads": {0: (3,)}}, "head 3 does not exist; expected 0 to 2"),
        ({"pruned_heads": {0: (-1,)}}, "head -1 does not exist"),
        ({"pruned_heads": {0: (1.0,)}}, "head 1.0 is not an integer"),
        ({"pruned_heads": {0: (True,)}}, "head true is not an integer"),
        ({"pruned_heads": {0: (1, 1)}}, "head 1 is repeated"),
        ({"pruned_heads": {True: (1,)}}, "layer true is not an integer"),
        ({"pruned_heads": {0: 1}}, "expected a list"),
        ({"pruned_ffns": (4,)}, "layer 4 does not exist"),
        ({"pruned_ffns": (2, 2)}, "layer 2 is repeated"),
        ({"pruned_ffns": "01"}, "expected a list"),
        ({"layers": 0}, "expected an integer from 1"),
        ({"heads": True}, "expected an integer from 1"),
        ({"layers": 10**9}, "more than any model"),
    ],
)
def test_components_that_cannot_be_are_named(arguments, message):
    with pytest.raises(MaskError, match=message):
        make(**arguments)


# -- from importance ------------------------------------------------------------------------------------------------


def test_lowest_scores_go_over_the_whole_model():
    mask = PruningMask.from_importance(head_scores=[[5, 1, 4], [0, 3, 2]], head_fraction="0.5")
    assert dict(mask.pruned_heads) == {0: (1,), 1: (0, 2)}


def test_ties_prune_the_lower_layer_and_head_first():
    mask = PruningMask.from_importance(head_scores=torch.ones(3, 4), head_fraction=0.5)
    assert dict(mask.pruned_heads) == {0: (0, 1, 2, 3), 1: (0, 1)}


@pytest.mark.parametrize("fraction", ["0.29", 0.29, "29e-2"])
def test_fractions_are_exact_decimals(fraction):
    mask = PruningMask.from_importance(head_scores=torch.arange(100.0).view(10, 10), head_fraction=fraction)
    assert mask.num_pruned_heads == 29


@given(st.integers(1, 300), st.integers(0, 1000))
def test_number_pruned_is_the_floor_of_the_decimal(total, thousandths):
    text = f"{thousandths / 1000:.3f}"
    mask = PruningMask.from_importance(ffn_scores=list(range(total)), ffn_fraction=text, num_attention_heads=1)
    assert mask.num_pruned_ffns == thousandths * total // 1000


GROUPED = [[5.0, 0.0, 1.0, 1.0], [0.5, 0.5, 9.0, 9.0], [0.25, 0.5, 0.75, 0.0]]
"""Three layers of four query heads, two to a group: sums 5, 2; 1, 18; 0.75, 0.75."""


@pytest.mark.parametrize(
    ("fraction", "pruned"),
    [
        ("0.16", {}),  # of 6 groups none; of 12 heads it would be one
        ("0.17", {2: (0, 1)}),  # of equal sums the lower group
        ("0.34", {2: (0, 1, 2, 3)}),
        ("0.5", {1: (0, 1), 2: (0, 1, 2, 3)}),
        ("0.99", {0: (0, 1, 2, 3), 1: (0, 1), 2: (0, 1, 2, 3)}),
        ("1", dict.fromkeys(range(3), (0, 1, 2, 3))),
    ],
)
def test_groups_go_whole_by_the_sum_of_their_heads(fraction, pruned):
    mask = PruningMask.from_importance(
        head_scores=GROUPED, head_fraction=fraction, unit="kv_group", num_key_value_heads=2
    )
    assert mask.pruned_heads == pruned


@pytest.mark.parametrize("fraction", ["0.2", "0.5", "0.75"])
def test_with_one_head_a_group_groups_are_heads(fraction):
    arguments = {"head_scores": GROUPED, "head_fraction": fraction}
    heads = PruningMask.from_importance(**arguments)
    assert PruningMask.from_importance(**arguments, unit="kv_group", num_key_value_heads=4) == heads


def test_a_sum_does_not_depend_on_the_order_of_its_heads():
    rows = [[0.1, 0.2, 0.3, 1e16], [1e16, 0.3, 0.2, 0.1], [9e17] * 4]
    mask = PruningMask.from_importance(head_scores=rows, head_fraction="0.34", unit="kv_group", num_key_value_heads=1)
    assert mask.pruned_heads == {0: (0, 1, 2, 3)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "kv_group"}, "needs num_key_value_heads"),
        ({"unit": "kv_group", "num_key_value_heads": 3}, "4 query heads cannot share 3 key/value heads"),
        ({"unit": "group", "num_key_value_heads": 2}, "unit=group: unknown; expected head, kv_group or attention"),
    ],
)
def test_units_that_cannot_be(arguments, message):
    with pytest.raises(MaskError, match=message):
        PruningMask.from_importance(head_scores=GROUPED, head_fraction="0.5", **arguments)


def test_heads_and_ffns_together():
    mask = PruningMask.from_importance(
        head_scores=[[1, 2], [3, 4]], head_fraction=0.25, ffn_scores=torch.tensor([2.0, 1.0]), ffn_fraction=0.5
    )
    assert mask == make({0: (0,)}, (1,), layers=2, heads=2)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, "nan", "inf", "half", True, None])
def test_fractions_outside_0_to_1_are_refused(fraction):
    with pytest.raises(FractionError, match="expected a number from 0 to 1"):
        PruningMask.from_importance(head_scores=[[1.0]], head_fraction=fraction)


def test_scores_must_be_finite_and_of_one_shape():
    with pytest.raises(MaskError, match=r"layer 1, head 0 is nan"):
        PruningMask.from_importance(head_scores=[[1, 2], [float("nan"), 3]], head_fraction=0.5)
    with pytest.raises(MaskShapeError, match="different lengths"):
        PruningMask.from_importance(head_scores=[[1, 2], [3]], head_fraction=0.5)
    with pytest.raises(MaskShapeError, match="2 layers"):
        PruningMask.from_importance(head_scores=[[1.0]], ffn_scores=[1.0, 2.0])
    with pytest.raises(MaskShapeError, match="expected numbers"):
        PruningMask.from_importance(head_scores=[1.0, 2.0])
    with pytest.raises(MaskError, match="needs ffn_scores"):
        PruningMask.from_importance(head_scores=[[1.0]], ffn_fraction=0.5)


# -- files ----------------------------------------------------------------------------------------------------------

GOOD = {"format": "lm-eval-prune-mask", "version": 1, "num_hidden_layers": 4, "num_attention_heads": 3}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_ranges_and_all_are_read_and_written_out_in_full(tmp_path):
    content = {**GOOD, "pruned_heads": {"0": "all", "1-2": "0-1", "3": [2]}, "pruned_ffns": "0,2-3"}
    mask = PruningMask.load(write(tmp_path / "mask.json", content))
    assert mask == make({0: (0, 1, 2), 1: (0, 1), 2: (0, 1), 3: (2,)}, (0, 2, 3))
    mask.save(tmp_path / "explicit.json")
    saved = json.loads((tmp_path / "explicit.json").read_text())
    assert saved["pruned_heads"] == {"0": [0, 1, 2], "1": [0, 1], "2": [0, 1], "3": [2]}
    assert saved["pruned_ffns"] == [0, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object, found a list"),
        ("[" * 100_000, "nested too deeply|not valid JSON"),
        ({**GOOD, "format": "mask"}, 'expected "lm-eval-prune-mask"'),
        ({**GOOD, "version": 2}, "reads version 1"),
        ({**GOOD, "version": True}, "reads version 1"),
        ({"format": GOOD["format"], "version": 1}, '"num_attention_heads", "num_hidden_layers" missing'),
        ({**GOOD, "prune_heads": {}}, 'unknown key "prune_heads"'),
        ({**GOOD, "pruned_heads": [1]}, "expected layer -> heads"),
        ({**GOOD, "pruned_heads": {"x": [1]}}, 'expected integers, "all" or a range'),
        ({**GOOD, "pruned_heads": {"9": [1]}}, "layer 9 does not exist"),
        ({**GOOD, "pruned_heads": {"-1": [1]}}, "layers are"),
        ({**GOOD, "pruned_heads": {"0": [1.5]}}, "head 1.5 is not an integer"),
        ({**GOOD, "pruned_heads": {"0": [False]}}, "head false is not an integer"),
        ({**GOOD, "pruned_heads": {"0": [0], "0-1": [1]}}, "layer 0 is repeated"),
        ({**GOOD, "pruned_heads": {"0": "2-1"}}, "lower number first"),
        ({**GOOD, "pruned_heads": {"0": "0-999999999"}}, "does not exist"),
        ({**GOOD, "pruned_ffns": {"0": 1}}, "expected integers"),
        ({**GOOD, "num_hidden_layers": 4.0}, "expected an integer"),
        ({**GOOD, "provenance": 3}, "expected an object"),
        ('{"pruned_ffns": [1], "pruned_ffns": [2]}', "repeated in one object"),
        (json.dumps({**GOOD, "provenance": {"x": float("nan")}}), "NaN is not a number"),
        ({**GOOD, "pruned_heads": {"0": ",".join(["0-2"] * 100_000)}}, "head 0 is repeated"),
        ({**GOOD, "pruned_heads": {"0": "1,1"}}, "head 1 is repeated"),
        ({**GOOD, "pruned_ffns": ",".join(["0"] * 100_000)}, "layer 0 is repeated"),
        ({**GOOD, "pruned_ffns": "٣"}, "expected integers"),
        ({**GOOD, "num_hidden_layers": 10**7, "pruned_heads": {"all": "all"}}, "more than any model"),
        ({**GOOD, "num_attention_heads": 10**7}, "more than any model"),
        ({**GOOD, "num_attention_heads": 10**250}, "more than any model"),
        ({**GOOD, "num_hidden_layers": -3}, "expected an integer from 1"),
        ({**GOOD, "provenance": {"x": "\ud800"}}, "half of a surrogate pair"),
    ],
)
def test_bad_files_are_refused_in_one_line_that_names_them(tmp_path, content, message):
    path = write(tmp_path / "bad.json", content)
    with pytest.raises((FileFormatError, MaskError), match=message) as caught:
        PruningMask.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_mask(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "mask.json").write_text(json.dumps({**GOOD, "pruned_ffns": [1]}), encoding=encoding)
        assert PruningMask.load(tmp_path / "mask.json") == make({}, (1,))


def test_a_missing_file_a_folder_and_a_pickle_are_refused(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        PruningMask.load(tmp_path / "absent.json")
    with pytest.raises(FileFormatError, match="a folder"):
        PruningMask.load(tmp_path)
    (tmp_path / "pickle.json").write_bytes(pickle.dumps({"format": "lm-eval-prune-mask"}))
    with pytest.raises(FileFormatError, match="never loaded"):
        PruningMask.load(tmp_path / "pickle.json")
    (tmp_path / "old_pickle.json").write_bytes(pickle.dumps({"a": 1}, protocol=0))
    with pytest.raises(FileFormatError, match="not valid JSON"):
        PruningMask.load(tmp_path / "old_pickle.json")


def test_a_two_gigabyte_file_is_not_read(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2 * 2**30)
    with pytest.raises(FileFormatError, match="2,048 MiB, too large"):
        PruningMask.load(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "mask.json"
    make({0: (1,)}).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FileFormatError, match="No space left"):
        make({2: (2,)}).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.json"]
