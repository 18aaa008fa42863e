"""Who may spend how much, and what was spent: a tree of scopes that never overspends.

    run                        Scope.root(Budget.parse("tokens=20k"))
    └── problem:gsm8k-12       run.child(...)        draws from the run, call by call
        ├── beam:0             problem.split(2)      has its share set aside: independent of its siblings
        └── beam:1

A call is paid in two parts: `reserve` sets an upper bound aside before it runs, `settle` charges what it took and frees
the rest. At every scope and every moment, spent + reserved <= limit. Limits are counted in whole tokens, FLOPs and
picodollars, so refunds are exact. Everything is synchronous and for one thread (the event loop's).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tts_engine.compute.budget import PICO, Amount, Budget, whole
from tts_engine.errors import BudgetExhausted, TTSError
from tts_engine.types import Role, Usage

__all__ = ["Amount", "Budget", "Hold", "Lease", "Scope"]

UNITS = ("tokens", "FLOPs", "picodollars")
UNLIMITED = Budget()
NO_LIMIT = (math.inf, math.inf, math.inf)
Vector = tuple[float, float, float]
"""Tokens, FLOPs, picodollars: whole numbers, or infinity for no limit."""


class Hold:
    """An allowance that was set aside; `release` gives it back, and so does leaving it as a context manager."""

    __slots__ = ("_scope", "bound")

    def __init__(self, scope: Scope, bound: Vector) -> None:
        self.bound = bound
        self._scope: Scope | None = scope

    @property
    def open(self) -> bool:
        """Whether the allowance is still set aside."""
        return self._scope is not None

    def release(self) -> None:
        """Free the whole allowance, unless that or a settlement has already happened."""
        if self._scope is not None:
            self._scope._free_up(self.bound)
            self._scope._holds.pop(self, None)
            self._scope = None

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class Lease(Hold):
    """What is set aside for one call; frees everything on exit when it was never settled."""

    __slots__ = ()

    def __enter__(self) -> Lease:
        return self

    def settle(self, role: Role, model: str, usage: Usage) -> None:
        """Charge what the call took and free the rest.

        Raises:
            TTSError: the usage is above the bound in a unit that has a limit (a backend generated more than it was
                asked for), or the lease is no longer open. Nothing is charged then.
        """
        spent = whole(usage)
        bound = self.bound
        if self._scope is None:
            raise TTSError(f"a call of {model} was settled after its lease ended")
        if spent[0] > bound[0] or spent[1] > bound[1] or spent[2] > bound[2]:
            self._refuse_excess(model, spent, self._scope)
        self._scope._free_up((bound[0] - spent[0], bound[1] - spent[1], bound[2] - spent[2]))
        self._scope._record(role, model, usage)
        self._scope = None

    def _refuse_excess(self, model: str, spent: Vector, scope: Scope) -> None:
        for unit, took, bound, free in zip(UNITS, spent, self.bound, scope._available(), strict=True):
            if took > bound and free < math.inf:
                raise TTSError(f"a call of {model} took {took} {unit}, more than the {bound} reserved for it")


class Scope:
    """A limit and an account. Make the first with `Scope.root`, the others with `child` and `split`.

    A context manager: leaving it closes it.
    """

    __slots__ = (
        "_account",
        "_children",
        "_deadline",
        "_free",
        "_holds",
        "_late",
        "_now",
        "_own",
        "_parent",
        "closed",
        "name",
    )

    def __init__(self, name: str, budget: Budget, parent: Scope | None, now: Callable[[], float], own: bool) -> None:
        """Internal. `own`: what this scope may spend is its own already (root, lane); else it draws from the parent."""
        self.name = name
        self.closed = False
        self._parent = parent
        self._own = own
        self._now = now
        self._free: Vector = (
            math.inf if budget.tokens is None else int(budget.tokens),
            math.inf if budget.flops is None else int(budget.flops),
            math.inf if budget.dollars is None else round(budget.dollars * PICO),
        )
        self._deadline, self._late = math.inf if budget.seconds is None else now() + budget.seconds, name
        if parent is not None and parent._deadline < self._deadline:
            self._deadline, self._late = parent._deadline, parent._late
        self._children: dict[Scope, None] = {}
        self._holds: dict[Hold, None] = {}
        self._account: dict[tuple[Role, str], Usage] = {}

    @classmethod
    def root(cls, budget: Budget, name: str = "run", now: Callable[[], float] = time.monotonic) -> Scope:
        """The outermost scope; `now` returns seconds on any monotonic clock."""
        return cls(name, budget, None, now, own=True)

    @classmethod
    def granted(cls, left: Amount, name: str, now: Callable[[], float] = time.monotonic) -> Scope:
        """An outermost scope that may spend what is left to one elsewhere, which may be nothing."""
        scope = cls(name, Budget(), None, now, own=True)
        scope._free = (
            math.inf if left.tokens is None else left.tokens,
            math.inf if left.flops is None else left.flops,
            math.inf if left.dollars is None else round(left.dollars * PICO),
        )
        scope._deadline = math.inf if left.seconds is None else now() + left.seconds
        return scope

    def child(self, name: str, budget: Budget | None = None) -> Scope:
        """A nested limit: whatever is charged to it is charged to this scope too; `budget` None adds no limit."""
        return self._adopt(Scope(name, budget or UNLIMITED, self, self._now, own=False))

    def split(self, n: int, name: str) -> list[Scope]:
        """Divide all that is free now among `n` lanes `name:0`, `name:1`, ...; call at a point fixed by the program.

        A lane's share is set aside at once and is a hard limit, so what it can do depends neither on its siblings nor
        on the order in which they finish. The first lanes get the remainder. Deadlines are common to all.
        """
        if n < 1:
            raise ValueError(f"cannot split a budget into {n} lanes")
        tokens, flops, money = (_shares(free, n) for free in self._available())
        lanes = []
        for i, share in enumerate(zip(tokens, flops, money, strict=True)):
            self._take(share)
            lane = Scope(f"{name}:{i}", UNLIMITED, self, self._now, own=True)
            lane._free = share
            lanes.append(self._adopt(lane))
        return lanes

    def close(self) -> None:
        """Close the scopes below, release the holds, refund what is unspent to the parent; again: nothing happens.

        A call that is still running keeps what it has reserved and may be settled later.
        """
        if self.closed:
            return
        for below in list(self._children):
            below.close()
        for hold in list(self._holds):
            hold.release()
        self.closed = True
        if self._parent is None:
            return
        if self._own:
            refund, self._free = self._free, (0, 0, 0)
            if refund != NO_LIMIT:
                self._parent._free_up(tuple(0 if amount == math.inf else amount for amount in refund))  # type: ignore[arg-type]
        del self._parent._children[self]
        for (role, model), usage in self._account.items():
            self._parent._add(role, model, usage)

    def reserve(self, bound: Usage) -> Lease:
        """Set the upper bound of a call aside.

        Raises:
            BudgetExhausted: it does not fit here or further up, the deadline has passed, or the scope is closed.
        """
        amount = whole(bound)
        self._require(amount)
        self._take(amount)
        return Lease(self, amount)

    def hold(self, bound: Usage) -> Hold:
        """Set a finishing allowance aside; released by hand or when the scope closes. Raises as `reserve` does."""
        amount = whole(bound)
        self._require(amount)
        self._take(amount)
        hold = Hold(self, amount)
        self._holds[hold] = None
        return hold

    def charge(self, role: Role, model: str, usage: Usage) -> None:
        """Charge what was not reserved: a call found in the journal, a code run (whose time is no budget unit).

        Raises:
            BudgetExhausted: it does not fit here or further up. A passed deadline is no reason.
        """
        amount = whole(usage)
        self._require(amount, on_time=False)
        self._take(amount)
        self._record(role, model, usage)

    @property
    def left(self) -> Amount:
        """What is free here: the tightest of this scope and those it draws from."""
        tokens, flops, money = self._available()
        return Amount(
            tokens=None if tokens == math.inf else int(tokens),
            flops=None if flops == math.inf else flops,
            dollars=None if money == math.inf else money / PICO,
            seconds=self.seconds_left,
        )

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, negative after it; None without one."""
        return None if self._deadline == math.inf else self._deadline - self._now()

    @property
    def limited(self) -> bool:
        """Whether there is a limit besides time."""
        return self._available() != NO_LIMIT

    @property
    def expired(self) -> bool:
        """Whether the deadline of this scope or of one above it has passed."""
        return self._deadline < math.inf and self._now() >= self._deadline

    @property
    def spent(self) -> dict[Role, Usage]:
        """Usage by role, of this scope and all below it."""
        return _grouped((role, usage) for (role, _), usage in self._accounts())

    @property
    def accounts(self) -> dict[tuple[Role, str], Usage]:
        """Usage by role and model, of this scope and all below it."""
        return _grouped(self._accounts())

    @property
    def by_model(self) -> dict[str, Usage]:
        """Usage by model, of this scope and all below it."""
        return _grouped((model, usage) for (_, model), usage in self._accounts())

    @property
    def total(self) -> Usage:
        """Usage of this scope and all below it."""
        return sum((usage for _, usage in self._accounts()), Usage())

    def __enter__(self) -> Scope:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _adopt(self, scope: Scope) -> Scope:
        if self.closed:
            raise BudgetExhausted(self.name, "it is closed")
        self._children[scope] = None
        return scope

    def _payers(self) -> Sequence[Scope]:
        """This scope and those that a charge to it also draws from: up to the first that owns its limit.

        A closed lane owns nothing any more: what its late calls give back goes on to its parent.
        """
        if self._own and not self.closed:
            return (self,)
        above: Sequence[Scope] = () if self._parent is None else self._parent._payers()
        return above if self._own and above else (self, *above)

    def _available(self) -> Vector:
        tokens, flops, money = math.inf, math.inf, math.inf
        for scope in self._payers():
            free = scope._free
            tokens, flops, money = min(tokens, free[0]), min(flops, free[1]), min(money, free[2])
        return tokens, flops, money

    def _require(self, amount: Vector, on_time: bool = True) -> None:
        if self.closed:
            raise BudgetExhausted(self.name, "it is closed")
        if on_time and self.expired:
            raise BudgetExhausted(self._late, "its time is over")
        for scope in self._payers():
            free = scope._free
            if amount[0] > free[0] or amount[1] > free[1] or amount[2] > free[2]:
                raise BudgetExhausted(scope.name, _shortage(amount, free))

    def _take(self, amount: Vector) -> None:
        for scope in self._payers():
            free = scope._free
            scope._free = (free[0] - amount[0], free[1] - amount[1], free[2] - amount[2])

    def _free_up(self, amount: Vector) -> None:
        for scope in self._payers():
            free = scope._free
            scope._free = (free[0] + amount[0], free[1] + amount[1], free[2] + amount[2])

    def _record(self, role: Role, model: str, usage: Usage) -> None:
        """Enter a charge here, and, where this scope is closed and already entered above, up to the first open one."""
        scope = self
        scope._add(role, model, usage)
        while scope.closed and scope._parent is not None:
            scope = scope._parent
            scope._add(role, model, usage)

    def _add(self, role: Role, model: str, usage: Usage) -> None:
        before = self._account.get((role, model))
        self._account[role, model] = usage if before is None else before + usage

    def _accounts(self) -> Iterator[tuple[tuple[Role, str], Usage]]:
        yield from self._account.items()
        for below in self._children:
            yield from below._accounts()


K = TypeVar("K")


def _grouped(items: Iterator[tuple[K, Usage]]) -> dict[K, Usage]:
    groups: dict[K, Usage] = {}
    for key, usage in items:
        groups[key] = groups.get(key, Usage()) + usage
    return groups


def _shares(free: float, n: int) -> list[float]:
    if free == math.inf:
        return [math.inf] * n
    return [free // n + (i < free % n) for i in range(n)]


def _shortage(amount: Vector, free: Vector) -> str:
    return ", ".join(
        f"{unit}: {need} needed, {have} left"
        for unit, need, have in zip(UNITS, amount, free, strict=True)
        if need > have
    )
