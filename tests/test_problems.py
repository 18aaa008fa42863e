"""Problem sets: the forms of the field, and what is said of a bad line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.errors import DataError
from tts_engine.problems import builtin_sets, load_problems, parse_problems, reference_answer


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        ({"answer": "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9.\n#### 18"}, "18"),
        ({"answer": "\\frac{1}{2}", "solution": "\\boxed{3}"}, "\\frac{1}{2}"),
        (
            {"solution": "so it is $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.$"},
            "\\left( 3, \\frac{\\pi}{2} \\right)",
        ),
        ({"answer": 27.0}, "27"),
        ({"answer": 2.5}, "2.5"),
        ({"answer": 60}, "60"),
        ({"answer": " "}, None),
        ({}, None),
    ],
)
def test_answers_in_the_forms_of_the_field(record: dict[str, Any], answer: str | None) -> None:
    assert reference_answer(record) == answer


def test_fields_of_a_problem() -> None:
    text = '{"question": " Q? ", "answer": 3, "id": 7, "level": "easy"}\n\n'
    text += '{"problem": "R?", "unique_id": "r"}\n{"problem": "S?"}'
    first, second, third = parse_problems(text, "folder/set.jsonl", lines=True)
    assert (first.id, first.prompt, first.answer, dict(first.meta)) == ("7", "Q?", "3", {"level": "easy"})
    assert (second.id, second.answer) == ("r", None)
    assert third.id == "set-2"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nope", "set.jsonl line 2 is not JSON"),
        ("[1]", "set.jsonl line 2 is a list, not an object"),
        ('{"prompt": "x"}', "set.jsonl line 2 has no text under 'problem' or 'question'"),
        ('{"problem": " "}', "line 2 has no text"),
        ('{"problem": "x", "answer": [1]}', "line 2: the answer must be text or a number"),
        ('{"problem": "x", "answer": true}', "line 2: the answer is true or false"),
        ('{"problem": "x", "answer": Infinity}', "line 2"),
        ('{"problem": "x", "id": 1.5}', "line 2: the id must be text"),
        ('{"problem": "x", "id": "a"}', "line 2: the id 'a' was used before, in set.jsonl line 1"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_problems('{"problem": "x", "id": "a"}\n' + line, "set.jsonl", lines=True)
    assert "\n" not in str(caught.value)


def test_all_file_forms_hold_the_same(tmp_path: Path) -> None:
    records = [{"id": str(i), "problem": f"{i}+1?", "answer": str(i + 1)} for i in range(3)]
    lines = "\n".join(map(json.dumps, records)).encode()
    listed = json.dumps(records, indent=1).encode()
    contents = {
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines),
        "a.json": listed,
        "a.json.gz": gzip.compress(listed),
        "a.txt": b"\xef\xbb\xbf" + lines,
    }
    found = []
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        found.append(load_problems(str(tmp_path / name)))
    assert [problem.answer for problem in found[0]] == ["1", "2", "3"]
    assert all(problems == found[0] for problems in found)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "holds no problem"),
        ("a.json", b'{"problem": "x"}', "must hold a list"),
        ("a.json", b"[\n{]", "line 2 is not JSON"),
        ("a.jsonl", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl.gz", b"plain", "cannot read"),
        ("a.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-9], "cannot read"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        load_problems(str(tmp_path / name))
    assert name in str(caught.value)


def test_an_unknown_set_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="no file or problem set 'arith'") as caught:
        load_problems("arith")
    assert all(name in str(caught.value) for name in builtin_sets())


@pytest.mark.parametrize("name", sorted(builtin_sets()))
def test_built_in_sets_load(name: str) -> None:
    problems = load_problems(name)
    assert all(problem.answer for problem in problems)


@given(st.text(min_size=1).filter(str.strip), st.none() | st.text())
def test_any_text_survives(prompt: str, answer: str | None) -> None:
    (problem,) = parse_problems(json.dumps({"problem": prompt, "answer": answer}), "x", lines=True)
    assert problem.prompt == prompt.strip()
    assert "####" in (answer or "") or problem.answer == ((answer or "").strip() or None)
