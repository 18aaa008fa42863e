"""A labelled set of the embedded domain: labels by the exact checker, right and wrong solutions in balance."""

from __future__ import annotations

from tts_engine.cli.embedded_steps import label_solutions, sample_labelled
from tts_engine.report.labelled import Labelled
from tts_engine.verifiers.training.domain import Reduction, Story, gold_steps

STORY = Story(
    text="Ann has 3 boxes of 4 pens. She buys 5 more. How many pens?",
    plan=(Reduction("3*4", "packed"), Reduction("#1+5", "now")),
    level=1,
)
GOLD = gold_steps(STORY)
SLIP = ("Step 1: packed 3*4=13.", "Step 2: now 13+5=\\boxed{18}.")
LATE = (GOLD[0], "Step 2: now 12+5=\\boxed{18}.")
LUCKY = ("Step 1: packed 3*4=13.", "Step 2: now 12+5=\\boxed{17}.")


def test_solutions_are_labelled_with_their_first_wrong_step() -> None:
    unfinished = GOLD[:1]
    items = label_solutions(STORY, [GOLD, GOLD, SLIP, LATE, LUCKY, unfinished], most=10)
    assert {item.steps: item.label for item in items} == {GOLD: -1, SLIP: 0, LATE: 1, LUCKY: 0}
    assert {item.steps: item.problem.meta["final_answer_correct"] for item in items} == {
        GOLD: True,
        SLIP: False,
        LATE: False,
        LUCKY: True,
    }
    assert len({item.problem.id for item in items}) == 4
    assert {item.problem.prompt for item in items} == {STORY.text}


def test_both_kinds_are_taken_in_turn() -> None:
    few = label_solutions(STORY, [SLIP, LATE, LUCKY, GOLD], most=2)
    assert sorted(item.label == -1 for item in few) == [False, True]


def test_the_embedded_policy_writes_a_balanced_set() -> None:
    items = sample_labelled("embedded:policy", "arith-dev", 12, per_problem=2, seed=0)
    assert len(items) == 12
    assert abs(sum(item.label == -1 for item in items) - 6) <= 1
    most: dict[str, list[Labelled]] = {}
    for item in items:
        most.setdefault(item.problem.prompt, []).append(item)
    assert max(map(len, most.values())) <= 2
