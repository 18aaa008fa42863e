"""Steps: splitting, forcing, and their inverse."""

from __future__ import annotations

import pytest

from tts_engine.formats import policy as form


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (
            "Compute 1+1=2.\n\nStep 2: Then 2+2=4.\n\nStep 3:So the answer is \\boxed{4}.",
            ("Step 1: Compute 1+1=2.", "Step 2: Then 2+2=4.", "Step 3: So the answer is \\boxed{4}."),
        ),
        ("Step 1: a\nStep 2: b", ("Step 1: a", "Step 2: b")),
        ("only one step", ("Step 1: only one step",)),
        ("<INVALID>", ("<INVALID>",)),
        ("a\n\nStep two without colon", ("Step 1: a", "Step two without colon")),
        ("Step 1:\ta\nStep  2\nStep 12:b ", ("Step 1: a", "Step  2", "Step 12: b")),
    ],
)
def test_split(text: str, steps: tuple[str, ...]) -> None:
    assert form.split_steps(text) == steps


def test_continuation_is_what_the_model_would_have_written() -> None:
    steps = ("Step 1: a", "Step 2: b")
    segments = form.continuation(steps)
    assert segments == ("Step 1: ", "a", "\nStep 2: ", "b", "\nStep 3: ")
    assert form.split_steps("".join(segments[:-1])) == steps


def test_refinement_keeps_the_solution_and_quotes_the_bad_step() -> None:
    messages = form.refine_messages("Q", "Step 1: x", "Step 1: x", "x is wrong")
    assert [m.role for m in messages] == ["user", "assistant", "user"]
    assert messages[2].content.endswith(">Step 1: x\n\nx is wrong")


def test_equal_questions_share_a_prompt() -> None:
    assert form.solve_prompt("Q", ("Step 1: a",)) is form.solve_prompt("Q", ("Step 1: a",))
    assert form.solve_prompt("Q") != form.solve_prompt("Q", ("Step 1: a",))
