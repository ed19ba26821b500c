"""Compaction of every proven family and variation: what the masked model computes, in memory and from files."""

import pickle

import peft
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS
from transformers import AutoModel, AutoModelForCausalLM

from lm_eval_prune import PruningMask, compact, compact_checkpoint, head_importance, masked, prefix_matching_scores
from lm_eval_prune.compaction.loading import CompactingLoader
from lm_eval_prune.compaction.trial import behind_cache
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.decoders.skeleton import num_pruned_parameters
from lm_eval_prune.decoders.tiny import tiny_config
from lm_eval_prune.decoders.tiny import tiny_model as tiny_of_type
from lm_eval_prune.decoders.zeroed import zeroed_in
from lm_eval_prune.errors import UnsupportedModelError
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.importance.methods import magnitude
from lm_eval_prune.random_opt import small_tokenizer
from lm_eval_prune.scoring import score
from tests import families
from tests.helpers import requests

IDS = torch.tensor([families.tokens(20), families.tokens(20, 1)])


def masks_of(model):
    """No heads in the first layer; groups that keep unlike numbers, or lose their keys; nothing at all."""
    heads, shape = model.config.num_attention_heads, families.shape(model)
    yield PruningMask(**shape, pruned_heads={0: range(heads), 1: (heads - 1,), 2: (0,)}, pruned_ffns=(1,))
    yield PruningMask(**shape, pruned_heads={0: (1,), 1: range(heads // 2), 2: range(heads)}, pruned_ffns=(0, 2))
    yield PruningMask(**shape, pruned_heads={1: range(1, heads)})
    yield PruningMask(**shape, pruned_heads={layer: range(heads) for layer in range(3)}, pruned_ffns=range(3))


def computed(model):
    """Logits of plain and padded batches, and token by token behind a cache."""
    attention_mask = torch.ones_like(IDS)
    left, right = attention_mask.clone(), attention_mask.clone()
    left[0, :6], right[1, 13:] = 0, 0
    yield model(IDS).logits
    for padding in (left, right):
        yield model(IDS, attention_mask=padding).logits[padding.bool()]
    step = model(IDS[:, :12], use_cache=True)
    for token in range(12, 15):
        step = model(IDS[:, token : token + 1], cache=step["cache"], use_cache=True)
        yield step.logits
    yield model.generate(IDS[:1], max_new_tokens=6, do_sample=False).float()


def attentions_of(model):
    return [name for name in ("sdpa", "eager") if name == "eager" or model._supports_sdpa]


def require_equal(smaller, model, mask, attentions=None):
    for attention in attentions or attentions_of(model):
        for each in (smaller, model):
            each.set_attn_implementation(attention)
        with torch.no_grad():
            with masked(model, mask):
                expected = list(computed(model))
            for one, another in zip(computed(smaller), expected, strict=True):
                torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-5)


def test_it_computes_what_the_masked_model_does(tiny_model):
    for mask in masks_of(tiny_model):
        smaller = compact(tiny_model, mask)
        require_equal(smaller, tiny_model, mask)
        lost = tiny_model.num_parameters() - smaller.num_parameters()
        assert lost == num_pruned_parameters(tiny_model.config, mask) > 0
        assert decoder_of(smaller).removed == mask


def test_a_second_mask_is_written_in_the_originals_numbers(tiny_model):
    first, second, *_ = masks_of(tiny_model)
    smaller = compact(tiny_model, first)
    require_equal(compact(smaller, second), tiny_model, first | second, ["eager"])
    with torch.no_grad(), masked(smaller, second), masked(tiny_model, first | second):
        torch.testing.assert_close(smaller(IDS).logits, tiny_model(IDS).logits, rtol=1e-5, atol=1e-5)


def test_saved_loaded_and_written_from_the_files_it_is_the_same(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "whole", max_shard_size="9KB")
    for number, mask in enumerate(masks_of(tiny_model)):
        smaller = compact(tiny_model, mask)
        smaller.save_pretrained(tmp_path / f"saved{number}")
        done = compact_checkpoint(tmp_path / "whole", mask, tmp_path / f"written{number}", max_shard_size="7KB")
        assert done.num_parameters == smaller.num_parameters()
        for kind in ("saved", "written"):
            loaded = AutoModelForCausalLM.from_pretrained(tmp_path / f"{kind}{number}")
            assert type(loaded) is type(smaller)
            for name, weight in smaller.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], weight), name
            with torch.no_grad():
                assert torch.equal(loaded(IDS).logits, smaller(IDS).logits)
        base = AutoModel.from_pretrained(tmp_path / f"written{number}")
        with torch.no_grad():
            assert torch.equal(base(IDS)[0], smaller.base_model(IDS)[0])


def test_zeroed_it_is_a_plain_model_of_the_original(tiny_model, tmp_path):
    first, second, _, everything = masks_of(tiny_model)
    tiny_model.save_pretrained(tmp_path / "whole")
    compact_checkpoint(tmp_path / "whole", first, tmp_path / "small")
    for name, source, mask, expected in [
        ("one", "whole", first, first),
        ("two", "small", second, first | second),
        ("all", "whole", everything, everything),
    ]:
        compact_checkpoint(tmp_path / source, mask, tmp_path / name, zeroed=True)
        zeroed = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert type(zeroed) is type(tiny_model)
        assert zeroed_in(zeroed) == expected
        with torch.no_grad(), masked(tiny_model, expected):
            torch.testing.assert_close(zeroed(IDS).logits, tiny_model(IDS).logits, rtol=1e-5, atol=1e-5)


EXAMPLES = [(families.tokens(9, 1), families.tokens(3, 2)), (families.tokens(14, 3), families.tokens(1, 4))]


def test_scores_are_the_masked_models_and_0_for_what_is_gone(tiny_model):
    mask, *_ = masks_of(tiny_model)
    smaller, kept = compact(tiny_model, mask), torch.tensor(mask.head_mask)
    sequences = [list(range(5, 25)), list(range(40, 8, -2))]
    with masked(tiny_model, mask):
        gradients = head_importance(tiny_model, EXAMPLES)
        prefixes = prefix_matching_scores(tiny_model, sequences)
    torch.testing.assert_close(head_importance(smaller, EXAMPLES), gradients * kept, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(prefix_matching_scores(smaller, sequences), prefixes * kept, rtol=1e-5, atol=1e-6)
    assert (magnitude(smaller, "heads")[~kept] == 0).all()
    knockouts = PruningMask(**families.shape(tiny_model), pruned_heads={2: (1,)}, pruned_ffns=(0,))
    for asked in (PruningMask(**families.shape(tiny_model)), knockouts):
        answers = score(smaller, EXAMPLES, [asked])[0]
        for (context, continuation), answer in zip(EXAMPLES, answers, strict=True):
            ids = torch.tensor([[*context, *continuation]])
            with torch.no_grad(), masked(tiny_model, mask | asked):
                rows = tiny_model(ids[:, :-1]).logits[0, len(context) - 1 :].double().log_softmax(-1)
            expected = float(rows[range(len(continuation)), continuation].sum())
            assert float(answer[0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("model_type", ["bert", "camembert", "gpt2"])
def test_a_first_layer_without_heads_counts_tokens_in_a_cache_with_cross_attention(model_type):
    """Such a model, given no other model's output, attends to its own text alone."""
    config = tiny_config(model_type)
    config.add_cross_attention = True
    model = tiny_of_type(config)
    heads, layers = model.config.num_attention_heads, model.config.num_hidden_layers
    mask = PruningMask(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pruned_heads={0: range(heads), 1: (1,)},
        pruned_ffns=(layers - 1,),
    )
    smaller = compact(model, mask)
    require_equal(smaller, model, mask, ["eager"])
    assert smaller(IDS, use_cache=True).past_key_values.get_seq_length() == IDS.shape[1]


def test_every_layer_has_its_own_attention_weights(tiny_model):
    tiny_model.set_attn_implementation("eager")
    for mask in masks_of(tiny_model):
        with torch.no_grad():
            with masked(tiny_model, mask):
                expected = tiny_model(IDS, output_attentions=True).attentions
            found = compact(tiny_model, mask)(IDS, output_attentions=True).attentions
        for layer, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            torch.testing.assert_close(ours, theirs[:, list(mask.kept_heads(layer))], rtol=0, atol=1e-5)


def test_adapters_find_every_map_that_is_left_and_change_no_headless_layer(tiny_model):
    mask, second, *_ = masks_of(tiny_model)
    for each in (mask, second):
        smaller = compact(tiny_model, each)
        maps = {
            name.rpartition(".")[2] for name, module in smaller.named_modules() if "Linear" in type(module).__name__
        }
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=sorted(maps - {"lm_head"}) or ["c_proj"])
        adapted = peft.get_peft_model(smaller, config)
        with torch.no_grad(), masked(tiny_model, each):
            torch.testing.assert_close(adapted(IDS).logits, tiny_model(IDS).logits, rtol=1e-5, atol=1e-5)
        adapted(IDS, labels=IDS).loss.backward()
    if tiny_model.config.model_type in LORA_TARGETS:
        adapted = peft.get_peft_model(compact(tiny_model, mask), peft.LoraConfig(task_type="CAUSAL_LM"))
        assert adapted.targeted_module_names


@pytest.mark.parametrize(
    "model_type",
    ["afmoe", "cohere", "gpt_bigcode", "gpt_oss", "granite", "mixtral", "olmo", "phi3", "qwen3_moe", "stablelm"],
)
def test_families_that_no_table_names_are_tried_and_computed(model_type, tmp_path):
    model = families.of_type(model_type)
    heads, shape = model.config.num_attention_heads, families.shape(model)
    for pruned in ({0: range(heads), 1: (0,)}, {0: (0, 2), 1: range(heads)}):
        mask = PruningMask(**shape, pruned_heads=pruned, pruned_ffns=(1,))
        smaller = compact(model, mask)
        require_equal(smaller, model, mask, attentions_of(model)[:1])
        smaller.save_pretrained(tmp_path)
        with torch.no_grad():
            assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, smaller(IDS).logits)


@pytest.mark.parametrize(
    "model_type", ["bert", "camembert", "dbrx", "deepseek_v3", "falcon", "glm4", "gpt_bigcode", "laguna"]
)
def test_families_with_places_of_their_own_are_compacted_with_their_caches(model_type):
    model = tiny_of_type(model_type)
    ids = torch.randint(4, 500, (2, 15), generator=torch.Generator().manual_seed(2))
    pruned = {0: (0,), 1: range(4), 2: (2, 3), 3: (1, 2, 3)}
    mask = PruningMask(num_hidden_layers=4, num_attention_heads=4, pruned_heads=pruned, pruned_ffns=(1, 2))
    smaller = compact(model, mask)
    assert model.num_parameters() - smaller.num_parameters() == num_pruned_parameters(model.config, mask)
    with torch.no_grad():
        with masked(model, mask):
            expected = model(ids).logits
        torch.testing.assert_close(smaller(ids).logits, expected, rtol=1e-4, atol=1e-4)
        (behind,) = behind_cache(smaller, ids, 3)
        torch.testing.assert_close(behind, expected[:, -3:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bloom", "do not run with fewer heads"),
        ("codegen", "computes something else"),
        ("deepseek_v2", None),
        ("emu3", "has no causal language model|no causal language model of it"),
        ("mamba", "no attention found|it has no heads to mask"),
        ("mpt", "no model can be made"),
    ],
)
def test_what_cannot_be_compacted_is_refused_in_one_line(model_type, reason):
    model = tiny_of_type(model_type)
    mask = PruningMask(num_hidden_layers=4, num_attention_heads=4, pruned_heads={1: (1,)})
    if reason is None:
        assert compact(model, mask).num_parameters() < model.num_parameters()
        return
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        compact(model, mask)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "qwen3_moe"])
def test_experts_that_are_stored_apart_are_compacted_loaded_alone(model_type, tmp_path):
    """One file of ours holds them together; files of others are refused in one line that says what to do."""
    model = families.of_type(model_type)
    model.save_pretrained(tmp_path / "whole")
    mask = PruningMask(**families.shape(model), pruned_heads={0: (0,)}, pruned_ffns=(1,))
    for tried in (
        lambda: compact_checkpoint(tmp_path / "whole", mask, tmp_path / "small"),
        lambda: compact_checkpoint(tmp_path / "whole", mask, tmp_path / "small", zeroed=True),
        lambda: CompactingLoader(mask).from_pretrained(str(tmp_path / "whole")),
    ):
        with pytest.raises(UnsupportedModelError, match=r"experts.* is stored in parts; compact the loaded model"):
            tried()
    assert not (tmp_path / "small").exists()
    smaller = compact(model, mask)
    smaller.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")(IDS).logits, smaller(IDS).logits)


QUICK = ("gemma2, windows and caps", "gpt2", "llama")


@pytest.mark.parametrize(
    "variant", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in families.VARIANTS]
)
def test_the_harness_answers_as_the_masked_model(variant, tmp_path, monkeypatch):
    prefix, fields = families.VARIANTS[variant]
    monkeypatch.setitem(families.VARIANTS, variant, (prefix, {**fields, "vocab_size": 300}))
    model, tokenizer = families._made.__wrapped__(variant), small_tokenizer(vocab_size=300)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "whole")
    mask, *_ = masks_of(model)
    compact_checkpoint(tmp_path / "whole", mask, tmp_path / "small")
    settings = {"device": "cpu", "dtype": "float32", "batch_size": 2}
    expected = answers(PrunedModel(str(tmp_path / "whole"), mask=mask, scorer="padded", **settings))
    for lm in (
        PrunedModel(str(tmp_path / "small"), **settings),
        PrunedModel(str(tmp_path / "whole"), mask=mask, load="compact", **settings),
        HFLM(str(tmp_path / "small"), **settings),
    ):
        assert answers(lm) == pytest.approx(expected, abs=1e-4)


def answers(lm):
    return [
        found[0]
        for found in lm.loglikelihood(requests("loglikelihood", [("the cat", " sat"), ("a dog sat", " on the mat")]))
    ]


def test_the_code_beside_checkpoints_of_earlier_versions_finds_its_classes():
    from lm_eval_prune.decoders import compacted, pruned_opt, pruned_opt_config

    assert pruned_opt.PrunedOPTForCausalLM is compacted.PrunedOPTForCausalLM
    assert pruned_opt.PrunedOPTModel is compacted.PrunedOPTModel
    assert pruned_opt_config.PrunedOPTConfig is compacted.PrunedOPTConfig
    model = families.made("llama")
    smaller = compact(model, next(masks_of(model)))
    assert pickle.loads(pickle.dumps(type(smaller))) is type(smaller)
