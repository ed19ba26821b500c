"""Small models of the classes that transformers has: what proofs and the table of families are made with."""

import pytest
import torch

from lm_eval_prune.decoders.tiny import VOCABULARY, causal_lm_types, tiny_config, tiny_model
from lm_eval_prune.errors import UnsupportedModelError

TYPES = ("opt", "llama", "mistral", "qwen3", "gemma2", "gpt_neox", "gpt2", "deepseek_v3", "gemma3_text", "mixtral")


@pytest.mark.parametrize("model_type", TYPES)
def test_a_small_model_of_the_class_runs_and_is_the_same_each_time(model_type):
    model, again = tiny_model(model_type), tiny_model(tiny_config(model_type))
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    assert not model.training
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        assert logits.shape == (1, 12, VOCABULARY)
        assert torch.equal(again(input_ids=ids).logits, logits)
        assert not torch.equal(tiny_model(model_type, seed=1)(input_ids=ids).logits, logits)


def test_windows_are_shorter_than_texts_and_keys_are_grouped():
    config = tiny_config("mistral")
    assert (config.sliding_window, config.num_attention_heads, config.num_key_value_heads) == (16, 4, 2)


def test_making_one_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    tiny_model("llama")
    assert torch.equal(torch.rand(1), expected)


def test_what_cannot_be_made_small_is_one_line():
    assert len(causal_lm_types()) > 100
    with pytest.raises(
        UnsupportedModelError, match=r"^no_such_type: no small configuration can be made: KeyError"
    ) as error:
        tiny_model("no_such_type")
    assert "\n" not in str(error.value)
