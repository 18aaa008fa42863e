"""Who is kept: plain functions from scores to places, shares and chances; nothing here waits for anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache

from tts_engine.types import Judged


class Standing(Enum):
    """What is known of a child that has no score."""

    UNKNOWN = "not generated yet"
    UNSCORED = "generated, to be continued, not judged yet"
    DONE = "ended"
    GONE = "it failed or cannot be continued"


def promised(level: Sequence[float | Standing], n: int, places: int) -> list[int]:
    """How many children each child of a level is certain to get, whatever is still unknown.

    It never falls as more becomes known, and adds up to `n` less the ended ones once all is known: as even as it goes,
    the better first, ties to the earlier.

    Args:
        level: a score for each child, or what is known instead, in program order.
        n: children of the next level, if none of this level ended; `places`: how many children may be expanded.
    """
    shares = [0] * len(level)
    unknown, unscored = level.count(Standing.UNKNOWN), level.count(Standing.UNSCORED)
    if unknown + unscored >= places:
        return shares
    scores = {i: score for i, score in enumerate(level) if not isinstance(score, Standing)}
    most = min(places, len(scores) + unscored + unknown)
    least = n - level.count(Standing.DONE) - unknown
    for better, i in enumerate(sorted(scores, key=lambda i: -scores[i])):
        worst = better + unscored + unknown
        if worst >= places or least <= 0:
            break
        shares[i] = least // most + (not unknown and worst < least % most)
    return shares


def spread(children: Sequence[Judged | None], diversity: float) -> list[float | None]:
    """Scores of the children, each lowered by `diversity` for every better one with the same parent, and for every
    better one with the same text; None for those given as None."""
    scores: list[float | None] = [None] * len(children)
    rest = {i: child for i, child in enumerate(children) if child is not None}
    crowd: Counter[object] = Counter()
    while rest:
        alike = {i: sum(crowd[like] for like in _likes(child)) for i, child in rest.items()}
        lowered = {i: child.rank - diversity * alike[i] for i, child in rest.items()}
        best = max(lowered, key=lambda i: (lowered[i], -i))
        scores[best] = lowered[best]
        crowd.update(_likes(rest.pop(best)))
    return scores


def deal(total: int, wants: Sequence[int]) -> list[int]:
    """`total` as evenly as it goes among those who want so many each, the first first."""
    given = [0] * len(wants)
    while total > 0 and given != list(wants):
        for i, want in enumerate(wants):
            if given[i] < want and total > 0:
                given[i] += 1
                total -= 1
    return given


@lru_cache(maxsize=2**14)
def chance_to_stay(better: int, known: int, rest: int, places: int) -> float:
    """Chance that a score is among the `places` best in the end, if all orders of the scores are equally likely.

    How many better ones are still to come is beta-binomial then (Polya's urn).

    Args:
        better: scores above it so far; `known`: scores so far, this one included; `rest`: those to come.
    """
    room = places - better
    if room <= 0 or rest < room:
        return float(room > 0)
    worse = known - 1 - better
    ways = sum(math.comb(better + more, more) * math.comb(worse + rest - more, rest - more) for more in range(room))
    return ways / math.comb(known + rest, rest)


def _likes(judged: Judged) -> tuple[object, object]:
    """What makes two candidates alike: their parent, their text."""
    return judged.candidate.parent, judged.candidate.text
