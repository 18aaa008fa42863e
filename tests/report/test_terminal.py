"""The report says what the outcome holds; it never fails on an unusual one."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from tts_engine.compute.ledger import Budget, Scope
from tts_engine.report.intervals import Interval
from tts_engine.report.progress import Progress
from tts_engine.report.summary import summarize
from tts_engine.report.terminal import cost_report, make_console, set_report, solution_report
from tts_engine.report.words import bounded, duration, short
from tts_engine.run import Event
from tts_engine.types import Completion, Failure, Finish, Key, Prompt, Request, Role, Sampling, Usage

PAIRS = [("5", 0.9), ("7", 0.6), ("7", 0.5), (None, None), ("5", 0.1)]


def render(*parts: RenderableType, width: int = 100) -> str:
    console = make_console(file=io.StringIO(), width=width)
    for part in parts:
        console.print(part)
    return written(console)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_solved_problem(make_outcome: Any) -> None:  # noqa: ANN401
    text = render(solution_report(make_outcome(PAIRS, pred="7")))
    assert "Answer: 7 ✓ right" in text
    assert "0.60  Step 2: the answer is 7." in text
    assert "print(3+4)" in text
    assert "→ 7" in text
    assert "7 ✓" in text
    assert "⇒ 5" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    "fields",
    [
        {"pred": "5"},
        {"pred": None},
        {"reference": None, "pred": "7"},
        {"stop_reason": "budget: run", "failures": (Failure(where="budget", error="E", message="m"),)},
    ],
)
def test_unusual_outcomes(make_outcome: Any, fields: dict[str, Any]) -> None:  # noqa: ANN401
    text = render(solution_report(make_outcome(PAIRS, **fields)), solution_report(make_outcome([], **fields)), width=40)
    assert "Answer: " in text


def test_text_from_models_is_no_markup(make_outcome: Any) -> None:  # noqa: ANN401
    text = render(solution_report(make_outcome([("[/red]", 0.5)], pred="[/red]")))
    assert "[/red]" in text


def test_costs_by_role(make_outcome: Any) -> None:  # noqa: ANN401
    lines = render(cost_report([make_outcome(PAIRS)] * 1000)).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["generate"] == ["2k", "10k", "0", "20k", "0", "1G", "0", "0"]
    assert rows["total"] == ["6k", "40k", "20k", "60k", "0", "4G", "0", "4k"]


@pytest.mark.parametrize(
    ("ray", "words"),
    [
        ({"lost": ["a", "b"], "moved": 3, "given_up": 0}, "workers lost: 2 (b); problems moved to another: 3\n"),
        ({"lost": [], "not_started": ["full"], "moved": 0, "given_up": 0}, "workers that did not start: 1 (full)"),
        ({"lost": [], "not_started": [], "moved": 0, "given_up": 0}, None),
    ],
)
def test_what_became_of_workers(make_outcome: Any, ray: dict[str, Any], words: str | None) -> None:  # noqa: ANN401
    text = render(set_report(summarize([make_outcome(PAIRS)]) | {"ray": ray}, "beam"))
    assert words in text if words else "workers" not in text


def test_a_set_beside_not_searching(make_outcome: Any) -> None:  # noqa: ANN401
    outcomes = [make_outcome(PAIRS, pred="7", name=name) for name in "abcd"]
    plain = [make_outcome([("7", None), ("5", None)], pred="5", name=name) for name in "abcd"]
    text = render(set_report(summarize(outcomes, plain), "beam"))
    rows = {line[:24].strip(): line[24:].split() for line in text.splitlines()}
    assert rows["beam"][:2] == ["100.0", "%"]
    assert rows["one sample, no search"][0] == "50.0"
    assert rows["majority of 2"][0] == "0.0"
    assert "+50.0 points over one sample" in text


def test_numbers_for_people() -> None:
    assert [short(n) for n in (0, 7, 999, 1000, 12_345, 999_999, 1.5e13)] == [
        *("0", "7", "999", "1k", "12.3k", "1000k", "15T")
    ]
    assert [duration(s) for s in (7, 750, 3723)] == ["0:07", "12:30", "1:02:03"]


def test_a_value_with_its_interval() -> None:
    found = Interval(value=0.75, low=0.5312, high=0.888)
    assert bounded(found) == bounded(found.asdict()) == "75.0 [53.1, 88.8]"
    assert bounded({"value": 1, "low": -1, "high": 2}, "+.2f", 1) == "+1.00 [-1.00, +2.00]"


def test_progress_counts_what_happens(make_outcome: Any) -> None:  # noqa: ANN401
    clock = iter(range(100))
    console = make_console(file=io.StringIO(), width=200)
    budget = Budget(tokens=50_000, flops=1e12, seconds=90)
    ledger = Scope.root(budget, now=lambda: 0.0)
    lanes = ledger.split(2, "share")
    lanes[0].charge(Role.GENERATE, "m", Usage(completion=10_000))
    progress = Progress(2, ledger, budget, console, now=lambda: float(next(clock)))
    request = Request(role=Role.GENERATE, model="m", prompt=Prompt(messages=()), sampling=Sampling(), key=Key(0))
    completion = Completion(text="", tokens=9, finish=Finish.EOS, usage=Usage(completion=1000))
    with progress:
        progress.on_event(Event(kind="problem_started", problem="a"))
        progress.on_event(Event(kind="problem_started", problem="b"))
        progress.on_event(Event(kind="call", problem="a", data={"request": request, "completion": completion}))
        progress.on_event(Event(kind="problem_done", problem="a", data={"outcome": make_outcome(PAIRS, pred="7")}))
    text = " ".join(progress.lines())
    assert "1/2 problems, 1 under way" in text
    assert "accuracy 100.0 %" in text
    assert "generate: 1 calls" in text
    assert "budget left: 40k tokens, 1T FLOPs, 90 s" in text
    assert "1/2" in render(progress.render(), width=200)
    assert "problems" in written(console)


def test_quiet_progress_prints_nothing() -> None:
    console = make_console(file=io.StringIO())
    with Progress(
        1, Scope.root(Budget()), Budget(), console, quiet=True, now=iter(range(0, 900, 9)).__next__
    ) as progress:
        progress.on_event(Event(kind="problem_started", problem="a"))
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
