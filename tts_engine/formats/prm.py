"""What discriminative PRMs read: a solution laid out so that the token after it, or a head on it, judges its last step.

The score of a step is p(+) / (p(+) + p(-)) at its end. `step` is our layout, a marker after each step, there + or -:

    {problem}\\n Step 1: ... <marker> Step 2: ... <marker>

the label tokens themselves never stand in the text. The others are those of released models.
"""

from __future__ import annotations

import math
from typing import Literal

from tts_engine.types import Message, Prompt, TokenLogprob

FORMAT_VERSION = 1
MARKER = "\n<step>\n"
GOOD, BAD = "+", "-"

Layout = Literal["step", "qwen", "shepherd", "rlhflow", "lines"]
QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
QWEN_MARKER = "<extra_0>"
SHEPHERD_MARKER = "ки"


def step_prompt(problem: str, steps: tuple[str, ...], layout: Layout = "step", begin: str = "") -> Prompt:
    """The prompt at whose end the last of `steps` is judged.

    Args:
        layout: `step` is ours; `qwen` is that of Qwen2.5-Math-PRM (a two-class head at `<extra_0>`); `shepherd` that of
            Math-Shepherd (+ or - after `ки`); `rlhflow` that of RLHFlow's PRMs (each step a user turn, answered by + or
            -); `lines` that of Skywork-o1-Open-PRM (a value head at the line break after each step).
        begin: of `lines`: text before the problem; Skywork puts its tokenizer's bos_token there.
    """
    match layout:
        case "step":
            segments = tuple(part for step in steps for part in (step, MARKER))
            return Prompt(messages=(Message(role="user", content=problem),), continuation=segments)
        case "qwen":
            asked = (Message(role="system", content=QWEN_SYSTEM), Message(role="user", content=problem))
            return Prompt(messages=asked, continuation=tuple(part for step in steps for part in (step, QWEN_MARKER)))
        case "shepherd":
            return Prompt(
                messages=(), continuation=(f"{problem} " + "\n".join(f"{s} {SHEPHERD_MARKER}" for s in steps),)
            )
        case "rlhflow":
            return Prompt(messages=_turns(problem, steps))
        case "lines":
            segments = tuple(part for step in steps for part in (step, "\n"))
            return Prompt(messages=(), continuation=(f"{begin}{problem}\n", *segments))
    raise ValueError(f"unknown layout {layout!r}")


def score(token: TokenLogprob) -> float:
    """p(+) / (p(+) + p(-)) from the watched logprobs of one token."""
    return 1.0 / (1.0 + math.exp(min(token.alternatives[BAD] - token.alternatives[GOOD], 700.0)))


def _turns(problem: str, steps: tuple[str, ...]) -> tuple[Message, ...]:
    """A user turn for each step, the problem before the first; all but the last answered by +."""
    texts = (f"{problem} {steps[0]}", *steps[1:])
    turns = [message for text in texts for message in (_said("user", text), _said("assistant", GOOD))]
    return tuple(turns[:-1])


def _said(role: Literal["user", "assistant"], text: str) -> Message:
    return Message(role=role, content=text)
