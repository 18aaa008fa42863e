"""The arithmetic of Monte Carlo tree search: which child to follow, when to add one, what a visit leaves behind.

No model, no waiting: plain functions, and `Visits`, the counts of a tree in arrays (about 100 bytes a node; a
simulation touches the nodes of one path only).
"""

from __future__ import annotations

import math
from array import array
from functools import partial
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Rule = Literal["puct", "uct"]
Number = TypeVar("Number", float, FloatArray)
"""Of one child, or of all children of a node at once."""
WIDE = 16
"""A node with more children looks at them all at once."""


class Score(Protocol):
    """How much children deserve the next visit.

    From their mean values in [0, 1], their priors, their visits (1 at least) and the visits of their parent.
    """

    def __call__(self, value: Number, prior: Number, visits: Number, parent: int) -> Number: ...


def uct(value: Number, prior: Number, visits: Number, parent: int, exploration: float) -> Number:
    """UCB1 on trees (Kocsis and Szepesvári, 2006): value and uncertainty, no prior."""
    root: Number = visits**0.5
    return value + exploration * math.sqrt(math.log(parent)) / root


def puct(value: Number, prior: Number, visits: Number, parent: int, exploration: float) -> Number:
    """The rule of AlphaZero (1712.01815): the prior says where to look first."""
    return value + exploration * math.sqrt(parent) * prior / (1 + visits)


def may_widen(draws: int, visits: int, width: float, growth: float) -> bool:
    """Progressive widening (Couëtoux et al., 2011): `width * visits ** growth` children for a node of so many visits.

    Growth 0 is a fixed number of children.
    """
    return draws < width * math.pow(max(visits, 1), growth)


def scoring(rule: Rule, exploration: float) -> Score:
    """The named rule with its constant."""
    return partial(uct if rule == "uct" else puct, exploration=exploration)


class Visits:
    """Counts of a growing tree. Node 0 is the root.

    A visit under way counts as one of value 0 (virtual loss), so that simultaneous simulations spread. A visit that
    brought no value counts as a visit, and leaves the mean as it is. The mean of a node without a value is that of its
    parent. A child's prior is the share of its parent's draws that brought it.

    Attributes, by node:
        visits: landed and under way; `flying`: under way.
        valued: visits that brought a value, and those under way; `total`: the sum of the values.
        draws: children that were asked for; `came`: draws of the parent that brought this node.
        closed: it has ended or cannot be continued.
    """

    def __init__(self) -> None:
        self.parent = array("q", [-1])
        self.visits = array("q", [0])
        self.flying = array("q", [0])
        self.valued = array("q", [0])
        self.total = array("d", [0.0])
        self.draws = array("q", [0])
        self.came = array("q", [1])
        self.closed = bytearray(1)
        self.children: list[array[int] | None] = [None]

    def __len__(self) -> int:
        return len(self.parent)

    def mean(self, node: int) -> float:
        """Mean of the values that visits brought; that of the parent where there is none, 0 at the root."""
        while node and self.valued[node] == self.flying[node]:
            node = self.parent[node]
        known = self.valued[node] - self.flying[node]
        return self.total[node] / known if known else 0.0

    def add(self, parent: int, *, closed: bool) -> int:
        """A new child, which a draw brought; a closed one can not be expanded. Returns its number."""
        node = len(self.parent)
        self.parent.append(parent)
        self.came.append(1)
        self.total.append(0.0)
        for column in (self.visits, self.flying, self.valued, self.draws):
            column.append(0)
        self.closed.append(closed)
        self.children.append(None)
        siblings = self.children[parent]
        if siblings is None:
            self.children[parent] = array("q", [node])
        else:
            siblings.append(node)
        return node

    def pick(self, score: Score, width: float, growth: float) -> int:
        """The node to draw a child for, or the closed node to visit again; the visit is under way from now on."""
        node = 0
        while not self.closed[node]:
            if not self.children[node] or may_widen(self.draws[node], self.visits[node], width, growth):
                self.draws[node] += 1
                break
            node = self.best(node, score)
        self._walk(node, 1)
        return node

    def best(self, node: int, score: Score) -> int:
        """The child that deserves the next visit most; ties to the earlier. Every child was visited."""
        children = self.children[node] or array("q")
        if len(children) > WIDE:
            return self._best_of_many(node, np.frombuffer(children, np.int64), score)
        usual, parent, drawn = self.mean(node), self.visits[node], self.draws[node]
        total, valued, visits, came = self.total, self.valued, self.visits, self.came
        chosen, most = -1, -math.inf
        for child in children:
            weighed = valued[child]
            value = total[child] / weighed if weighed else usual
            deserved = score(value, came[child] / drawn, visits[child], parent)
            if deserved > most:
                chosen, most = child, deserved
        return chosen

    def land(self, leaf: int, child: int | None, value: float | None) -> None:
        """A visit that went to `leaf`, and on to its `child` if it drew one, has ended; None: it brought no value."""
        if child is not None:
            self.visits[child] += 1
            if value is not None:
                self.valued[child] += 1
                self.total[child] += value
        flying, valued, total, above, node = self.flying, self.valued, self.total, self.parent, leaf
        while node >= 0:
            flying[node] -= 1
            if value is None:
                valued[node] -= 1
            else:
                total[node] += value
            node = above[node]

    def abandon(self, leaf: int) -> None:
        """A visit that went to `leaf` failed: it leaves nothing behind but the draw."""
        self._walk(leaf, -1)

    def forget(self, leaf: int) -> None:
        """Take the last pick back, as if it had not been made."""
        if not self.closed[leaf]:
            self.draws[leaf] -= 1
        self._walk(leaf, -1)

    def _walk(self, leaf: int, change: int) -> None:
        """One visit under way more or less from `leaf` to the root."""
        visits, flying, valued, above, node = self.visits, self.flying, self.valued, self.parent, leaf
        while node >= 0:
            visits[node] += change
            flying[node] += change
            valued[node] += change
            node = above[node]

    def _best_of_many(self, node: int, children: IntArray, score: Score) -> int:
        valued = np.frombuffer(self.valued, np.int64)[children]
        total = np.frombuffer(self.total, np.float64)[children]
        came = np.frombuffer(self.came, np.int64)[children]
        visits = np.frombuffer(self.visits, np.int64)[children].astype(np.float64)
        value = np.where(valued > 0, total / np.maximum(valued, 1), self.mean(node))
        deserved = score(value, came / self.draws[node], visits, self.visits[node])
        return int(children[deserved.argmax()])
