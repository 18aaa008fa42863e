import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from tts_engine.compute.ledger import Amount, Budget, Hold, Lease, Scope
from tts_engine.errors import BudgetExhausted, TTSError
from tts_engine.types import Role, Usage


class Clock:
    """Seconds that pass when told to."""

    time = 100.0

    def __call__(self) -> float:
        return self.time


def tokens(n: int) -> Usage:
    return Usage(completion=n, flops=float(3 * n), dollars=n * 1e-6, calls=1)


def pay(scope: Scope, bound: int, actual: int, role: Role = Role.GENERATE, model: str = "policy") -> None:
    scope.reserve(tokens(bound)).settle(role, model, tokens(actual))


def test_reserve_settle_and_refund() -> None:
    run = Scope.root(Budget(tokens=100))
    lease = run.reserve(tokens(80))
    assert run.left == Amount(tokens=20)
    with pytest.raises(BudgetExhausted, match="tokens: 21 needed, 20 left") as raised:
        run.reserve(tokens(21))
    assert raised.value.scope == "run"
    lease.settle(Role.VERIFY, "judge", tokens(30))
    assert run.left.tokens == 70
    assert run.spent == {Role.VERIFY: tokens(30)}
    assert run.by_model == {"judge": tokens(30)}
    assert run.total == tokens(30)


@pytest.mark.parametrize(
    ("budget", "unit"),
    [(Budget(tokens=10), "tokens"), (Budget(flops=30.0), "FLOPs"), (Budget(dollars=1e-5), "picodollars")],
)
def test_each_unit_is_a_limit(budget: Budget, unit: str) -> None:
    run = Scope.root(budget)
    run.reserve(tokens(10))
    with pytest.raises(BudgetExhausted, match=unit):
        run.reserve(tokens(1))


def test_the_tightest_level_refuses_and_is_named() -> None:
    run = Scope.root(Budget(tokens=100))
    tight, loose = run.child("tight", Budget(tokens=10)), run.child("loose", Budget(tokens=1000)).child("inner")
    for scope, bound, name in ((tight, 11, "tight"), (loose, 101, "run")):
        with pytest.raises(BudgetExhausted) as raised:
            scope.reserve(tokens(bound))
        assert raised.value.scope == name
    assert (tight.left.tokens, loose.left.tokens) == (10, 100)
    pay(loose, 95, 95)
    assert tight.left.tokens == run.left.tokens == 5


def test_a_refused_call_takes_nothing() -> None:
    run = Scope.root(Budget(tokens=10))
    child = run.child("child", Budget(flops=3.0))
    with pytest.raises(BudgetExhausted):
        child.reserve(tokens(5))
    assert (run.left.tokens, child.left.flops) == (10, 3)


def test_a_lease_frees_itself_unless_settled() -> None:
    run = Scope.root(Budget(tokens=10))
    with pytest.raises(ZeroDivisionError), run.reserve(tokens(10)) as lease:
        raise ZeroDivisionError
    assert run.left.tokens == 10
    assert not lease.open
    with pytest.raises(TTSError, match="after its lease ended"):
        lease.settle(Role.GENERATE, "policy", tokens(1))
    with run.reserve(tokens(10)) as lease:
        lease.settle(Role.GENERATE, "policy", tokens(4))
    assert run.left.tokens == 6


def test_a_backend_must_not_exceed_its_bound() -> None:
    run = Scope.root(Budget(tokens=10))
    with pytest.raises(TTSError, match="took 6 tokens, more than the 5"), run.reserve(tokens(5)) as lease:
        lease.settle(Role.GENERATE, "policy", tokens(6))
    assert run.left.tokens == 10
    assert run.total == Usage()


def test_units_without_a_limit_need_no_bound() -> None:
    run = Scope.root(Budget(tokens=10))
    run.reserve(Usage(completion=5)).settle(Role.GENERATE, "policy", tokens(5))
    assert run.total == tokens(5)
    assert run.left == Amount(tokens=5)
    endless = Usage(completion=2**62, flops=float("inf"), dollars=float("inf"))
    free = Scope.root(Budget()).child("child")
    free.reserve(endless).settle(Role.GENERATE, "policy", tokens(5))
    assert free.left == Amount()
    with pytest.raises(BudgetExhausted):
        Scope.root(Budget(flops=1e30)).reserve(endless)


def test_hold_is_kept_back_and_given_back() -> None:
    run = Scope.root(Budget(tokens=10))
    problem = run.child("problem")
    hold = problem.hold(tokens(4))
    assert problem.left.tokens == run.left.tokens == 6
    with pytest.raises(BudgetExhausted):
        problem.reserve(tokens(7))
    hold.release()
    hold.release()
    assert problem.left.tokens == 10
    problem.hold(tokens(10))
    problem.close()
    assert run.left.tokens == 10


def test_charge_without_a_lease() -> None:
    run = Scope.root(Budget(tokens=10))
    run.charge(Role.VERIFY, "python", Usage(code_runs=1, code_seconds=9.0))
    run.charge(Role.GENERATE, "policy", tokens(8))
    with pytest.raises(BudgetExhausted):
        run.charge(Role.GENERATE, "policy", tokens(3))
    assert run.left.tokens == 2
    assert run.by_model == {"python": Usage(code_runs=1, code_seconds=9.0), "policy": tokens(8)}


def test_deadlines_are_inherited_and_named() -> None:
    clock = Clock()
    run = Scope.root(Budget(seconds=10), now=clock)
    clock.time += 4
    short, long = run.child("short", Budget(seconds=2)), run.child("long", Budget(seconds=60))
    assert (short.left.seconds, long.left.seconds, run.left.seconds) == (2, 6, 6)
    clock.time += 2
    assert (short.expired, long.expired) == (True, False)
    with pytest.raises(BudgetExhausted, match="time") as raised:
        short.split(2, "lane")[1].reserve(tokens(1))
    assert raised.value.scope == "short"
    clock.time += 4
    with pytest.raises(BudgetExhausted) as raised:
        long.reserve(tokens(1))
    assert raised.value.scope == "run"
    long.charge(Role.GENERATE, "policy", tokens(1))


def test_split_in_program_order() -> None:
    run = Scope.root(Budget(tokens=1000, flops=1e30))
    problem = run.child("problem", Budget(tokens=11))
    lanes = problem.split(3, "beam")
    assert [lane.name for lane in lanes] == ["beam:0", "beam:1", "beam:2"]
    assert [lane.left.tokens for lane in lanes] == [4, 4, 3]
    assert sum(int(lane.left.flops or 0) for lane in lanes) == int(1e30)
    assert (problem.left.tokens, problem.left.flops, run.left.tokens) == (0, 0, 989)
    assert [lane.left for lane in Scope.root(Budget()).split(2, "free")] == [Amount(), Amount()]
    with pytest.raises(ValueError, match="0 lanes"):
        run.split(0, "none")


def test_closing_refunds_once_and_closes_below() -> None:
    run = Scope.root(Budget(tokens=100))
    lanes = run.split(2, "lane")
    inner = lanes[0].child("inner").split(5, "deep")[0]
    pay(inner, 10, 7)
    lanes[0].close()
    lanes[0].close()
    assert inner.closed
    assert run.left.tokens == 43
    assert run.total == lanes[0].total == inner.total == tokens(7)
    with pytest.raises(BudgetExhausted, match="closed"):
        inner.reserve(tokens(1))
    with pytest.raises(BudgetExhausted, match="closed"):
        lanes[0].child("more")
    with pytest.raises(BudgetExhausted, match="closed"):
        inner.charge(Role.GENERATE, "policy", tokens(1))


def test_a_call_that_outlives_its_scope_is_still_paid() -> None:
    run = Scope.root(Budget(tokens=100))
    with run.split(2, "lane")[0] as lane, lane.child("call") as call:
        late, never = call.reserve(tokens(20)), call.reserve(tokens(5))
    assert run.left.tokens == 25
    late.settle(Role.GENERATE, "policy", tokens(8))
    never.release()
    assert run.left.tokens == 42
    assert run.total == lane.total == call.total == tokens(8)


@settings(deadline=None)
@given(
    st.integers(1, 60),
    st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=5), min_size=1, max_size=4),
    st.randoms(),
)
def test_lanes_do_not_depend_on_the_order_of_completion(
    limit: int, programs: list[list[tuple[int, int]]], order: random.Random
) -> None:
    """Each lane runs its list of (bound, actual) calls until one is refused; the interleaving is arbitrary."""

    def play(schedule: list[int]) -> tuple[list[Usage], Amount]:
        run = Scope.root(Budget(tokens=limit))
        lanes = run.split(len(programs), "lane")
        todo = [iter(program) for program in programs]
        for i in schedule:
            bound, actual = next(todo[i])
            try:
                pay(lanes[i], bound, min(bound, actual))
            except BudgetExhausted:
                todo[i] = itertools.repeat((0, 0))
            if order.random() < 0.3 and schedule[-1] != i:
                run.left  # noqa: B018  # reading changes nothing
        totals = [lane.total for lane in lanes]
        for lane in lanes:
            lane.close()
        return totals, run.left

    schedule = [i for i, program in enumerate(programs) for _ in program]
    shuffled = order.sample(schedule, len(schedule))
    assert play(schedule) == play(shuffled)


class Books(RuleBasedStateMachine):
    """Random trees of scopes and calls, held against plain sums over a list of everything that happened."""

    scopes = Bundle("scopes")
    leases = Bundle("leases")
    limits = st.none() | st.integers(1, 200)
    sizes = st.integers(0, 40)

    def __init__(self) -> None:
        super().__init__()
        self.parents: dict[Scope, Scope | None] = {}
        self.limit: dict[Scope, int] = {}
        self.reserved: dict[Hold, tuple[Scope, int]] = {}
        self.charged: list[tuple[Scope, Role, str, int]] = []

    def enter(self, scope: Scope, parent: Scope | None, limit: int | None) -> Scope:
        self.parents[scope] = parent
        if limit is not None:
            self.limit[scope] = limit
        return scope

    def line(self, scope: Scope | None) -> list[Scope]:
        return [] if scope is None else [scope, *self.line(self.parents[scope])]

    def used(self, scope: Scope) -> int:
        """Spent, reserved and set aside for open lanes, in and below a scope."""
        spent = sum(n for where, _, _, n in self.charged if scope in self.line(where))
        return spent + sum(n for where, n in self.reserved.values() if scope in self.line(where))

    @rule(target=scopes, limit=limits)
    def root(self, limit: int | None) -> Scope:
        budget = Budget(tokens=limit, flops=limit and 3.0 * limit, dollars=limit and limit * 1e-6)
        return self.enter(Scope.root(budget), None, limit)

    @rule(target=scopes, parent=scopes, limit=limits)
    def child(self, parent: Scope, limit: int | None) -> object:
        if parent.closed:
            return multiple()
        return self.enter(parent.child("child", Budget(tokens=limit)), parent, limit)

    @rule(target=scopes, parent=scopes, n=st.integers(1, 3))
    def split(self, parent: Scope, n: int) -> object:
        if parent.closed:
            return multiple()
        before = parent.left.tokens
        lanes = parent.split(n, "lane")
        if before is not None:
            assert sum(lane.left.tokens or 0 for lane in lanes) == before
            assert parent.left.tokens == 0
        return multiple(*(self.enter(lane, parent, lane.left.tokens) for lane in lanes))

    @rule(target=leases, scope=scopes, bound=sizes, hold=st.booleans())
    def reserve(self, scope: Scope, bound: int, hold: bool) -> object:
        left = scope.left
        try:
            lease = scope.hold(tokens(bound)) if hold else scope.reserve(tokens(bound))
        except BudgetExhausted:
            assert scope.closed or not left.fits(tokens(bound))
            return multiple()
        assert left.fits(tokens(bound))
        self.reserved[lease] = (scope, bound)
        return lease

    @rule(lease=consumes(leases), actual=sizes, settle=st.booleans(), role=st.sampled_from(Role))
    def end(self, lease: Hold, actual: int, settle: bool, role: Role) -> None:
        scope, bound = self.reserved.pop(lease)
        if settle and isinstance(lease, Lease):
            lease.settle(role, "policy", tokens(min(actual, bound)))
            self.charged.append((scope, role, "policy", min(actual, bound)))
        lease.release()

    @rule(scope=scopes, n=sizes)
    def charge(self, scope: Scope, n: int) -> None:
        try:
            scope.charge(Role.GENERATE, "cache", tokens(n))
        except BudgetExhausted:
            return
        self.charged.append((scope, Role.GENERATE, "cache", n))

    @rule(scope=scopes)
    def close(self, scope: Scope) -> None:
        scope.close()
        for hold, (where, _) in list(self.reserved.items()):
            if not hold.open:
                assert where.closed
                self.reserved[hold] = (where, 0)

    @invariant()
    def never_overspent(self) -> None:
        for scope, limit in self.limit.items():
            assert self.used(scope) <= limit

    @invariant()
    def what_is_left_is_the_tightest_limit_less_what_is_used(self) -> None:
        for scope in (s for s in self.parents if not s.closed):
            for above in self.line(scope):
                if above in self.limit:
                    assert scope.left.tokens is not None
                    assert scope.left.tokens <= self.limit[above] - self.used(above)
        for scope, parent in self.parents.items():
            if (
                parent is None
                and scope in self.limit
                and all(s.closed for s in self.parents if self.parents[s] == scope)
            ):
                assert scope.closed or scope.left.tokens == self.limit[scope] - self.used(scope)

    @invariant()
    def accounts_add_up(self) -> None:
        for scope in self.parents:
            here = [(role, model, n) for where, role, model, n in self.charged if scope in self.line(where)]
            assert scope.total.tokens == sum(n for *_, n in here)
            assert sum(usage.calls for usage in scope.spent.values()) == len(here)
            for model, usage in scope.by_model.items():
                assert usage.tokens == sum(n for _, m, n in here if m == model)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
