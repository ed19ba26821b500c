"""The packed scorer: answers against float64, the shape of packs, many masks, memory, refusals."""

from collections import Counter
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scoring_cases import (
    HEADS,
    LAYERS,
    POSITIONS,
    QUICK_FIRST,
    SHAPES,
    VOCABULARY,
    noisy_opt,
    pruning_masks,
    request_sets,
    tiny_model,
)
from scoring_reference import log_likelihood
from torch._dynamo.testing import CompileCounter

from lm_eval_prune import PruneError, PruningMask, masked
from lm_eval_prune.budget import is_out_of_memory, output_rows, token_budget
from lm_eval_prune.decoders.forward import DecoderForward
from lm_eval_prune.errors import ArgumentError, MaskShapeError, UnsupportedModelError
from lm_eval_prune.scoring import attending, flex, forward, score, scorer
from lm_eval_prune.scoring.attention import allowed, asked_calls, plan
from lm_eval_prune.scoring.packing import build_pack, end_of_pack
from lm_eval_prune.scoring.trie import build_trie
from tests import families

DENSE = PruningMask.dense(LAYERS, HEADS)
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # shrinking a failure takes minutes: every step runs models
batch_sizes = st.sampled_from([1, 2, 7, "auto"])


def packs_of(trie, budget):
    first = 0
    while first < len(trie):
        pack = build_pack(trie, first, end_of_pack(trie, first, budget))
        yield pack
        first = pack.requests.stop


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=6, deadline=None, phases=PHASES)
@given(requests=request_sets(longest=60), masks=st.lists(pruning_masks(), min_size=1, max_size=4), batch=batch_sizes)
def test_every_answer_is_that_of_the_weights_in_float64(shape, batched, requests, masks, batch):
    model = tiny_model(shape)
    with mock.patch.object(attending, "in_batches", return_value=batched):
        answers = score(model, requests, masks, max_length=200, batch_size=batch)
    assert [len(row) for row in answers] == [len(requests)] * len(masks)
    for mask, row in zip(masks, answers, strict=True):
        for (context, continuation), answer in list(zip(requests, row, strict=True))[:4]:
            expected = log_likelihood(model, context, continuation, 200, mask)
            assert answer.log_likelihood == pytest.approx(expected[0], abs=1e-4)
            assert answer.is_greedy == expected[1]


@pytest.fixture
def without_compiler(monkeypatch):
    """Flex attention as it is written; otherwise torch traces every call on a CPU, too."""
    monkeypatch.setattr(flex.flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.mark.parametrize("shape", QUICK_FIRST)
def test_flex_attention_answers_as_the_weights_do_in_float64(shape, without_compiler, monkeypatch):
    model = tiny_model(shape)
    attended = mock.Mock(wraps=flex.attend_by_blocks)
    monkeypatch.setattr(flex, "attend_by_blocks", attended)
    masks = [DENSE, replace(DENSE, pruned_heads={0: (1,), 1: (0, 2, 3)})]
    stem = list(range(2, 60)) * 4
    requests = [
        ([*stem[:200], first], [*range(first, first + length)]) for first in range(3, 9) for length in (1, 4)
    ] + [([5], [6, 7]), (stem[:3], stem[3:9]), ([9, *stem], stem[:5])]
    answers = score(model, requests, masks, max_length=230, flex=True)
    for mask, row, others in zip(masks, answers, score(model, requests, masks, max_length=230), strict=True):
        assert [a.log_likelihood for a in row] == pytest.approx([a.log_likelihood for a in others], abs=1e-5)
        for (context, continuation), answer in list(zip(requests, row, strict=True))[::4]:
            expected = log_likelihood(model, context, continuation, 230, mask)
            assert answer.log_likelihood == pytest.approx(expected[0], abs=1e-4)
            assert answer.is_greedy == expected[1]
    assert attended.call_count == len(masks) * LAYERS


@pytest.mark.slow
def test_flex_attention_is_compiled_a_few_times_for_all_lengths_and_masks(without_compiler, monkeypatch):
    """For all tokens, and for those asked for. From the ninth time on torch would compute uncompiled."""
    counter = CompileCounter()
    compiled = torch.compile(flex.flex.flex_attention, dynamic=True, backend=counter, fullgraph=True)
    monkeypatch.setattr(flex.flex, "flex_attention", compiled)
    masks = [DENSE, *(replace(DENSE, pruned_heads={0: tuple(range(number))}) for number in range(1, HEADS))]
    for length in (5, 100, 127, 128, 201, 260):
        requests = [([*([*range(2, 40)] * 7)[:length], last], [last, 3]) for last in range(3, 9)]
        for row, usual in zip(
            score(tiny_model(), requests, masks, flex=True), score(tiny_model(), requests, masks), strict=True
        ):
            assert [a.log_likelihood for a in row] == pytest.approx([a.log_likelihood for a in usual], abs=1e-5)
    assert counter.frame_count <= 4


@pytest.mark.parametrize("window", [None, 1, 50, 400])
@settings(max_examples=15, deadline=None, phases=PHASES)
@given(requests=request_sets(), asked=st.booleans())
def test_blocks_that_flex_attention_leaves_out_or_takes_whole_are_so(window, requests, asked):
    pack = build_pack(trie := build_trie(requests, POSITIONS), 0, len(trie))
    tokens = pack.asked if asked else np.arange(len(pack))
    mask = flex.block_mask(pack, tokens, window, torch.device("cpu"))
    seen = allowed(pack, tokens, ((0, len(pack)),))
    if window is not None:
        seen &= pack.positions[tokens][:, None] - pack.positions < window
    rows, keys = np.meshgrid(np.arange(len(tokens)), np.arange(len(pack)), indexing="ij")
    told = mask.mask_mod(None, None, torch.from_numpy(rows), torch.from_numpy(keys)).numpy()
    assert (told == seen).all()
    for row in range(0, len(tokens), flex.BLOCK):
        block_of_rows = seen[row : row + flex.BLOCK]
        some, whole = (
            set(places[0, 0, row // flex.BLOCK][: number[0, 0, row // flex.BLOCK]].tolist())
            for number, places in (
                (mask.kv_num_blocks, mask.kv_indices),
                (mask.full_kv_num_blocks, mask.full_kv_indices),
            )
        )
        assert not some & whole
        for place in range(mask.kv_indices.shape[-1]):
            block = block_of_rows[:, place * flex.BLOCK : (place + 1) * flex.BLOCK]
            if place in whole:
                assert block.shape[1] == flex.BLOCK
                assert block.all()
            elif place not in some:
                assert not block.any()


@pytest.mark.parametrize(("seed", "length"), [(0, 140), (1, 200), (2, 260), (3, 310)])
def test_long_sums_are_not_rounded_to_float32(seed, length):
    model = tiny_model()
    tokens = torch.randint(2, VOCABULARY, (POSITIONS,), generator=torch.Generator().manual_seed(seed)).tolist()
    context, continuation = tokens[:5], tokens[5 : 5 + length]
    ((answer,),) = score(model, [(context, continuation)])
    expected, _ = log_likelihood(model, context, continuation, POSITIONS, DENSE)
    assert expected < -512  # where a step of float32 is 6.1e-5
    assert answer.log_likelihood == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_slices_of_a_layer_read_the_beginning_that_documents_share(shape, monkeypatch):
    monkeypatch.setattr(forward, "slice_rows", lambda _: 7)
    model, shared = tiny_model(shape), [3 + (7 * index) % 50 for index in range(40)]
    requests = [([*shared, 5 + index, 6], [7 + index, 8, *ending]) for index in range(8) for ending in ([], [9, 10])]
    masks = [DENSE, PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_heads={0: (1,)})]
    for mask, row in zip(masks, score(model, requests, masks), strict=True):
        for (context, continuation), answer in zip(requests, row, strict=True):
            expected = log_likelihood(model, context, continuation, POSITIONS, mask)
            assert answer.log_likelihood == pytest.approx(expected[0], abs=1e-4)


def test_a_masks_answers_do_not_depend_on_the_masks_beside_it():
    model = tiny_model()
    requests = [([3 + index, *range(5, 40)], [6, 7 + index]) for index in range(20)]
    prune = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    everything = tuple(range(HEADS))
    masks = [
        DENSE,
        PruningMask(**prune, pruned_heads={2: everything}),
        PruningMask(**prune, pruned_heads={1: everything, 2: everything}, pruned_ffns=(0,)),
        PruningMask(**prune, pruned_heads={0: everything, 1: everything, 2: everything}),
        PruningMask(**prune, pruned_heads={1: (0, 2)}, pruned_ffns=(2,)),
    ]
    together = score(model, requests, masks, batch_size=2)
    for mask, row in zip(masks, together, strict=True):
        assert row == score(model, requests, [mask], batch_size=2)[0]


def test_in_half_precision_one_of_equally_likely_tokens_is_greedy():
    model = noisy_opt().to(torch.bfloat16)
    model.lm_head.weight[1::2] = model.lm_head.weight[:-1:2]  # each token is as likely as another
    for first in range(3, 12):
        answers = score(model, [([first, 9], [token]) for token in range(VOCABULARY)])[0]
        assert sum(answer.is_greedy for answer in answers) == 1


def test_greedy_continuations_are_recognised():
    model, context = tiny_model(), [5, 9, 11]
    greedy = []
    for _ in range(4):
        with torch.no_grad():
            greedy.append(int(model(torch.tensor([context + greedy])).logits[0, -1].argmax()))
    other = [*greedy[:3], greedy[3] % 50 + 3]
    answers = score(model, [(context, greedy), (context, other), (context, greedy[:1])])[0]
    assert [answer.is_greedy for answer in answers] == [True, other == greedy, True]


def test_the_same_tokens_split_at_different_places_are_different_requests():
    model = tiny_model()
    requests = [([3, 4], [5, 6, 7]), ([3, 4, 5, 6], [8]), ([3, 4, 5], [6, 7])]
    for request, answer in zip(requests, score(model, requests)[0], strict=True):
        assert answer.log_likelihood == pytest.approx(log_likelihood(model, *request, POSITIONS)[0], abs=1e-4)


def test_no_requests_and_no_masks():
    assert score(tiny_model(), []) == [[]]
    assert score(tiny_model(), [([3], [4])], []) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_the_model_itself(dtype):
    model = tiny_model("post-norm, projected")
    half = type(model)(model.config).eval()
    half.load_state_dict(model.state_dict())
    half.to(dtype)
    request = ([5, 9, 11, 30, 2], [7, 8])
    with torch.no_grad():
        log_probs = half(torch.tensor([[5, 9, 11, 30, 2, 7]])).logits[0, -2:].float().log_softmax(-1)
    expected = float(log_probs[0, 7] + log_probs[1, 8])
    assert score(half, [request])[0][0].log_likelihood == pytest.approx(expected, abs=0.05)


# -- packs and attention ----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, phases=PHASES)
@given(requests=request_sets(), budget=st.sampled_from([1, 50, 400, 5000]))
def test_a_pack_holds_every_request_whole_and_no_long_beginning_twice(requests, budget):
    trie = build_trie(requests, 200)
    assert sorted(trie.original) == list(range(len(requests)))
    for pack in packs_of(trie, budget):
        chosen = trie.inputs[pack.requests]
        nodes = {tuple(tokens[: length + 1]) for tokens in chosen for length in range(len(tokens))}
        assert len(nodes) <= len(pack) <= len(nodes) * 33 / 32 + len(chosen)
        assert len(pack) <= budget or len(chosen) == 1
        for index, tokens in enumerate(chosen):
            last = pack.asked[pack.pair_asked[pack.pair_starts[index] + len(trie.targets[pack.requests][index]) - 1]]
            above = allowed(pack, np.array([last]), ((0, len(pack)),))[0]
            assert pack.token_ids[above].tolist() == tokens.tolist()
            assert pack.positions[above].tolist() == list(range(len(tokens)))


@settings(max_examples=30, deadline=None, phases=PHASES)
@given(requests=request_sets())
def test_attention_calls_serve_every_token_once_with_all_tokens_above_it(requests):
    trie = build_trie(requests, 320)
    for pack in packs_of(trie, 3000):
        everything = allowed(pack, np.arange(len(pack)), ((0, len(pack)),))
        calls = plan(pack)
        assert [row for call in calls for row in range(*call.queries)] == list(range(len(pack)))
        for call in calls:
            keys = np.concatenate([np.arange(*part) for part in call.keys])
            outside = np.setdiff1d(np.arange(len(pack)), keys)
            assert not everything[slice(*call.queries)][:, outside].any()
            if call.causal:
                assert call.keys == (call.queries,)
                size = len(keys)
                assert (everything[np.ix_(keys, keys)] == np.tril(np.ones((size, size), dtype=bool))).all()
        rows = [row for call in asked_calls(calls, pack.asked) for row in range(*call.queries)]
        assert rows == list(range(len(pack.asked)))


def test_a_tree_that_branches_at_every_token_is_scored():
    model, text = tiny_model(), [(7 * index) % 59 + 2 for index in range(300)]
    requests = [(text[:length], [length % 50 + 3, 4]) for length in range(2, 299)]
    answers = score(model, requests)[0]
    for index in (0, 150, 296):
        expected = log_likelihood(model, *requests[index], POSITIONS)[0]
        assert answers[index].log_likelihood == pytest.approx(expected, abs=1e-4)


def test_choices_cost_their_own_tokens_only():
    context = list(range(3, 53))
    trie = build_trie([(context, [4, choice, 5]) for choice in range(10, 14)], POSITIONS)
    (pack,) = packs_of(trie, 10_000)
    assert len(pack) == 50 + 1 + 4  # the context with the shared first token, and each choice's second
    assert len(pack.asked) == 2 + 4


@pytest.mark.parametrize("endings", [1, 2])
def test_a_very_long_shared_beginning_adds_little_in_every_pack(endings):
    """Also where a pack could end a little cheaper when it is half full: between documents, not between endings."""
    shared, ending = list(range(1900)), list(range(40))
    documents = [[*shared, document] for document in range(2000, 3000)]
    trie = build_trie([(document, [token, *ending]) for document in documents for token in range(endings)], 2048)
    budget = token_budget(DecoderForward(tiny_model()), "cpu", trie.longest, None)
    computed = sum(len(pack) for pack in packs_of(trie, budget))
    different = len(shared) + len(documents) * (1 + endings * len(ending))
    assert computed <= 8 / 7 * different


def test_packs_are_cut_where_documents_end():
    documents = [[3 + index, *range(5, 55)] for index in range(6)]
    trie = build_trie([(document, [choice, 7]) for document in documents for choice in (8, 9)], POSITIONS)
    assert all(trie.shared[pack.requests.start] == 0 for pack in packs_of(trie, 120))


# -- many masks -------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, phases=PHASES)
@given(requests=request_sets(longest=20), masks=st.lists(pruning_masks(), min_size=1, max_size=6), batch=batch_sizes)
def test_many_masks_at_once_give_what_each_gives_alone(requests, masks, batch):
    model = tiny_model("post-norm, projected")
    together = score(model, requests, masks, batch_size=batch)
    for mask, row in zip(masks, together, strict=True):
        (alone,) = score(model, requests, [mask], batch_size=batch)
        for one, other in zip(alone, row, strict=True):
            assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=2e-5)


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        # Alone, each of the 3 masks takes 3 attentions and 3 FFNs. Together: the first attention is everyone's.
        (tiny_model, {"attention": 1 + 2 + 3, "ffn": 2 + 3 + 3}),
        (lambda: families.made("gpt2"), {"attention": 1 + 2 + 3, "ffn": 2 + 3 + 3}),
        (lambda: families.made("olmo2"), {"attention": 1 + 2 + 3, "ffn": 2 + 3 + 3}),
        # A layer whose attention and FFN read the same stream is computed whole.
        (lambda: families.made("gpt_neox"), {"attention": 2 + 3 + 3, "ffn": 2 + 3 + 3}),
    ],
)
def test_masks_share_what_comes_before_their_first_difference(monkeypatch, model, stages):
    found = Counter()
    run = DecoderForward.run

    def counted(self, stage, *arguments, **settings):
        found.update(attention=stage.attention, ffn=stage.ffn)
        return run(self, stage, *arguments, **settings)

    monkeypatch.setattr(DecoderForward, "run", counted)
    knockouts = [
        PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_ffns=(layer,))
        for layer in range(LAYERS)
    ]
    score(model(), [([3, 4, 5], [6])], knockouts)
    assert found == stages


def test_pruned_components_are_not_computed(monkeypatch):
    shapes = []
    linear = F.linear

    def recorded(inputs, weight, bias=None):
        shapes.append((inputs.shape[-2], *weight.shape))
        return linear(inputs, weight, bias)

    monkeypatch.setattr(F, "linear", recorded)
    mask = PruningMask(
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        pruned_heads={0: (0, 2, 3), 2: tuple(range(HEADS))},
        pruned_ffns=(1, 2),
    )
    score(tiny_model(), [([3, 4, 5], [6, 7])], [mask])
    first = [*[(4, 8, 32)] * 3, (4, 32, 8), (4, 48, 32), (4, 32, 48)]
    # The last heads are in layer 1: its keys and values for all 4 tokens, the rest for the 2 that are asked for.
    second = [*[(4, 32, 32)] * 2, *[(2, 32, 32)] * 2]
    assert [shape for shape in shapes if 0 not in shape] == [*first, *second, (2, VOCABULARY, 32)]


def test_the_model_is_left_as_it_was():
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    score(
        model,
        [([3, 4, 5], [6, 7])],
        [PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_ffns=(0,))],
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# -- memory -----------------------------------------------------------------------------------------------------------


def too_large_an_allocation():
    """What this machine's torch raises."""
    try:
        torch.empty(2**61, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        too_large_an_allocation(),
    ],
)
def test_out_of_memory_shrinks_the_packs(monkeypatch, caplog, error):
    sizes = []

    def scarce(model, pack, *others):
        sizes.append(len(pack))
        if len(pack) > 100:
            raise error
        return forward.answer_pack(model, pack, *others)

    requests = [([3 + index, *range(5, 30)], [6]) for index in range(20)]
    expected = score(tiny_model(), requests)
    monkeypatch.setattr(scorer, "answer_pack", scarce)
    assert [a.log_likelihood for a in score(tiny_model(), requests)[0]] == pytest.approx(
        [a.log_likelihood for a in expected[0]], abs=1e-5
    )
    assert max(sizes) > 100 >= sizes[-1]
    assert "out of memory" in caplog.text


def test_out_of_memory_with_one_request_and_other_errors_are_raised(monkeypatch):
    def broken(*arguments):
        raise RuntimeError(message)

    monkeypatch.setattr(scorer, "answer_pack", broken)
    for message, requests in (("CUDA out of memory", 1), ("mat1 and mat2 shapes cannot be multiplied", 5)):
        with pytest.raises(RuntimeError, match=message):
            score(
                tiny_model(), [([3], [4])] * requests if requests == 1 else [([index + 3], [4]) for index in range(5)]
            )
        assert is_out_of_memory(RuntimeError(message)) == (requests == 1)


@pytest.mark.parametrize("batch_size", [1, 2, "auto"])
def test_answers_do_not_depend_on_the_slices_of_the_output_layer(batch_size):
    """170 asked-for tokens: more than one slice of log-softmax, and more than a batch of one sequence may hold."""
    model = tiny_model()
    stem, rest = list(range(2, 42)), [3 + index % 50 for index in range(128)]
    requests = [(stem, rest), ([9, *stem], rest[:41]), (stem[:9], [7])]
    (row,) = score(model, requests, [DENSE], max_length=200, batch_size=batch_size)
    for (context, continuation), answer in zip(requests, row, strict=True):
        expected = log_likelihood(model, context, continuation, 200, DENSE)
        assert answer.log_likelihood == pytest.approx(expected[0], abs=1e-4)
        assert answer.is_greedy == expected[1]


def test_batch_size_bounds_the_tokens_of_a_pack():
    model = DecoderForward(tiny_model())
    budgets = [token_budget(model, "cpu", 200, size) for size in (1, 2, 4, None)]
    assert budgets == sorted(budgets)
    assert budgets[0] < budgets[1]
    # Tokens x 14 vectors of width 32 and two inner ones of 48, and two buffers of logits over 61 tokens, against
    # two of those and the keys and values of 3 layers for each of 200 tokens.
    packed = budgets[0] * (14 * 32 + 2 * 48) + 2 * output_rows("cpu", 200, 1) * 61
    assert packed <= 200 * (2 * 61 + 2 * 3 * 32)
    assert output_rows("cuda", 200, 1) < 200 < output_rows("cuda", 200, None)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (([], [4]), "request 1: its context has no tokens"),
        (([4], []), "request 1: its continuation has no tokens"),
        (([4], [5] * 21), "request 1: its continuation has 21 tokens; the model reads at most 20"),
    ],
)
def test_impossible_requests_are_named(request_, message):
    with pytest.raises(PruneError, match=message):
        score(tiny_model(), [([3], [4]), request_], max_length=20)


def test_wrong_masks_and_batch_sizes_are_named():
    with pytest.raises(MaskShapeError, match="mask is for 2 layers"):
        score(tiny_model(), [([3], [4])], [PruningMask.dense(2, HEADS)])
    for size in (0, "many", "-1"):
        with pytest.raises(ArgumentError, match="batch_size"):
            score(tiny_model(), [([3], [4])], batch_size=size)


def test_models_that_are_not_plain_are_refused():
    model = tiny_model("pre-norm")
    with masked(model, DENSE):
        score(model, [([3], [4])])
    pruned = PruningMask(num_hidden_layers=LAYERS, num_attention_heads=HEADS, pruned_ffns=(0,))
    with masked(model, pruned), pytest.raises(UnsupportedModelError, match="fc2 has forward hooks"):
        score(model, [([3], [4])])
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    with pytest.raises(UnsupportedModelError, match="is a "):
        score(quantised, [([3], [4])])
    with pytest.raises(UnsupportedModelError, match="training mode"):
        score(type(model)(model.config).train(), [([3], [4])])
    with pytest.raises(UnsupportedModelError, match="keeps its weight elsewhere"):
        score(type(model)(model.config).eval().to("meta"), [([3], [4])])
