"""What the policy learns from: gold solutions, single operations, and better solutions after a critique."""

from __future__ import annotations

import random
from collections.abc import Iterator

from transformers import PreTrainedTokenizerFast

from tts_engine.formats import policy
from tts_engine.verifiers.training.domain import (
    LEVELS,
    Reduction,
    first_error,
    gold_steps,
    held_out,
    rng_of,
    step_text,
)
from tts_engine.verifiers.training.encode import Document, Piece, encode, solution_pieces
from tts_engine.verifiers.training.flaws import flawed_steps
from tts_engine.verifiers.training.stories import generate
from tts_engine.verifiers.training.verifier_data import critique, turn_of

TRACES, DRILLS, REFINEMENTS = 0.60, 0.25, 0.15
"""Shares of documents."""
CHUNK = 512


def drill(rng: random.Random) -> str:
    """One operation, such as `17*23`, in the ranges of the stories."""
    kind = rng.random()
    if kind < 0.3:
        return f"{rng.randint(5, 10 ** rng.randint(2, 3))}+{rng.randint(2, 10 ** rng.randint(2, 3))}"
    if kind < 0.6:
        a = rng.randint(10, 10 ** rng.randint(2, 3))
        return f"{a}-{rng.randint(2, a - 1)}"
    if kind < 0.75:
        return f"{rng.randint(2, 12)}*{rng.randint(3, 49)}"
    if kind < 0.85:
        return f"{rng.randint(10, 29)}*{rng.randint(10, 29)}"
    if kind < 0.93:
        return f"{rng.randint(10, 10 ** rng.randint(2, 3))}*{rng.randint(2, 9)}"
    k = rng.randint(2, 9)
    return f"{k * rng.randint(2, 10 ** rng.randint(1, 2))}/{k}"


def drill_pieces(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[Piece]:
    """A question that takes one step."""
    while held_out(question := f"What is {(expression := drill(rng))}?"):
        pass
    step = step_text(0, "", expression, Reduction(expression).value(()), last=True)
    return solution_pieces(tokenizer, policy.solve_messages(question), (step,))


def trace_pieces(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[Piece]:
    """A story and its gold solution."""
    story = generate(rng.getrandbits(48), rng.choice(LEVELS))
    return solution_pieces(tokenizer, policy.solve_messages(story.text), gold_steps(story))


def refinement_pieces(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[Piece]:
    """A story, a flawed solution, a critique of its first wrong step, and the gold solution."""
    story = generate(rng.getrandbits(48), rng.choice(LEVELS))
    steps = flawed_steps(rng, story, rng.randrange(len(story.plan)))
    index = first_error(story, steps)
    if index is None:
        raise AssertionError(f"no flaw in {steps}")
    turn = turn_of(rng, story, steps, index)
    messages = policy.refine_messages(story.text, "\n".join(steps), steps[index], critique(rng, turn))
    return solution_pieces(tokenizer, messages, gold_steps(story))


def documents(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Document]:
    """An endless stream of policy documents."""
    rng = rng_of(seed, "policy")
    kinds = (trace_pieces, drill_pieces, refinement_pieces)
    while True:
        picked = rng.choices(kinds, (TRACES, DRILLS, REFINEMENTS), k=CHUNK)
        yield from encode(tokenizer, [kind(tokenizer, rng) for kind in picked])
