"""Files of strangers are read as what they are, within bounds of time and memory, or refused in one line."""

import json
import os
import socket
import time

import pytest
from pydantic import BaseModel

from lm_eval_prune.errors import FileFormatError
from lm_eval_prune.files import read_json, write_json
from lm_eval_prune.strict_json import MAX_DEPTH, MAX_DIGITS, json_line, parse_json, validated

MARKS = [b"", b"\xef\xbb\xbf", "\ufeff".encode("utf-16-le"), "\ufeff".encode("utf-16-be")]


@pytest.mark.parametrize(("mark", "encoding"), zip(MARKS, ["utf-8", "utf-8", "utf-16-le", "utf-16-be"], strict=True))
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, mark, encoding):
    content = {"é": ["模型", 1.5, None], "x": {"y": "\ufeff"}}
    (tmp_path / "a.json").write_bytes(mark + json.dumps(content, ensure_ascii=False).encode(encoding))
    assert read_json(tmp_path / "a.json") == content


def test_what_is_read_is_what_was_written():
    content = {
        "a": [1, -2.5, 1e300, True, None, "x\u0000", {"b": []}],
        "n": 10 ** (MAX_DIGITS - 1),
        "pair": "\U0001f469",
    }
    assert parse_json(json.dumps(content).encode(), "x") == content
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse_json(nested.encode(), "x")) == nested


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON: Expecting value"),
        ("{", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ("[1,]", "not valid JSON"),
        ('{"a": 1, "b": 2, "a": 3}', 'key "a" repeated in one object'),
        ('{"x": [{"": 1, "": 1}]}', 'key "" repeated'),
        ("[NaN]", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("[1e999]", "1e999 is beyond the largest number"),
        ("[-1E4000]", "beyond the largest number"),
        ("1" + "0" * MAX_DIGITS, "a number of 301 digits; expected at most 300"),
        ("[" + "9" * 10_000 + "]", "a number of 10000 digits"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deeply"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('{"\\uDFFF": 1}', "half of a surrogate pair"),
        ('["\\ud83d\\ud83d"]', "half of a surrogate pair"),
        (b"\xff\xfe\x00", "byte 0 is not UTF-16-LE"),
        (b'{"a": "\xe9"}', "byte 7 is not UTF-8"),
    ],
)
def test_what_is_no_plain_json_is_refused_in_one_line(text, message):
    with pytest.raises(FileFormatError) as caught:
        parse_json(text if isinstance(text, bytes) else text.encode(), "folder/x.json")
    assert str(caught.value).startswith("folder/x.json: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_results_of_others_may_hold_nan_and_halves():
    digits = b"9" * 5000
    text = b'{"nan": NaN, "big": 1e999, "half": "\\ud800", "digits": [' + digits + b", -" + digits + b"]}"
    found = parse_json(text, "x", allow_nan=True, allow_halves=True)
    assert found["nan"] != found["nan"]
    assert (found["big"], found["half"]) == (float("inf"), "<U+D800>")
    assert found["digits"] == [float("inf"), -float("inf")]
    for allowed in ({"allow_nan": True}, {"allow_halves": True}):
        with pytest.raises(FileFormatError):
            parse_json(text, "x", **allowed)


HALVES = {
    "a key": ('{"\\ud800": 1}', {"<U+D800>": 1}),
    "a list": ('["\\uDFFFx", ["\\ud83d\\ude00"]]', ["<U+DFFF>x", ["\U0001f600"]]),
    "the wrong way round": ('{"a": {"b": "\\ude00\\ud83d"}}', {"a": {"b": "<U+DE00><U+D83D>"}}),
    "beside what is none": ('["\\u00e9\\\\ud800", 1, null]', ["é\\ud800", 1, None]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("text", "found"), HALVES.values(), ids=list(HALVES))
def test_halves_of_pairs_become_their_numbers_or_are_refused(text, found, encoding):
    data = text.encode(encoding)
    read = parse_json(data, "x", allow_halves=True)
    assert read == found
    json.dumps(read, ensure_ascii=False).encode()
    if "<U+" in repr(found):
        with pytest.raises(FileFormatError, match="half of a surrogate pair"):
            parse_json(data, "x")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3_000_000,
        "[" + "{}," * 3_000_000 + "1]",
        "[" + "[]," * 3_000_000 + "1]",
        "[" + "0," * 6_000_000 + "0]",
        "{" + ",".join(f'"k{number}":0' for number in range(200_000)) + ',"k199999":0}',
        "[" + "7" * 9_000_000 + "]",
    ],
    ids=["nested", "objects", "lists", "numbers", "repeated key", "digits"],
)
def test_small_files_cost_little(text):
    start = time.process_time()
    with pytest.raises(FileFormatError):
        parse_json(text.encode(), "x")
    assert time.process_time() - start < 5


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to("loop.json")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for name, message in (
            ("pipe.json", "a pipe, socket or device"),
            ("s", "a pipe, socket or device"),
            ("folder.json", "a folder"),
            ("loop.json", "cannot be read"),
            ("absent.json", "no such file"),
            ("a\0b", "no such file"),
            ("x" * 5000, "cannot be read"),
        ):
            with pytest.raises(FileFormatError, match=message):
                read_json(tmp_path / name)
    with pytest.raises(FileFormatError, match="a pipe, socket or device"):
        read_json(os.devnull)


def test_half_a_pair_is_not_written(tmp_path):
    with pytest.raises(FileFormatError, match="half of a surrogate pair"):
        write_json(tmp_path / "x.json", {"a": "\ud800"})
    assert list(tmp_path.iterdir()) == []


def test_values_in_messages_are_short_whatever_they_are():
    loop = []
    loop.append(loop)
    for value in (loop, "x" * 1000, {"a": [1] * 1000}, object(), "a\nb", b"x"):
        assert len(json_line(value)) <= 60
        assert "\n" not in json_line(value)


def test_a_schema_takes_the_header_as_it_is_spelt():
    from typing import Literal

    class File(BaseModel):
        format: Literal["f"]
        version: Literal[1]

    assert validated(File, {"format": "f", "version": 1}, "x").version == 1
    for content, message in (
        ({}, 'x: "format" is null; expected "f"'),
        ({"format": "g", "version": 1}, 'x: "format" is "g"; expected "f"'),
        ({"format": "f"}, 'x: "version" is null; this release reads version 1'),
        ({"format": "f", "version": True}, 'x: "version" is true; this release reads version 1'),
        ({"format": "f", "version": 1.0}, 'x: "version" is 1.0; this release reads version 1'),
    ):
        with pytest.raises(FileFormatError) as caught:
            validated(File, content, "x")
        assert str(caught.value) == message
