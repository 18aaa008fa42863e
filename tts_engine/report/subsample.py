"""What a smaller configuration would have given, from the samples of a larger one: expectations over its subsets.

N of a pool's solutions drawn without replacement, and K of the chains of each different text, are what a run with N and
K draws. Closed forms where there is one (pass@N, the majority, best-of-N by ranks, costs), else all subsets where they
are few, else seeded random ones with the error that this leaves. A tie between answers is broken as `selection.select`
breaks it, by who came first: in a random order that is each tied answer by its number of supporters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from tts_engine.report.intervals import pass_at_k
from tts_engine.report.pools import Array, Pool, chain_values
from tts_engine.selection import PESSIMISM
from tts_engine.types import Aggregation, Key

DRAWS = 256
"""Random subsets of a pool; that many are enumerated rather than drawn."""
TIE = 1e-9
"""Weights that differ by less are equal."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Chance that the selected answer is right, and the standard error that random subsets leave (0: exact)."""

    value: float
    error: float = 0.0


def oracle(pool: Pool, n: int) -> Estimate:
    """Chance that one of n solutions is right (2107.03374)."""
    return Estimate(pass_at_k(pool.size, int(pool.right.sum()), n))


def majority(pool: Pool, n: int) -> Estimate:
    """Chance that the most frequent answer of n solutions is right, exactly."""
    sizes = np.bincount(pool.answer[pool.answer >= 0])
    right = frozenset(int(group) for group in np.unique(pool.answer[pool.right & (pool.answer >= 0)]))
    order = np.argsort(sizes, kind="stable")
    place = {int(group): rank for rank, group in enumerate(order)}
    curve = _majority(tuple(int(size) for size in sizes[order]), frozenset(place[g] for g in right), pool.size)
    return Estimate(curve[n])


@lru_cache(maxsize=65536)
def _majority(sizes: tuple[int, ...], right: frozenset[int], total: int) -> tuple[float, ...]:
    """For each n: subsets in which a right answer leads, by its count c; t others that also have c take their share.

    `rest[s, t]` counts the ways to take s solutions from the other answers so that none has more than c and t have c.
    """
    silent = total - sum(sizes)
    won = np.zeros(total + 1)
    for winner in right:
        others = [size for i, size in enumerate(sizes) if i != winner]
        for c in range(1, sizes[winner] + 1):
            rest = _ways(others, c, total)
            share = rest @ (1.0 / np.arange(1, rest.shape[1] + 1))
            for s in range(silent + 1):  # solutions without an answer fill up
                ways = math.comb(silent, s) * math.comb(sizes[winner], c)
                won[c + s :] += ways * share[: total + 1 - c - s]
    return tuple(float(won[n]) / math.comb(total, n) for n in range(total + 1))


def _ways(sizes: list[int], c: int, total: int) -> Array:
    """[total + 1, ties + 1]; see `_majority`."""
    ways = np.zeros((total + 1, sum(size >= c for size in sizes) + 1))
    ways[0, 0] = 1.0
    for size in sizes:
        grown = ways.copy()
        for taken in range(1, min(c, size) + 1):
            tied = taken == c
            grown[taken:, tied:] += math.comb(size, taken) * ways[: total + 1 - taken, : ways.shape[1] - tied]
        ways = grown
    return ways


def values(pool: Pool, aggregation: Aggregation) -> Array:
    """[N] the value of each solution by all its chains; nan where it was not judged."""
    by_text = [chain_values(chains, np.ones((1, len(chains))), aggregation)[0] for chains in pool.chains]
    return np.array(by_text)[pool.text]


def best_by_rank(pool: Pool, value: Array, n: int) -> Estimate | None:
    """Chance that the highest-valued of n solutions is right: the one of rank r leads where none of the r above it is
    drawn. None where two answers share a value, or an answer has none: then subsets have to be looked at."""
    voting = np.flatnonzero(pool.answer >= 0)
    order = voting[np.argsort(-value[voting], kind="stable")]
    ranked, answers = value[order], pool.answer[order]
    tied = (ranked[:-1] - ranked[1:] < TIE) & (answers[:-1] != answers[1:])
    if np.isnan(ranked).any() or tied.any():
        return None
    leads = [math.comb(pool.size - 1 - rank, n - 1) for rank in range(len(order))]
    won = sum(ways for ways, index in zip(leads, order, strict=True) if pool.right[index])
    return Estimate(won / math.comb(pool.size, n))


class Draws:
    """Subsets of one pool: every n and k uses the same random orders, so that differences are paired.

    Args:
        draws: number of random subsets; also the number up to which all subsets are taken instead.
        seed: of the random orders; together with the problem's name it fixes them.
    """

    def __init__(self, pool: Pool, aggregation: Aggregation, draws: int = DRAWS, seed: int = 0) -> None:
        self._pool = pool
        self._aggregation = aggregation
        self._draws = draws
        self._values: dict[int, Array] = {}
        self._random = np.random.default_rng(Key(seed, ("subsample", pool.problem)).int())
        self._ranks = _orders(self._random, draws, pool.size)
        self._chain_ranks = [_orders(self._random, draws, len(chains)) for chains in pool.chains]
        self._groups = (pool.answer[:, None] == np.arange(pool.answer.max(initial=-1) + 1)).astype(float)
        self._right = np.zeros(self._groups.shape[1])
        for index in np.flatnonzero(pool.answer >= 0):
            self._right[pool.answer[index]] = pool.right[index]

    def select(self, how: str, n: int, k: int) -> Estimate:
        """Chance that the answer chosen by `how` among n solutions with k chains each is right.

        Args:
            how: `weighted`, `best` or `pessimistic` (selection.py), or `confidence`: weighted by the policy's own.
        """
        pool = self._pool
        fixed = how == "confidence" or all(len(chains) <= k for chains in pool.chains)
        value = (pool.sure if how == "confidence" else values(pool, self._aggregation)) if fixed else None
        if how == "best" and value is not None and (exact := best_by_rank(pool, value, n)) is not None:
            return exact
        every = fixed and math.comb(pool.size, n) <= self._draws
        taken = _subsets(pool.size, n) if every else (self._ranks < n).astype(float)
        shown = self.values(k) if value is None else np.broadcast_to(value, taken.shape)
        won = self._won(_weights(how, taken, shown, self._groups), taken @ self._groups)
        error = 0.0 if every else float(won.std() / math.sqrt(len(won)))
        return Estimate(float(won.mean()), error)

    def values(self, k: int) -> Array:
        """[draws, N] value of each solution by k random chains of its text."""
        if k not in self._values:
            by_text = [
                chain_values(chains, (ranks < k).astype(float), self._aggregation)
                for chains, ranks in zip(self._pool.chains, self._chain_ranks, strict=True)
            ]
            self._values[k] = np.stack(by_text, axis=1)[:, self._pool.text]
        return self._values[k]

    def _won(self, weights: Array, supporters: Array) -> Array:
        """[draws] share of the leading answers that is right, each by its number of supporters; 0 where none is."""
        if not weights.shape[1]:
            return np.zeros(len(weights))
        weights = np.where(supporters > 0, weights, -np.inf)
        top = weights.max(axis=1, keepdims=True)
        leading = np.where(np.isfinite(top) & (weights >= top - TIE), supporters, 0.0)
        leading = np.where(np.isfinite(top), leading, supporters)
        total = leading.sum(axis=1)
        won: Array = (leading @ self._right) / np.maximum(total, 1.0)
        return won


def _weights(how: str, taken: Array, value: Array, groups: Array) -> Array:
    """[draws, answers] weight of each answer, as the selectors of selection.py give it; a draw in which nothing is
    valued falls back to the majority."""
    known = (~np.isnan(value)) * taken
    filled = np.where(known > 0, value, 0.0)
    judged, sums = known @ groups, filled @ groups
    if how == "best":
        ranked = np.where(known > 0, value, -np.inf)
        weights = np.stack(
            [np.where(members > 0, ranked, -np.inf).max(axis=1, initial=-np.inf) for members in groups.T], axis=1
        )
    elif how == "pessimistic":
        alarm = PESSIMISM * np.log(np.maximum(judged.sum(axis=1, keepdims=True), 1.0)) / (judged + 1)
        weights = np.where(judged > 0, sums / np.maximum(judged, 1.0) - alarm, -np.inf)
    else:
        weights = sums
    return np.where(judged.sum(axis=1, keepdims=True) > 0, weights, taken @ groups)


def cost(pool: Pool, n: int, k: int) -> Array:
    """[units] expected cost of n solutions, each different prefix of steps among them judged by k chains.

    A prefix of m of the pool's N solutions is among n of them with chance 1 - C(N - m, n) / C(N, n). The prompt that
    all share is paid once, by solutions and by judgements; the first chain on a prefix pays for what others read too.
    """
    spent: Array = pool.once[0] + n * pool.generate.mean(axis=0)
    if k:
        counts = np.zeros(len(pool.verify), dtype=np.int64)
        for path, solutions in zip(pool.paths, np.bincount(pool.text, minlength=len(pool.paths)), strict=True):
            counts[path] += solutions
        subsets = math.comb(pool.size, n)
        present = np.array([1.0 - math.comb(pool.size - int(m), n) / subsets for m in counts])
        spent = spent + pool.once[1] + present @ (pool.verify[:, 0] + (k - 1) * pool.verify[:, 1])
    return spent


def _orders(random: np.random.Generator, draws: int, size: int) -> NDArray[np.int64]:
    """[draws, size] ranks of the elements in random orders; those below n are a random subset of n."""
    return random.random((draws, size)).argsort(axis=1).argsort(axis=1)


@lru_cache(maxsize=256)
def _subsets(size: int, n: int) -> Array:
    """[subsets, size] all subsets of n, marked by 1."""
    chosen = list(combinations(range(size), n))
    marked = np.zeros((len(chosen), size))
    marked[np.arange(len(chosen))[:, None], np.array(chosen).reshape(len(chosen), n)] = 1.0
    return marked
