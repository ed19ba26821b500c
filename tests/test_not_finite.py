"""A model that computes no numbers gives no results, whatever is asked of it."""

import re
import shutil
import sys

import pytest
import torch
from lm_eval.api.model import CachingLM
from safetensors.torch import load_file, save_file

from lm_eval_prune import PruningMask, ffn_importance
from lm_eval_prune.cli.main import main as entry_point
from lm_eval_prune.demo import bundled_model_path
from lm_eval_prune.errors import ScoreError
from lm_eval_prune.harness.model import PrunedOPT
from lm_eval_prune.importance.knockout import component_knockout
from tests.helpers import TEXTS, build, requests

EXAMPLES = [([2, 5, 6], [7, 8]), ([2, 9], [10])]
ALL = lambda model: [parameter.data.fill_(float("nan")) for parameter in model.parameters()]  # noqa: E731
BROKEN = {
    "all weights NaN": ALL,
    "one bias NaN": lambda model: model.model.decoder.layers[2].fc2.bias.data.__setitem__(0, float("nan")),
    "a weight infinite": lambda model: model.model.decoder.layers[0].self_attn.out_proj.weight.data.fill_(float("inf")),
}


KNOWN = ["--tasks", "demo_facts", "--limit", "4"]
COMMANDS = {
    "run": ["run", *KNOWN],
    "knockout": [
        "importance",
        *KNOWN,
        *["--num_fewshot", "0", "--component", "ffns", "--method", "knockout", "-o", "importance"],
    ],
    "gradient": [
        "importance",
        *KNOWN,
        *["--num_fewshot", "0", "--component", "heads", "--method", "gradient", "-o", "importance"],
    ],
}


@pytest.fixture(params=BROKEN.values(), ids=list(BROKEN))
def broken(request, checkpoint):
    def of(**kwargs):
        lm = build(PrunedOPT, checkpoint, **kwargs)
        request.param(lm.model)
        return lm

    return of


@pytest.mark.parametrize("scorer", ["packed", "padded"])
def test_log_likelihoods(broken, scorer):
    with pytest.raises(ScoreError, match=r"log-likelihood of request \d is NaN: the model's weights"):
        broken(scorer=scorer).loglikelihood(requests("loglikelihood", TEXTS))
    with pytest.raises(ScoreError, match="log-likelihood of request 0 is NaN"):
        broken(scorer=scorer).loglikelihood_rolling(requests("loglikelihood_rolling", [("stone bridge",)]))


def test_generation(broken):
    with pytest.raises(ScoreError, match="a logit is NaN"):
        broken().generate_until(requests("generate_until", [("The garden", {"until": ["\n"], "max_gen_toks": 3})]))


def test_knockouts_of_ffns_and_heads(broken):
    model = broken().model
    for component in ("ffns", "heads"):
        with pytest.raises(ScoreError, match="knockout: the dense model: the log-likelihood of request 0 is NaN"):
            component_knockout(model, EXAMPLES, component)


def test_a_knockout_that_overflows_is_named(checkpoint):
    def scorer(model, examples, masks, batch_size):
        return [[(float("-inf") if mask.pruned_ffns == (1,) else -1.0, False) for _ in examples] for mask in masks]

    with pytest.raises(ScoreError, match=r"knockout: the model without FFN 1: .* is -inf, not finite"):
        ffn_importance(build(PrunedOPT, checkpoint).model, EXAMPLES, scorer=scorer)


@pytest.mark.parametrize("scorer", ["packed", "padded"])
def test_a_cache_keeps_none_of_it(broken, tmp_path, scorer):
    for _ in range(2):
        with pytest.raises(ScoreError, match="is NaN"):
            CachingLM(broken(scorer=scorer), str(tmp_path / "answers.db")).loglikelihood(
                requests("loglikelihood", TEXTS)
            )


def test_a_mask_that_cuts_the_broken_part_out_gives_numbers(checkpoint):
    lm = build(PrunedOPT, checkpoint, mask=PruningMask(num_hidden_layers=3, num_attention_heads=4, pruned_ffns=(2,)))
    BROKEN["one bias NaN"](lm.model)
    answers = lm.loglikelihood(requests("loglikelihood", TEXTS))
    assert all(torch.tensor(answer[0]).isfinite() for answer in answers)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_commands_end_in_one_line(command, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(bundled_model_path(), tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    broken = {name: torch.full_like(weight, float("nan")) for name, weight in weights.items()}
    save_file(broken, folder / "model.safetensors", {"format": "pt"})
    monkeypatch.chdir(tmp_path)
    words = [command[0], "--model_args", "pretrained=m", "--device", "cpu", *command[1:]]
    monkeypatch.setattr(sys, "argv", ["lm-eval-prune", *words])
    with pytest.raises(SystemExit) as stop:
        entry_point()
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert re.search("(?i)nan|finite", line)
    assert not list(tmp_path.glob("importance/*.json"))
