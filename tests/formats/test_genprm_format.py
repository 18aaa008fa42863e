"""The GenPRM protocol: rewards from logprobs, turns that parse as they were rendered, conversations."""

from __future__ import annotations

import math

import pytest

from tts_engine.formats import genprm as form
from tts_engine.types import TokenLogprob


def tokens(*items: tuple[str, dict[str, float]]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(text=text, logprob=alternatives.get(text, 0.0), alternatives=alternatives)
        for text, alternatives in items
    )


HEAD: tuple[str, dict[str, float]] = ("<output>\n**Judgement**: $\\boxed{", {})
TAIL: tuple[str, dict[str, float]] = ("}$\n</output>\n", {})


@pytest.mark.parametrize(
    ("judgement", "alternatives", "reward"),
    [
        ("Yes", {"Yes": -0.1, "No": -2.5, "Maybe": -6.0}, 0.9168273035060776),
        ("No", {"No": -0.2, "Yes": -1.8}, 0.16798161486607552),
        ("Yes", {"Yes": -0.0001, "?": -9.5, "!": -12.0}, 0.9999938552109534),
    ],
)
def test_reward_is_the_share_of_yes(judgement: str, alternatives: dict[str, float], reward: float) -> None:
    assert math.isclose(form.reward(tokens(HEAD, (judgement, alternatives), TAIL)) or 0.0, reward, rel_tol=1e-12)


def test_the_last_judgement_counts() -> None:
    earlier = (("\\boxed{", {}), ("No", {"No": 0.0, "Yes": -9.0}), ("} ...", {}))
    stream = tokens(*earlier, HEAD, ("Yes", {"Yes": -0.1, "No": -2.5}), TAIL)
    assert math.isclose(form.reward(stream) or 0.0, 0.9168273035060776)


def test_no_judgement_is_none_never_a_number() -> None:
    assert form.reward(tokens(("no decision", {}))) is None
    assert form.reward(tokens(("\\boxed{yes}", {"\\boxed{yes}": 0.0}))) is None
    assert form.reward(()) is None


def test_judgement_after_a_forced_output_prefix_and_with_glued_braces() -> None:
    assert math.isclose(form.reward(tokens(("{", {}), ("Yes", {"Yes": 0.0, "No": 0.0}), ("}$", {}))) or 0.0, 0.5)
    glued = tokens(("{Yes", {"{Yes": -1.0, "{No": -2.0}), ("}$", {}))
    assert math.isclose(form.reward(glued) or 0.0, 1 / (1 + math.exp(-1.0)))


def test_a_rendered_turn_parses_back() -> None:
    segments = form.turn_segments(0, "3 plus 4 is asked.", "print(3+4==7)", "True", "Yes")
    text = "".join(segment.text for segment in segments)
    assert text == (
        "<analyze>\nLet's analyze the Paragraph 1 step by step: 3 plus 4 is asked.\n</analyze>\n"
        "<verify>\nLet's use python code to find any potential error:\n```python\nprint(3+4==7)\n```\n"
        "[Code Output]\n\n```\nTrue\n```\n</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
    )
    assert form.analysis_of(text) == "3 plus 4 is asked."
    assert form.judgement_of(text) == "Yes"
    assert [s.kind for s in segments] == ["forced", "model", "forced", "model", "injected", "model"]


def test_conversation_keeps_earlier_turns() -> None:
    messages = form.conversation("Q?", ("a", "b"), ("turn on a",))
    assert [(m.role, m.content) for m in messages[1:]] == [
        ("user", "Question: Q?\n\na"),
        ("assistant", "turn on a"),
        ("user", "b"),
    ]
    assert form.conversation("Q?", ("a",), (), question="plain")[1].content == "Q?\na"
    with pytest.raises(ValueError, match="leave no step"):
        form.conversation("Q?", ("a",), ("turn",))
