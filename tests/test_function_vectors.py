"""Function-vector scores: against a plain loop that patches one head at a time; prompts with shuffled labels."""

import random

import pytest
import torch
from click.testing import CliRunner

from lm_eval_prune import ImportanceScores, PrunedModel, compact, masked
from lm_eval_prune.cli.main import cli
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.errors import ArgumentError, ExampleError
from lm_eval_prune.harness.registration import tasks_folder
from lm_eval_prune.harness.requests import build_documents
from lm_eval_prune.harness.shuffling import _order
from lm_eval_prune.harness.tasks import load_tasks
from lm_eval_prune.importance.function_vectors import function_vector_scores
from lm_eval_prune.masks import PruningMask
from tests import families

PROMPTS = [(families.tokens(9, 1), families.tokens(2, 2)), (families.tokens(17, 3), families.tokens(1, 4))]
SHUFFLED = [(families.tokens(12, 5), families.tokens(2, 6)), (families.tokens(6, 7), families.tokens(1, 8))]


def patched_one_at_a_time(model, prompts, shuffled):
    """Whole forward passes without a cache, one head and one prompt at a time."""
    decoder = decoder_of(model)
    layers, heads, width = decoder.num_hidden_layers, decoder.num_attention_heads, decoder.head_dim
    means = torch.zeros(layers, heads, width, dtype=torch.float64)

    def seen(layer):
        def hook(module, args):
            means[layer] += args[0].reshape(-1, heads, width)[-1].double() / len(prompts)

        return hook

    def put(layer, head):
        def hook(module, args):
            values = args[0].clone()
            values.view(-1, heads, width)[-1, head] = means[layer, head].to(values)
            return (values,)

        return hook

    hooks = [decoder.head_outputs[layer].register_forward_pre_hook(seen(layer)) for layer in range(layers)]
    with torch.no_grad():
        for context, _ in prompts:
            model(torch.tensor([context]))
        for hook in hooks:
            hook.remove()
        effects = torch.zeros(layers, heads, dtype=torch.float64)
        for context, answer in shuffled:
            ids = torch.tensor([context])
            before = model(ids).logits[0, -1].double().softmax(-1)[answer[0]]
            for layer in range(layers):
                for head in range(heads):
                    hook = decoder.head_outputs[layer].register_forward_pre_hook(put(layer, head))
                    after = model(ids).logits[0, -1].double().softmax(-1)[answer[0]]
                    hook.remove()
                    effects[layer, head] += (after - before) / len(shuffled)
    return effects


def test_scores_are_those_of_patching_one_head_at_a_time(tiny_model):
    expected = patched_one_at_a_time(tiny_model, PROMPTS, SHUFFLED)
    assert expected.abs().max() > 1e-4
    for batch_size in (1, 2):
        found = function_vector_scores(tiny_model, PROMPTS, SHUFFLED, batch_size=batch_size)
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)


def test_of_a_compact_model_they_are_those_of_the_heads_that_are_left():
    model = families.made("llama")
    shape = families.shape(model)
    mask = PruningMask(**shape, pruned_heads={0: (1,), 2: range(shape["num_attention_heads"])})
    smaller = compact(model, mask)
    with masked(model, mask):
        expected = patched_one_at_a_time(model, PROMPTS, SHUFFLED)
    found = function_vector_scores(smaller, PROMPTS, SHUFFLED).double()
    kept = mask.head_mask
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-3, atol=1e-6)
    assert not found[~kept].any()


@pytest.fixture(scope="module")
def task():
    (found,) = load_tasks(["demo_facts"], str(tasks_folder()), False).values()
    return found


def prompts_of(task, shots, **told):
    documents = build_documents(task, num_fewshot=shots, limit=12, **told)
    return [group[0].args[0] for group in documents.instances]


def test_shuffled_prompts_have_the_same_examples_with_one_anothers_answers(task):
    right, wrong = prompts_of(task, 5), prompts_of(task, 5, shuffled=True)
    assert wrong == prompts_of(task, 5, shuffled=True)
    assert wrong != prompts_of(task, 5, shuffled=True, seed=7)
    moved = 0
    for one, other in zip(right, wrong, strict=True):
        assert sorted(one.split()) == sorted(other.split())
        assert len(one) == len(other)
        (*examples, question), (*shuffled, same) = one.split("\n"), other.split("\n")
        assert question == same
        moved += sum(a != b for a, b in zip(examples, shuffled, strict=True))
    assert moved > 12 * 3
    assert "build_qa_turn" not in vars(task)


@pytest.mark.parametrize("answers", [["yes", "no", "yes", "no"], ["a", "b", "c"], ["x", "y"]])
def test_no_example_keeps_its_answer_where_answers_differ(answers):
    for seed in range(20):
        order = _order(answers, random.Random(seed))
        assert sorted(order) == list(range(len(answers)))
        assert all(answers[place] != answers[other] for place, other in enumerate(order))


def test_the_command_scores_heads_and_refuses_what_cannot_be(tmp_path):
    asked = ["importance", "--method", "function_vector", "--tasks", "demo_facts", "--limit", "4", "-o", str(tmp_path)]
    found = CliRunner().invoke(cli, [*asked, "--num_fewshot", "3"], catch_exceptions=False)
    assert found.exit_code == 0
    scores = ImportanceScores.load(tmp_path / "demo_facts-3shot-heads-function_vector.json", "heads")
    assert scores.settings["shuffled_prompts_sha256"] != scores.settings["prompts_sha256"]
    lm = PrunedModel(device="cpu")
    assert scores.shape == lm.mask.shape
    assert any(value for row in scores.scores for value in row)
    for shots in ("0", "1"):
        with pytest.raises(ExampleError, match="shuffled labels need 2 or more"):
            CliRunner().invoke(cli, [*asked, "--num_fewshot", shots], catch_exceptions=False)
    with pytest.raises(ArgumentError, match="scores heads"):
        CliRunner().invoke(cli, [*asked, "--num_fewshot", "3", "--component", "ffns"], catch_exceptions=False)
