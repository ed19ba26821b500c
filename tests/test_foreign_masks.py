"""Masks of other projects: every form gives the mask that it means, and what could mean two things is refused."""

import json
import pickle
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lm_eval_prune import PruningMask
from lm_eval_prune.cli.main import main
from lm_eval_prune.errors import ArgumentError, FileFormatError, MaskError, PruneError
from lm_eval_prune.foreign_masks import read_mask
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.selection import select_mask
from tests.families import of_type
from tests.helpers import build

LAYERS, HEADS = 3, 4
KEPT = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
"""As transformers' `head_mask`: 1 keeps."""
PRUNED = {0: (1, 3), 2: (0, 1, 2, 3)}
PAIRS = [[layer, head] for layer, heads in PRUNED.items() for head in heads]
BY_LAYER = {str(layer): list(heads) for layer, heads in PRUNED.items()}
CONFIG = {"model_type": "opt", "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "pruned_heads": BY_LAYER}
GPT2 = {"model_type": "gpt2", "n_layer": LAYERS, "n_head": HEADS, "pruned_heads": BY_LAYER}
NESTED = {"pruned_heads": BY_LAYER, "text_config": {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}}
EXPANDED = KEPT[:, None, :, None, None]

WITH_SHAPE = {
    "matrix": KEPT.tolist(),
    "floats": KEPT.astype(float).tolist(),
    "booleans": KEPT.astype(bool).tolist(),
    "expanded": EXPANDED.tolist(),
    "keyed": {"head_mask": KEPT.tolist(), "note": "x"},
    "config": CONFIG,
    "gpt2": GPT2,
    "nested": NESTED,
}
"""JSON that says of how many layers and heads it speaks."""
WITHOUT_SHAPE = {
    "by layer": BY_LAYER,
    "pruned_heads": {"pruned_heads": BY_LAYER},
    "pairs": PAIRS,
    "heads_to_prune": {"heads_to_prune": PAIRS, "total_heads": 12, "pruned_heads": 6},
    "heads_to_prune by layer": {"heads_to_prune": BY_LAYER},
    "objects": [{"layer": layer, "head": head, "score": 0.5} for layer, head in PAIRS],
    "descriptors": ["0:1,3", "2:0,1,2,3"],
    "text": "0:1,3 2:0,1,2,3",
    "lines": "0:1\n0:3\r\n2:0,1\n\n2:2,3\n",
    "semicolons": "0:1,3; 2:0,1,2,3",
}


def expected(**changes):
    return PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, **{"pruned_heads": PRUNED, **changes})


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8-sig")
    return path


def arrays(folder):
    """The matrix in every binary form and as text."""
    np.save(folder / "f32.npy", KEPT.astype("float32"))
    np.save(folder / "bool.npy", KEPT.astype(bool))
    np.save(folder / "int64.npy", np.asfortranarray(KEPT))
    np.save(folder / "expanded.npy", EXPANDED.astype("float16"))
    np.savetxt(folder / "matrix.txt", KEPT)
    np.savetxt(folder / "head_mask.npy", KEPT, fmt="%d", delimiter=",")  # as some do: text with this ending
    for name, dtype in (("a", torch.bfloat16), ("b", torch.bool), ("c", torch.int8)):
        save_file({"head_mask" if name != "c" else "any": torch.tensor(KEPT).to(dtype)}, folder / f"{name}.safetensors")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("name", WITH_SHAPE)
def test_json_that_says_its_shape(tmp_path, name):
    path = write(tmp_path / "mask.json", WITH_SHAPE[name])
    for shape in (None, (LAYERS, HEADS), lambda: (LAYERS, HEADS)):
        mask, told = read_mask(path, shape)
        assert mask == expected()
        assert told
    for shape in ((LAYERS, 5), (4, HEADS), (HEADS, LAYERS)):
        with pytest.raises(MaskError, match="for 3 layers of 4 heads; the model has"):
            read_mask(path, shape)


@pytest.mark.parametrize("name", WITHOUT_SHAPE)
def test_forms_that_need_the_models_shape(tmp_path, name):
    path = write(tmp_path / "mask.any", WITHOUT_SHAPE[name])
    assert read_mask(path, (LAYERS, HEADS))[0] == expected()
    with pytest.raises(ArgumentError, match="--num_hidden_layers and --num_attention_heads"):
        read_mask(path)
    with pytest.raises(MaskError, match="does not exist"):
        read_mask(path, (2, HEADS))
    with pytest.raises(ArgumentError, match="--invert is for rows of 0 and 1"):
        read_mask(path, (LAYERS, HEADS), invert=True)


def test_arrays_keep_where_they_are_one_and_prune_there_when_inverted(tmp_path):
    inverted = {0: (0, 2), 1: (0, 1, 2, 3)}
    for path in arrays(tmp_path):
        mask, told = read_mask(path)
        assert (mask, told) == (expected(), "rows of 0 and 1, 1 keeps"), path
        mask, told = read_mask(path, invert=True)
        assert (mask, told) == (expected(pruned_heads=inverted), "rows of 0 and 1, 1 prunes"), path


def test_ffns_beside_heads(tmp_path):
    by_matrix = {"head_mask": KEPT.tolist(), "ffn_mask": [1, 0, 1]}
    assert read_mask(write(tmp_path / "a.json", by_matrix))[0] == expected(pruned_ffns=(1,))
    assert read_mask(tmp_path / "a.json", invert=True)[0].pruned_ffns == (0, 2)
    by_list = {**CONFIG, "pruned_ffns": [1]}
    assert read_mask(write(tmp_path / "b.json", by_list))[0] == expected(pruned_ffns=(1,))
    alone = {"ffn_mask": [True, False, True]}
    found = read_mask(write(tmp_path / "c.json", alone), (LAYERS, HEADS))[0]
    assert found == expected(pruned_heads={}, pruned_ffns=(1,))
    save_file({"head_mask": torch.tensor(KEPT), "ffn_mask": torch.tensor([1, 0, 1])}, tmp_path / "d.safetensors")
    assert read_mask(tmp_path / "d.safetensors")[0] == expected(pruned_ffns=(1,))


def test_our_own_files_are_read_as_ever(tmp_path):
    expected(pruned_ffns=(1,)).save(tmp_path / "mask.json")

    def never():
        raise AssertionError("our files say their shape")

    assert read_mask(tmp_path / "mask.json", never) == (expected(pruned_ffns=(1,)), "")
    with pytest.raises(ArgumentError, match="a mask file of this package"):
        read_mask(tmp_path / "mask.json", invert=True)


def test_descriptors_without_a_zero_may_count_from_one(tmp_path):
    """The code of Michel et al. subtracts 1 from what it is told; others count from 0."""
    path = write(tmp_path / "heads.txt", "1:2,3 2:1")
    with pytest.raises(ArgumentError, match="--counting_from 0"):
        read_mask(path, (LAYERS, HEADS))
    assert dict(read_mask(path, (LAYERS, HEADS), counting_from=0)[0].pruned_heads) == {1: (2, 3), 2: (1,)}
    assert dict(read_mask(path, (LAYERS, HEADS), counting_from=1)[0].pruned_heads) == {0: (1, 2), 1: (0,)}
    mask, told = read_mask(path, (2, HEADS))  # layer 2 of two: it must count from 1
    assert dict(mask.pruned_heads) == {0: (1, 2), 1: (0,)}
    assert told == "layer:head,head descriptors, counted from 1"
    assert dict(read_mask(path, (LAYERS, 3))[0].pruned_heads) == {0: (1, 2), 1: (0,)}  # head 3 of three
    for content in (PAIRS, BY_LAYER):
        with pytest.raises(MaskError, match="-1 does not exist"):
            read_mask(write(path, content), (LAYERS, HEADS), counting_from=1)
    with pytest.raises(ArgumentError, match="--counting_from is for files that name"):
        read_mask(write(path, KEPT.tolist()), counting_from=1)


def test_rows_of_two_that_could_be_pairs(tmp_path):
    path = write(tmp_path / "mask.json", [[0, 1], [1, 0]])
    for shape in (None, (2, 2)):
        with pytest.raises(ArgumentError, match=r"head_mask.*heads_to_prune.* says which"):
            read_mask(path, shape)
    assert dict(read_mask(path, (LAYERS, HEADS))[0].pruned_heads) == {0: (1,), 1: (0,)}
    assert dict(read_mask(write(path, {"head_mask": [[0, 1], [1, 0]]}))[0].pruned_heads) == {0: (0,), 1: (1,)}
    pairs = {"heads_to_prune": [[0, 1], [1, 0]]}
    assert dict(read_mask(write(path, pairs), (2, 2))[0].pruned_heads) == {0: (1,), 1: (0,)}
    for rows in ([[0, 1], [0, 1]], [[0.0, 1.0], [1.0, 0.0]], [[False, True], [True, False]]):  # no pairs, these
        assert read_mask(write(path, rows))[0].num_pruned_heads == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([[0.3, 0.7], [1, 0], [1, 1]], "0.3"),
        ([[1, 0, 2], [1, 1, 1]], "layer 0: 2 is neither 0 nor 1"),
        ([[1, 0, 0.25], [1, 1, 1]], "0.25 is neither 0 nor 1, scores such as these rank what to prune"),
        ([[1, 0, None], [1, 1, 1]], "null is neither 0 nor 1"),
        ([[1, 0, "1"], [1, 1, 1]], '"1" is neither 0 nor 1'),
        ([[1, 0, 1], [1, 1, 1, 1]], "rows of 3 and 4"),
        ([[], []], "expected rows of 0 and 1|rows of 0"),
        ([1, 0, 1], "expected rows of 0 and 1, or pairs"),
        ([], "expected rows of 0 and 1, or pairs"),
        ([[0, 1], [0, 9]], "head 9 does not exist"),
        ([[0, 1], [0, -1]], "head -1 does not exist"),
        ([[0, 1], [0, 1], [0, 3]], "head 1 is repeated"),
        ([[0, 3], ["0", 1]], 'layer "0" is not an integer'),
        ([[0, 3], [0, True]], "head true is not an integer"),
        ([{"layer": 0}], "head null is not an integer"),
        ({"0": 1}, "expected a list of integers"),
        ({"0": "1"}, "expected a list of integers"),
        ({"0": [1.5]}, "head 1.5 is not an integer"),
        ({"0": [1], "00": [2]}, None),
        ({"x": [1]}, "no mask; expected"),
        ({"num_hidden_layers": 3, "num_attention_heads": 4}, "no mask; expected"),
        ({"pruned_heads": 3}, "no mask; expected"),
        ({"head_mask": "1010"}, "expected a row of 0 and 1"),
        ({"heads_to_prune": "0:1"}, "expected pairs of layer and head"),
        ({"heads_to_prune": [[0, 1, 2]]}, "expected pairs of layer and head"),
        ({"0": [1], "pruned_ffns": [7]}, "layer 7 does not exist|no mask"),
        ({"ffn_mask": [1, 0]}, "expected one for each of 3 layers"),
        ({"head_mask": KEPT.tolist(), "ffn_mask": [1, 0, 7]}, "ffn_mask: 7 is neither 0 nor 1"),
        ({"pruned_heads": {"0": [1]}, "ffn_mask": [1, 0, 1]}, 'give "pruned_ffns"'),
        ({"format": "lm-eval-prune-importance"}, 'expected "lm-eval-prune-mask"'),
        ({}, '"format" is null'),
        ("hello world", "no mask; expected"),
        ("", "no mask; expected"),
        ("0:1,", "no mask; expected"),
        ("0:1 0:x", "no mask; expected"),
        ("0:1 2", "no mask; expected"),
        ("99999999999:0", "no mask; expected"),
        ("1 0 1\n1 1", "rows of 3 and 2"),
        ("[1, 0", "not valid JSON"),
        ('{"0": [1], "0": [2]}', "repeated"),
    ],
)
def test_what_is_no_mask_is_refused_in_one_line(tmp_path, content, message):
    path = write(tmp_path / "mask.json", content)
    if message is None:
        assert dict(read_mask(path, (LAYERS, HEADS))[0].pruned_heads) == {0: (1, 2)}
        return
    with pytest.raises(PruneError, match=message) as caught:
        read_mask(path, (LAYERS, HEADS))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


def test_no_pickle_is_loaded(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for name in ("mask.pkl", "mask.pt", "mask.bin", "mask.npy", "mask.json", "mask"):
            (tmp_path / name).write_bytes(pickle.dumps(Bomb(), protocol=protocol))
            with pytest.raises(FileFormatError, match=r"a pickle, which runs|no mask; expected|not a text file"):
                read_mask(tmp_path / name, (LAYERS, HEADS))
    torch.save(torch.tensor(KEPT), tmp_path / "mask.pt")
    with pytest.raises(FileFormatError, match="where you trust it, load it yourself"):
        read_mask(tmp_path / "mask.pt")
    np.save(tmp_path / "objects.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(FileFormatError, match=r"not read as \.npy"):
        read_mask(tmp_path / "objects.npy")
    np.savez(tmp_path / "many.npz", KEPT)
    with pytest.raises(FileFormatError, match="an archive of arrays"):
        read_mask(tmp_path / "many.npz")


def test_arrays_that_are_not_what_they_claim(tmp_path):
    np.save(tmp_path / "good.npy", KEPT)
    good = (tmp_path / "good.npy").read_bytes()
    for bad in (
        good[:40],
        good[:-8],
        good.replace(b"(3, 4)", b"(3, 9)"),
        good.replace(b"(3, 4), }   ", b"(9**9**9,), }")[: len(good)],
        good.replace(b"'shape': (3, 4), }", b"'shape': (999999999999,), }").ljust(len(good)),
        good.replace(b"<i8", b"|O8"),
        good.replace(b"<i8", b"<M8"),
        good.replace(b"\x01\x00", b"\x07\x00", 1),
        (7).to_bytes(8, "little") + b'{"a":1}',
        (2**40).to_bytes(8, "little") + b"{",
        (2).to_bytes(8, "little") + b"{}",
    ):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(PruneError) as caught:
            read_mask(tmp_path / "bad")
        assert "\n" not in str(caught.value)
    save_file({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, tmp_path / "two.safetensors")
    with pytest.raises(FileFormatError, match='tensors "a", "b"; expected "head_mask"'):
        read_mask(tmp_path / "two.safetensors")


# -- where they are given -------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr("sys.argv", ["lm-eval-prune", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
        said = capsys.readouterr()
        return code, said.out.strip(), said.err.strip()

    return run


def test_the_command_converts_and_says_how_it_read(run, tmp_path):
    np.save(tmp_path / "m.npy", KEPT)
    out = tmp_path / "mask.json"
    code, said, _ = run("mask", "--from", tmp_path / "m.npy", "-o", out)
    assert (code, said) == (
        0,
        f"{out}: 6 of 12 heads, 0 of 3 FFNs pruned ({tmp_path / 'm.npy'}: rows of 0 and 1, 1 keeps)",
    )
    mask = PruningMask.load(out)
    assert mask == expected()
    assert mask.provenance["read_as"] == "rows of 0 and 1, 1 keeps"
    assert len(mask.provenance["mask_file"]["sha256"]) == 64
    code, said, _ = run("mask", "--from", tmp_path / "m.npy", "--invert", "-o", out)
    assert (code, "1 prunes" in said) == (0, True)
    assert PruningMask.load(out).num_pruned_heads == 6
    assert run("mask", "--from", out, "-o", tmp_path / "again.json")[0] == 0
    assert PruningMask.load(tmp_path / "again.json") == PruningMask.load(out)


def test_the_shape_comes_from_the_options_or_the_model(run, tmp_path, checkpoint):
    path, out = write(tmp_path / "heads.txt", "0:1,3 2:0"), tmp_path / "mask.json"
    code, _, _ = run("mask", "--from", path, "--num_hidden_layers", 3, "--num_attention_heads", 4, "-o", out)
    assert (code, PruningMask.load(out).shape) == (0, (3, 4))
    code, _, error = run("mask", "--from", path, "-a", f"pretrained={checkpoint}", "-o", out)
    assert (code, error) == (0, "")
    config = json.loads((checkpoint / "config.json").read_text())
    assert PruningMask.load(out).shape == (config["num_hidden_layers"], config["num_attention_heads"])
    for words, message in (
        ([], "without a word of how many layers"),
        (["--num_hidden_layers", 3], "go together"),
        (["--num_hidden_layers", 3, "--num_attention_heads", 4, "-a", "pretrained=x"], "exclude one another"),
        (["-a", "revision=x"], "pretrained=... missing"),
        (["--prune_heads", "0.5"], "leave out --prune_heads"),
        (["--seed", 1], "leave out --seed"),
        (["--random"], "leave out --random"),
    ):
        code, _, error = run("mask", "--from", path, *words, "-o", tmp_path / "new.json")
        assert (code, len(error.splitlines())) == (2, 1)
        assert message in error
    assert not (tmp_path / "new.json").exists()
    code, _, error = run("mask", "--invert", "--random", "-a", f"pretrained={checkpoint}", "-o", out)
    assert (code, "--invert says how to read --from" in error) == (2, True)


def test_groups_come_from_the_options_or_the_model(run, tmp_path):
    of_type("llama").save_pretrained(tmp_path / "model")  # 2 layers of 4 heads, 2 to a group
    shape = ["--num_hidden_layers", "2", "--num_attention_heads", "4"]
    masks = []
    for given in (
        ["--model_args", f"pretrained={tmp_path / 'model'}"],
        [*shape, "--num_key_value_heads", 2],
    ):
        out = tmp_path / "mask.json"
        code, said, _ = run("mask", "--random", "--prune_heads", "0.75", "--unit", "kv_group", *given, "-o", out)
        assert (code, "6 of 8 heads" in said) == (0, True)
        masks.append(PruningMask.load(out))
    assert masks[0] == masks[1]
    assert all(heads in ((0, 1), (2, 3), (0, 1, 2, 3)) for heads in masks[0].pruned_heads.values())
    for given, message in (
        ([*shape, "--unit", "kv_group"], "needs the model's groups"),
        ([*shape, "--num_key_value_heads", "2"], "is for --unit kv_group"),
        ([*shape, "--unit", "kv_group", "--num_key_value_heads", "3"], "cannot share 3 key/value heads"),
    ):
        code, _, error = run("mask", "--random", "--prune_heads", "0.5", *given, "-o", tmp_path / "x.json")
        assert (code, len(error.splitlines()), message in error) == (2, 1, True)


def test_nothing_is_written_over_what_it_is_made_from(run, tmp_path):
    path = write(tmp_path / "heads.json", CONFIG)
    mask, settings = tmp_path / "mask.json", write(tmp_path / "sweep.yaml", "tasks: [piqa]")
    expected().save(mask)
    scores = tmp_path / "scores.json"
    ImportanceScores.from_tensor(torch.ones(3, 4), num_attention_heads=4).save(scores)
    (tmp_path / "link.json").symlink_to(path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for words in (
        ("mask", "--from", path, "-o", path),
        ("mask", "--from", path, "-o", tmp_path / "link.json"),
        ("mask", "--head_importance", scores, "--prune_heads", "0.5", "-o", scores),
        ("mask", "--random", "--head_importance", scores, "--prune_heads", "0.5", "-o", scores),
        ("plan", "125m", "--mask", mask, "--json", mask),
        ("plan", "125m", "--config", settings, "--json", settings),
    ):
        code, _, error = run(*words)
        assert (code, "is read and would be lost" in error) == (2, True), words
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_harness_model_takes_the_same_files(tmp_path, checkpoint, caplog):
    config = json.loads((checkpoint / "config.json").read_text())
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    wanted = {0: [1], layers - 1: [0, heads - 1]}
    kept = np.ones((layers, heads))
    for layer, pruned in wanted.items():
        kept[layer, pruned] = 0
    np.save(tmp_path / "kept.npy", kept)
    write(tmp_path / "by_layer.json", {str(layer): pruned for layer, pruned in wanted.items()})
    write(tmp_path / "text.txt", " ".join(f"{layer}:{','.join(map(str, p))}" for layer, p in wanted.items()))
    for name in ("kept.npy", "by_layer.json", "text.txt"):
        lm = build(PrunedOPT, checkpoint, mask=tmp_path / name)
        assert dict(lm.mask.pruned_heads) == {layer: tuple(pruned) for layer, pruned in wanted.items()}
        assert f"{name}: read as" in caplog.text
    mask = select_mask(mask=tmp_path / "text.txt", shape=lambda: (layers, heads))
    assert mask.provenance["read_as"] == "layer:head,head descriptors, counted from 0"


@pytest.mark.parametrize("part", ["1,", "1 ", "0:1 ", "x"])
def test_a_text_larger_than_any_mask_costs_little(part, tmp_path):
    (tmp_path / "mask.txt").write_text("0:" + part * (17 * 2**20 // len(part)))
    start = time.process_time()
    with pytest.raises(FileFormatError, match="more than a mask of any model"):
        read_mask(tmp_path / "mask.txt", (12, 12))
    assert time.process_time() - start < 2


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,), (0, 2)], ids=str)
@pytest.mark.parametrize("ending", ["npy", "safetensors"])
def test_an_array_of_nothing_is_no_mask_that_prunes_nothing(shape, ending, tmp_path):
    path = tmp_path / f"mask.{ending}"
    if ending == "npy":
        np.save(path, np.ones(shape))
    else:
        save_file({"head_mask": torch.ones(shape)}, path)
    with pytest.raises(FileFormatError, match=r"an array of 0 float64; expected|is empty, or larger"):
        read_mask(path, (4, 4))
