"""`lm-eval-prune families`: every type of transformers is proven, accepted or refused in one line, by trying it."""

import io
import json

import pytest
from click.testing import CliRunner
from rich.console import Console

from lm_eval_prune.abilities import ABILITIES
from lm_eval_prune.cli.families import _tables, command
from lm_eval_prune.decoders.table import PROVEN
from lm_eval_prune.errors import ArgumentError
from lm_eval_prune.families import FamilyRow, _Worker, as_markdown, survey, try_type

WHOLLY = {
    "llama": "proven",
    "gpt_neox": "proven",
    "bert": "accepted",
    "cohere": "accepted",
    "dbrx": "accepted",
    "deepseek_v3": "accepted",
    "gpt_bigcode": "accepted",
    "gpt_oss": "accepted",
    "mixtral": "accepted",
    "phi3": "accepted",
}
"""All that there is works."""
MASKED = {"bloom": "AttentionInterface", "falcon": "computed apart", "llama4_text": "cut into chunks"}
"""Masks work, and why packs and what reads attention does not."""
REFUSED = {
    "bamba": "layer 0 has no heads",
    "bitnet": "mixes them",
    "emu3": "no causal language model",
    "gemma4_assistant": "no map to keys",
    "mamba": "no attention found",
    "musicgen": "audio",
    "xlstm": "no attention found",
}


@pytest.mark.parametrize("model_type", WHOLLY)
def test_everything_works_in_a_family_that_is_proven_or_accepted(model_type):
    row = try_type(model_type)
    assert (row.status, row.reason, row.notes) == (WHOLLY[model_type], "", {})
    assert (row.status == "proven") == (model_type in PROVEN)
    assert row.works == dict.fromkeys(ABILITIES, True)


@pytest.mark.parametrize("model_type", MASKED)
def test_masks_work_where_attention_is_the_models_own(model_type):
    row = try_type(model_type)
    assert row.status == "accepted"
    assert {"masks", "generation", "gradient importance", "plan"} <= {
        name for name, works in row.works.items() if works
    }
    for ability in ("packed scoring", "induction"):
        assert MASKED[model_type] in row.notes[ability]
        assert "\n" not in row.notes[ability]


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_refusal_is_one_line_that_says_why(model_type):
    row = try_type(model_type)
    assert (row.status, row.works) == ("refused", {})
    assert REFUSED[model_type] in row.reason
    assert "\n" not in row.reason


@pytest.mark.parametrize(
    ("model_type", "needs"),
    [
        ("bart", "backend=causal"),
        ("electra", "is_decoder=true"),
        ("mbart", "backend=causal"),
        ("phi3", ""),
        ("opt", ""),
    ],
)
def test_what_a_checkpoint_of_usual_settings_must_be_told_is_said(model_type, needs):
    row = try_type(model_type)
    assert row.needs == needs
    assert f"| `{model_type}` | {row.status}{f' with {needs}' if needs else ''} |" in as_markdown([row])


@pytest.mark.slow
def test_what_takes_too_long_or_dies_is_untried_and_the_next_is_tried():
    rows = list(survey(["llama"], seconds=0.01))
    assert [(row.status, row.reason) for row in rows] == [
        ("untried", "a tiny model of it was not done in 0.01 seconds")
    ]
    worker = _Worker()
    worker.process.kill()
    worker.process.join()
    assert worker.row("llama", 60) == "a tiny model of it ended the process"
    assert [row.status for row in survey(["no_such_type", "opt"])] == ["untried", "proven"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".json", ".md"])
def test_the_command_writes_what_it_shows(tmp_path, suffix):
    path = tmp_path / f"families{suffix}"
    found = CliRunner(env={"COLUMNS": "200"}).invoke(
        command, ["opt", "rwkv", "bart", "--output_path", str(path)], catch_exceptions=False
    )
    assert found.exit_code == 0
    text = path.read_text()
    if suffix == ".json":
        rows = json.loads(text)["families"]
        assert [(row["model_type"], row["status"]) for row in rows] == [
            ("opt", "proven"),
            ("rwkv", "refused"),
            ("bart", "accepted"),
        ]
    else:
        assert text.startswith("3 types: 1 proven, 1 accepted, 1 refused, 0 untried")
        assert "| `rwkv` | refused | no map from its heads" in text
    assert "no map from its heads" in found.output
    assert "Taken with backend=causal alone: bart" in found.output


@pytest.mark.parametrize("model_type", ["phi3", "modernbert-decoder", "roberta-prelayernorm"])
def test_types_stand_whole_in_a_narrow_terminal(model_type):
    row = FamilyRow(model_type=model_type, status="accepted", works=dict.fromkeys(ABILITIES, True))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*_tables([row]))
    text = console.export_text()
    assert model_type in text
    assert "accepted" in text
    assert "…" not in text
    assert text.count("yes") == len(ABILITIES)


def test_markdown_has_a_line_for_each_type():
    lines = as_markdown([try_type("opt"), try_type("mamba")]).splitlines()
    assert sum(line.startswith(("| `opt`", "| `mamba`")) for line in lines) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense: transformers has no causal language model of this type"),
        (["opt", "--all"], "--all and opt exclude one another"),
        (["opt", "--output_path", "families.txt"], "expected a name that ends in .json or .md"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
