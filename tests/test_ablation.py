import copy
import pickle

import numpy as np
import peft
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from lm_eval_prune import PruningMask, masked
from lm_eval_prune.errors import MaskShapeError, UnsupportedModelError
from tests.reference_opt import reference_logits


def random_mask(seed, layers=3, heads=4):
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(layers, heads, generator=generator)
    pruned = {layer: tuple(torch.nonzero(row < 0.5).flatten().tolist()) for layer, row in enumerate(keep)}
    ffns = torch.nonzero(torch.rand(layers, generator=generator) < 0.4).flatten().tolist()
    return PruningMask(num_hidden_layers=layers, num_attention_heads=heads, pruned_heads=pruned, pruned_ffns=ffns)


def logits(model, ids, **kwargs):
    with torch.no_grad():
        return model(ids, **kwargs).logits


def assert_close(found, expected):
    scale = max(1.0, float(np.abs(expected).max()))
    assert float(np.abs(found.double().numpy() - expected).max()) <= 1e-5 * scale


@pytest.mark.parametrize("seed", range(6))
def test_masked_logits_equal_the_float64_reference(tiny_opt, input_ids, seed):
    mask = random_mask(seed)
    with masked(tiny_opt, mask):
        found = logits(tiny_opt, input_ids)
    for row, ids in zip(found, input_ids, strict=True):
        assert_close(row, reference_logits(tiny_opt, ids.numpy(), mask.pruned_heads, mask.pruned_ffns))


def test_the_reference_itself_equals_the_unpruned_model(tiny_opt, input_ids):
    assert_close(logits(tiny_opt, input_ids)[0], reference_logits(tiny_opt, input_ids[0].numpy()))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(tiny_opt, mask, side):
    short, long = torch.tensor([[7, 8, 9, 10]]), torch.tensor([[7, 8, 9, 10, 11, 12, 13]])
    padding = torch.ones(1, 3, dtype=torch.long)
    padded = torch.cat([padding, short] if side == "left" else [short, padding], dim=1)
    attention_mask = torch.stack([(padded[0] != 1).long(), torch.ones(7, dtype=torch.long)])
    with masked(tiny_opt, mask):
        found = logits(tiny_opt, torch.cat([padded, long]), attention_mask=attention_mask)
    part = found[0, 3:] if side == "left" else found[0, :4]
    assert_close(part, reference_logits(tiny_opt, short[0].numpy(), mask.pruned_heads, mask.pruned_ffns))
    assert_close(found[1], reference_logits(tiny_opt, long[0].numpy(), mask.pruned_heads, mask.pruned_ffns))


def test_key_value_cache_gives_the_same_logits(tiny_opt, mask, input_ids):
    ids = input_ids[:1]
    expected = reference_logits(tiny_opt, ids[0].numpy(), mask.pruned_heads, mask.pruned_ffns)
    with masked(tiny_opt, mask), torch.no_grad():
        cache, found = None, []
        for position in range(ids.shape[1]):
            out = tiny_opt(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits[0, 0])
    assert_close(torch.stack(found), expected)


def test_generation_is_masked(tiny_opt, mask):
    ids = torch.tensor([[2, 17, 33]])
    with masked(tiny_opt, mask):
        found = tiny_opt.generate(ids, max_new_tokens=5, do_sample=False, use_cache=True, eos_token_id=None)
    sequence = ids[0].tolist()
    for _ in range(5):
        step = reference_logits(tiny_opt, np.array(sequence), mask.pruned_heads, mask.pruned_ffns)
        sequence.append(int(step[-1].argmax()))
    assert found[0].tolist() == sequence


def test_the_model_is_bit_identical_afterwards(tiny_opt, mask, input_ids):
    before = logits(tiny_opt, input_ids)
    weights = {name: tensor.clone() for name, tensor in tiny_opt.state_dict().items()}
    with masked(tiny_opt, mask):
        assert not torch.equal(logits(tiny_opt, input_ids), before)
    with pytest.raises(RuntimeError, match="inside"), masked(tiny_opt, mask):
        raise RuntimeError("inside")
    assert torch.equal(logits(tiny_opt, input_ids), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tiny_opt.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_opt.modules())


def test_a_dense_mask_adds_no_hook_and_changes_no_bit(tiny_opt, input_ids):
    before = logits(tiny_opt, input_ids)
    with masked(tiny_opt, PruningMask.dense(3, 4)):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_opt.modules())
        assert torch.equal(logits(tiny_opt, input_ids), before)


def test_nested_masks_prune_what_either_prunes(tiny_opt, input_ids):
    a, b = random_mask(3), random_mask(4)
    with masked(tiny_opt, a):
        alone = logits(tiny_opt, input_ids)
        with masked(tiny_opt, b):
            nested = logits(tiny_opt, input_ids)
        assert torch.equal(logits(tiny_opt, input_ids), alone)
    with masked(tiny_opt, a | b):
        assert torch.equal(logits(tiny_opt, input_ids), nested)


def test_every_component_pruned_still_runs(tiny_opt, input_ids):
    mask = PruningMask.dense(3, 4).prune_layer(0).prune_layer(1).prune_layer(2)
    with masked(tiny_opt, mask):
        found = logits(tiny_opt, input_ids)
    assert_close(found[0], reference_logits(tiny_opt, input_ids[0].numpy(), mask.pruned_heads, mask.pruned_ffns))


def test_gradients_flow_through_kept_heads_only(tiny_opt, input_ids):
    mask = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={1: (2,)}, pruned_ffns=(2,))
    with masked(tiny_opt, mask):
        tiny_opt(input_ids).logits.logsumexp(-1).sum().backward()
    values = tiny_opt.model.decoder.layers[1].self_attn.v_proj.weight.grad.view(4, 8, 32)
    assert values[2].abs().max() == 0
    assert all(values[head].abs().max() > 0 for head in (0, 1, 3))
    assert tiny_opt.model.decoder.layers[2].fc2.weight.grad is None
    assert tiny_opt.model.decoder.layers[1].fc2.weight.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_equals_full_precision_up_to_rounding(tiny_opt, mask, input_ids, dtype):
    expected = reference_logits(tiny_opt, input_ids[0].numpy(), mask.pruned_heads, mask.pruned_ffns)
    with masked(tiny_opt.to(dtype), mask):
        found = logits(tiny_opt, input_ids)[0].double().numpy()
    assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max()


def test_an_overflowing_pruned_head_leaves_no_trace(tiny_opt, input_ids):
    mask = PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_heads={0: (1,)})
    with masked(tiny_opt, mask):
        expected = logits(tiny_opt, input_ids)
        tiny_opt.model.decoder.layers[0].self_attn.v_proj.bias.data[8:16] = float("inf")
        assert torch.equal(logits(tiny_opt, input_ids), expected)


def test_a_model_spread_by_a_device_map_is_masked_too(checkpoint, mask, input_ids, tmp_path):
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    spread = AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=torch.float32,
        device_map={
            "model.decoder.embed_tokens": "cpu",
            "lm_head": "cpu",
            "model.decoder.embed_positions": "cpu",
            "model.decoder.final_layer_norm": "cpu",
            "model.decoder.layers.0": "disk",
            "model.decoder.layers.1": "cpu",
            "model.decoder.layers.2": "disk",
        },
        offload_folder=tmp_path,
    ).eval()
    with masked(whole, mask), masked(spread, mask):
        assert torch.equal(logits(spread, input_ids), logits(whole, input_ids))


def test_a_mask_for_another_shape_names_both(tiny_opt):
    with (
        pytest.raises(MaskShapeError, match="5 layers of 4 heads, but the model has 3 layers of 4 heads"),
        masked(tiny_opt, PruningMask.dense(5, 4)),
    ):
        pass


def test_a_model_without_heads_is_refused():
    model = MambaForCausalLM(MambaConfig(num_hidden_layers=1, hidden_size=8, vocab_size=8, state_size=2))
    with (
        pytest.raises(UnsupportedModelError, match="MambaForCausalLM: not supported: no "),
        masked(model, PruningMask.dense(1, 1)),
    ):
        pass


@pytest.mark.parametrize(
    "save",
    [
        lambda model, folder: model.save_pretrained(folder),
        lambda model, folder: model.save_pretrained(folder, safe_serialization=True, state_dict=model.state_dict()),
        lambda model, folder: model.model.save_pretrained(folder),
        lambda model, folder: model.model.decoder.save_pretrained(folder),
        lambda model, folder: model.push_to_hub("somebody/model"),
        lambda model, folder: torch.compile(model).save_pretrained(folder),
        lambda model, folder: copy.deepcopy(model).save_pretrained(folder),
        lambda model, folder: peft.get_peft_model(model, peft.LoraConfig()).merge_and_unload().save_pretrained(folder),
    ],
    ids=["model", "with its weights", "bare model", "decoder", "hub", "compiled", "copy", "adapter merged"],
)
def test_a_masked_model_is_not_saved_as_the_dense_one(tiny_opt, mask, tmp_path, save):
    with masked(tiny_opt, mask), masked(tiny_opt, PruningMask.dense(3, 4)):
        with pytest.raises(UnsupportedModelError, match=r"compact.*--zeroed") as caught:
            save(tiny_opt, tmp_path / "saved")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "saved").exists()


def test_blocks_around_and_after_one_another_refuse_and_allow_saving(tiny_opt, mask, tmp_path):
    with masked(tiny_opt, mask):
        with masked(tiny_opt, PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_ffns=(0,))):
            pass
        with pytest.raises(UnsupportedModelError):
            tiny_opt.save_pretrained(tmp_path)
    tiny_opt.save_pretrained(tmp_path)
    with masked(tiny_opt, PruningMask.dense(3, 4)):
        tiny_opt.save_pretrained(tmp_path)
    assert "save_pretrained" not in vars(tiny_opt)


def test_an_adapter_trained_under_a_mask_is_saved(tiny_opt, mask, tmp_path):
    adapted = peft.get_peft_model(tiny_opt, peft.LoraConfig())
    with masked(adapted, mask):
        adapted.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_taken_inside_stay_masked(tiny_opt, mask, input_ids, duplicate):
    with masked(tiny_opt, mask):
        expected = tiny_opt(input_ids).logits
        taken = duplicate(tiny_opt)
    assert torch.equal(taken(input_ids).logits, expected)
    assert not torch.equal(tiny_opt(input_ids).logits, expected)
