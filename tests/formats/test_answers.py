"""Answers: extraction and equivalence."""

from __future__ import annotations

import pytest

from tts_engine.formats.answers import extract_answer, group_answers, same_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{4} and \\boxed{5}.", "5"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{", None),
        ("\\boxed{ }", None),
        ("4", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("18", "18.0", True),
        ("1,000", "1000", True),
        ("0.5", "\\frac{1}{2}", True),
        ("$\\frac{2}{4}$", "0.5", True),
        ("18", "81", False),
        ("x^2+2x", "x(x+2)", True),
        ("100,000", "100000.0", True),
        ("", "1", False),
    ],
)
def test_equivalence_is_symmetric(a: str, b: str, equal: bool) -> None:
    assert same_answer(a, b) is equal
    assert same_answer(b, a) is equal


def test_groups_keep_program_order() -> None:
    assert group_answers(["2", None, "3", "2.0", "3"]) == [[0, 3], [2, 4]]
