"""Final answers: extraction from a solution, equivalence by math-verify, grouping for votes."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from tts_engine.errors import GraderError

_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")


def extract_answer(text: str) -> str | None:
    """Content of the last `\\boxed{...}` (braces balanced), None if there is none or it is empty or cut off.

    >>> extract_answer(r"so \\boxed{\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin + 1 : position].strip() or None
    return None


def same_answer(a: str, b: str) -> bool:
    """Whether two answers mean the same (symmetric; the second may be the reference).

    Raises:
        GraderError: math-verify failed on both readings.
    """
    a, b = a.strip(), b.strip()
    if a == b:
        return True
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        return x == y
    return _equivalent(a, b) or _equivalent(b, a)


def group_answers(answers: Sequence[str | None]) -> list[list[int]]:
    """Indices of equivalent answers, groups in order of first appearance; None belongs to no group."""
    groups: list[list[int]] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        for group in groups:
            first = answers[group[0]]
            if first is not None and same_answer(first, answer):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def _number(text: str) -> Fraction | None:
    text = text.strip("$ ")
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


@lru_cache(maxsize=65536)
def _equivalent(gold: str, answer: str) -> bool:
    from math_verify import parse, verify

    # math-verify's own time limit is a SIGALRM, which only the main thread can take.
    seconds = 3 if threading.current_thread() is threading.main_thread() else None
    try:
        readings = [parse(_as_math(text), parsing_timeout=seconds) for text in (gold, answer)]
        return bool(verify(*readings, timeout_seconds=seconds))
    except Exception as error:  # third-party parser: any failure is a grader failure, attributed here
        raise GraderError(f"math-verify failed on {gold!r} against {answer!r}: {error}") from error


def _as_math(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"
