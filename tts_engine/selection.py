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
from tts_engine.types import Judged, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The chosen answer, the candidate that stands for it, and the weight of every answer that was proposed."""

    answer: str | None
    chosen: int | None
    weights: Mapping[str, float] = field(default_factory=dict)


def select(
    candidates: Sequence[Judged], how: str, reference: str | None = None, counts: Sequence[float] | None = None
) -> Selection:
    """Choose an answer.

    Args:
        candidates: in program order; those without an answer do not vote.
        how: `majority`, `best` (highest verifier value), `weighted` (sum of values per answer; the default elsewhere),
            `pessimistic` (mean value, less the fewer candidates gave the answer) or `oracle` (a right
            answer if there is one: for reports only).
        reference: the right answer, needed by `oracle` alone.
        counts: how much each candidate's vote counts; then, and only with `majority`, answers are weighed by them.

    Where no candidate has a valid verdict, `best`, `weighted` and `pessimistic` fall back to the majority.
    """
    if how not in SELECTORS:
        raise ValueError(f"unknown selector {how!r}: use one of {', '.join(SELECTORS)}")
    groups = group_answers([judged.candidate.answer for judged in candidates])
    if not groups:
        return Selection(answer=None, chosen=None)
    values = [judged.verdict.value if judged.verdict else None for judged in candidates]
    rule = SELECTORS[how]
    if all(values[i] is None for group in groups for i in group) and how != "oracle":
        rule = _count
    names = [str(candidates[group[0]].candidate.answer) for group in groups]
    if how == "oracle":
        weights = [float(reference is not None and same_answer(name, reference)) for name in names]
    elif counts is not None and how == "majority":
        weights = [math.fsum(counts[i] for i in group) for group in groups]
    else:
        known = sum(values[i] is not None for group in groups for i in group)
        weights = [rule([values[i] for i in group], known) for group in groups]
    winner = max(range(len(groups)), key=lambda g: (weights[g], -groups[g][0]))
    return Selection(
        answer=names[winner],
        chosen=max(groups[winner], key=lambda i: (_known(values[i]), -i)),
        weights=MappingProxyType(dict(zip(names, weights, strict=True))),
    )


def _known(value: float | None) -> float:
    return -math.inf if value is None else value


def _count(values: list[float | None], known: int) -> float:
    return float(len(values))


def _best(values: list[float | None], known: int) -> float:
    return max(map(_known, values))


def _sum(values: list[float | None], known: int) -> float:
    return math.fsum(value for value in values if value is not None)


def _pessimistic(values: list[float | None], known: int) -> float:
    supporters = [value for value in values if value is not None]
    if not supporters:
        return -math.inf
    return math.fsum(supporters) / len(supporters) - PESSIMISM * math.log(known) / (len(supporters) + 1)


PESSIMISM = 0.5
"""Alpha of the pessimistic selector: how much an answer that few candidates gave is distrusted (2509.17995)."""

SELECTORS: Mapping[str, Callable[[list[float | None], int], float]] = MappingProxyType(
    {"majority": _count, "best": _best, "weighted": _sum, "oracle": _count, "pessimistic": _pessimistic}
)
"""Weight of an answer from the values of the candidates that gave it (None: no valid verdict) and the number of valid
verdicts on all answers."""


def shown(outcome: Outcome) -> Judged | None:
    """The candidate whose text is the answer: the chosen one; without an answer the best of the others."""
    if outcome.chosen is not None:
        return outcome.candidates[outcome.chosen]
    return max(outcome.candidates, key=lambda judged: (judged.rank, judged.candidate.depth), default=None)
