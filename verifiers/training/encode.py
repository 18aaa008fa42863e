"""From conversations to token sequences with a loss mask, through the formats and the tokenizer that inference uses.

A document is a list of pieces; a piece is what a backend would tokenize at once. `learn` marks the model's own words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from tts_engine.formats import policy, prm
from tts_engine.types import Message, Prompt
from tts_engine.verifiers.training.vocabulary import END

IGNORE = -100
"""Target of positions that carry no loss."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; the loss falls on it when `learn`. `label` is the token after it that is learnt unseen."""

    text: str
    learn: bool = False
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids and, for each, the token to predict next (or IGNORE); both of the same length."""

    ids: tuple[int, ...]
    targets: tuple[int, ...]


def render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], generation_prompt: bool = True) -> str:
    """The conversation as text, through the tokenizer's chat template."""
    turns = [{"role": m.role, "content": m.content} for m in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt)
    assert isinstance(text, str)
    return text


def prompt_pieces(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> list[Piece]:
    """What inference tokenizes: the conversation, then each segment of the open turn."""
    head = Piece(render(tokenizer, prompt.messages, prompt.generation_prompt))
    return [head, *(Piece(segment) for segment in prompt.continuation)]


def solution_pieces(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], steps: Sequence[str]
) -> list[Piece]:
    """A whole solution as an answer to `messages`; only the first heading is forced."""
    segments = policy.continuation(tuple(steps))[:-1]
    own = [Piece(segment, learn=i > 0) for i, segment in enumerate(segments)]
    return [Piece(render(tokenizer, messages)), *own, Piece(END, learn=True)]


@dataclass(frozen=True, slots=True)
class Turn:
    """One verification: what the verifier says, its check, what the check printed, and its judgement."""

    analysis: str
    code: str
    output: str
    judgement: str


def labelled_pieces(
    tokenizer: PreTrainedTokenizerFast, problem: str, steps: Sequence[str], good: Sequence[bool]
) -> list[Piece]:
    """A solution for the step-token PRM: the label is the token to predict at each marker, and is never in the text."""
    pieces = prompt_pieces(tokenizer, prm.step_prompt(problem, tuple(steps[: len(good)])))
    labels = iter(good)
    return [Piece(p.text, label=(prm.GOOD if next(labels) else prm.BAD)) if p.text == prm.MARKER else p for p in pieces]


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Sequence[Piece]]) -> Iterator[Document]:
    """Token sequences of documents, each piece tokenized on its own."""
    texts = [piece.text for document in documents for piece in document]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else iter(())
    labels = {sign: tokenizer.encode(sign, add_special_tokens=False)[0] for sign in (prm.GOOD, prm.BAD)}
    for document in documents:
        ids: list[int] = []
        targets: list[int] = []
        for piece in document:
            tokens = next(encoded)
            start = len(ids)
            ids += tokens
            targets += [IGNORE] * len(tokens)
            if piece.learn:
                targets[start - 1 : len(ids) - 1] = tokens
            if piece.label is not None:
                targets[-1] = labels[piece.label]
        yield Document(tuple(ids), tuple(targets))
