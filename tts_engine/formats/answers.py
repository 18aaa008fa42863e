"""Final answers: extraction from a solution, equivalence, grouping for votes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from tts_engine.errors import GraderError
from tts_engine.formats.canonical import Form, canonical, decided
from tts_engine.formats.equivalence import compare, mark

_BRACE = re.compile("[{}]")
ROUNDING = 1e-5
"""Marks closer than this may be those of equal answers (a rounded number and what it stands for)."""


def extract_answer(text: str) -> str | None:
    """Content of the last `\\boxed{...}` (braces balanced), None if there is none or it is empty or cut off.

    >>> extract_answer(r"so \\boxed{\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for brace in _BRACE.finditer(text, begin):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[begin + 1 : brace.start()].strip() or None
    return None


def same_answer(answer: str, reference: str) -> bool:
    """Whether an answer gives the reference.

    What the forms of both do not decide (`canonical.decided`), math-verify does, in a process of its own: an expression
    that it cannot digest in some seconds is different from everything but itself. Not symmetric: `x=5` gives 5, and 5
    gives `x=5`, but 7 does not give `a+b=7`, while `a+b=7` gives 7.

    Raises:
        GraderError: math-verify cannot be started.
    """
    known = decided(canonical(answer), canonical(reference))
    return compare(answer.strip(), reference.strip())[0] if known is None else known


def grade(answer: str | None, reference: str | None) -> bool | None:
    """Whether an answer gives the reference; None where there is no reference. Raises as `same_answer` does."""
    return None if reference is None else answer is not None and same_answer(answer, reference)


def group_answers(answers: Sequence[str | None]) -> list[list[int]]:
    """Indices of equivalent answers (each gives the other), groups in order of first appearance; None belongs to none.

    Answers of one canonical form are one look-up. Other forms are held against the first of each group, and math-verify
    compares only those whose marks do not already tell them apart.

    Raises:
        GraderError: math-verify cannot be started.
    """
    groups: list[list[int]] = []
    leaders: list[tuple[Form, str]] = []
    known: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        form = canonical(answer)
        if form.text not in known:
            alike = (group for group, leader in zip(groups, leaders, strict=True) if _alike(*leader, form, answer))
            group = next(alike, None)
            if group is None:
                group = []
                groups.append(group)
                leaders.append((form, answer))
            known[form.text] = group
        known[form.text].append(index)
    return groups


async def compared(answers: Iterable[str | None], reference: str | None = None) -> None:
    """Ask math-verify in a thread what grouping and grading these answers will want to know.

    Its process takes a second or more to start, and some seconds for a hard expression; the event loop goes on
    meanwhile, and what was found is remembered. Where the forms decide, nothing is asked. What cannot be found out, the
    caller of `group_answers` or `grade` is told.
    """
    texts = [answer for answer in answers if answer is not None]
    if _open([*texts, *([] if reference is None else [reference])]):
        await asyncio.to_thread(_look_up, texts, reference)


def _open(texts: Sequence[str]) -> bool:
    """Whether there are two among them that their forms do not decide."""
    forms = {form.text: form for form in map(canonical, texts) if form.text}.values()
    return len(forms) > 1 and not all(form.plain for form in forms)


def _look_up(answers: Sequence[str], reference: str | None) -> None:
    with suppress(GraderError):
        for group in group_answers(answers):
            grade(answers[group[0]], reference)


def _alike(a: Form, text_a: str, b: Form, text_b: str) -> bool:
    known = decided(a, b)
    if known is not None:
        return known
    text_a, text_b = text_a.strip(), text_b.strip()
    return not _apart(mark(text_a), mark(text_b)) and all(compare(text_a, text_b))


def _apart(a: tuple[float, float] | None, b: tuple[float, float] | None) -> bool:
    """Whether two marks are those of different answers."""
    return (
        a is not None
        and b is not None
        and any(abs(x - y) > ROUNDING * max(1.0, abs(x)) for x, y in zip(a, b, strict=True))
    )
