"""The discriminative PRM that reads a step token (Math-Shepherd style): after each step a marker, and there + or -.

    {problem}\\n Step 1: ... <marker> Step 2: ... <marker>

The score of a step is p(+) / (p(+) + p(-)) of the token that would follow its marker; the label tokens themselves never
stand in the text.
"""

from __future__ import annotations

import math

from tts_engine.types import Message, Prompt, TokenLogprob

FORMAT_VERSION = 1
MARKER = "\n<step>\n"
GOOD, BAD = "+", "-"


def step_prompt(problem: str, steps: tuple[str, ...]) -> Prompt:
    """The prompt whose next token judges the last of `steps`."""
    segments = tuple(part for step in steps for part in (step, MARKER))
    return Prompt(messages=(Message(role="user", content=problem),), continuation=segments)


def score(token: TokenLogprob) -> float:
    """p(+) / (p(+) + p(-)) from the watched logprobs of one token."""
    return 1.0 / (1.0 + math.exp(min(token.alternatives[BAD] - token.alternatives[GOOD], 700.0)))
