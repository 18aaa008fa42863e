"""Turns of the GenPRM protocol as someone would write them who has understood the story, and critiques made of them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tts_engine.verifiers.training.domain import LEVELS, Story, expected, gold_steps, stated_value
from tts_engine.verifiers.training.encode import Turn
from tts_engine.verifiers.training.flaws import flawed_steps
from tts_engine.verifiers.training.stories import generate

FLAWED_SHARE = 0.6
"""Share of flawed ones among the made-up solutions."""
_ANALYSES = ("{reading}: {expression}.", "it takes {reading}, so {expression}.", "{reading}, so {expression}.")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A solution to a story, right or wrong."""

    story: Story
    steps: tuple[str, ...]


def turn_of(rng: random.Random, story: Story, steps: Sequence[str], index: int) -> Turn:
    """The verification of one step whose predecessors are right: reading, check, its output and the judgement."""
    step = steps[index]
    boxed = "\\boxed" in step
    expression, value = expected(story, steps[:index], boxed)
    stated = stated_value(step)
    analysis = _analysis(rng, story, steps[:index], boxed, expression)
    code = f"print(r:={expression.replace('/', '//')}, r=={stated})"
    return Turn(analysis, code, f"{value} {value == stated}", "Yes" if value == stated else "No")


def _analysis(rng: random.Random, story: Story, previous: Sequence[str], boxed: bool, expression: str) -> str:
    index = len(previous)
    if index >= len(story.plan):
        return f"nothing is left to do: {expression}."
    if boxed and index + 1 < len(story.plan):
        return f"more is left to do: {expression}."
    running = re.split("[-+*/]", expression)[0]
    reading = story.plan[index].reading.replace("{x}", running)
    return rng.choice(_ANALYSES).format(reading=reading, expression=expression)


def critique(rng: random.Random, turn: Turn) -> str:
    """What a policy is told of a wrong step: the analysis, mostly with what the check printed."""
    return turn.analysis if rng.random() < 0.3 else f"{turn.analysis} The check prints {turn.output}."


def synthetic(rng: random.Random) -> Attempt:
    """A gold or a flawed solution to a new story."""
    story = generate(rng.getrandbits(48), rng.choice(LEVELS))
    if rng.random() > FLAWED_SHARE:
        return Attempt(story, gold_steps(story))
    return Attempt(story, flawed_steps(rng, story, rng.randrange(len(story.plan))))
