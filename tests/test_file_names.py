"""Names from files, tasks and models become file names: always inside the folder, never each other's."""

import itertools
import re
import string

import pytest

from lm_eval_prune.file_names import distinct_names, importance_file_name, numbered, safe_name, slug

HOSTILE = [
    "/../../../x", "../x", "..", ".", "", "a/b", "a\\b", "C:x", "~", "~root/x", "-rf", "--help", ".hidden", "a.", "a ",
    " a", "con", "CON.txt", "lpt9.json", "nul", "a\0b", "a\nb", "\x1b[31mred", "\u202egnp.exe", "\ud800", "a" * 300,
    "ä" * 300, "模型", "é", "e\u0301", "a:b", "a*b", "a?b", "<a>", 'a"b', "a|b", "a%2e%2e%2fb", "aggregate",
    "a\u2024\u2024/",
    "\uff0e\uff0e\uff0f", "gradient-12345678", "...", "-", "_.", "$HOME", "`x`", "a;b", "\u00ad", "\u200b",
]  # fmt: skip
"""Texts that climb, hide, command, are reserved somewhere, or are too long for a file system."""
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


def harmless(name):
    return (
        set(name) <= set(string.ascii_letters + string.digits + "_.+-")
        and 0 < len(name) <= 100
        and name[0] not in ".-"
        and name[-1] != "."
        and ".." not in name
        and name.split(".")[0].lower() not in RESERVED
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_a_harmless_name_in_the_folder(text, tmp_path):
    for name in (safe_name(text), slug(text), *distinct_names([text, "other"]).values()):
        assert harmless(name), name
    path = tmp_path / importance_file_name(safe_name(text), 5, "heads", text)
    path.write_text("")
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_different_texts_have_different_names():
    texts = [*HOSTILE, *("".join(letters) for letters in itertools.product("aA/.-é\u0301 ", repeat=3))]
    texts += [safe_name(text) for text in texts if safe_name(text) != text]  # names are texts too
    assert len({safe_name(text) for text in set(texts)}) == len(set(texts))
    names = distinct_names(texts)
    assert list(names) == list(dict.fromkeys(texts))
    assert len({name.lower() for name in names.values()}) == len(names)


HARNESS_TASKS = [
    "piqa", "bbh_cot_fewshot_boolean_expressions", "flores_eng_Latn-dik_Latn_prompt_3", "bhs__basque__DO__S_DO_V_AUX",
    "global_mmlu_full_am_high_school_government_and_politics", "advanced_ai_risk_lm-corrigible-neutral-HHH", "v1.1+x",
]  # fmt: skip


def test_tasks_of_the_harness_keep_their_names():
    assert distinct_names(HARNESS_TASKS) == {name: name for name in HARNESS_TASKS}


def test_what_differs_in_case_alone_is_told_apart_whatever_the_order():
    for texts in itertools.permutations(["piqa", "Piqa", "PIQA"]):
        names = distinct_names(texts)
        assert names["piqa"] == "piqa"
        assert re.fullmatch("Piqa-[0-9a-f]{8}", names["Piqa"])
    assert distinct_names(["Piqa"]) == {"Piqa": "Piqa"}


def test_no_task_has_the_aggregates_name():
    named = importance_file_name(safe_name("aggregate"), 5, "heads", "gradient")
    assert named != importance_file_name("aggregate", 5, "heads", "gradient") == "aggregate-5shot-heads-gradient.json"


def test_numbers_do_not_meet_names_that_look_numbered():
    assert numbered(["a", "a", "a-2", "a", "b"]) == ["a", "a-2", "a-2-2", "a-3", "b"]
    for names in itertools.product(["a", "a-2", "a-3", "a-2-2"], repeat=5):
        assert len(set(numbered(names))) == 5
