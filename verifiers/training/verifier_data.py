"""What the verifiers learn from: turns of the GenPRM protocol and step labels, from the exact checker of the domain."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from tts_engine.verifiers.training.domain import LEVELS, Story, expected, first_error, gold_steps, rng_of, stated_value
from tts_engine.verifiers.training.encode import Document, Piece, Turn, encode, labelled_pieces, verification_pieces
from tts_engine.verifiers.training.flaws import flawed_steps
from tts_engine.verifiers.training.stories import generate

SYNTHETIC_SHARE = 0.35
"""Share of chains on made-up solutions; the rest are on solutions that the policy sampled."""
FLAWED_SHARE = 0.6
"""Share of flawed ones among the made-up solutions."""
CHUNK = 256
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


def attempts(rng: random.Random, sampled: Sequence[Attempt]) -> Iterator[Attempt]:
    """An endless stream of attempts, made-up ones and sampled ones."""
    while True:
        yield synthetic(rng) if not sampled or rng.random() < SYNTHETIC_SHARE else rng.choice(sampled)


def chain_pieces(tokenizer: PreTrainedTokenizerFast, rng: random.Random, attempt: Attempt) -> list[Piece]:
    """The verification chain of an attempt, up to its first wrong step."""
    story, steps = attempt.story, attempt.steps
    error = first_error(story, steps)
    count = len(steps) if error is None else error + 1
    turns = [turn_of(rng, story, steps, i) for i in range(count)]
    return verification_pieces(tokenizer, story.text, steps, turns)


def label_pieces(tokenizer: PreTrainedTokenizerFast, attempt: Attempt) -> list[Piece]:
    """An attempt with its step labels: good before the first wrong step, bad from there on."""
    error = first_error(attempt.story, attempt.steps)
    good = [error is None or i < error for i in range(len(attempt.steps))]
    return labelled_pieces(tokenizer, attempt.story.text, attempt.steps, good)


def chains(tokenizer: PreTrainedTokenizerFast, seed: int, sampled: Sequence[Attempt]) -> Iterator[Document]:
    """An endless stream of GenPRM documents."""
    rng = rng_of(seed, "genprm")
    stream = attempts(rng, sampled)
    while True:
        yield from encode(tokenizer, [chain_pieces(tokenizer, rng, next(stream)) for _ in range(CHUNK)])


def labels(tokenizer: PreTrainedTokenizerFast, seed: int, sampled: Sequence[Attempt]) -> Iterator[Document]:
    """An endless stream of documents for the step-token PRM."""
    rng = rng_of(seed, "prm")
    stream = attempts(rng, sampled)
    while True:
        yield from encode(tokenizer, [label_pieces(tokenizer, next(stream)) for _ in range(CHUNK)])
