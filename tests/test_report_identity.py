"""One row is one model asked one question: what differs is named, what is unknown is not taken for equal."""

from __future__ import annotations

import json

import pytest
from sweep_folders import OWN_NAME, harness_run, pruning, sweep

from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.identity import files_fingerprint, hub_fingerprint
from lm_eval_prune.report.board import Column
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.variants import Variant

HALF = Variant("own", "0.5", "0")
BASE = {"pretrained": OWN_NAME, "dtype": "float32"}


def run(folder, name, *, pruned=False, arguments=BASE, loss=0.0, date=1.0, about=None, block=None, **config):
    """A results file of `pruned-opt`, as the harness writes it."""
    settings = {"model": "pruned-opt", "model_args": arguments, **config}
    path = harness_run(folder / name, name=name, tasks=("piqa",), loss=loss, **settings)
    content = json.loads(path.read_text())
    content["pruning"] = {**pruning(HALF if pruned else Variant("dense", "0", "0")), **(block or {})}
    if not pruned:
        content["pruning"]["mask"] = {}
    content |= {"date": date, **(about or {})}
    path.write_text(json.dumps(content))
    return path


def board_of(folder, **config):
    return compare(read_collection([folder]), BoardConfig(**config))


def value(folder, name):
    (path,) = (folder / name).glob("results_*.json")
    return json.loads(path.read_text())["results"]["piqa"]["acc,none"]


def pruned_entry(board):
    (entry,) = (entry for entry in board.entries if not entry.is_dense)
    return entry


ANOTHER = {
    "an adapter": ({"arguments": {**BASE, "peft": "me/lora"}}, "peft=me/lora"),
    "a delta": ({"arguments": {**BASE, "delta": "me/delta"}}, "delta=me/delta"),
    "quantisation": ({"arguments": {**BASE, "load_in_4bit": True}}, "load_in_4bit=True"),
    "a revision": (
        {"arguments": {**BASE, "revision": "step1000"}, "identity": {"weights": "beef"}},
        "revision=step1000",
    ),
    "the revision alone": ({"model_revision": "step1000", "identity": {"weights": "beef"}}, "revision=step1000"),
    "weights": ({"identity": {"weights": "beef"}}, "weights beef"),
    "dtype": ({"block": {"dtype": "bfloat16"}}, "dtype=bfloat16"),
    "length": ({"arguments": {**BASE, "max_length": 16}}, "max_length=16"),
    "length as recorded": ({"about": {"max_length": 16}}, "max_length=16"),
    "BOS": ({"arguments": {**BASE, "add_bos_token": False}}, "bos_prepended=False"),
    "BOS as recorded": ({"block": {"bos_prepended": False}}, "bos_prepended=False"),
    "tokens": ({"block": {"probe": {"token_ids": [2, 5]}}}, "probe_token_ids=[2, 5]"),
    "a system instruction": (
        {"about": {"system_instruction": "Be brief.", "system_instruction_sha": "abc123"}},
        "system_instruction=abc123",
    ),
    "a chat template": ({"about": {"chat_template": "{{x}}", "chat_template_sha": "def456"}}, "chat_template=def456"),
    "generation": ({"gen_kwargs": {"temperature": 0.7}}, 'gen_kwargs={"temperature": 0.7}'),
    "a random seed": ({"torch_seed": 7}, "torch_seed=7"),
    "an argument of tomorrow": ({"arguments": {**BASE, "steering": "vector"}}, "steering=vector"),
    "weights of a variant": ({"arguments": {**BASE, "variant": "fp16"}}, "variant=fp16"),
    "a file of another format": ({"arguments": {**BASE, "gguf_file": "q4.gguf"}}, "gguf_file=q4.gguf"),
    "another tokenizer's code": ({"arguments": {**BASE, "use_fast_tokenizer": False}}, "use_fast_tokenizer=False"),
    "a setting of the configuration": ({"arguments": {**BASE, "rope_theta": 5e5}}, "rope_theta=500000"),
    "an argument that nobody knows": ({"arguments": {**BASE, "wibble": 3}}, "wibble=3"),
}
SAID = {"system_instruction": None, "chat_template": None, "max_length": 2048}
RECORDED = {"bos_prepended": True, "probe": {"token_ids": [2, 9]}}


def recorded(changes):
    """The changes on top of what files say; where an argument asks for something, they do not say what came of it."""
    about, block = {**SAID, **changes.get("about", {})}, {**RECORDED, **changes.get("block", {})}
    asked = changes.get("arguments", {})
    about = {name: value for name, value in about.items() if name not in asked}
    block = {name: value for name, value in block.items() if name != "bos_prepended" or "add_bos_token" not in asked}
    return {**changes, "about": about, "block": block}


@pytest.mark.parametrize(("changes", "named"), ANOTHER.values(), ids=ANOTHER)
def test_another_model_or_question_is_another_row_and_no_baseline(tmp_path, changes, named):
    changes = recorded(changes)
    run(tmp_path, "base", loss=0.4, about=SAID, block=RECORDED)
    run(tmp_path, "pruned", pruned=True, loss=0.5, date=2.0, about=SAID, block=RECORDED)
    run(tmp_path, "other", loss=0.1, date=3.0, **changes)
    board = board_of(tmp_path)
    assert len(board.entries) == 3
    (other,) = (entry for entry in board.entries if named in entry.label)
    assert other.is_dense
    assert other.model.startswith(f"{OWN_NAME} (")
    difference = pruned_entry(board).cells[Column("piqa", "acc")].difference
    assert difference.value == pytest.approx(value(tmp_path, "pruned") - value(tmp_path, "base"))
    (problem,) = (p for p in board.problems if p.kind == "different models of one name")
    assert named in problem.message


@pytest.mark.parametrize(("changes", "named"), ANOTHER.values(), ids=ANOTHER)
def test_a_row_whose_only_dense_run_is_another_is_not_compared_and_it_is_said(tmp_path, changes, named):
    changes = recorded(changes)
    run(tmp_path, "dense", about=SAID, block=RECORDED)
    run(tmp_path, "pruned", pruned=True, loss=0.3, **changes)
    board = board_of(tmp_path)
    entry = pruned_entry(board)
    assert entry.average.difference is None
    assert entry.average.verdict == ""
    (problem,) = (p for p in board.problems if p.kind == "no dense baseline")
    assert entry.label in problem.message
    assert named.split("=")[0].split(" ")[0] in problem.message
    with pytest.raises(ArgumentError, match="no dense baseline"):
        board_of(tmp_path, strict=True)


ALIKE = {
    "text and object": f"pretrained={OWN_NAME},dtype=float32",
    "the order": f"dtype=float32,pretrained={OWN_NAME}",
    "spaces": f"pretrained= {OWN_NAME} , dtype=float32",
    "torch in front": {**BASE, "dtype": "torch.float32"},
    "dtype from the checkpoint": {"pretrained": OWN_NAME},
    "a slash at the end": {**BASE, "pretrained": f"{OWN_NAME}/"},
    "a dot in front": {**BASE, "pretrained": f"./{OWN_NAME}"},
    "the default revision": {**BASE, "revision": "main"},
    "another default": {**BASE, "trust_remote_code": "False", "load_in_4bit": False, "peft": None},
    "device and batch": {**BASE, "device": "cuda:1", "batch_size": 4, "parallelize": True, "offload_folder": "x"},
    "the mask": {**BASE, "mask": "runs/mask.json", "prune_heads": 0.5},
}


@pytest.mark.parametrize("arguments", ALIKE.values(), ids=ALIKE)
def test_the_same_model_said_in_other_words_is_one_row(tmp_path, arguments):
    run(tmp_path, "dense", about=SAID, block=RECORDED)
    run(tmp_path, "pruned", pruned=True, arguments=arguments, loss=0.3, about=SAID, block=RECORDED)
    board = board_of(tmp_path, strict=True)
    assert {entry.model for entry in board.entries} == {OWN_NAME}
    assert pruned_entry(board).average.difference.paired == 60


def test_equal_files_are_one_model_whatever_they_are_called(tmp_path):
    run(tmp_path, "dense")
    run(tmp_path, "pruned", pruned=True, arguments={**BASE, "pretrained": "/data/copy"}, loss=0.3)
    board = board_of(tmp_path)
    assert {entry.model for entry in board.entries} == {OWN_NAME}
    assert pruned_entry(board).average.difference.paired == 60


@pytest.mark.parametrize(
    "unsaid",
    [{"identity": {}}, {"block": {}}, {"about": {"system_instruction": None, "chat_template": None}}, {"about": {}}],
    ids=["weights", "BOS", "length", "prompt"],
)
def test_what_a_file_does_not_say_equals_no_known_value(tmp_path, unsaid):
    run(tmp_path, "dense", **{"about": SAID, "block": RECORDED, **unsaid})
    run(tmp_path, "pruned", pruned=True, loss=0.3, about=SAID, block=RECORDED)
    board = board_of(tmp_path)
    assert pruned_entry(board).average.difference is None
    assert any("unknown" in entry.label for entry in board.entries)
    assert "no dense baseline" in {problem.kind for problem in board.problems}
    # Of two files that both do not say it nothing is known to differ.
    run(tmp_path, "pruned", pruned=True, loss=0.3, **{"about": SAID, "block": RECORDED, **unsaid})
    assert pruned_entry(board_of(tmp_path)).average.difference.paired == 60


def test_arguments_that_a_file_does_not_say_are_unknown(tmp_path):
    run(tmp_path, "dense", arguments=None)
    run(tmp_path, "pruned", pruned=True, loss=0.3)
    board = board_of(tmp_path)
    assert len({entry.model for entry in board.entries}) == 2
    assert pruned_entry(board).average.difference is None


def test_checkpoints_of_one_training_are_rows_of_their_own(tmp_path):
    for place, step in enumerate((1000, 64000, 143000)):
        arguments = f"pretrained={OWN_NAME},revision=step{step},dtype=float32"
        run(tmp_path, str(step), arguments=arguments, model="hf", loss=0.1 * place, date=place, identity={})
    models = {entry.model for entry in board_of(tmp_path).entries}
    assert models == {f"{OWN_NAME} (revision=step{step})" for step in (1000, 64000, 143000)}


def test_a_smoke_run_replaces_no_whole_one_and_is_nobodys_baseline(tmp_path):
    run(tmp_path, "dense", loss=0.2)
    run(tmp_path, "smoke", limit=10, date=9.0)
    run(tmp_path, "pruned", pruned=True, loss=0.3)
    board = board_of(tmp_path)
    assert len(board.entries) == 3
    assert "dense (limit=10)" in {entry.label for entry in board.entries}
    difference = pruned_entry(board).average.difference
    assert difference.value == pytest.approx(value(tmp_path, "pruned") - value(tmp_path, "dense"))


def test_scorers_agree_and_are_compared_but_stay_apart(tmp_path):
    run(tmp_path, "dense")
    run(tmp_path, "padded", loss=0.1, date=2.0, block={"scorer": "padded"})
    run(tmp_path, "pruned", pruned=True, loss=0.3, block={"scorer": "padded"})
    board = board_of(tmp_path)
    assert len(board.entries) == 3
    difference = pruned_entry(board).average.difference
    assert difference.value == pytest.approx(value(tmp_path, "pruned") - value(tmp_path, "padded"))


def test_a_chosen_baseline_serves_other_models_but_not_other_questions(tmp_path):
    run(tmp_path, "dense", about=SAID, block=RECORDED)
    run(
        tmp_path, "pruned", pruned=True, arguments={**BASE, "pretrained": "out/compact"}, loss=0.3,
        identity={"weights": "beef"}, about=SAID, block=RECORDED,
    )  # fmt: skip
    assert pruned_entry(board_of(tmp_path)).average.difference is None
    assert pruned_entry(board_of(tmp_path, baseline=OWN_NAME)).average.difference.paired == 60
    run(
        tmp_path, "pruned", pruned=True, arguments={**BASE, "pretrained": "out/compact"}, loss=0.3,
        identity={"weights": "beef"}, about=SAID, block={**RECORDED, "bos_prepended": False},
    )  # fmt: skip
    board = board_of(tmp_path, baseline=OWN_NAME)
    assert pruned_entry(board).average.difference is None
    (problem,) = (p for p in board.problems if p.kind == "no dense baseline")
    assert "bos_prepended is True, here False" in problem.message


def test_a_baseline_may_be_named_as_its_row_is(tmp_path):
    run(tmp_path, "dense")
    run(tmp_path, "lora", arguments={**BASE, "peft": "me/lora"}, loss=0.2)
    run(tmp_path, "pruned", pruned=True, loss=0.3)
    difference = pruned_entry(board_of(tmp_path, baseline=f"{OWN_NAME} (peft=me/lora)")).average.difference
    assert difference.value == pytest.approx(value(tmp_path, "pruned") - value(tmp_path, "lora"))
    with pytest.raises(ArgumentError, match="baseline x: no dense runs; there are those of"):
        board_of(tmp_path, baseline="x")


def test_a_row_without_any_dense_run_is_named(tmp_path):
    run(tmp_path, "pruned", pruned=True)
    (problem,) = board_of(tmp_path).problems
    assert problem.kind == "no dense baseline"
    assert problem.message.endswith(f"not compared: no dense run of {OWN_NAME} on piqa")


@pytest.mark.parametrize(
    "argument", [{"peft": "me/lora"}, {"load_in_8bit": "True"}, {"tokenizer": "me/words"}], ids=str
)
def test_a_sweeps_model_arguments_are_part_of_its_model(tmp_path, argument):
    folder = sweep(tmp_path / "sweep", [HALF], tasks=("piqa",), **{"arguments": argument})
    plain = sweep(tmp_path / "plain", [], tasks=("piqa",))
    board = compare(read_collection([folder, plain]), BoardConfig())
    ((name, told),) = argument.items()
    assert {entry.model for entry in board.entries} == {OWN_NAME, f"{OWN_NAME} ({name}={told})"}
    assert pruned_entry(board).model == f"{OWN_NAME} ({name}={told})"


# -- files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint_files(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "custom.py", "README.md"):
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("name", ["chat_template.jinja", "custom.py", "generation_config.json", "model.gguf", "vocab"])
def test_every_file_that_a_model_may_be_loaded_from_counts(checkpoint_files, name):
    before = files_fingerprint(checkpoint_files)
    (checkpoint_files / name).write_text("changed")
    assert files_fingerprint(checkpoint_files) != before


@pytest.mark.parametrize("name", ["README.md", ".gitattributes", "optimizer.pt", "trainer_state.json", "loss.png"])
def test_files_that_no_model_is_loaded_from_do_not_count(checkpoint_files, name):
    before = files_fingerprint(checkpoint_files)
    (checkpoint_files / name).write_text("changed")
    (checkpoint_files / "checkpoint-1").mkdir()
    (checkpoint_files / "checkpoint-1" / "config.json").write_text("another model's")
    assert files_fingerprint(checkpoint_files) == before


def test_a_subfolder_counts_where_a_model_is_loaded_from_it(checkpoint_files):
    (checkpoint_files / "step1").mkdir()
    before = files_fingerprint(checkpoint_files, "step1")
    (checkpoint_files / "step1" / "model.safetensors").write_text("x")
    assert files_fingerprint(checkpoint_files, "step1") != before


def test_a_snapshot_of_the_hub_is_its_commit(tmp_path):
    commit = "a" * 40
    folder = tmp_path / "models--facebook--opt-125m" / "snapshots" / commit
    folder.mkdir(parents=True)
    before = files_fingerprint(folder)
    (folder / "model.safetensors").write_text("downloaded later")
    assert files_fingerprint(folder) == before == hub_fingerprint("facebook/opt-125m", commit)


@pytest.mark.parametrize("place", [f"run/snapshots/{'a' * 40}", f"models--a--b/snapshots/{'x' * 40}", "snapshots/step"])
def test_folders_that_look_like_the_hubs_cache_are_told_apart_by_their_files(place, tmp_path):
    found = set()
    for home in ("one", "two"):
        folder = tmp_path / home / place
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(home)
        found.add(files_fingerprint(folder))
    assert len(found) == 2


SHA = "0123456789abcdef0123456789abcdef01234567"
NAMES_OF_ONE_COMMIT = {
    "a branch": {"identity": {}, "arguments": {**BASE, "revision": "step143000"}, "model_sha": SHA},
    "a tag": {"identity": {}, "arguments": {**BASE, "revision": "v1.0"}, "model_revision": "v1.0", "model_sha": SHA},
    "the commit": {"identity": {}, "arguments": {**BASE, "revision": SHA}, "model_sha": SHA},
    "the commit, as the harness says it": {"identity": {}, "arguments": BASE, "model_revision": SHA, "model_sha": SHA},
    "the commit, offline": {"identity": {}, "arguments": {**BASE, "revision": SHA}, "model_sha": ""},
    "its files": {"arguments": {**BASE, "revision": "v1"}, "identity": {"weights": hub_fingerprint(OWN_NAME, SHA)}},
}


@pytest.mark.parametrize("changes", NAMES_OF_ONE_COMMIT.values(), ids=NAMES_OF_ONE_COMMIT)
def test_two_names_of_one_commit_are_one_row(tmp_path, changes):
    run(tmp_path, "base", about=SAID, block=RECORDED, model_sha=SHA, identity={})
    run(tmp_path, "other", date=2.0, about=SAID, block=RECORDED, **changes)
    run(tmp_path, "pruned", pruned=True, loss=0.3, date=3.0, about=SAID, block=RECORDED, **changes)
    board = board_of(tmp_path)
    assert sorted((entry.model, entry.is_dense) for entry in board.entries) == [(OWN_NAME, False), (OWN_NAME, True)]
    assert pruned_entry(board).average.difference is not None
    assert "different models of one name" not in {problem.kind for problem in board.problems}


def test_of_names_of_one_commit_a_tag_is_shown_before_the_commit(tmp_path):
    other = SHA[::-1]
    for number, (revision, sha) in enumerate([("v1.0", SHA), (SHA, SHA), ("release", SHA), ("v2.0", other)]):
        run(
            tmp_path,
            f"r{number}",
            arguments={**BASE, "revision": revision},
            model_sha=sha,
            about=SAID,
            block=RECORDED,
            identity={},
        )
    assert sorted({entry.model for entry in board_of(tmp_path).entries}) == [
        f"{OWN_NAME} (revision=v1.0)", f"{OWN_NAME} (revision=v2.0)",
    ]  # fmt: skip


@pytest.mark.parametrize("further", ["tokenizer", "peft", "delta"])
def test_a_revision_of_a_second_repository_too_keeps_runs_apart(tmp_path, further):
    """The commit of that one is not known."""
    for number, revision in enumerate(["v1.0", SHA]):
        arguments = {**BASE, "revision": revision, further: "me/other"}
        run(tmp_path, f"r{number}", arguments=arguments, model_sha=SHA, about=SAID, block=RECORDED, identity={})
    assert len(board_of(tmp_path).entries) == 2


@pytest.mark.parametrize("revision", [SHA[:12], "step1000", SHA.upper()])
def test_a_revision_whose_commit_no_file_says_is_a_model_of_its_own(tmp_path, revision):
    run(tmp_path, "base", about=SAID, block=RECORDED, model_sha=SHA, identity={})
    run(
        tmp_path,
        "other",
        arguments={**BASE, "revision": revision},
        about=SAID,
        block=RECORDED,
        model_sha="",
        identity={},
    )
    assert len(board_of(tmp_path).entries) == 2
