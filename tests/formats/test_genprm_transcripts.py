"""Whole GenPRM turns in the shapes that the released 7B model writes: they parse and render to the same text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tts_engine.formats import genprm as form
from tts_engine.formats.code import feedback_block
from tts_engine.types import Message, StepJudgement, TokenLogprob
from tts_engine.verifiers.verdicts import make_verdict

DATA: dict[str, Any] = json.loads((Path(__file__).parents[1] / "fixtures" / "genprm_turns.json").read_text("utf-8"))
SHAPES = {**{f"released{i}": turn for i, turn in enumerate(DATA["turns"])}, **DATA["other"]}


def shown(messages: tuple[Message, ...], turn: str) -> str:
    """What the chat template of DeepSeek-R1-Distill makes of it, without a generation prompt."""
    return "".join(DATA["template"][message.role] + message.content for message in messages) + turn


def test_the_three_requests_of_a_turn_read_as_upstream_sends_them() -> None:
    messages = form.conversation(DATA["question"], (DATA["step"],), ())
    head = (
        f"{DATA['template']['system']}You are a math teacher. Your task is to review and critique the paragraphs in"
        f" solution step by step.{DATA['template']['user']}Question: {DATA['question']}\n\n{DATA['step']}"
    )
    segments = [text for _, text in DATA["turns"][0]]
    prompt = form.turn_prompt(messages, generation_prompt=False)
    first = prompt.then(form.analyze_prefix(0))
    second = first.then(segments[1], form.VERIFY)
    third = second.then(segments[3], feedback_block("210"))
    for sent, count in ((first, 1), (second, 3), (third, 5)):
        assert shown(sent.messages, "".join(sent.continuation)) == head + "".join(segments[:count])


@pytest.mark.parametrize("name", SHAPES)
def test_a_turn_parses_into_its_segments_and_back(name: str) -> None:
    segments = [form.Segment(kind=kind, text=text) for kind, text in SHAPES[name]]
    text = "".join(segment.text for segment in segments)
    assert list(form.parse_turn(text)) == segments
    for end in range(len(text)):
        assert "".join(segment.text for segment in form.parse_turn(text[:end])) == text[:end]


@pytest.mark.parametrize("turn", DATA["turns"])
def test_a_turn_with_one_check_is_rendered_again_from_what_it_says(turn: list[list[str]]) -> None:
    analysis, code, output, said = (turn[i][1] for i in (1, 3, 4, 5))
    printed = output.removeprefix("[Code Output]\n\n```\n").removesuffix("\n```\n")
    rendered = form.turn_segments(
        0, analysis.removesuffix(f"\n{form.ANALYZE_END}"), code.removesuffix(form.CODE_END), printed, "Yes"
    )
    *before, last = rendered
    assert [[segment.kind, segment.text] for segment in before] == turn[:-1]
    assert said.endswith(last.text)
    text = "".join(part for _, part in turn)
    assert form.analysis_of(text) == analysis.removesuffix(form.ANALYZE_END).strip()
    assert form.judgement_of(text) == "Yes"


def test_a_sure_judgement_is_rewarded_with_one() -> None:
    sure = TokenLogprob(text="Yes", logprob=0.0, alternatives={"Yes": 0.0, "No": -40.0})
    tokens = (TokenLogprob(text="$\\boxed{", logprob=0.0), sure, TokenLogprob(text="}$\n", logprob=0.0))
    assert math.isclose(form.reward(tokens) or 0.0, 1.0)


def test_the_published_rewards_of_eight_steps_put_the_first_error_at_the_seventh() -> None:
    chain = tuple(StepJudgement(score=score) for score in DATA["rewards_of_eight_steps"])
    assert make_verdict([chain], "min").first_error() == 6
