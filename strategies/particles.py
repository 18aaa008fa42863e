"""Particle filtering: sequential Monte Carlo over steps (2502.01618), with the verifier's value as the potential.

Particles of the policy's steps, weighted by the ratio of the value after and before each step, stand for the
distribution policy(solution) * value(solution) ** power: at a high power the best solutions, at power 0 the policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tts_engine.search import Search
from tts_engine.strategies.options import Count, Positive, Share
from tts_engine.together import together
from tts_engine.types import Judged, Key, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Particle:
    """A path, its weight, and its value to the power (1 at the root; without a verdict that of its parent)."""

    judged: Judged
    weight: float = 1.0
    value: float = 1.0

    @property
    def open(self) -> bool:
        """Whether it can be extended."""
        return not self.judged.candidate.done and not self.judged.candidate.dead

    @property
    def key(self) -> Key:
        """That of its candidate; copies share it until they are extended."""
        return self.judged.candidate.key


async def particle_filter(
    search: Search, *, n: Count = 16, samples: Count = 8, threshold: Share = 0.5, power: Positive = 1.0
) -> Outcome:
    """Extend `n` particles step by step; resample when their weights become uneven; vote by weight.

    An answer's weight is an estimate of its posterior probability. The mean weight of the particles (`evidence` on the
    tree) is an unbiased estimate of the mean value, to the power, of the policy's solutions. A solution that ends
    without an answer has value 0.

    Args:
        n: particles.
        samples: verifier samples for each step.
        threshold: resample when the effective number of particles, (sum w)^2 / sum w^2, falls below this share of
            theirs.
        power: how sharply the value counts.
    """
    particles = await filtered(search, n, samples, threshold, power)
    weights: dict[Key, float] = {}
    for particle in particles:
        weights[particle.key] = weights.get(particle.key, 0.0) + particle.weight
    total = math.fsum(weights.values())
    search.tree.graph["evidence"] = total / n
    pool = {particle.key: particle.judged for particle in particles}
    return await search.finish(list(pool.values()), "majority", weights if total else None)


async def filtered(search: Search, n: int, samples: int, threshold: float, power: float) -> list[Particle]:
    """The particles when all have ended, or money has."""
    particles = [Particle(judged=Judged(candidate=search.root))] * n
    wave = 0
    while active := [particle for particle in particles if particle.open]:
        size = search.room(len(active), samples)
        if not size:
            break
        chance = search.root.key.child("resample", wave)
        if size < len(active):
            active = resampled(active, size, uniform(chance.child("fewer")))
        particles = [particle for particle in particles if not particle.open]
        particles += await _extended(search, active, samples, power)
        if effective(particles) < threshold * len(particles):
            particles = resampled(particles, n, uniform(chance))
        wave += 1
    return particles


def effective(particles: Sequence[Particle]) -> float:
    """The effective number of particles: theirs when weights are equal, 1 when one has all; 0 without weight."""
    squares = math.fsum(particle.weight**2 for particle in particles)
    return math.fsum(particle.weight for particle in particles) ** 2 / squares if squares else 0.0


def resampled(particles: Sequence[Particle], n: int, u: float) -> list[Particle]:
    """`n` particles of equal weight by systematic resampling; nobody is left where there is no weight.

    A particle of weight w is taken n * w / sum w times on average, rounded up or down. The sum of weights stays.

    Args:
        u: the one random number, uniform in [0, 1).
    """
    total = math.fsum(particle.weight for particle in particles)
    heavy = [particle for particle in particles if particle.weight > 0]
    taken: list[Particle] = []
    reached = 0.0
    for particle in heavy:
        reached += particle.weight
        last = particle is heavy[-1]  # it takes all that is left, whatever rounding says
        while len(taken) < n and (last or (len(taken) + u) * total < reached * n):
            taken.append(replace(particle, weight=total / n))
    return taken


def uniform(key: Key) -> float:
    """The random number in [0, 1) of a key."""
    return (key.int() >> 11) / 2**53


async def _extended(search: Search, particles: Sequence[Particle], samples: int, power: float) -> list[Particle]:
    """Each particle with one more step; those whose step could not be made are gone."""
    copies: dict[Key, list[Particle]] = {}
    for particle in particles:
        copies.setdefault(particle.key, []).append(particle)
    groups = await together(
        search.judged(search.propose(group[0].judged.candidate, len(group)), samples) for group in copies.values()
    )
    return [
        _weighed(particle, judged, power)
        for group, children in zip(copies.values(), groups, strict=True)
        for particle, judged in zip(group, children, strict=False)
    ]


def _weighed(particle: Particle, judged: Judged, power: float) -> Particle:
    candidate, verdict = judged.candidate, judged.verdict
    if candidate.dead or (candidate.done and candidate.answer is None):
        return Particle(judged=judged, weight=0.0, value=0.0)
    value = particle.value if verdict is None or verdict.value is None else verdict.value**power
    ratio = value / particle.value if particle.value else 0.0
    return Particle(judged=judged, weight=particle.weight * ratio, value=value)
