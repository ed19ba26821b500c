"""Trying a family, making its configuration and proving its model leave transformers as it was."""

import copy
import random

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.models.auto import configuration_auto, modeling_auto, tokenization_auto

import lm_eval_prune.decoders.ragged  # noqa: F401 - registers its attention when it is imported
from lm_eval_prune.compaction.trial import require_compactable
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.decoders.forward import why_not
from lm_eval_prune.decoders.skeleton import num_pruned_parameters
from lm_eval_prune.decoders.tiny import shrunk, tiny_config, tiny_model
from lm_eval_prune.masks import PruningMask

TYPES = ("llama", "phi3", "bert", "bloom", "mixtral")


def names(content):
    return sorted(map(str, content))


def registries():
    """Everything that transformers looks classes and functions up in, by name."""
    return {
        "configurations": names(configuration_auto.CONFIG_MAPPING_NAMES),
        "configurations of others": names(dict.keys(configuration_auto.CONFIG_MAPPING._extra_content)),
        "causal models": copy.deepcopy(dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)),
        "causal models of others": names(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING._extra_content),
        "base models of others": names(modeling_auto.MODEL_MAPPING._extra_content),
        "tokenizers": names(tokenization_auto.TOKENIZER_MAPPING_NAMES),
        "attention": names(AttentionInterface().valid_keys()),
        "attention masks": names(AttentionMaskInterface().valid_keys()),
    }


def states():
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
    )


@pytest.mark.parametrize("model_type", TYPES)
def test_configurations_and_proofs_register_nothing(model_type):
    before, random_before = registries(), states()
    config = tiny_config(model_type)
    small = shrunk(type(config), config.to_dict())
    assert num_pruned_parameters(config, PruningMask(num_hidden_layers=4, num_attention_heads=4, pruned_ffns=(1,))) > 0
    model = tiny_model(small)
    decoder_of(model)
    why_not(model)
    assert registries() == before
    assert states() == random_before
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("model_type", ["phi3", "bert", "mixtral"])
def test_trying_compaction_registers_the_compacted_type_alone(model_type):
    before, random_before = registries(), states()
    require_compactable(tiny_config(model_type))
    after = registries()
    for kind in ("configurations", "attention", "attention masks"):
        assert after[kind] == before[kind]
    added = set(after["causal models"]) - set(before["causal models"])
    assert added <= {f"pruned_{model_type}"}
    assert states() == random_before
