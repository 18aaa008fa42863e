"""Sampling: dropping rules and balance."""

from __future__ import annotations

from pathlib import Path

import pytest

from tts_engine.errors import DataError
from tts_engine.types import Problem, Usage
from tts_engine.verifiers.training.collection import (
    balanced,
    invalid,
    kept,
    new_story,
    problems,
    story_of,
    story_record,
    with_misreading,
)
from tts_engine.verifiers.training.domain import (
    Reduction,
    first_error,
    gold_steps,
    held_out,
    stated_equation,
    stated_value,
)
from tts_engine.verifiers.training.manifest import Folder
from tts_engine.verifiers.training.stages import Run

PROBLEM = {"id": "p", "problem": "How many?", "answer": "7"}


def solution(answer: int, note: str = "so") -> tuple[str, ...]:
    return ("Step 1: 3+4.", f"Step 2: {note} \\boxed{{{answer}}}.")


def test_what_is_dropped_is_counted() -> None:
    drawn = [
        solution(7),
        solution(7),
        solution(7, "hence"),
        solution(8),
        None,
        ("Step 1: \\boxed{7}.",),
        ("Step 1: 3+4.", "Step 2: done."),
    ]
    done = kept(PROBLEM, drawn, 4, Usage(calls=7))
    assert [record["correct"] for record in done.records] == [True, True, False]
    assert len({record["id"] for record in done.records}) == 3
    assert all(record["pass1"] == [4, 7] for record in done.records)  # of all that were drawn
    assert done.counts["dropped: twice"] == done.counts["dropped: cut off"] == done.counts["dropped: one step"] == 1
    assert done.counts["dropped: no answer"] == 1
    assert done.counts["kept"] == 3
    assert done.usage == Usage(calls=7)


@pytest.mark.parametrize(("answers", "reason"), [((7, 7), "without a wrong path"), ((8, 9), "without a right path")])
def test_a_problem_without_a_right_or_without_a_wrong_path_is_dropped(answers: tuple[int, ...], reason: str) -> None:
    done = kept(PROBLEM, [solution(answer) for answer in answers], 4, Usage())
    assert done.records == []
    assert done.counts[f"problems {reason}"] == 1


@pytest.mark.parametrize(
    ("good", "bad", "keep", "left"), [(5, 5, 4, (2, 2)), (1, 5, 4, (1, 3)), (5, 1, 4, (3, 1)), (1, 1, 4, (1, 1))]
)
def test_balance(good: int, bad: int, keep: int, left: tuple[int, int]) -> None:
    rights, wrongs = ([(f"{kind}{i}",) for i in range(n)] for kind, n in (("r", good), ("w", bad)))
    chosen = balanced(rights, wrongs, keep)
    assert (sum(steps in rights for steps in chosen), sum(steps in wrongs for steps in chosen)) == left


def test_reasons_for_invalid_solutions() -> None:
    assert invalid(solution(1)) is None
    assert invalid(None) == "cut off"


def test_stories_are_new_to_every_held_out_set_and_come_back_whole() -> None:
    stories = [new_story(0, number) for number in range(40)]
    assert not any(held_out(story.text) for story in stories)
    assert all(story_of(story_record(story, 0)) == story for story in stories)
    with pytest.raises(DataError, match="no story"):
        story_of(PROBLEM)


def test_problems_without_an_answer_cannot_be_used(tmp_path: Path) -> None:
    found = [Problem(id="a", prompt="?", answer="1"), Problem(id="b", prompt="?")]
    folder = Folder(tmp_path)
    problems(Run(folder=folder, problems=lambda source: found), source="set")
    assert [record["id"] for record in folder.read("problems")] == ["a"]
    with pytest.raises(DataError, match="no problem of other has an answer"):
        problems(Run(folder=Folder(tmp_path / "x"), problems=lambda source: found[1:]), source="other")


def test_a_made_up_solution_misreads_one_step_and_calculates_well() -> None:
    made = []
    for number in range(60):
        record = story_record(new_story(7, number), number)
        story = story_of(record)
        drawn = kept(record, [gold_steps(story), solution(9999)], 2, Usage())
        found = with_misreading(record, drawn, seed=0, share=0.5)
        assert found.records[: len(drawn.records)] == drawn.records
        assert found == with_misreading(record, drawn, seed=0, share=0.5)
        for extra in found.records[len(drawn.records) :]:
            made.append(extra)
            steps = extra["steps"]
            assert first_error(story, steps) is not None
            equations = [stated_equation(step) for step in steps]
            for equation, step in zip(equations, steps, strict=True):
                assert equation is not None
                left, sign, right = equation
                assert abs(Reduction(f"{left}{sign}{right}").value(())) == stated_value(step)
            assert extra["pass1"] == [1, 2]
    assert 15 < len(made) < 45


def test_only_stories_can_be_misread() -> None:
    problem = {"id": "p", "problem": "How many?", "answer": "4"}
    drawn = kept(problem, [solution(4), solution(5)], 2, Usage())
    with pytest.raises(DataError, match="is no story of the embedded domain"):
        with_misreading(problem, drawn, seed=0, share=1.0)
