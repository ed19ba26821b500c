import sqlite3

import pytest
from lm_eval.api.model import CachingLM

from lm_eval_prune import PruningMask
from lm_eval_prune.harness.cache import model_fingerprint
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


def test_a_changed_weight_and_a_longer_context_change_the_fingerprint(checkpoint):
    lm = build(PrunedOPT, checkpoint)
    before = model_fingerprint(lm)
    assert model_fingerprint(build(PrunedOPT, checkpoint)) == before
    assert model_fingerprint(build(PrunedOPT, checkpoint, max_length=64)) != before
    lm.model.model.decoder.layers[1].fc1.bias.data[0] += 1e-6
    assert model_fingerprint(lm) != before


def test_the_provenance_of_a_mask_does_not_split_the_cache(checkpoint):
    a, b = (PruningMask(num_hidden_layers=3, num_attention_heads=4, provenance={"seed": seed}) for seed in (1, 2))
    assert model_fingerprint(build(PrunedOPT, checkpoint, mask=a)) == model_fingerprint(
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
