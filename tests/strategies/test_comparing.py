"""Answers that need algebra are compared beside the event loop, whichever strategy asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.strategies.conftest import Digits, MakeSearch
from tts_engine.formats import equivalence
from tts_engine.formats.answers import compared, group_answers
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Candidate, Key, Step, Usage


@dataclass
class Sums(Digits):
    """Its answers are sums, of which some are the same."""

    def _candidate(self, node: Candidate, key: Key, steps: tuple[Step, ...], usage: Usage) -> Candidate:
        child = super()._candidate(node, key, steps, usage)
        return replace(child, answer=f"x+{int(child.answer) % 3}") if child.answer else child


@dataclass
class Listening(equivalence.Grader):
    """Notes the threads that ask."""

    threads: set[threading.Thread] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def ask(self, *texts: str) -> Any:  # noqa: ANN401
        self.threads.add(threading.current_thread())
        return super().ask(*texts)


@pytest.fixture
def grader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    """A new process that knows nothing, which everybody asks."""
    found = Listening()
    monkeypatch.setattr(equivalence, "_GRADER", found)
    equivalence.compare.cache_clear()
    equivalence.mark.cache_clear()
    yield found
    found.close()


@pytest.mark.parametrize("name", sorted(STRATEGIES))
async def test_no_strategy_asks_in_the_event_loop(name: str, make_search: MakeSearch, grader: Listening) -> None:
    outcome = await STRATEGIES[name](make_search(Sums(depth=2)))
    assert outcome.answer is not None
    assert outcome.answer.startswith("x+")
    assert outcome.correct is False
    assert grader.threads
    assert threading.main_thread() not in grader.threads


async def test_adaptive_self_consistency_that_draws_all_at_once(make_search: MakeSearch, grader: Listening) -> None:
    outcome = await STRATEGIES["adaptive-self-consistency"](make_search(Sums(depth=2)), eager=True)
    assert outcome.answer is not None
    assert grader.threads
    assert threading.main_thread() not in grader.threads


@pytest.mark.parametrize("texts", [["1", "2", "3.0", None], ["red apples", "5"], ["x+1", "x+1", None], ["x+1", ""]])
async def test_what_the_forms_decide_is_not_asked(texts: list[str | None], grader: Listening) -> None:
    await compared(texts)
    assert not grader.threads


async def test_what_was_found_is_remembered(grader: Listening) -> None:
    await compared(["x+1", "1+x", "x+2"], "2+x")
    grader.threads.clear()
    assert group_answers(["x+1", "1+x", "x+2"]) == [[0, 1], [2]]
    assert not grader.threads


async def test_a_grader_that_cannot_start_is_left_to_who_needs_it(
    grader: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/no/python")
    await compared(["x+1", "x+2"])
    assert grader.threads
