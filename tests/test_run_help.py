"""`lm-eval-prune run` as a terminal shows it: its help, and the harness's log without what is said twice."""

import inspect
import logging
import re

import pytest
from lm_eval._cli import HarnessCLI

from lm_eval_prune.harness.model import PrunedModel
from lm_eval_prune.harness.run import run_harness
from lm_eval_prune.harness.run_options import each_warning_once


@pytest.fixture(scope="module")
def shown():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        words = []
        patch.setattr("sys.stdout.write", words.append)
        with pytest.raises(SystemExit) as stop:
            run_harness(["--help"])
        assert stop.value.code == 0
    return "".join(words)


def test_the_help_names_every_argument_of_ours(shown):
    ours = set(inspect.signature(PrunedModel.__init__).parameters) - {"self", "kwargs", "pretrained"}
    part = shown[shown.index("arguments of pruned-hf") :]
    assert {name for name in ours if re.search(rf"\b{name}=", part)} == ours


def test_the_help_says_the_models_that_ours_takes(shown):
    model = re.search(r"--model[^\n]*-M(.*?)--model_args", shown, re.DOTALL).group(1)
    assert "pruned-hf" in model
    assert "default: hf" not in shown
    assert shown.startswith("usage: lm-eval-prune run")


def test_the_help_fits_80_columns(shown):
    assert max(map(len, shown.splitlines())) <= 80


def test_each_warning_is_said_once(monkeypatch):
    logger, lines = logging.getLogger("lm_eval"), []
    monkeypatch.setattr(logger, "level", logging.WARNING)  # whatever a command of ours has left it at
    logger.manager._clear_cache()

    class Kept(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Kept()
    logger.addHandler(handler)
    try:
        with each_warning_once():
            for _ in range(2):
                logger.warning("no %s", "way")
                logger.warning("demo_facts: Custom kwargs can be passed to `--metadata` in console")
                logger.error("wrong")
        logger.warning("no %s", "way")
    finally:
        logger.removeHandler(handler)
    assert lines == ["no way", "wrong", "wrong", "no way"]


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        (["--model_args", "mask=m.json"], None, {"mask": "m.json", "dtype": "float32"}),
        (["--model_args", "dtype=float16"], None, {"dtype": "float16"}),
        (["--device", "cuda"], None, None),
        ([], "model_args: {mask: m.json}", {"mask": "m.json", "dtype": "float32"}),
        ([], "model_args: mask=m.json", "mask=m.json,dtype=float32"),
        (["--model", "hf", "--model_args", "pretrained=x"], None, {"pretrained": "x"}),
    ],
)
def test_on_a_cpu_our_models_compute_in_float32(words, given, expected, monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(HarnessCLI, "execute", lambda self, options: found.append(options.model_args))
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda *args, **kwargs: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("lm_eval_prune.harness.run.require_device", lambda device: None)
    if given is not None:
        (tmp_path / "c.yaml").write_text(given)
        words = [*words, "--config", str(tmp_path / "c.yaml")]
    run_harness([*words, "--tasks", "piqa"])
    assert found == [expected]
