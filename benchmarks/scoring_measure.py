"""Timings and memory of the two scorers over the same requests."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from lm_eval_prune import PruningMask
from lm_eval_prune.decoders.forward import DecoderForward
from lm_eval_prune.decoders.linear import linear
from lm_eval_prune.decoders.skeleton import flops_per_token, linear_weights
from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.scoring import score
from lm_eval_prune.scoring.flops import all_packs, evaluation_flops
from lm_eval_prune.scoring.trie import build_trie

__all__ = ["Scorers", "extras", "matmul_peak", "measure", "shares_of_peak"]


class Scorers:
    """One checkpoint, loaded once, behind both scorers."""

    def __init__(self, pretrained: str, device: str, dtype: str) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.arguments = (str(Path(pretrained).resolve()), device, dtype)
        first = PrunedModel(self.arguments[0], device=device, dtype=dtype)
        self.model, self.tokenizer, self.device = first.model, first.tokenizer, torch.device(device)

    def hf(self, batch_size: int, *, logits_cache: bool = True) -> HFLM:
        return HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size, logits_cache=logits_cache)

    def pruned(self, batch_size: int | str, mask: PruningMask | None = None, *, scorer: str = "packed") -> PrunedModel:
        return PrunedModel(
            pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size, mask=mask, scorer=scorer
        )

    def seconds(self, work: Callable[[], Any]) -> tuple[float, Any]:
        self._finish()
        start = time.perf_counter()
        found = work()
        self._finish()
        return time.perf_counter() - start, found

    def memory(self, requests: list[Any], batch_size: int) -> dict[str, float]:
        """What each scorer's memory grows to at most above the loaded model, in MiB."""
        found = {}
        for name in ("hf", "packed"):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found[f"{name}_peak_mib"] = pool.submit(_peak, name, self.arguments, requests, batch_size).result()
        return found

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(scorers: Scorers, requests: list[Any], batch_sizes: list[int], repeats: int) -> dict[str, Any]:
    """One row of the table: hf at its fastest batch size against packed, runs alternating.

    Where hf's logits cache serves several choices from one pass, also hf without it, which reads every choice.
    """

    def run(lm: HFLM) -> tuple[float, Any]:
        return scorers.seconds(lambda: lm._loglikelihood_tokens(requests, disable_tqdm=True))

    by_size = {size: run(scorers.hf(size))[0] for size in batch_sizes}
    best = min(by_size, key=lambda size: by_size[size])
    ours = scorers.pruned(best)
    trie = build_trie([request[1:] for request in requests], ours.max_length)
    different = {tuple(tokens) for tokens in trie.inputs}
    models = {"hf": scorers.hf(best), "packed": ours}
    if len(different) < len(requests):
        models["hf_without_cache"] = scorers.hf(best, logits_cache=False)
    times: dict[str, list[float]] = {name: [] for name in models}
    answers: dict[str, Any] = {}
    for _ in range(repeats):
        for name, model in models.items():
            seconds, answers[name] = run(model)
            times[name].append(seconds)
    medians = {name: statistics.median(each) for name, each in times.items()}
    hf_s, packed_s = medians["hf"], medians["packed"]
    without_cache_s = medians.get("hf_without_cache", hf_s)
    forward = DecoderForward(scorers.model)
    packs = all_packs(forward, trie, best)
    flops = evaluation_flops(scorers.model.config, packs, ours.mask)
    pairs = list(zip(answers["hf"], answers["packed"], strict=True))
    return {
        "requests": len(requests),
        "batch_size": best,
        "hf_s": hf_s,
        "packed_s": packed_s,
        "ratio": hf_s / packed_s,
        "hf_without_cache_s": without_cache_s,
        "ratio_without_cache": without_cache_s / packed_s,
        "hf_s_by_batch_size": {str(size): seconds for size, seconds in by_size.items()},
        "ratio_by_flops": _hf_flops(scorers.model.config, different) / flops,
        "tokens_asked": sum(map(len, trie.inputs)),
        "tokens_computed": sum(map(len, packs)),
        "packed_gflops": flops / packed_s / 1e9,
        "max_difference": max(abs(one[0] - other[0]) for one, other in pairs),
        "greedy_differing": sum(one[1] != other[1] for one, other in pairs),
    }


def shares_of_peak(cell: Mapping[str, Any], peak_gflops: float) -> dict[str, float]:
    """What both scorers compute a second, of the matrix-product peak; each by the FLOPs of its own way.

    hf's padding counts as nothing computed.
    """
    packed = cell["packed_gflops"] / peak_gflops
    hf = packed * cell["ratio_by_flops"] / cell["ratio"]
    return {"packed_share_of_peak": packed, "hf_share_of_peak": hf}


def _hf_flops(config: Any, inputs: Iterable[Sequence[int]]) -> float:
    """What hf computes for different inputs: each whole, with logits at every position; padding is not counted.

    Choices of one token are one input: hf's logits cache serves them from one pass.
    """
    dense = PruningMask.dense(config.num_hidden_layers, config.num_attention_heads)
    lengths = [len(tokens) for tokens in inputs]
    inside = config.num_attention_heads * linear_weights(config).head_dim
    attention = config.num_hidden_layers * 4 * inside * sum(n * (n + 1) / 2 for n in lengths)
    return flops_per_token(config, dense) * sum(lengths) + attention


def extras(scorers: Scorers, requests: list[Any], repeats: int) -> dict[str, float]:
    """A 70 % heads + 20 % FFNs mask against its FLOPs, and all FFN knockouts against as many dense evaluations."""
    config, forward = scorers.model.config, DecoderForward(scorers.model)
    pairs = [request[1:] for request in requests]
    generator = torch.Generator().manual_seed(0)
    mask = PruningMask.from_importance(
        head_scores=torch.rand(config.num_hidden_layers, config.num_attention_heads, generator=generator),
        head_fraction=Fraction("0.7"),
        ffn_scores=torch.rand(config.num_hidden_layers, generator=generator),
        ffn_fraction=Fraction("0.2"),
    )
    shape = config.num_hidden_layers, config.num_attention_heads
    dense = PruningMask.dense(*shape)
    knockouts = [
        PruningMask(num_hidden_layers=shape[0], num_attention_heads=shape[1], pruned_ffns=(layer,))
        for layer in range(shape[0])
    ]
    times: dict[str, list[float]] = {"dense": [], "masked": [], "knockouts": []}
    for _ in range(repeats):
        for name, masks in (("dense", [dense]), ("masked", [mask]), ("knockouts", knockouts)):
            times[name].append(scorers.seconds(lambda masks=masks: score(scorers.model, pairs, masks))[0])
    dense_s, masked_s, knockouts_s = (statistics.median(each) for each in times.values())
    packs = all_packs(forward, build_trie(pairs, config.max_position_embeddings), None)
    predicted = evaluation_flops(config, packs, dense) / evaluation_flops(config, packs, mask)
    return {
        "dense_s": dense_s,
        "mask_speed_up": dense_s / masked_s,
        "mask_speed_up_by_flops": predicted,
        "share_of_flops_speed_up": dense_s / masked_s / predicted,
        "knockouts_s": knockouts_s,
        "knockouts_per_dense_evaluation": knockouts_s / dense_s / len(knockouts),
    }


def matmul_peak(scorers: Scorers, size: int = 2048) -> float:
    """GFLOP/s of the best of some matrix products, in the model's dtype: by torch's own choice, and by the scorer's."""
    factor = torch.randn(size, size, device=scorers.device).to(scorers.model.dtype)
    best = min(
        scorers.seconds(lambda product=product: product(factor, factor))[0] for product in (torch.mm, linear) * 10
    )
    return 2 * size**3 / best / 1e9


def _peak(name: str, arguments: tuple[str, str, str], requests: list[Any], batch_size: int) -> float:
    """Run one scorer in this process, and return by how many MiB its memory grew at most."""
    scorers = Scorers(*arguments)
    lm = getattr(scorers, name)(batch_size)
    lm._loglikelihood_tokens([(None, [2], [3])], disable_tqdm=True)
    if scorers.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        lm._loglikelihood_tokens(requests, disable_tqdm=True)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again from here
    before = _status("VmRSS")
    lm._loglikelihood_tokens(requests, disable_tqdm=True)
    return _status("VmHWM") - before


def _status(field: str) -> float:
    """A line of Linux's /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}: peak memory is measured on Linux only")
