"""Every road to results says which model they are of, and what of it is gone."""

from __future__ import annotations

import json
from dataclasses import replace

import lm_eval.evaluator
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_prune import PruningMask, compact_checkpoint
from lm_eval_prune.harness.model import PrunedModel, PrunedOPT
from lm_eval_prune.harness.registration import register, tasks_folder
from lm_eval_prune.identity import files_fingerprint
from lm_eval_prune.random_opt import save_random_model
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import read_collection
from tests import families
from tests.helpers import build

MASK = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={1: (0, 2)}, pruned_ffns=(0,))
REMOVED = {"heads_pruned": 2, "ffns_pruned": 1, "compacted": True}


@pytest.fixture(scope="module", autouse=True)
def hooks():
    """As the start-up hook sets them, which need not run where the tests do."""
    from lm_eval.models import huggingface

    from lm_eval_prune.harness import recording

    register()
    recording.record_hf(huggingface)
    recording.record_evaluator(lm_eval.evaluator)
    with pytest.MonkeyPatch.context() as patch:  # the machine's description takes seconds
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
        yield


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    texts = ["The river near the garden", "A teacher saw a stone", "Summer is cold", "The market in the forest"]
    lines = [json.dumps({"text": text, "choices": [" is", " saw"], "gold": n % 2}) for n, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "task.yaml").write_text(
        f"task: tiny\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: text\ndoc_to_choice: choices\n"
        "doc_to_target: gold\nmetric_list: [{metric: acc}]\n"
    )
    assert tasks_folder().is_dir()
    return lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def compacted(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compact") / "c"
    compact_checkpoint(str(checkpoint), MASK, folder)
    return folder


@pytest.fixture(scope="module")
def zeroed(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zeroed") / "z"
    compact_checkpoint(checkpoint, replace(MASK, provenance={"ranking": "mine"}), folder, zeroed=True)
    return folder


def results_of(lm, manager, **asked):
    return lm_eval.simple_evaluate(model=lm, tasks=["tiny"], task_manager=manager, bootstrap_iters=0, **asked)


def written(folder, **results):
    """As a notebook writes them."""
    for name, content in results.items():
        (folder / f"{name}.json").write_text(json.dumps(content, default=str))
    return compare(read_collection([folder]), BoardConfig())


def in_memory(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return {"pretrained": model, "tokenizer": AutoTokenizer.from_pretrained(checkpoint), "device": "cpu"}


@pytest.mark.parametrize("kind", [PrunedOPT, HFLM], ids=["pruned-opt", "hf"])
@pytest.mark.parametrize("place", ["files", "memory"])
def test_results_of_a_model_object_name_it(checkpoint, checkpoints, manager, kind, place):
    def made(folder):
        return build(kind, folder) if place == "files" else kind(**in_memory(folder), batch_size=2)

    found = [results_of(made(folder), manager) for folder in (checkpoint, checkpoint, checkpoints["post"])]
    first, again, other = (content["config"]["identity"] for content in found)
    assert first == again
    assert first["model"] == str(checkpoint)
    assert first["backend"] == ("hf" if kind is HFLM else "pruned-opt")
    assert other["model"] == str(checkpoints["post"])
    assert other["weights"] != first["weights"]
    if place == "files":
        assert first["weights"] == files_fingerprint(checkpoint)
    assert first["dtype"] == "float32"
    assert first["bos_prepended"] is True
    assert first["prompt"] == {"system_instruction": None, "chat_template": None}
    json.dumps(first, allow_nan=False)


def test_a_notebooks_pruned_run_is_compared_with_its_own_dense_run(checkpoint, checkpoints, manager, tmp_path):
    runs = {"1_a": (checkpoint, None), "2_a_pruned": (checkpoint, MASK), "3_b": (checkpoints["post"], None)}
    found = {
        name: results_of(PrunedOPT(**in_memory(folder), mask=mask, batch_size=2), manager)
        for name, (folder, mask) in runs.items()
    }
    board = written(tmp_path, **found)
    (pruned,) = (entry for entry in board.entries if not entry.is_dense)
    accuracy = {name: content["results"]["tiny"]["acc,none"] for name, content in found.items()}
    assert pruned.model == str(checkpoint)
    assert pruned.average.difference.value == pytest.approx(accuracy["2_a_pruned"] - accuracy["1_a"])


def test_a_model_changed_in_memory_is_another_model(checkpoint, manager, tmp_path):
    dense, changed = (PrunedOPT(**in_memory(checkpoint), batch_size=2) for _ in range(2))
    changed.model.model.decoder.layers[0].fc1.weight.data *= 2
    board = written(tmp_path, dense=results_of(dense, manager), changed=results_of(changed, manager))
    assert len({entry.model for entry in board.entries}) == 2
    assert all("weights in memory" in entry.model for entry in board.entries)


@pytest.mark.parametrize("asked", [{"system_instruction": "Be brief."}, {"apply_chat_template": True}], ids=str)
def test_a_notebooks_prompt_is_recorded(checkpoint, manager, tmp_path, asked):
    lms = [build(PrunedOPT, checkpoint), build(PrunedOPT, checkpoint, mask=MASK)]
    for lm in lms:
        lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    board = written(tmp_path, dense=results_of(lms[0], manager), pruned=results_of(lms[1], manager, **asked))
    (pruned,) = (entry for entry in board.entries if not entry.is_dense)
    assert pruned.average.difference is None
    assert "no dense baseline" in {problem.kind for problem in board.problems}


def test_arguments_of_an_object_are_recorded(checkpoint, manager, tmp_path):
    short = results_of(build(PrunedOPT, checkpoint, truncation=True, mixed_precision_dtype="bfloat16"), manager)
    board = written(tmp_path, dense=results_of(build(PrunedOPT, checkpoint), manager), short=short)
    (other,) = (entry for entry in board.entries if "(" in entry.model)
    assert other.model.endswith("(mixed_precision_dtype=bfloat16, truncation=True)")


ROADS = {
    "HFLM(folder)": lambda folder: build(HFLM, folder),
    "HFLM(model)": lambda folder: HFLM(**in_memory(folder), batch_size=2),
    "pruned-opt": lambda folder: build(PrunedOPT, folder),
    "pruned-hf": lambda folder: build(PrunedModel, folder),
}


@pytest.mark.parametrize("road", ["by name", *ROADS])
def test_a_compact_checkpoint_is_never_dense(checkpoint, compacted, manager, tmp_path, road):
    lm = "hf" if road == "by name" else ROADS[road](compacted)
    asked = {"model_args": f"pretrained={compacted},dtype=float32", "device": "cpu"} if lm == "hf" else {}
    found = results_of(lm, manager, **asked)
    assert {key: found["pruning"][key] for key in REMOVED} == REMOVED
    assert found["config"]["model_num_parameters"] == found["pruning"]["num_parameters_left"]
    (entry,) = written(tmp_path, results=found).entries
    assert not entry.is_dense
    assert (entry.prune_heads, entry.prune_ffns) == ("0.1667", "0.3333")
    whole = AutoModelForCausalLM.from_pretrained(checkpoint).num_parameters()
    left = AutoModelForCausalLM.from_pretrained(compacted).num_parameters()
    assert (entry.cost.parameters, entry.cost.parameters_total) == (left, whole)
    assert entry.model == str(compacted)


@pytest.mark.parametrize("road", ["by name", *ROADS])
def test_a_zeroed_checkpoint_is_never_dense(zeroed, manager, tmp_path, road):
    lm = "hf" if road == "by name" else ROADS[road](zeroed)
    asked = {"model_args": f"pretrained={zeroed},dtype=float32", "device": "cpu"} if lm == "hf" else {}
    found = results_of(lm, manager, **asked)
    assert {key: found["pruning"][key] for key in REMOVED} == {**REMOVED, "compacted": False}
    assert PruningMask.from_dict(found["pruning"]["mask"]) == MASK
    (entry,) = written(tmp_path, results=found).entries
    assert not entry.is_dense
    assert (entry.prune_heads, entry.prune_ffns) == ("0.1667", "0.3333")
    assert entry.ranking == "mine"


@pytest.mark.parametrize(
    "variant", ["llama", "llama, 8 query heads a key", "gemma2, windows and caps", "gpt_neox", "gpt2"]
)
def test_of_any_family_a_zeroed_checkpoint_is_never_dense(checkpoint, manager, tmp_path, variant):
    save_random_model(tmp_path / "source", families.config_of(variant, vocab_size=512))
    heads = families.config_of(variant).num_attention_heads
    mask = PruningMask(num_hidden_layers=3, num_attention_heads=heads, pruned_heads={1: (0, 2)}, pruned_ffns=(0,))
    compact_checkpoint(tmp_path / "source", mask, tmp_path / "zeroed", zeroed=True)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "zeroed")
    for number, kind in enumerate((HFLM, PrunedModel)):
        found = results_of(build(kind, tmp_path / "zeroed"), manager)
        assert PruningMask.from_dict(found["pruning"]["mask"]) == mask
        assert (found["pruning"]["heads_pruned"], found["pruning"]["ffns_pruned"]) == (2, 1)
        (tmp_path / f"board{number}").mkdir()
        (entry,) = written(tmp_path / f"board{number}", results=found).entries
        assert not entry.is_dense


def bring_everything_back(layers):
    layers[0].fc2.weight.fill_(1)
    layers[1].self_attn.out_proj.weight[0].fill_(1)


@pytest.mark.parametrize(
    ("changed", "heads", "ffns"),
    [
        (lambda layers: layers[1].self_attn.out_proj.weight[0, 17].fill_(1), 1, 1),
        (lambda layers: layers[0].fc2.bias[3].fill_(1), 2, 0),
        (lambda layers: layers[1].self_attn.q_proj.weight.fill_(1), 2, 1),
        (bring_everything_back, 0, 0),
    ],
    ids=["a head's output", "an FFN's bias", "queries alone", "all"],
)
def test_zeros_that_were_trained_away_are_no_pruning(zeroed, manager, changed, heads, ffns):
    lm = HFLM(**in_memory(zeroed), batch_size=2)
    with torch.no_grad():
        changed(lm.model.model.decoder.layers)
    found = results_of(lm, manager).get("pruning", {"heads_pruned": 0, "ffns_pruned": 0})
    assert (found["heads_pruned"], found["ffns_pruned"]) == (heads, ffns)


@pytest.mark.parametrize("said", [5, {}, {"pruned_heads": {"0": [1]}}, {"num_hidden_layers": 9}, "x"], ids=str)
def test_a_zeroed_mask_of_another_program_is_passed_over(checkpoint, manager, said):
    lm = HFLM(**in_memory(checkpoint), batch_size=2)
    lm.model.config.zeroed_mask = said
    assert "pruning" not in results_of(lm, manager)


def test_plain_models_of_the_harness_have_no_pruning_block(checkpoint, manager):
    found = results_of(build(HFLM, checkpoint), manager)
    assert "pruning" not in found
    assert "pruning" not in found["config"]


def test_an_hf_run_is_compared_with_a_pruned_one_of_the_same_files(checkpoint, manager, tmp_path):
    dense = results_of("hf", manager, model_args=f"pretrained={checkpoint},dtype=float32", device="cpu")
    board = written(tmp_path, dense=dense, pruned=results_of(build(PrunedOPT, checkpoint, mask=MASK), manager))
    (pruned,) = (entry for entry in board.entries if not entry.is_dense)
    assert pruned.average.difference is not None
    assert {entry.model for entry in board.entries} == {str(checkpoint)}


def test_nothing_of_ours_costs_the_harness_a_result(checkpoint, manager, monkeypatch):
    from lm_eval_prune.harness import results

    monkeypatch.setattr(results, "with_identity", lambda lm, info: 1 / 0)
    found = results_of(build(HFLM, checkpoint), manager)
    assert "acc,none" in found["results"]["tiny"]
    assert "identity" not in found["config"]
