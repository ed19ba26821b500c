"""Settings of strangers: whatever stands in the file, or behind an option, is a sweep's grid or one line."""

import itertools
import os
import random
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from lm_eval_prune.cli.main import cli
from lm_eval_prune.errors import FileFormatError, PruneError
from lm_eval_prune.sweep.config import READY, READY_FOLDER, SweepConfig, load_configs, make_config

GOOD = "tasks: [piqa]\noutput_path: sweep\n"
LINES = (f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi"))
LAUGHS = "a: &a [x,x]\n" + "".join(LINES)
BAD = {
    "aliases": LAUGHS + GOOD,
    "one alias": GOOD + "device: &d cpu\nmodel_args: *d\n",
    "alias to itself": GOOD + "metadata: &m {again: *m}\n",
    "nested lists": GOOD + "device: " + "[" * 30_000 + "]" * 30_000,
    "nested mappings": GOOD + "metadata: " + "{a: " * 200 + "1" + "}" * 200,
    "a key twice": GOOD + "tasks: [copa]\n",
    "a key twice inside": GOOD + "metadata: {a: 1, b: 2, a: 3}\n",
    "a key that is a number": GOOD + "3: 4\n",
    "a key that is true": GOOD + "yes: 4\n",
    "a key that is null": GOOD + "null: 4\n",
    "a key that is a list": GOOD + "? [a, b]\n: 4\n",
    "a merge": GOOD + "<<: {seed: 3}\n",
    "a number inside": GOOD + "metadata: {1: 2}\n",
    "a tag": GOOD + "device: !!python/object/apply:os.system [id]\n",
    "a function": GOOD + "device: !function utils.device\n",
    "bytes": GOOD + "device: !!binary AAAA\n",
    "bytes in metadata": GOOD + "metadata: {a: !!binary AAAA}\n",
    "a date in metadata": GOOD + "metadata: {a: 2026-01-01}\n",
    "a date that is none": GOOD + "device: 2026-99-99\n",
    "NaN in metadata": GOOD + "metadata: {a: .nan}\n",
    "digits": GOOD + "seed: " + "9" * 5000,
    "a set": "tasks: !!set {piqa, copa}\noutput_path: sweep\n",
    "two documents": GOOD + "---\n" + GOOD,
    "a list": "[tasks, piqa]",
    "a text": "tasks",
    "a number": "12",
    "nothing": "",
    "unknown": GOOD + "taks: [copa]\n",
    "NUL": GOOD + 'device: "c\\0u"\n',
    "NUL in the folder": 'tasks: [piqa]\noutput_path: "s\\0"\n',
    "too large": GOOD + "#" * 300_000,
    "large grid": GOOD + f"num_fewshot: {list(range(1000))}\nfewshot_seeds: {list(range(1000))}\n",
    "large ranking": GOOD
    + "ranking: random:"
    + "+".join(map(str, range(20_000)))
    + "\nprune_heads: 0,.1,.2,.3,.4,.5,.6\n",
}
VALUES = {
    "seed": ["-1", "4294967296", "9223372036854775808", "true", "1.5", "²", ".nan", ".inf", "[1, 2]", "null", "1e300"],
    "limit": ["0", "-1", ".nan", ".inf", "1e300", "1.5", "true", "²", "[]", "many", "1e13"],
    "importance_limit": ["1e300", ".inf", "no"],
    "num_fewshot": ["-1", "true", "[true]", "1e9", "²", ".nan", "[]", "[[1]]", "99999999999999999999999", "{a: 1}"],
    "fewshot_seeds": ["9223372036854775808", "-1", "[]", "[null]", "yes", "٣²"],
    "batch_size": ["0", "true", "automatic", "1e300", "[8]", "99999999999999999999"],
    "prune_heads": ["2", "-1", ".nan", "1/3", "true", "[[0.1]]", "²", "{a: 1}", "[]"],
    "ranking": ["random:²", "random:9223372036854775808", "random:-1", "3", "[[own]]", "true", "own.txt", "[]"],
    "tasks": ["[]", "3", "[3]", "{piqa: 1}", "true", "null", "''"],
    "output_path": ["3", "[a]", "true", "null"],
    "include_defaults": ["perhaps", "3", "[true]"],
    "device": ["3", "[cpu]", "true"],
    "model_args": ["3", "[3]", "true", "pretrained", "{pretrained: [a]}"],
    "metadata": ["3", "true", "text", "[3]"],
    "bootstrap_iters": ["-1", "1e300", "true"],
    "masks_at_once": ["0", "true", "1e300"],
    "num_workers": ["0", "true", "1e300"],
    "num_gpus": [".nan", ".inf", "-1", "true"],
    "num_cpus": [".nan", "null", "true"],
    "executor": ["slurm", "3"],
    "importance_split": ["train", "3"],
    "head_method": ["../x", "best", "''", "Gradient", "3", "true", "[gradient]"],
    "ffn_method": ["../x", "gradient.json", "null"],
}  # fmt: skip


def one_line(error):
    text = str(error.value)
    assert 0 < len(text) < 1500
    assert "\n" not in text
    return text


def write(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_meant_is_one_line_that_names_it(tmp_path, name):
    start = time.monotonic()
    with pytest.raises(PruneError) as error:
        load_configs(write(tmp_path, BAD[name]))
    assert "sweep.yaml" in one_line(error)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("key", VALUES)
def test_a_value_that_cannot_be_meant_is_one_line_that_names_the_setting(tmp_path, key):
    for value in VALUES[key]:
        lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key}:")]
        with pytest.raises(PruneError) as error:
            load_configs(write(tmp_path, "\n".join([*lines, f"{key}: {value}"])))
        assert f"sweep.yaml, line {len(lines) + 1}: {key}: " in one_line(error), value


def test_lines_are_named_for_keys_that_stand_twice_and_aliases(tmp_path):
    with pytest.raises(PruneError, match=r"sweep\.yaml, line 4: a: stands in line 3 already$"):
        load_configs(write(tmp_path, GOOD + "metadata: {a: 1,\n  a: 2}\n"))
    with pytest.raises(PruneError, match=r"sweep\.yaml, line 3: \*a: an alias; write out what it stands for$"):
        load_configs(write(tmp_path, "x: &a 1\ny: 1\nz: *a\n"))


def test_what_can_be_meant_is_taken(tmp_path):
    (found,) = load_configs(
        write(tmp_path, "\ufeff" + GOOD + "metadata: {sizes: [1, 2], deep: {a: b}}\nnum_fewshot: [null, 2]\n")
    )
    assert found.metadata == {"sizes": [1, 2], "deep": {"a": "b"}}
    assert found.num_fewshot == (None, 2)
    assert make_config({"tasks": "piqa", "output_path": "x", "metadata": "a=1,b=[1,2]"}).metadata == {
        "a": 1,
        "b": [1, 2],
    }


def test_mutated_files_end_in_settings_or_one_line(tmp_path):
    rng = random.Random(0)
    text = (
        GOOD + "num_fewshot: [0, 1]\nranking:\n  - own\n  - random:0+1\nprune_heads: [0, 0.5]\nmetadata: {a: [1, 2]}\n"
    )
    pieces = [
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!!",
        "- ",
        ": ",
        "\n",
        "\t",
        "'",
        ">",
        "%",
        "?",
        "~",
        ".nan",
        "1e999",
        "\x07",
        "\u202e",
        "0x",
        "1:60",
        "2026-13-01",
        "<<: ",
        "---\n",
    ]
    outcomes, lines = {True: 0, False: 0}, []
    for _ in range(400):
        mutated = text
        for _ in range(rng.randint(1, 2)):
            place, length = rng.randrange(len(mutated)), rng.choice([0, 0, 1, 5])
            mutated = mutated[:place] + rng.choice(pieces) + mutated[place + length :]
        try:
            taken = isinstance(load_configs(write(tmp_path, mutated))[0], SweepConfig)
        except PruneError as error:
            taken = False
            lines.append(str(error))
        outcomes[taken] += 1
    assert min(outcomes.values()) > 10
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize(
    "options",
    [
        ["--limit", "1e300"], ["--limit", "nan"], ["--limit", "²"], ["--seed", "9223372036854775808"],
        ["--num_fewshot", "²"], ["--fewshot_seeds", "9" * 5000], ["--ranking", "random:²"], ["--batch_size", "²"],
        ["--importance_limit", "inf"], ["--metadata", "no"], ["--prune_heads", "²"],
    ],
)  # fmt: skip
def test_odd_numbers_behind_options_of_a_sweep_are_one_line(tmp_path, options):
    arguments = ["sweep", "--tasks", "demo_facts", "-o", str(tmp_path / "sweep"), *options]
    found = CliRunner().invoke(cli, arguments)
    assert isinstance(found.exception, PruneError | SystemExit), found.exception
    assert found.exit_code in (1, 2)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("command", ["importance", "induction", "mask", "demo"])
@pytest.mark.parametrize("options", [["--seed", "9223372036854775808"], ["--seed", "-1"], ["--seed", "²"]])
def test_odd_seeds_of_every_command_are_a_usage_error(tmp_path, command, options):
    found = CliRunner().invoke(cli, [command, "-o", str(tmp_path / "out"), *options])
    assert found.exit_code == 2
    assert "--seed" in found.output


@pytest.mark.parametrize("limit", ["1e300", "inf", "nan", "²", "0", "1.5"])
def test_odd_limits_of_importance_are_one_line(tmp_path, limit):
    found = CliRunner().invoke(cli, ["importance", "--tasks", "demo_facts", "-o", str(tmp_path), "--limit", limit])
    assert isinstance(found.exception, PruneError)
    assert "limit=" in str(found.exception)


def test_a_folder_whose_name_is_not_utf_8_works_or_is_one_line(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/s\xff")
    config = make_config({"tasks": "piqa", "output_path": name})
    assert os.fsencode(config.output_path).endswith(b"s\xff")
    assert "output_path" not in config.grid()


def test_ready_settings_are_found_by_name_behind_files_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in READY:
        assert load_configs(Path(name), output_path="x") == load_configs(READY_FOLDER / f"{name}.yaml", output_path="x")
    (tmp_path / "opt-66b").mkdir()  # a checkpoint's folder
    assert len(load_configs("opt-66b", output_path="x")[0].tasks) == 14
    (tmp_path / "bundled").write_text("tasks: [mine]\n")
    assert load_configs("bundled", output_path="x")[0].tasks == ("mine",)
    for name, message in (
        ("bundle", "bundle: no such file, nor one of the ready settings: bundled, opt-66b"),
        ("opt-66b.yaml", "opt-66b.yaml"),
        ("../bundled", "../bundled"),
    ):
        with pytest.raises(FileFormatError, match=f"^{re.escape(message)}"):
            load_configs(name, output_path="x")


GRIDS = "output_path: out\ntasks: [a]\ngrids:\n"


def test_several_grids_share_what_is_not_theirs_and_flags_count_in_each(tmp_path):
    path = write(tmp_path, GRIDS + "- {ranking: [own, aggregate], prune_heads: 0.1}\n- {prune_ffns: [0.2, 0.5]}\n")
    first, second = load_configs(path)
    assert (first.tasks, first.ranking, first.prune_heads, first.prune_ffns) == (
        ("a",),
        ("own", "aggregate"),
        ("0.1",),
        ("0",),
    )
    assert (second.tasks, second.ranking, second.prune_heads, second.prune_ffns) == (
        ("a",),
        ("own",),
        ("0",),
        ("0.2", "0.5"),
    )
    assert {config.ranking for config in load_configs(path, ranking="random:0")} == {("random:0",)}
    (alone,) = load_configs(path, ranking="own", prune_heads="0.3", prune_ffns="0")  # then they are one
    assert alone.prune_heads == ("0.3",)


@pytest.mark.parametrize(
    ("grids", "said"),
    [
        ("  a: 1\n", r"line 3: grids: expected a list"),
        ("  []\n", r"line 3: grids: expected a list"),
        ("- 3\n", r"line 3: grids: 3 in number 1; expected a mapping of ranking, prune_heads, prune_ffns"),
        ("- {prune_heads: 0.1}\n- {tasks: [b]}\n", r"line 3: grids: tasks in number 2; expected a mapping"),
        ("- {prune_heads: 1.5}\n", r"line 3: grids: prune_heads: .*1\.5"),
    ],
)
def test_a_wrong_grid_is_one_line_that_names_it(tmp_path, grids, said):
    with pytest.raises(PruneError, match=said) as error:
        load_configs(write(tmp_path, GRIDS + grids))
    one_line(error)
