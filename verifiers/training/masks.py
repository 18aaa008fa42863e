"""From a file of training conversations to token sequences with a loss mask, as inference will read and write them.

A line of the file is one conversation,

    {"id": ..., "messages": [{"role": ..., "content": ..., "train": true}, ...]}

or one labelled solution for a discriminative PRM,

    {"id": ..., "problem": ..., "steps": [...], "labels": [1, 1, 0]}

`train` says whether the loss may fall on an assistant's turn (yes, by default). Within the turn the format decides:
what inference forces and what it injects after executed code is not learnt unless the recipe says so. Entries of one
turn that follow each other, each with its own `train`, are taken as they are: the data has cut the turn itself. A
`problem` beside `messages` keeps all conversations about one problem on one side of the held-out split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tts_engine.errors import DataError
from tts_engine.formats import genprm, policy, prm
from tts_engine.formats.genprm import Segment
from tts_engine.types import Message
from tts_engine.verifiers.training.encode import IGNORE, Piece, encode, labelled_pieces
from tts_engine.verifiers.training.recipe import Recipe

CHUNK = 256
"""Documents that are tokenized at once."""
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Style:
    """How a format cuts an assistant's turn, and whether the model ends the turn itself (or a stop string does)."""

    version: int
    cut: Callable[[str], tuple[Segment, ...]]
    closes: bool


def cut_solution(text: str) -> tuple[Segment, ...]:
    """A solution in the segments of step-wise search: the first heading is forced, the rest is the policy's own."""
    steps = policy.split_steps(text)
    parts = policy.continuation(steps)[:-1]
    if "".join(parts) != text:
        return _whole(text)
    return tuple(Segment(text=part, kind="model" if i else "forced") for i, part in enumerate(parts))


def _whole(text: str) -> tuple[Segment, ...]:
    return (Segment(text=text, kind="model"),)


STYLES: Mapping[str, Style] = {
    "genprm": Style(genprm.FORMAT_VERSION, genprm.parse_turn, closes=False),
    "policy": Style(policy.FORMAT_VERSION, cut_solution, closes=True),
    "prm": Style(prm.FORMAT_VERSION, _whole, closes=False),
    "chat": Style(1, _whole, closes=True),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A part of a conversation; `train` counts for an assistant's only."""

    role: Role
    content: str
    train: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A line of the data: a conversation, or (with `labels`) the steps of a solution.

    `group` is what the held-out split keeps together: the problem, or the first paragraph of the first question.
    """

    id: str
    group: str
    entries: tuple[Entry, ...] = ()
    steps: tuple[str, ...] = ()
    labels: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A document: token ids and, for each, the token to predict next or IGNORE; both int32 of shape (length,)."""

    id: str
    group: str
    ids: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]

    @property
    def learnt(self) -> int:
        """How many tokens carry the loss."""
        return int((self.targets != IGNORE).sum())


@dataclass(slots=True)
class Encoded:
    """The documents that can be learnt from, and how many were skipped, by reason."""

    samples: list[Sample] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def read_examples(path: Path) -> list[Example]:
    """The lines of a file of training data, in order.

    Raises:
        DataError: the file cannot be read, or a line is no example; the message has the line's number.
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the training data {path}: {error}") from None
    if not lines:
        raise DataError(f"{path} is empty: it should hold one conversation a line")
    return [_example(line, f"{path}:{number}") for number, line in lines]


def _example(line: str, place: str) -> Example:
    try:
        data = json.loads(line)
        name = str(data.get("id", place))
        if "messages" in data:
            return _conversation(name, data)
        steps, labels = map(str, data["steps"]), (bool(label) for label in data["labels"])
        return Example(name, str(data["problem"]), steps=tuple(steps), labels=tuple(labels))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(
            f"{place} is no training example ({reason}): a line should be"
            ' {"id", "messages": [{"role", "content", "train"}, ...]} or {"id", "problem", "steps", "labels"}'
        ) from None


def _conversation(name: str, data: Mapping[str, Any]) -> Example:
    entries = tuple(Entry(e["role"], e["content"], bool(e.get("train", True))) for e in data["messages"])
    if not all(entry.role in get_args(Role) and isinstance(entry.content, str) for entry in entries):
        raise ValueError(f"a role is one of {', '.join(get_args(Role))}, a content is text")
    questions = [entry.content for entry in entries if entry.role == "user"]
    if not questions or entries[0].role == "assistant":
        raise ValueError("a conversation begins with what the model is asked")
    return Example(name, str(data.get("problem", questions[0].split("\n\n")[0])), entries)


@dataclass(frozen=True, slots=True)
class Said:
    """A message; an assistant's also in pieces, each of which is learnt or not."""

    message: Message
    pieces: tuple[Piece, ...] = ()

    @property
    def learnt(self) -> bool:
        """Whether the loss falls on any of it."""
        return any(piece.learn for piece in self.pieces)


def chat_of(example: Example, recipe: Recipe) -> list[Said]:
    """The messages of a conversation, the assistant's cut by the format."""
    kinds = {"model": True, "forced": recipe.learn_forced, "injected": recipe.learn_output}
    chat: list[Said] = []
    for role, group in groupby(example.entries, key=lambda entry: entry.role):
        parts = list(group)
        if role != "assistant":
            chat += [Said(Message(role=part.role, content=part.content)) for part in parts]
            continue
        if len(parts) == 1:
            segments = STYLES[recipe.format].cut(parts[0].content)
            pieces = tuple(Piece(s.text, learn=parts[0].train and kinds[s.kind]) for s in segments)
        else:
            pieces = tuple(Piece(part.content, learn=part.train) for part in parts)
        chat.append(Said(Message(role=role, content="".join(piece.text for piece in pieces)), pieces))
    return chat


def render(tokenizer: Any, chat: Sequence[Said], generation_prompt: bool) -> str:  # noqa: ANN401 - no typed base
    """The conversation as text, as the local backend renders it (without a template: contents and blank lines)."""
    if not tokenizer.chat_template:
        begin = tokenizer.decode(tokenizer("")["input_ids"])
        return str(begin) + "\n\n".join(said.message.content for said in chat)
    turns = [{"role": said.message.role, "content": said.message.content} for said in chat]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt))
    except Exception as error:  # a template may raise anything
        raise DataError(f"the model's chat template rejects a conversation ({error}): use another model") from None


def documents(tokenizer: Any, chat: Sequence[Said], recipe: Recipe) -> list[list[Piece]]:  # noqa: ANN401
    """The pieces of one document for the whole conversation, or of one for each learnt turn."""
    joined = _joined(tokenizer, chat, recipe) if recipe.turns == "joined" else None
    if joined is not None:
        return [joined] if joined else []
    return [
        [Piece(_head(tokenizer, chat[:i], recipe)), *said.pieces, *_end(tokenizer, recipe)]
        for i, said in enumerate(chat)
        if said.learnt
    ]


def _joined(tokenizer: Any, chat: Sequence[Said], recipe: Recipe) -> list[Piece] | None:  # noqa: ANN401
    """All turns in one document; None where the template writes an earlier turn otherwise than it was generated."""
    pieces: list[Piece] = []
    seen = ""
    for index, said in enumerate(chat):
        if said.learnt:
            head = _head(tokenizer, chat[:index], recipe)
            if not head.startswith(seen):
                return None
            turn = [*said.pieces, *_end(tokenizer, recipe)]
            pieces += [Piece(head[len(seen) :]), *turn]
            seen = head + "".join(piece.text for piece in turn)
    return pieces


def _head(tokenizer: Any, before: Sequence[Said], recipe: Recipe) -> str:  # noqa: ANN401
    return render(tokenizer, before, generation_prompt=recipe.generation_prompt is not False)


def _end(tokenizer: Any, recipe: Recipe) -> list[Piece]:  # noqa: ANN401
    return [Piece(tokenizer.eos_token, learn=True)] if STYLES[recipe.format].closes else []


def samples(tokenizer: Any, examples: Sequence[Example], recipe: Recipe) -> Iterator[tuple[Example, Sample]]:  # noqa: ANN401
    """All documents of the examples, whatever their length, with the example they come from."""
    for start in range(0, len(examples), CHUNK):
        owners: list[Example] = []
        texts: list[list[Piece]] = []
        for example in examples[start : start + CHUNK]:
            made = _pieces(tokenizer, example, recipe)
            owners += [example] * len(made)
            texts += made
        for example, document in zip(owners, encode(tokenizer, texts), strict=True):
            ids, targets = (np.array(values, np.int32) for values in (document.ids, document.targets))
            yield example, Sample(example.id, example.group, ids, targets)


def _pieces(tokenizer: Any, example: Example, recipe: Recipe) -> list[list[Piece]]:  # noqa: ANN401
    if bool(example.labels) != (recipe.format == "prm"):
        kind = "labelled steps" if example.labels else "a conversation"
        raise DataError(f"example {example.id} is {kind}, which format={recipe.format} cannot learn: change the format")
    if example.labels:
        if len(example.labels) > len(example.steps):
            raise DataError(f"example {example.id} has more labels than steps: give one label a step")
        return [labelled_pieces(tokenizer, example.group, example.steps, example.labels)]
    return documents(tokenizer, chat_of(example, recipe), recipe)


def encode_examples(tokenizer: Any, examples: Sequence[Example], recipe: Recipe, context: int) -> Encoded:  # noqa: ANN401
    """The documents that fit; the others, and those in which nothing is learnt, are counted.

    Args:
        context: most tokens of a document, the smaller one of the recipe's and the model's.

    Raises:
        DataError: nothing is left.
    """
    out = Encoded()
    used: set[str] = set()
    for example, sample in samples(tokenizer, examples, recipe):
        used.add(example.id)
        if len(sample.ids) > context:
            out.skipped["longer than the context"] += 1
        elif sample.learnt:
            out.samples.append(sample)
        else:
            out.skipped["nothing to learn"] += 1
    out.skipped["nothing to learn"] += len({example.id for example in examples} - used)
    out.skipped += Counter()  # drops reasons that did not occur
    if not out.samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in out.skipped.items())
        raise DataError(
            f"none of the {len(examples)} examples can be learnt from ({reasons}): raise max_length, or see to it that"
            " assistant messages have train=true"
        )
    return out
