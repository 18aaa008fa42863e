"""Answers: extraction, canonical forms, equivalence in a process of its own, groups."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.formats.answers import extract_answer, group_answers, same_answer
from tts_engine.formats.canonical import canonical, decided
from tts_engine.formats.equivalence import Grader, compare


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{4} and \\boxed{5}.", "5"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{", None),
        ("\\boxed{ }", None),
        ("\\boxed{a}b}", "a"),
        ("\\boxed{{a}{b", None),
        ("4", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


SAME = [
    ("18", "18.0"),
    ("-5", "$-5$"),
    ("1,000", "1000"),
    ("1 000", "1000"),
    ("1{,}000", "1000"),
    ("100,000", "100000.0"),
    ("0,25", "1/4"),
    ("\\$10", "10"),
    ("\\(7\\)", "7."),
    ("0.5", "\\frac{1}{2}"),
    ("$\\frac{2}{4}$", "0.5"),
    ("\\dfrac12", "1/2"),
    ("0.333333", "\\frac{1}{3}"),
    ("x^2+2x", "x(x+2)"),
    ("\\sqrt{8}", "2\\sqrt{2}"),
    ("x=5", "5"),
    ("$10/9$", "$\\frac{20}{18} = \\frac{10}{9}$"),
    ("(-2, 3)", "-2 < x < 3"),
    ("\\{1, 2\\}", "\\{2, 1\\}"),
    ("\\text{Monday}", "monday"),
    ("2^{10}", "1024"),
    ("10\\%", "10"),
]
DIFFERENT = [
    ("18", "81"),
    ("", "1"),
    ("0.333", "\\frac{1}{3}"),
    ("1,2", "12"),
    ("x+1", "y+1"),
    ("(1, 2)", "(2, 1)"),
    ("Monday", "Tuesday"),
    ("five apples", "six apples"),
    ("x < 2", "x > 2"),
    ("\\frac{1}{0}", "1"),
]


@pytest.mark.parametrize(("a", "b", "equal"), [*((*p, True) for p in SAME), *((*p, False) for p in DIFFERENT)])
def test_equivalence_and_groups_agree_in_both_orders(a: str, b: str, equal: bool) -> None:
    assert same_answer(a, b) is equal
    assert same_answer(b, a) is equal
    assert group_answers([a, b]) == group_answers([b, a]) == ([[0, 1]] if equal else [[0], [1]])


@pytest.mark.parametrize(
    ("answer", "reference"), [("11a+c", "7=11a+c"), ("0", "a+3z=0"), ("1", "2x+z=1")], ids=["7", "0", "1"]
)
def test_a_side_of_an_equation_is_not_the_equation(answer: str, reference: str) -> None:
    assert not same_answer(f"${answer}$", f"${reference}$")
    assert group_answers([answer, reference]) == [[0], [1]]


def test_groups_keep_program_order() -> None:
    assert group_answers(["2", None, "3", "2.0", "3"]) == [[0, 3], [2, 4]]


def test_groups_are_those_of_comparing_every_pair() -> None:
    answers = [
        "x+1",
        "1+x",
        "2",
        "x^2",
        "\\{1,2\\}",
        "(1,2)",
        "x \\cdot x",
        "4/2",
        "red 12 of x",
        "red 12 of y",
        "50\\%",
        "\\frac{1}{2}",
    ]
    place = {index: number for number, group in enumerate(group_answers(answers)) for index in group}
    for i, j in combinations(range(len(answers)), 2):
        assert (place[i] == place[j]) == all(compare(answers[i], answers[j])), (answers[i], answers[j])


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(1, 999), st.sampled_from(["{}/{}", "\\frac{{{}}}{{{}}}"]))
def test_plain_fractions_are_decided_without_algebra(over: int, under: int, how: str) -> None:
    text = how.format(abs(over), under)
    form = canonical(f"-{text}" if over < 0 else text)
    assert form.number is not None
    assert form.number * under == over
    assert decided(form, canonical(str(form.number))) is True
    assert decided(form, canonical(str(form.number + 1))) is False


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_any_text_has_a_form_that_equals_itself(text: str) -> None:
    form = canonical(text)
    assert canonical(text) == form
    assert decided(form, form) is bool(form.text)


@pytest.fixture
def grader() -> Iterator[Grader]:
    found = Grader()
    yield found
    found.close()


@pytest.mark.parametrize("absurd", ["9^{9^{9^{9}}}", "10000000000!"])
def test_absurd_expressions_are_given_up_once(grader: Grader, absurd: str) -> None:
    assert grader.ask(absurd, "1") == [False, False] or grader.ask(absurd, "1") == (False, False)
    assert not any(grader.ask(absurd, "\\sqrt{4}"))
    assert all(grader.ask("\\sqrt{4}", "2"))


def test_a_worker_that_dies_or_hangs_is_replaced(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tts_engine.formats.equivalence.PATIENCE", 3.0)
    assert all(grader.ask("x+1", "1+x"))
    for number in (signal.SIGKILL, signal.SIGSTOP):
        assert grader._process is not None
        os.kill(grader._process.pid, number)
        grader.ask(f"{number}", "x")
        assert all(grader.ask("x+1", "1+x"))


def test_threads_share_the_worker(grader: Grader) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: grader.ask(f"x+{n % 5}", f"{n % 7}+x")[0], range(70)))
    assert found == [n % 5 == n % 7 for n in range(70)]
