"""Prompts for a chat model as judge: ProcessBench's critic prompt (2412.06559, Apache-2.0), and one for a grade."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tts_engine.formats.answers import extract_answer
from tts_engine.types import Message

INDEX_TASK = (
    "Your task is to review and critique the solution paragraph by paragraph. Once you identify an error in a"
    " paragraph, return the index of the paragraph where the earliest error occurs. Otherwise, return the index of -1"
    ' (which typically denotes "not found").\n\nPlease put your final answer (i.e., the index) in \\boxed{}.'
)
GRADE_TASK = (
    "Your task is to review the solution and to grade it: how likely is it that every paragraph, as far as the solution"
    " goes, is correct? Put a whole number from 0 (certainly wrong) to 10 (certainly right) in \\boxed{}."
)
BEST_GRADE = 10

_INTEGER = re.compile(r"-?\d+")
_PARAGRAPH = re.compile(r"<paragraph_(\d+)>")


def messages(problem: str, steps: Sequence[str], task: str) -> tuple[Message, ...]:
    """The conversation that asks for `task` on a solution whose paragraphs are tagged and counted from 0."""
    tagged = "\n\n".join(f"<paragraph_{i}>\n{step}\n</paragraph_{i}>" for i, step in enumerate(steps))
    content = (
        "The following is a math problem and a solution (split into paragraphs, enclosed with tags and indexed from 0):"
        f"\n\n[Math Problem]\n\n{problem}\n\n[Solution]\n\n{tagged}\n\n{task}"
    )
    return (Message(role="user", content=content),)


def index_of(text: str, steps: int) -> int | None:
    r"""The index of the first wrong paragraph, -1 for none; None where the answer says neither.

    A reply that is nothing but a number counts (small models leave the box out).

    >>> index_of(r"\boxed{-1}", 3), index_of(r"\boxed{<paragraph_1>}", 3), index_of("2", 3), index_of(r"\boxed{7}", 3)
    (-1, 1, 2, None)
    """
    answer = extract_answer(text) or text.strip()
    tagged = _PARAGRAPH.fullmatch(answer)
    found = tagged[1] if tagged else answer
    return int(found) if _INTEGER.fullmatch(found) and -1 <= int(found) < steps else None


def grade_of(text: str) -> float | None:
    r"""The boxed grade, or that of a reply that is nothing but a number, as a share; None where it is out of range.

    >>> grade_of(r"So \boxed{7}"), grade_of(r"\boxed{8/10}"), grade_of("9"), grade_of(r"\boxed{12}")
    (0.7, 0.8, 0.9, None)
    """
    answer = (extract_answer(text) or text.strip()).removesuffix(f"/{BEST_GRADE}").strip()
    grade = int(answer) if _INTEGER.fullmatch(answer) else -1
    return grade / BEST_GRADE if 0 <= grade <= BEST_GRADE else None
