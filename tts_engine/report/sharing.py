"""What the calls of a run share: the beginning of their prompts, which the first of them computes for all.

A cached prefix is free, so the first solution of a problem pays for the prompt and the others hardly anything, and the
first chain on a text reads it for the others. A smaller run pays such a part once too, not by its share of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tts_engine.types import Usage, Verdict

Cost = Mapping[str, float]
"""By unit; what is not known is left out."""


def known_units(usage: Usage, chars: int) -> dict[str, float]:
    """A usage by unit; FLOPs, dollars and seconds of zero stand for models that do not tell."""
    known = {unit: float(getattr(usage, unit)) for unit in ("flops", "seconds", "dollars")}
    return {"tokens": float(usage.tokens), "chars": float(chars)} | {unit: x for unit, x in known.items() if x}


def paid_for_all(usages: Sequence[Usage]) -> tuple[int, Cost] | None:
    """Of calls on one beginning, the one that computed it, and what it took beyond the mean of the others.

    None where there are no others, or where nothing was cached.
    """
    if len(usages) < 2 or not any(usage.cached for usage in usages):
        return None
    payer = max(range(len(usages)), key=lambda i: usages[i].prompt - usages[i].cached)
    costs = [known_units(usage, 0) for usage in usages]
    rest = costs[:payer] + costs[payer + 1 :]
    shares = {
        unit: cost - sum(other.get(unit, 0.0) for other in rest) / len(rest) for unit, cost in costs[payer].items()
    }
    return payer, shares


def of_first_chain(verdict: Verdict) -> list[Cost]:
    """What the first of a verdict's chains took for each step."""
    return [known_units(turn.usage, len(turn.rationale)) for turn in verdict.samples[0]] if verdict.samples else []

