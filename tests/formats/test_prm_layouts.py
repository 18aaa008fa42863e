"""The texts that released discriminative PRMs read."""

from __future__ import annotations

import pytest

from tts_engine.formats.prm import step_prompt

STEPS = ("Step 1: a.", "Step 2: b.")


def test_math_shepherd_marks_the_end_of_each_step() -> None:
    prompt = step_prompt("Q?", STEPS, "shepherd")
    assert prompt.messages == ()
    assert prompt.continuation == ("Q? Step 1: a. ки\nStep 2: b. ки",)


def test_rlhflow_makes_each_step_a_turn_that_was_answered() -> None:
    prompt = step_prompt("Q?", STEPS, "rlhflow")
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("user", "Q? Step 1: a."),
        ("assistant", "+"),
        ("user", "Step 2: b."),
    ]
    assert (prompt.continuation, prompt.generation_prompt) == ((), True)


def test_qwen_puts_its_marker_after_each_step_of_the_answer() -> None:
    prompt = step_prompt("Q?", STEPS, "qwen")
    assert [m.role for m in prompt.messages] == ["system", "user"]
    assert "".join(prompt.continuation) == "Step 1: a.<extra_0>Step 2: b.<extra_0>"


def test_lines_are_encoded_one_by_one() -> None:
    prompt = step_prompt("Q?", STEPS, "lines", begin="<bos>")
    assert prompt.continuation == ("<bos>Q?\n", "Step 1: a.", "\n", "Step 2: b.", "\n")


@pytest.mark.parametrize("layout", ["step", "qwen", "lines"])
def test_a_longer_prefix_only_adds(layout: str) -> None:
    short, long = (step_prompt("Q?", STEPS[:n], layout).continuation for n in (1, 2))  # type: ignore[arg-type]
    assert long[: len(short)] == short
