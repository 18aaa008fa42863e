"""The domain: known stories, the exact checker, the held-out split."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.verifiers.training.domain import (
    LEVELS,
    Reduction,
    Story,
    check_step,
    expected,
    first_error,
    from_plan,
    gold_steps,
    held_out,
    stated_equation,
    stated_value,
)
from tts_engine.verifiers.training.flaws import flawed_steps
from tts_engine.verifiers.training.policy_data import drill
from tts_engine.verifiers.training.problem_sets import held_out_stories, read_set, record, write_sets
from tts_engine.verifiers.training.stories import generate

STORY = from_plan("Ann has 73 pens. She buys 6 boxes of 14 and gives 57 to Tom.", ("6*14", "73+#1", "#2-57"))


def test_results_and_answer_of_a_known_story() -> None:
    assert STORY.results == (84, 157, 100)
    assert STORY.answer == "100"
    assert gold_steps(STORY) == ("Step 1: 6*14=84.", "Step 2: 73+84=157.", "Step 3: 157-57=\\boxed{100}.")


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        (("Step 1: 6*14=84.", "Step 2: 73+84=157.", "Step 3: 157-57=\\boxed{100}."), None),
        (("Step 1: 14*6=84.", "Step 2: now 84+73=157."), None),
        (("Step 1: 6*14=74.", "Step 2: 73+74=147.", "Step 3: 147-57=\\boxed{90}."), 0),
        (("Step 1: 6*14=84.", "Step 2: 84-73=11."), 1),
        (("Step 1: 6*14=84.", "Step 2: 73+84=\\boxed{157}."), 1),
        (("Step 1: 6*14=84.", "Step 2: 73+84=157.", "Step 3: done."), 2),
        (("Step 1: 6*14=84.", "Step 2: 73+84=157.", "Step 3: 157-57=100.", "Step 4: so it is =\\boxed{100}."), None),
        (("Step 1: 6*14=84.", "Step 2: 73+84=157.", "Step 3: 157-57=100.", "Step 4: 100-1=\\boxed{99}."), 3),
    ],
)
def test_first_error_of_known_solutions(steps: tuple[str, ...], error: int | None) -> None:
    assert first_error(STORY, steps) == error


def test_a_step_is_judged_by_the_values_that_were_stated_before_it() -> None:
    assert check_step(STORY, ("Step 1: 6*14=74.",), "Step 2: 73+74=147.")
    assert not check_step(STORY, ("Step 1: 6*14=74.",), "Step 2: 73+84=157.")


def test_a_box_that_comes_too_early_is_held_against_what_is_left() -> None:
    assert expected(STORY, ("Step 1: 6*14=84.",), boxed=True) == ("(73+84)-57", 100)
    assert expected(STORY, ("Step 1: 6*14=84.",), boxed=False) == ("73+84", 157)


def test_reading_a_step() -> None:
    assert stated_value("Step 2: now 3+4=7, so \\boxed{8}.") == 8
    assert stated_value("Step 2: nothing") is None
    assert stated_equation("Step 2: now 73+48=121.") == (73, "+", 48)
    assert stated_equation("Step 2: so") is None


def test_a_reduction_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not an arithmetic operation"):
        Reduction("3+").value(())


def test_division_by_a_misread_zero_has_a_value() -> None:
    assert Reduction("8/0").value(()) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from(LEVELS))
def test_gold_solutions_are_right_whole_and_of_the_level(seed: int, level: int) -> None:
    story = generate(seed, level)
    steps = gold_steps(story)
    assert len(steps) == level + 1
    assert first_error(story, steps) is None
    assert stated_value(steps[-1]) == int(story.answer)
    assert min(story.results) >= 1
    for step in steps:
        left, sign, right = stated_equation(step) or (0, "", 0)
        values = {"+": left + right, "-": left - right, "*": left * right, "/": left / max(right, 1)}
        assert values[sign] == stated_value(step)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from(LEVELS))
def test_numbers_of_a_plan_stand_in_the_text_or_in_the_words(seed: int, level: int) -> None:
    story = generate(seed, level)
    words = {2, 3, 4}  # half, doubles, triples, four times
    numbers = {int(n) for r in story.plan for n in re.findall(r"(?<![#\d])\d+", r.expression)}
    assert numbers <= {int(n) for n in re.findall(r"\d+", story.text)} | words


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from(LEVELS), st.data())
def test_a_flaw_is_the_first_error(seed: int, level: int, data: st.DataObject) -> None:
    story = generate(seed, level)
    index = data.draw(st.integers(0, level))
    assert first_error(story, flawed_steps(random.Random(seed), story, index)) == index


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from(LEVELS), st.booleans())
def test_stories_keep_to_their_side_of_the_split_and_repeat_with_the_seed(seed: int, level: int, held: bool) -> None:
    story = generate(seed, level, held=held)
    assert held_out(story.text) is held
    assert generate(seed, level, held=held) == story


def test_about_a_tenth_is_held_out() -> None:
    share = sum(held_out(f"What is {drill(random.Random(i))}?") for i in range(4000)) / 4000
    assert 0.07 < share < 0.13


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level 9"):
        generate(0, 9)


def test_problem_sets_are_disjoint_held_out_and_readable(tmp_path) -> None:  # noqa: ANN001
    write_sets(tmp_path, seed=3)
    test, dev = (read_set(tmp_path / f"arith-{name}.jsonl") for name in ("test", "dev"))
    texts = [story.text for story in test + dev]
    assert (len(test), len(dev)) == (1000, 500)
    assert len(set(texts)) == len(texts) == len({story.id for story in test + dev})
    assert all(held_out(text) for text in texts)
    again = list(itertools.islice(held_out_stories(3), 5))
    assert [(s.id, s.answer) for s in again] == [(s.id, s.answer) for s in test[:5]]
    assert all(first_error(story, gold_steps(story)) is None for story in test[:50])


def test_a_record_keeps_what_the_checker_needs() -> None:
    story = generate(5, 4)
    entry = record(story)
    same = from_plan(story.text, [r.expression for r in story.plan])
    assert entry["answer"] == story.answer == same.answer
    assert isinstance(same, Story)
    assert same.id == entry["id"]
