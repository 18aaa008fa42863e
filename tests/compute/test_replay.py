"""Buying again from recorded draws: what is shared is paid once, and tells of other solutions."""

from __future__ import annotations

import pytest

from tts_engine.compute.allocator import Answer, Beliefs, Planner
from tts_engine.compute.replay import Bought, Recording, Solution, Turn, static, step_votes

STEPWISE = Beliefs(passes_right=(0.9, 0.9, 0.9), passes_wrong=(0.1, 0.5, 0.6))
TEXTS = {0: ("a", "b", "c"), 1: ("a", "b", "d"), 2: ("x", "y", "z"), 3: ("x", "u", "v")}
"""Steps of four solutions; the verifier rejects step c of the first, and x."""


def chain(text: int) -> list[Turn]:
    steps = TEXTS[text]
    stops = next((i for i, step in enumerate(steps) if step in "cx"), None)
    turns = steps if stops is None else steps[: stops + 1]
    return [Turn("".join(steps[: i + 1]), 10.0, 10, stops is None) for i in range(len(turns))]


ITEM = Recording(
    "p",
    [Solution(f"answer {text}", text == 1, text, 4.0, 4, -1.0, 3) for text in TEXTS],
    {text: [chain(text)] for text in TEXTS},
)


def bought(beliefs: Beliefs, first: int = 0) -> Bought:
    found = Bought(ITEM, Planner(beliefs=beliefs, price=0.01, votes=1))
    for solution in ITEM.solutions[first:]:
        found.draw(solution)
    return found


def test_a_vote_is_bought_step_by_step_and_its_steps_count_for_others() -> None:
    found = bought(STEPWISE)
    assert found.answers["answer 1"] == Answer(1, judged=0, left=3)
    found.vote(found.answers["answer 0"])
    assert found.flops == 4 * 4 + 10
    assert found.answers["answer 0"] == found.answers["answer 1"] == Answer(1, judged=1, left=2)
    found.vote(found.answers["answer 0"])
    found.vote(found.answers["answer 0"])
    assert found.flops == 4 * 4 + 30
    assert found.answers["answer 0"] == Answer(1, yes=0, votes=1)  # step c was rejected
    assert found.answers["answer 1"] == Answer(1, judged=2, left=1)
    found.vote(found.answers["answer 1"])
    assert found.answers["answer 1"] == Answer(1, yes=1, votes=1)
    assert (found.flops, found.votes) == (4 * 4 + 40, 2)


def test_solutions_that_begin_with_a_rejected_step_are_rejected_for_nothing() -> None:
    found = bought(STEPWISE, first=2)
    found.vote(found.answers["answer 2"])
    assert found.flops == 4 * 2 + 10
    assert found.answers["answer 2"] == found.answers["answer 3"] == Answer(1, yes=0, votes=1)
    assert found.votes == 1


def test_without_beliefs_about_steps_a_vote_is_bought_whole() -> None:
    found = bought(Beliefs())
    found.vote(found.answers["answer 0"])
    assert found.flops == 4 * 4 + 30
    assert found.answers["answer 0"] == Answer(1, yes=0, votes=1)
    assert found.answers["answer 1"] == Answer(1)


def test_a_fixed_configuration_pays_shared_steps_once() -> None:
    right, flops = static(ITEM, 0, 4, 1, "vote")
    assert right == 1.0
    assert flops == pytest.approx(4 * 4 + 10 * (3 + 1 + 1))  # a, ab, abc; abd; x


def test_what_a_fit_learns_of_steps() -> None:
    found = sorted(step_votes(ITEM))
    assert found == [(False, 3, 0, 10.0), (False, 3, 0, 10.0), (False, 3, 2, 10.0), (True, 3, 3, 10.0)]
