"""Mean ablation: pruned heads and FFNs give their mean outputs, in every proven family, however it is computed."""

import pytest
import torch

from lm_eval_prune import PruningMask, masked, score
from lm_eval_prune.decoders import decoder_of
from lm_eval_prune.errors import ArgumentError, FileFormatError, MaskShapeError, PruneError
from lm_eval_prune.importance.knockout import score_under_masks
from lm_eval_prune.importance.mean_outputs import mean_outputs
from lm_eval_prune.means import Means
from tests import families, reference_families
from tests.test_families import WRITTEN, attentions_of, mask_of

EXAMPLES = [(families.tokens(9, 1), families.tokens(3, 2)), (families.tokens(20, 3), families.tokens(1, 4)), ([5], [7])]


def random_means(model, seed=3):
    decoder, generator = decoder_of(model), torch.Generator().manual_seed(seed)
    layers, heads = decoder.num_hidden_layers, decoder.num_attention_heads
    return Means(
        heads=torch.randn(layers, heads, decoder.head_dim, generator=generator),
        ffns=torch.randn(layers, model.config.hidden_size, generator=generator),
    )


def doubled(means):
    return means.heads.double(), means.ffns.double()


def masks_of(model):
    """Nothing; some heads, a whole layer's and an FFN; FFNs alone; everything."""
    shape = families.shape(model)
    layers, heads = shape.values()
    return [
        PruningMask(**shape),
        mask_of(model),
        PruningMask(**shape, pruned_ffns=(0, 2)),
        PruningMask(**shape, pruned_heads={layer: range(heads) for layer in range(layers)}, pruned_ffns=range(layers)),
    ]


@pytest.mark.parametrize("variant", WRITTEN)
def test_logits_are_those_written_from_the_weights(variant):
    model, ids = families.made(variant), families.tokens(30)
    means = random_means(model)
    for mask in masks_of(model):
        expected = reference_families.logits(model, ids, mask, doubled(means))
        for attention in attentions_of(model):
            model.set_attn_implementation(attention)
            with torch.no_grad(), masked(model, mask, means):
                found = model(torch.tensor([ids])).logits[0].double()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", WRITTEN)
def test_means_are_those_of_all_tokens_of_all_examples(variant):
    model = families.made(variant)
    nothing, seen = PruningMask(**families.shape(model)), []
    for context, continuation in EXAMPLES:
        seen.append({})
        reference_families.logits(model, [*context, *continuation][:-1], nothing, seen=seen[-1])
    for batch_size in (1, 3):
        found = mean_outputs(model, EXAMPLES, batch_size=batch_size)
        assert found.settings == {"num_examples": 3, "num_tokens": 11 + 20 + 1}
        for layer in range(nothing.num_hidden_layers):
            expected = torch.cat([each[layer] for each in seen]).mean(0)
            torch.testing.assert_close(found.ffns[layer].double(), expected, rtol=1e-4, atol=1e-5)
            for head in range(nothing.num_attention_heads):
                expected = torch.cat([each[layer, head] for each in seen]).mean(0)
                torch.testing.assert_close(found.heads[layer, head].double(), expected, rtol=1e-4, atol=1e-5)


def test_packed_answers_and_knockouts_are_those_of_the_masked_model(tiny_model):
    """Log-likelihoods by log-softmax of the whole masked model, one request at a time."""
    means, masks = random_means(tiny_model), masks_of(tiny_model)
    expected = []
    for mask in masks:
        with torch.no_grad(), masked(tiny_model, mask, means):
            expected.append([])
            for context, continuation in EXAMPLES:
                logits = tiny_model(torch.tensor([[*context, *continuation][:-1]])).logits[0].log_softmax(-1)
                rows = logits[-len(continuation) :].gather(1, torch.tensor(continuation)[:, None])
                expected[-1].append(float(rows.sum()))
    assert max(abs(a - b) for a, b in zip(expected[0], expected[1], strict=True)) > 1e-3
    found = [
        [[answer[0] for answer in row] for row in answers]
        for answers in (
            score(tiny_model, EXAMPLES, masks, means=means),
            score_under_masks(tiny_model, EXAMPLES, masks, 2, means=means),
        )
    ]
    for each in found:
        torch.testing.assert_close(torch.tensor(each), torch.tensor(expected), rtol=1e-5, atol=1e-4)


def test_generation_with_a_cache_and_padding_are_those_without(tiny_model):
    means, mask = random_means(tiny_model), mask_of(tiny_model)
    ids = torch.tensor([families.tokens(12)])
    padded = torch.cat([torch.full((1, 4), 1), ids], 1)
    seen = torch.cat([torch.zeros(1, 4, dtype=torch.long), torch.ones_like(ids)], 1)
    with torch.no_grad(), masked(tiny_model, mask, means):
        whole = tiny_model(ids).logits
        step = tiny_model(ids[:, :7], use_cache=True)
        later = tiny_model(ids[:, 7:], cache=step.cache, use_cache=True).logits
        torch.testing.assert_close(later, whole[:, 7:], rtol=1e-4, atol=1e-4)
        positions = (seen.cumsum(1) - 1).clamp(min=0)
        found = tiny_model(padded, attention_mask=seen, position_ids=positions).logits[:, 4:]
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)


def test_files_hold_what_was_saved_and_others_are_refused_in_a_line(tmp_path):
    model = families.made("llama")
    means = mean_outputs(model, EXAMPLES)
    path = tmp_path / "means.safetensors"
    means.save(path)
    found = Means.load(path)
    assert torch.equal(found.heads, means.heads)
    assert torch.equal(found.ffns, means.ffns)
    assert (found.settings, found.digest) == (means.settings, means.digest)
    assert Means(heads=means.heads + 1, ffns=means.ffns).digest != means.digest

    from safetensors.torch import save

    told = {"format": "lm-eval-prune-means", "version": "1", "settings": "{}"}
    good = {"heads": torch.zeros(2, 3, 4), "ffns": torch.zeros(2, 12)}
    wrong = {
        "empty": b"",
        "cut": path.read_bytes()[:200],
        "text": b"no such thing at all",
        "json": b'{"format": "lm-eval-prune-means"}',
        "others": save(good),
        "version": save(good, metadata={**told, "version": "9"}),
        "settings": save(good, metadata={**told, "settings": "[1]"}),
        "half": save({name: each.half() for name, each in good.items()}, metadata=told),
        "layers": save({**good, "ffns": torch.zeros(3, 12)}, metadata=told),
        "flat": save({**good, "heads": torch.zeros(2, 12)}, metadata=told),
        "nan": save({**good, "ffns": torch.full((2, 12), torch.nan)}, metadata=told),
        "missing": save({"heads": good["heads"]}, metadata=told),
    }
    for name, data in wrong.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileFormatError) as error:
            Means.load(tmp_path / name)
        assert str(tmp_path / name) in str(error.value).splitlines()[0], name
        assert len(str(error.value).splitlines()) == 1, name
    with pytest.raises(ArgumentError, match="is no file of lm-eval-prune"):
        means.save(tmp_path / "text")


def test_means_of_another_model_are_refused():
    model = families.made("llama")
    mask, means = mask_of(model), random_means(model)
    others = [
        Means(heads=means.heads[:2], ffns=means.ffns[:2]),
        Means(heads=means.heads[:, :2], ffns=means.ffns),
        Means(heads=means.heads[..., :2], ffns=means.ffns),
        Means(heads=means.heads, ffns=means.ffns[:, :5]),
    ]
    for other in others:
        with pytest.raises(MaskShapeError, match="means are of"), masked(model, mask, other):
            pass
        with pytest.raises(MaskShapeError, match="means are of"):
            score(model, EXAMPLES, [mask], means=other)
    with pytest.raises(PruneError):
        Means(heads=means.heads, ffns=means.ffns[:2])
