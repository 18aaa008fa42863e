"""Choosing an answer from judged candidates: pure functions, votes by answer equivalence.

A selector never prefers a candidate for the order in which it arrived: candidates come in program order, ties go to the
earlier one, and a prefix of the sequence gives the selection at a smaller N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from tts_engine.formats.answers import group_answers, same_answer
from tts_engine.types import Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The chosen answer, the candidate that stands for it, and the weight of every answer that was proposed."""

    answer: str | None
    chosen: int | None
    weights: Mapping[str, float] = field(default_factory=dict)


def select(candidates: Sequence[Judged], how: str, reference: str | None = None) -> Selection:
    """Choose an answer.

    Args:
        candidates: in program order; those without an answer do not vote.
        how: `majority`, `best` (highest verifier value), `weighted` (sum of values per answer; the default elsewhere)
            or `oracle` (a right answer if there is one: for reports only).
        reference: the right answer, needed by `oracle` alone.

    Where no candidate has a valid verdict, `best` and `weighted` fall back to the majority.
    """
    if how not in SELECTORS:
        raise ValueError(f"unknown selector {how!r}: use one of {', '.join(SELECTORS)}")
    groups = group_answers([judged.candidate.answer for judged in candidates])
    if not groups:
        return Selection(answer=None, chosen=None)
    values = [judged.verdict.value if judged.verdict else None for judged in candidates]
    rule = SELECTORS[how]
    if all(values[i] is None for group in groups for i in group) and how in ("best", "weighted"):
        rule = _count
    names = [str(candidates[group[0]].candidate.answer) for group in groups]
    if how == "oracle":
        weights = [float(reference is not None and same_answer(name, reference)) for name in names]
    else:
        weights = [rule([values[i] for i in group]) for group in groups]
    winner = max(range(len(groups)), key=lambda g: (weights[g], -groups[g][0]))
    return Selection(
        answer=names[winner],
        chosen=max(groups[winner], key=lambda i: (_known(values[i]), -i)),
        weights=MappingProxyType(dict(zip(names, weights, strict=True))),
    )


def _known(value: float | None) -> float:
    return -math.inf if value is None else value


def _count(values: list[float | None]) -> float:
    return float(len(values))


def _best(values: list[float | None]) -> float:
    return max(map(_known, values))


def _sum(values: list[float | None]) -> float:
    return math.fsum(value for value in values if value is not None)


SELECTORS: Mapping[str, Callable[[list[float | None]], float]] = MappingProxyType(
    {"majority": _count, "best": _best, "weighted": _sum, "oracle": _count}
)
"""Weight of an answer from the values of the candidates that gave it (None: no valid verdict)."""
