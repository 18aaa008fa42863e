"""Verification chains written turn by turn from their parts, to hold against those read back from conversations."""

from __future__ import annotations

import random
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from tts_engine.formats import genprm
from tts_engine.verifiers.training.domain import first_error
from tts_engine.verifiers.training.encode import Piece, Turn, render
from tts_engine.verifiers.training.verifier_data import Attempt, turn_of


def verification_pieces(
    tokenizer: PreTrainedTokenizerFast, problem: str, steps: Sequence[str], turns: Sequence[Turn]
) -> list[Piece]:
    """A chain of verifications of the first steps; the loss falls on the verifier's own words in all of them."""
    pieces: list[Piece] = []
    done: list[str] = []
    seen = ""
    for index, turn in enumerate(turns):
        head = render(tokenizer, genprm.conversation(problem, tuple(steps[: index + 1]), tuple(done)))
        assert head.startswith(seen)
        pieces.append(Piece(head[len(seen) :]))
        segments = genprm.turn_segments(index, turn.analysis, turn.code, turn.output, turn.judgement)
        pieces += [Piece(s.text, learn=s.kind == "model") for s in segments]
        done.append("".join(s.text for s in segments))
        seen = head + done[-1]
    return pieces


def chain_pieces(tokenizer: PreTrainedTokenizerFast, rng: random.Random, attempt: Attempt) -> list[Piece]:
    """The chain of an attempt, up to its first wrong step."""
    error = first_error(attempt.story, attempt.steps)
    count = len(attempt.steps) if error is None else error + 1
    turns = [turn_of(rng, attempt.story, attempt.steps, i) for i in range(count)]
    return verification_pieces(tokenizer, attempt.story.text, attempt.steps, turns)
