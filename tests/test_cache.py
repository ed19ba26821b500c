import shutil
import sqlite3

import pytest
import torch
from lm_eval.api.model import CachingLM
from tokenizers import AddedToken

from lm_eval_prune import PruningMask
from lm_eval_prune.harness.fingerprint import loaded_fingerprint
from lm_eval_prune.harness.model import PrunedOPT
from tests.helpers import TEXTS, build, requests

MASKS = {
    "dense": None,
    "a": PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={1: (0, 2)}),
    "b": PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_ffns=(0,)),
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "answers.db")


def ask(lm, kind="loglikelihood", arguments=TEXTS):
    return getattr(lm, kind)(requests(kind, arguments))


def test_one_cache_file_gives_every_mask_its_own_answers(checkpoint, path):
    own = {name: ask(build(PrunedOPT, checkpoint, mask=mask)) for name, mask in MASKS.items()}
    assert len({str(answers) for answers in own.values()}) == 3
    for name in ("dense", "a", "b", "a", "dense"):
        assert ask(CachingLM(build(PrunedOPT, checkpoint, mask=MASKS[name]), path)) == own[name]


def test_answers_are_served_from_the_cache(checkpoint, path, monkeypatch):
    generation = [("The garden", {"until": ["\n"], "max_gen_toks": 3})]
    rolling = [("stone bridge",)]
    first = CachingLM(build(PrunedOPT, checkpoint, mask=MASKS["a"]), path)
    expected = ask(first), ask(first, "loglikelihood_rolling", rolling), ask(first, "generate_until", generation)
    second = CachingLM(build(PrunedOPT, checkpoint, mask=MASKS["a"]), path)
    for computation in ("_loglikelihood_tokens", "_model_call", "_model_generate"):
        monkeypatch.setattr(PrunedOPT, computation, lambda *_, **__: pytest.fail("computed, not served"))
    found = ask(second), ask(second, "loglikelihood_rolling", rolling), ask(second, "generate_until", generation)
    assert found == expected


def test_other_weights_and_dtypes_get_their_own_answers(checkpoint, checkpoints, path):
    variants = [(checkpoint, "float32"), (checkpoint, "bfloat16"), (checkpoints["post"], "float32")]
    for folder, dtype in variants:
        alone = ask(build(PrunedOPT, folder, dtype=dtype))
        assert ask(CachingLM(build(PrunedOPT, folder, dtype=dtype), path)) == alone


def adapted(lm, alpha=8):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        r=2, lora_alpha=alpha, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    lm._model = get_peft_model(lm.model, config).eval()


def layer(lm):
    return lm.model.model.decoder.layers[1]


def changed_in_place(tensor):
    tensor.data[0] += 0.5


CHANGES = {
    "a weight, behind autograd's back": lambda lm: changed_in_place(layer(lm).fc1.bias),
    "a weight in its place": lambda lm: setattr(layer(lm).fc2, "bias", torch.nn.Parameter(torch.ones(32))),
    "the activation": lambda lm: setattr(layer(lm), "activation_fn", torch.nn.GELU()),
    "the activation by name": lambda lm: setattr(lm.model.config, "activation_function", "gelu"),
    "a norm's epsilon": lambda lm: setattr(layer(lm).final_layer_norm, "eps", 0.1),
    "attention's scale": lambda lm: setattr(layer(lm).self_attn, "scaling", 0.9),
    "steering by a hook": lambda lm: layer(lm).register_forward_pre_hook(lambda module, inputs: None),
    "an adapter": adapted,
    "how much an adapter counts": lambda lm: adapted(lm, alpha=64),
    "what generation does": lambda lm: setattr(lm.model.generation_config, "repetition_penalty", 5.0),
    "the chat template": lambda lm: setattr(lm.tokenizer, "chat_template", "{{ messages }}"),
    "the chat template's arguments": lambda lm: lm.chat_template_args.update(thinking=True),
    "a token": lambda lm: lm.tokenizer.add_tokens([AddedToken("garden")]),
    "what text becomes before it is tokens": lambda lm: setattr(
        lm.tokenizer.backend_tokenizer, "normalizer", __import__("tokenizers").normalizers.Lowercase()
    ),
    "the length": lambda lm: setattr(lm, "_max_length", 64),
    "BOS": lambda lm: setattr(lm, "add_bos_token", True),
    "the softmax's dtype": lambda lm: setattr(lm, "softmax_dtype", torch.float64),
    "the scorer": lambda lm: setattr(lm, "scorer", "padded"),
    "the logits' cache": lambda lm: setattr(lm, "logits_cache", False),
    "what ends thinking": lambda lm: setattr(lm, "think_end_token", "stone"),
    "the mask": lambda lm: setattr(lm, "mask", MASKS["a"]),
    "a token that ends texts": lambda lm: setattr(lm.model.generation_config, "eos_token_id", 7),
    "a buffer": lambda lm: layer(lm).register_buffer("offset", torch.ones(1)),
    "what a module computes": lambda lm: setattr(layer(lm).fc1, "forward", lambda inputs: inputs),
    "the precision of products": lambda lm: setattr(lm, "mixed_precision_dtype", torch.bfloat16),
    "an attribute of tomorrow": lambda lm: setattr(lm, "ablation", "mean"),
}
CANNOT_MATTER = {
    "nothing": lambda lm: None,
    "the batch size": lambda lm: setattr(lm, "batch_size_per_gpu", 1),
    "where it was loaded from": lambda lm: setattr(lm, "pretrained", "elsewhere"),
    "the model's name": lambda lm: setattr(lm.model.config, "_name_or_path", "elsewhere"),
    "answers given before": lambda lm: (
        ask(lm),
        ask(lm, "generate_until", [("A stone", {"until": [], "max_gen_toks": 2})]),
    ),
    "the way its mask was found": lambda lm: setattr(
        lm, "mask", PruningMask(num_hidden_layers=3, num_attention_heads=4, provenance={"seed": 1})
    ),
}


@pytest.fixture(scope="module")
def unchanged(checkpoint):
    return loaded_fingerprint(build(PrunedOPT, checkpoint))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_may_decide_an_answer_changes_the_fingerprint(checkpoint, unchanged, change):
    lm = build(PrunedOPT, checkpoint)
    assert loaded_fingerprint(lm) == unchanged
    change(lm)
    assert loaded_fingerprint(lm) != unchanged


@pytest.mark.parametrize("change", CANNOT_MATTER.values(), ids=CANNOT_MATTER)
def test_what_cannot_matter_does_not(checkpoint, unchanged, change):
    lm = build(PrunedOPT, checkpoint)
    change(lm)
    assert loaded_fingerprint(lm) == unchanged


def test_adapters_that_differ_in_their_scale_alone_get_answers_of_their_own(checkpoint, path):
    fingerprints = set()
    for alpha in (4, 512):
        own, cached = build(PrunedOPT, checkpoint), build(PrunedOPT, checkpoint)
        for lm in (own, cached):
            adapted(lm, alpha)
        assert ask(CachingLM(cached, path)) == ask(own)
        fingerprints.add(loaded_fingerprint(own))
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    "name", ["the mask", "a weight, behind autograd's back", "an adapter", "the length", "a token"]
)
def test_a_model_changed_while_its_cache_is_open_answers_anew(checkpoint, path, name):
    lm, other = build(PrunedOPT, checkpoint), build(PrunedOPT, checkpoint)
    cached = CachingLM(lm, path)
    before = ask(cached)
    CHANGES[name](lm)
    CHANGES[name](other)
    assert ask(cached) == ask(other)
    assert ask(CachingLM(build(PrunedOPT, checkpoint), path)) == before


def test_a_copy_of_a_checkpoint_is_served_the_same_answers(checkpoint, path, tmp_path, monkeypatch):
    expected = ask(CachingLM(build(PrunedOPT, checkpoint), path))
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    lm = CachingLM(build(PrunedOPT, copy), path)
    monkeypatch.setattr(PrunedOPT, "_loglikelihood_tokens", lambda *_, **__: pytest.fail("computed, not served"))
    assert ask(lm) == expected


def test_the_provenance_of_a_mask_does_not_split_the_cache(checkpoint):
    a, b = (PruningMask(num_hidden_layers=3, num_attention_heads=4, provenance={"seed": seed}) for seed in (1, 2))
    assert loaded_fingerprint(build(PrunedOPT, checkpoint, mask=a)) == loaded_fingerprint(
        build(PrunedOPT, checkpoint, mask=b)
    )


def test_answers_are_stored_as_json_and_apart_from_the_harness_table(checkpoint, path):
    ask(CachingLM(build(PrunedOPT, checkpoint), path))
    with sqlite3.connect(path) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type='table'")]
        ours = [name for name in tables if name.startswith("pruned_opt_")]
        values = [value for (value,) in database.execute(f'select value from "{ours[0]}"')]
        assert len(ours) == 1
        assert database.execute('select count(*) from "unnamed"').fetchone() == (0,)
    assert all(value.startswith("[") for value in values)
