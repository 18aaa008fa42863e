"""A chat model as judge: ProcessBench's critic prompt, grades, and answers that say nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tts_engine.formats import critic as form
from tts_engine.types import Completion, Finish, Key, Problem, Sampling
from tts_engine.verifiers import ChatJudge

PROBLEM = Problem(id="p", prompt="1+1?")
STEPS = ("1+1=3.", "So 3.", "\\boxed{3}")

Scripted = Callable[..., Any]


def verifier(**options: Any) -> ChatJudge:  # noqa: ANN401
    return ChatJudge(model="verifier", sampling=Sampling(), **options)


async def test_the_critic_prompt_and_the_index(scripted: Scripted) -> None:
    model, calls = scripted("Paragraph 1 follows from a wrong one. \\boxed{1}", "\\boxed{-1}")
    verdict = await verifier().open(PROBLEM, Key(0))(STEPS, 2, calls)
    (message,) = model.asked[0].prompt.messages
    assert message.content.startswith("The following is a math problem and a solution (split into paragraphs")
    assert "<paragraph_0>\n1+1=3.\n</paragraph_0>\n\n<paragraph_1>" in message.content
    assert message.content.endswith("final answer (i.e., the index) in \\boxed{}.")
    assert verdict.value == 0.5
    assert verdict.step_scores == (1.0, 0.5, 1.0)
    assert verdict.samples[0][-1].analysis == "Paragraph 1 follows from a wrong one. \\boxed{1}"


async def test_grades(scripted: Scripted) -> None:
    _, calls = scripted("\\boxed{9}", "I say \\boxed{3/10}", "no grade")
    verdict = await verifier(ask="grade").open(PROBLEM, Key(0))(STEPS, 3, calls)
    assert verdict.value == pytest.approx(0.6)
    assert (verdict.step_scores, verdict.invalid_samples) == ((), 1)


async def test_a_critique_that_is_cut_off_says_nothing(scripted: Scripted) -> None:
    _, calls = scripted(Completion(text="\\boxed{0} or rather", tokens=5, finish=Finish.LENGTH))
    verdict = await verifier().open(PROBLEM, Key(0))(STEPS, 1, calls)
    assert (verdict.value, verdict.step_scores, verdict.invalid_samples) == (None, (), 1)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("\\boxed{0}", 0),
        ("\\boxed{ -1 }", -1),
        ("\\boxed{3}", None),
        ("\\boxed{-2}", None),
        ("\\boxed{x}", None),
        ("\\boxed{<paragraph_2>}", 2),
        (" 1\n", 1),
        ("-1", -1),
        ("3", None),
        ("It is 1.", None),
        ("", None),
    ],
)
def test_indices(text: str, index: int | None) -> None:
    assert form.index_of(text, 3) == index
