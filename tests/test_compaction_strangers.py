"""Checkpoints of strangers: links out of their folder, names that are HTML, configurations and indexes that lie."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from scoring_cases import tiny_model

from lm_eval_prune import PruneError, PruningMask, compact_checkpoint
from lm_eval_prune.compaction.card import model_card
from lm_eval_prune.costs.dimensions import dimensions_of
from lm_eval_prune.decoders.compacted import compacted_config
from lm_eval_prune.errors import ArgumentError, FileFormatError

MASK = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1, 3)}, pruned_ffns=(1,))


@pytest.fixture
def stranger(checkpoint, tmp_path):
    """A checkpoint of one's own to spoil."""
    shutil.copytree(checkpoint, tmp_path / "stranger")
    return tmp_path / "stranger"


def changed(folder, **changes):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


# -- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LICENSE", "generation_config.json", "tokenizer.json", "merges.txt", "config.json"])
@pytest.mark.parametrize("zeroed", [False, True])
@pytest.mark.parametrize("kind", ["absolute", "relative", "of a link"])
def test_a_link_out_of_the_folder_is_not_copied(stranger, tmp_path, name, zeroed, kind):
    secret = tmp_path / "secret"
    secret.write_text((stranger / "config.json").read_text() if name == "config.json" else "{}")
    (stranger / name).unlink(missing_ok=True)
    if kind == "of a link":
        (stranger / "sub").symlink_to(tmp_path)
        (stranger / name).symlink_to("sub/secret")
    else:
        (stranger / name).symlink_to(secret if kind == "absolute" else "../secret")
    with pytest.raises(ArgumentError, match=f"{name}: a link out of the checkpoint's folder is not copied"):
        compact_checkpoint(stranger, MASK, tmp_path / "small", zeroed=zeroed)
    assert not (tmp_path / "small").exists()


def test_snapshots_of_the_hub_cache_links_inside_and_linked_folders_work(stranger, tmp_path):
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(stranger.iterdir())):
        shutil.move(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (tmp_path / "linked").symlink_to(snapshot)
    for source in (snapshot, tmp_path / "linked"):
        compact_checkpoint(source, MASK, tmp_path / f"of-{source.name}")
        assert (tmp_path / f"of-{source.name}" / "tokenizer.json").is_file()
        assert not (tmp_path / f"of-{source.name}" / "tokenizer.json").is_symlink()
    inside = tmp_path / "inside"
    shutil.copytree(snapshot, inside)
    (inside / "kept").mkdir()
    shutil.move(inside / "tokenizer.json", inside / "kept" / "tokenizer.json")
    (inside / "tokenizer.json").symlink_to("kept/tokenizer.json")
    compact_checkpoint(inside, MASK, tmp_path / "of-inside")
    assert (tmp_path / "of-inside" / "tokenizer.json").is_file()


def test_another_repository_of_the_cache_is_elsewhere(stranger, tmp_path):
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0123"
    private = tmp_path / "hub" / "models--mine--private" / "blobs"
    shutil.copytree(stranger, snapshot)
    private.mkdir(parents=True)
    (private / "0").write_text("{}")
    (snapshot / "generation_config.json").unlink(missing_ok=True)
    (snapshot / "generation_config.json").symlink_to("../../../models--mine--private/blobs/0")
    with pytest.raises(ArgumentError, match="a link out of the checkpoint's folder"):
        compact_checkpoint(snapshot, MASK, tmp_path / "small")
    # blobs that are themselves a link lead out just as well
    (tmp_path / "hub" / "models--a--b" / "blobs").symlink_to(private)
    (snapshot / "generation_config.json").unlink()
    (snapshot / "generation_config.json").symlink_to("../../blobs/0")
    with pytest.raises(ArgumentError, match="a link out of the checkpoint's folder"):
        compact_checkpoint(snapshot, MASK, tmp_path / "small")


def test_a_fifo_is_no_file_of_the_checkpoint(stranger, tmp_path):
    (stranger / "merges.txt").unlink(missing_ok=True)
    os.mkfifo(stranger / "merges.txt")
    compact_checkpoint(stranger, MASK, tmp_path / "small")
    assert not (tmp_path / "small" / "merges.txt").exists()


# -- the card -----------------------------------------------------------------------------------------------------


HARMFUL = [
    "<img src=x onerror=alert(1)>",
    "![picture](https://example.org/track.png)",
    "<script>alert(1)</script>",
    "a\n\n# heading\n\n| cell | cell |",
    "x```\n\n<b>out</b>",
    "\x1b[2J\u202egnp.exe",
    "[link](javascript:alert(1))",
]


@pytest.mark.parametrize("text", HARMFUL)
@pytest.mark.parametrize("zeroed", [False, True])
def test_names_from_files_are_text_in_the_card(text, zeroed, tmp_path):
    results = {
        "results": {text: {f"{text},none": 0.5, f"{text}_stderr,none": 0.1}, "piqa": {"acc,none": 0.25}},
        "n-shot": {text: text},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    mask = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_ffns=(1,), provenance={text: {text: [text]}})
    config = compacted_config(tiny_model().config, mask, text)
    card = model_card(config, 10, 9, [tmp_path / "results.json"], zeroed=zeroed)
    outside, _, rest = card.partition("```json")
    inside, _, after = rest.partition("\n```\n")
    assert "<" not in outside.replace("<br>", "")
    assert not {"![", "](", "\x1b", "\u202e"} & {
        outside[i : i + length] for i in range(len(outside)) for length in (1, 2)
    }
    assert "<" not in inside
    assert "```" not in inside
    assert json.loads(inside)["provenance"] == {text: {text: [text]}}  # the same value still
    assert "\n# heading" not in card
    assert "Heads left in each layer: 4, 4, 4." in after
    assert "| piqa |  | acc | 0.2500 |  |" in card
    assert ("alert(1)" in outside) == ("alert(1)" in text)  # shown, as words


@pytest.mark.parametrize("value", [10**299, float("nan"), float("1e308"), -5, True, None, "0.5", [1], {"a": 1}])
def test_odd_values_of_results_do_not_end_the_card(value, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"results": {"piqa": {"acc,none": value, "acc_norm,none": 0.5}}}))
    config = compacted_config(tiny_model().config, MASK, "m")
    assert "0.5000" in model_card(config, 10, 9, [tmp_path / "r.json"])


# -- configurations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**7}, '"num_hidden_layers" is 10000000'),
        ({"num_hidden_layers": 10**400}, "a number of 401 digits"),
        ({"num_attention_heads": 0}, '"num_attention_heads" is 0'),
        ({"num_attention_heads": 5}, "5 heads do not divide a width of 32"),
        ({"ffn_dim": 10**30}, '"ffn_dim" is 1'),
        ({"vocab_size": True}, '"vocab_size" is true'),
        ({"hidden_size": "32"}, '"hidden_size" is "32"'),
        ({"max_position_embeddings": 10**100}, '"max_position_embeddings" is 1'),
        ({"pad_token_id": -(10**200)}, "pad_token_id is a number of 201 digits"),
        ({"activation_function": "<!--"}, "no model can be made of its configuration"),
        ({"activation_function": {"relu": 1}}, "configuration"),
        ({"dtype": ""}, "configuration"),
        ({"dtype": "os.system"}, "configuration"),
        ({"dtype": -0.0}, "dtype"),
        ({"torch_dtype": 16}, "torch_dtype"),
        ({"enable_bias": "yes"}, '"enable_bias" is "yes"'),
        ({"model_type": "bert"}, "bert"),
        ({"model_type": ["opt"]}, "model_type"),
        ({"dropout": None, "init_std": "x"}, "configuration"),
    ],
)
def test_a_configuration_that_no_model_has_is_one_line(stranger, tmp_path, changes, message):
    changed(stranger, **changes)
    with pytest.raises(PruneError) as caught:
        compact_checkpoint(stranger, MASK, tmp_path / "small")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_head_num": True},
        {"layer_head_num": "4,4,4"},
        {"original_model": 1},
        {"original_model": "x" * 70_000},
        {"pruning_mask": [1]},
        {"pruning_mask": {"format": "x"}},
        {"layer_inter_size": {"0": 1}},
    ],
    ids=str,
)
def test_a_compacted_configuration_that_lies_is_one_line(checkpoint, tmp_path, changes):
    compact_checkpoint(checkpoint, MASK, tmp_path / "small")
    changed(tmp_path / "small", **changes)
    with pytest.raises(PruneError) as caught:
        compact_checkpoint(tmp_path / "small", MASK, tmp_path / "again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 10**7}, {"ffn_dim": 10**30}, {"pruning_mask": 3}, {"hidden_size": -1}, {"vocab_size": 1.5}],
    ids=str,
)
def test_plan_reads_configurations_by_the_same_schema(stranger, changes):
    changed(stranger, **changes)
    with pytest.raises(PruneError, match=next(iter(changes))):
        dimensions_of(str(stranger))


@pytest.mark.parametrize("model_type", ["other", "opt", "pruned_opt"])
def test_code_of_a_configuration_is_neither_run_nor_asked_about(stranger, tmp_path, model_type, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (stranger / "evil.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w')\nclass C: pass\n")
    changed(stranger, model_type=model_type, auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})
    if model_type == "other":
        with pytest.raises(PruneError):
            compact_checkpoint(stranger, MASK, tmp_path / "small")
    else:
        compact_checkpoint(stranger, MASK, tmp_path / "small")
        assert "evil" not in (tmp_path / "small" / "config.json").read_text()
        assert not (tmp_path / "small" / "evil.py").exists()
    assert not (tmp_path / "PWNED").exists()


# -- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\udfffb", "\x00", ".hidden", "x" * 300, 3],
    ids=ascii,
)
def test_an_index_names_no_path(stranger, tmp_path, name):
    shutil.copy(stranger / "model.safetensors", tmp_path / "secret.safetensors")
    weights = dict.fromkeys(load_file(stranger / "model.safetensors"), name)
    (stranger / "model.safetensors").unlink()
    (stranger / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(FileFormatError, match=r"not an index of shards|half of a surrogate"):
        compact_checkpoint(stranger, MASK, tmp_path / "small")


@pytest.mark.parametrize(
    "content", ["[]", '{"weight_map": []}', '{"weight_map": {"a": ["b"]}}', "{", '{"metadata": {}}']
)
def test_an_index_that_is_none_is_one_line(stranger, tmp_path, content):
    (stranger / "model.safetensors.index.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"index\.json"):
        compact_checkpoint(stranger, MASK, tmp_path / "small")


@pytest.mark.parametrize("kind", ["list", "numbers", "nested", "repeated", "meta", "sparse", "int8"])
def test_pickles_of_other_things_than_weights_are_one_line(stranger, tmp_path, kind):
    tensors = load_file(stranger / "model.safetensors")
    (stranger / "model.safetensors").unlink()
    one = torch.zeros(1)
    content = {
        "list": list(tensors.values()),
        "numbers": dict.fromkeys(tensors, 1.0),
        "nested": {"model": tensors},
        "repeated": {name: one.as_strided(tensor.shape, [0] * tensor.dim()) for name, tensor in tensors.items()},
        "meta": {name: tensor.to("meta") for name, tensor in tensors.items()},
        "sparse": {name: tensor.to_sparse() for name, tensor in tensors.items()},
        "int8": {name: tensor.to(torch.int8) for name, tensor in tensors.items()},
    }[kind]
    torch.save(content, stranger / "pytorch_model.bin")
    with pytest.raises(FileFormatError) as caught:
        compact_checkpoint(stranger, MASK, tmp_path / "small")
    assert "\n" not in str(caught.value)


def test_a_quantised_safetensors_weight_is_one_line(stranger, tmp_path):
    tensors = load_file(stranger / "model.safetensors")
    name = "model.decoder.layers.2.fc1.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, stranger / "model.safetensors")
    with pytest.raises(FileFormatError, match=r"fc1.weight is not in floating point; compact the model before quantis"):
        compact_checkpoint(stranger, MASK, tmp_path / "small")
