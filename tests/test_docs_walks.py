"""The three ways in, walked as a newcomer walks them: every command and line of Python in them, in a fresh folder.

With fewer documents than the pages say, and in this process instead of a shell; on a machine without GPUs, so that a
loop over GPUs is one over two runs on the CPU.
"""

import contextlib
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from docs_text import ROOT, blocks, commands

from lm_eval_prune import PruningMask
from lm_eval_prune.cli.main import cli

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="the tests run outside a checkout"),
]


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fewer(text):
    """The same with few documents."""
    return re.sub(r"(limit[ =:]+)\d+", r"\g<1>8", text)


def run(words):
    """A command of the page, as the shell would run it. The exit code and what it printed."""
    words = [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    if words[0] == "lm-eval-prune":
        done = CliRunner().invoke(cli, words[1:])
        return done.exit_code, done.output
    assert words[0] == "lm_eval", words
    from lm_eval.__main__ import cli_evaluate

    given, sys.argv = sys.argv, words
    try:
        with contextlib.suppress(SystemExit):
            cli_evaluate()
    finally:
        sys.argv = given
    return 0, ""


def walk(page):
    """Every command of the page in turn. Returns what they printed, by command."""
    printed = []
    for block in blocks(ROOT / "docs" / page, "yaml", "sh"):
        text = fewer(block.text)
        if block.language == "yaml":
            name = re.match(r"# (\S+)\n", text)[1]
            Path(name).write_text(text, encoding="utf-8")
            continue
        on_cpu = text.replace("0 1 2 3 4 5 6 7", "0 1").replace("cuda:$gpu", "cpu").replace("$gpu", "0")
        for words in commands(on_cpu):
            if words[0] in ("for", "done", "wait"):
                continue
            code, output = run(words)
            assert code == 0, f"{block}: {' '.join(words)}\n{output}"
            printed.append((" ".join(words[:2]), output))
    return printed


def test_i_know_lm_eval(fresh):
    printed = walk("start-lm-eval.md")
    assert PruningMask.load("mask.json").num_pruned_heads == 18
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(fresh.glob("results/**/results_*.json"))]
    assert sorted(each["pruning"]["heads_pruned"] for each in results) == [0, 18]
    assert all(each["groups"]["icl_demo"]["acc,none"] > 0.9 for each in results)
    name, table = printed[-1]
    assert name == "lm-eval-prune leaderboard"
    assert "dense" in table
    assert "50" in table


def test_eight_gpus(fresh):
    printed = walk("start-gpus.md")
    status = [output for name, output in printed if name == "lm-eval-prune sweep" and "cells done" in output][-1]
    assert re.search(r"cells done, 0 running, 0 missing, 0 failed", status), status
    assert (fresh / "leaderboard" / "leaderboard.html").exists()
    assert json.loads((fresh / "smaller" / "config.json").read_text(encoding="utf-8"))["model_type"] == "pruned_opt"


def test_a_notebook(fresh):
    names = {}
    for block in blocks(ROOT / "docs" / "start-notebook.md", "python"):
        exec(compile(fewer(block.text), str(block), "exec"), names)
    table, comparison = names["table"], names["comparison"]
    assert len(table) == 5 * 3 * 2
    assert set(table["num_documents"]) == {8}
    best = table[table["num_fewshot"] == 5].groupby("mask")["acc"].mean()
    assert best["dense"] > 0.9
    assert best["least important half"] > 0.9
    assert isinstance(comparison.averages, pd.DataFrame)
    assert {"difference", "verdict"} <= set(comparison.averages)
    assert (fresh / "smaller" / "tokenizer.json").exists()
