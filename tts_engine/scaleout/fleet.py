"""The driver: shares a run's problems out over workers, and keeps the one journal and the one ledger of it.

    outcome of a problem = a worker's engine, its even share of the budget, the journal's rows of it

Nothing that was paid is lost with a worker: its calls are in the journal before they are used, the problem goes to
another worker with them, and there they are found instead of drawn. What a worker had in flight when it was killed is
in no account, as after `kill -9` of any run.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from tts_engine import __version__
from tts_engine.backends.record import CALL, USAGE
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.config import Config
from tts_engine.errors import ConfigError, DataError, EndpointDown
from tts_engine.jobs import Event, OnEvent
from tts_engine.journal import Journal, Row, Rows
from tts_engine.run import identity
from tts_engine.scaleout.cluster import Cluster, Hand, Need, WorkerLost
from tts_engine.scaleout.messages import Batch, Hello, Lost, Task
from tts_engine.scaleout.pool import Pool
from tts_engine.together import each, end
from tts_engine.types import Failure, Key, Outcome, Problem, Role, Usage

T = TypeVar("T")
TRIES = 3
"""Workers that a problem may lose before it is given up."""
FRUITLESS = 5
"""Workers in a row that may be lost in one place before anything was solved there, or a problem given up."""
PATIENCE = 300.0
"""Seconds that a worker may wait for room on the cluster."""
GRACE = 5.0
"""Seconds that workers have to stop in."""


@dataclass(slots=True, kw_only=True)
class Account:
    """What a problem under way has taken so far.

    Attributes:
        lane: its share of the run's ledger, charged once with every call that was journalled, found or cancelled.
        share: the same for the next worker, which finds the calls of the one before and counts them itself: charged
            with what those workers' cancelled calls had cost.
        paid: the identities of the calls in `lane`.
        cancelled: on the worker that has it now.
    """

    lane: Scope
    share: Scope
    paid: set[bytes] = field(default_factory=set)
    cancelled: list[Lost] = field(default_factory=list)

    def charge(self, call: bytes, role: Role, model: str, usage: Usage) -> bool:
        """Enter a call, unless that was done; returns whether it was new."""
        if call in self.paid:
            return False
        self.paid.add(call)
        self.lane.charge(role, model, usage)
        return True

    def cancel(self, lost: Lost) -> None:
        """Enter a cancelled call."""
        self.cancelled.append(lost)
        self.lane.charge(lost.role, lost.model, lost.usage)

    def move(self) -> None:
        """The worker is lost; the next one has less."""
        for lost in self.cancelled:
            self.share.charge(lost.role, lost.model, lost.usage)
        self.cancelled.clear()


class Fleet:
    """Workers on a Ray cluster, used as an `Engine` is. An async context manager.

    Args:
        config: resolved.
        address: of the cluster (scaleout/cluster.py).
        journal: file that keeps every finished call; None keeps them in memory.
        resume: continue the journal if the file exists; it may have been made without Ray.
        problems: how many there will be: more workers are not started.
        say: gets a line when a worker was lost.

    `ledger` has what model calls cost, lost workers' included; checks are counted on the outcomes alone.

    Raises:
        UsageError: (on entering) what `Engine` and `Cluster` raise, an option that one worker alone could follow, or a
            cluster too small.
    """

    def __init__(
        self,
        config: Config,
        address: str,
        *,
        journal: Path | None = None,
        resume: bool = False,
        problems: int,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        if config.run.allocate:
            raise ConfigError("--ray deals the budget out evenly: leave out --allocate adaptive, or --ray")
        self.config = config
        self.ledger = Scope.root(config.budget.build())
        self._journal_path, self._resume = journal, resume
        self._journal: Journal | None = None
        self._cluster = Cluster(address)
        self._pool: Pool[Hand] = Pool()
        self._problems = problems
        self._size = 0
        self._say = say
        self._accounts: dict[str, Account] = {}
        self._on_event: OnEvent = _ignore
        self._losses: list[str] = []
        self._unstarted: list[str] = []
        self._hosts: Counter[str] = Counter()
        self._moved = self._given_up = self._known = 0
        self._stack = ExitStack()
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Fleet:
        try:
            self._stack.enter_context(self._cluster)
            nodes = self._cluster.nodes()
            self._need = Need.of(self.config, nodes)
            self._size = self._workers(self._need.room(nodes))
            even = math.ceil(self._problems / self._size)  # so that the first worker there does not take them all
            self._pool.places = max(1, min(self.config.run.concurrency, even))
            self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._size)]
            self._pool.give_back(await self._pool.take(0))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    async def run(self, problems: Sequence[Problem], on_event: OnEvent | None = None) -> AsyncIterator[Outcome]:
        """As `Engine.run`, with `run.concurrency` problems at once on every worker.

        A problem whose worker was lost `TRIES` times is given up, with the failure on its outcome.

        Raises:
            UsageError: as `Engine.run`; or no worker is left.
        """
        await self._asked(-1, lambda hand, tried: hand.check(problems))
        async for outcome in self._each(problems, self.ledger, None, on_event):
            yield outcome

    async def baseline(self, problems: Sequence[Problem], n: int) -> AsyncIterator[Outcome]:
        """As `Engine.baseline`."""
        async for outcome in self._each(problems, Scope.root(Budget(), "baseline"), n, None):
            yield outcome

    @property
    def workers(self) -> list[Hello]:
        """Those that are ready now."""
        return [hand.hello for hand in self._pool.workers if hand.hello]

    def explain(self) -> list[str]:
        """What will be used, one line each."""
        nodes = len(self._cluster.nodes())
        where = "started for this run" if self._cluster.local else f"of {nodes} machine{'s' * (nodes != 1)}"
        workers = f"{self._size} worker{'s' * (self._size != 1)} with {self._need}"
        return [*(line for hello in self.workers[:1] for line in hello.lines), f"ray: {workers} on a cluster {where}"]

    def report(self) -> dict[str, Any]:
        """What happened: how many workers there were meant to be, how many were started on which machine, the reasons
        why some were lost and why some did not even start, how many problems were moved to another worker, and how
        many given up."""
        return {
            "workers": self._size,
            "started": dict(self._hosts),
            "lost": self._losses,
            "not_started": self._unstarted,
            "moved": self._moved,
            "given_up": self._given_up,
        }

    def _workers(self, room: int) -> int:
        """How many there will be."""
        wanted = self.config.ray.workers
        if room == 0 or (wanted or 0) > room:
            raise ConfigError(
                f"the Ray cluster has room for {room} workers with {self._need}: lower --ray-workers,"
                " ray.cpus_per_worker or ray.gpus_per_worker, or add machines"
            )
        return max(1, min(wanted or room, self._problems))

    async def _keep(self) -> None:
        """See to it that there is a worker in one place, until the fleet is closed."""
        fruitless = given_up = 0
        last = ""
        while fruitless < FRUITLESS:
            hand = self._cluster.hire(self.config, self._need)
            try:
                await self._employ(hand)
            except WorkerLost as loss:
                fruitless = 1 if hand.finished or self._given_up > given_up else fruitless + 1
                given_up = self._given_up
                last = str(loss)
                self._note(hand, last)
            except Exception as error:  # for all who wait: bad input, or a full disk
                self._pool.fail(error)
                return
            finally:
                self._pool.drop(hand)
                hand.dismiss()
        if sum(not keeper.done() for keeper in self._keepers) <= 1:
            self._pool.fail(EndpointDown(f"no worker is left ({last}): see to the cluster, then resume"))

    async def _employ(self, hand: Hand) -> None:
        """Give a worker a place in the pool, and take what it sends, until it is lost."""
        try:
            async with asyncio.timeout(PATIENCE):
                await hand.place()
        except TimeoutError:
            raise WorkerLost(f"the cluster had no room for {self._need} in {PATIENCE:.0f} s") from None
        journal = await self._welcome(await hand.start())
        self._pool.add(hand)
        while True:
            await self._enter(await hand.exchange(), journal)

    async def _welcome(self, hello: Hello) -> Journal:
        """The journal: opened when the first worker says what its models are; the others must have the same."""
        if hello.version != __version__:
            raise ConfigError(
                f"{hello.host} has tts-engine {hello.version}, this machine {__version__}: install the same on both"
            )
        theirs = identity(self.config, hello.models)
        if self._journal is None:
            self._identity = theirs
            self._journal = self._stack.enter_context(Journal.open(self._journal_path, theirs, self._resume))
            self._known = self._journal.stats().calls
        elif theirs != self._identity:
            raise DataError(f"the models on {hello.host} differ from those on other machines; put the same files there")
        self._hosts[hello.host] += 1
        for info in hello.models:
            await self._journal.write_model(info)
        return self._journal

    async def _enter(self, batch: Batch, journal: Journal) -> None:
        """Write down what a worker has done; charge it; tell of it."""
        await journal.write_rows(batch.rows)
        for row in batch.rows.get("calls", ()):
            self._charge(row)
        for lost in batch.lost:
            if account := self._accounts.get(lost.problem):
                account.cancel(lost)
        for event in batch.events:
            if self._is_new(event):
                self._on_event(event)

    def _charge(self, row: Row) -> None:
        """Charge a call that was journalled."""
        call = dict(zip(CALL, row, strict=True))
        if account := self._accounts.get(str(call["problem"])):
            usage: dict[str, Any] = {name: call[name] for name in USAGE}
            account.charge(cast(bytes, call["id"]), Role(str(call["role"])), str(call["model"]), Usage(**usage))

    def _is_new(self, event: Event) -> bool:
        """Whether a call was not told of before; one that was found in the journal is charged the first time."""
        request, completion = event.data["request"], event.data["completion"]
        account = self._accounts.get(event.problem)
        if account is None or not completion.recalled:
            return True
        return account.charge(request.identity(), request.role, request.model, completion.usage)

    def _each(
        self, problems: Sequence[Problem], payer: Scope, plain: int | None, on_event: OnEvent | None
    ) -> AsyncIterator[Outcome]:
        """The outcomes of all problems, each paid from an even share."""
        self._on_event = on_event or _ignore
        lanes = payer.split(len(problems), "share") if problems else []

        async def one(place: tuple[int, tuple[Problem, Scope]]) -> Outcome:
            index, (problem, lane) = place
            with lane:
                return await self._one(problem, index, lane, plain)

        paid = enumerate(zip(problems, lanes, strict=True))
        return each(one, paid, max(1, self.config.run.concurrency * self._size))

    async def _one(self, problem: Problem, index: int, lane: Scope, plain: int | None) -> Outcome:
        account = Account(lane=lane, share=Scope.granted(lane.left, lane.name))
        self._accounts[problem.id] = account
        self._on_event(Event(kind="problem_started", problem=problem.id))

        async def ask(hand: Hand, tried: int) -> Outcome:
            account.move()
            self._moved += bool(tried)
            share = account.share.left
            known = self._rows(hand, problem) if tried or self._known else {}
            fresh = lane.left if tried else share
            return await hand.solve(
                Task(problem=problem, index=index, share=share, fresh=fresh, known=known, plain=plain)
            )

        try:
            outcome = await self._asked(index, ask)
        except WorkerLost as loss:
            outcome = await self._give_up(problem, index, lane, loss)
        finally:
            del self._accounts[problem.id]
        self._on_event(Event(kind="problem_done", problem=problem.id, data={"outcome": outcome}))
        return outcome

    async def _asked(self, rank: int, ask: Callable[[Hand, int], Awaitable[T]]) -> T:
        """What a worker answers, or the next one where it is lost; `ask` gets the worker and how many were lost."""
        for tried in range(TRIES):
            hand = await self._pool.take(rank)
            try:
                return await ask(hand, tried)
            except WorkerLost as error:
                loss = error
                hand.dismiss()  # Ray may only have lost sight of it
                self._pool.drop(hand)
            finally:
                self._pool.give_back(hand)
        raise loss

    def _rows(self, hand: Hand, problem: Problem) -> Rows:
        """What the worker has to know of the problem, and the checks that it does not know yet."""
        assert self._journal is not None  # open since the first worker came
        rows, hand.checks = self._journal.rows(problem.id, hand.checks)
        return rows

    async def _give_up(self, problem: Problem, index: int, lane: Scope, loss: WorkerLost) -> Outcome:
        self._given_up += 1
        key = str(Key(self.config.run.seed, (problem.id,)))
        outcome = _given_up(problem, key, lane, f"its worker was lost {TRIES} times: {loss}")
        result = {"answer": None, "correct": outcome.correct, "stop_reason": outcome.stop_reason}
        assert self._journal is not None
        await self._journal.write_outcome(key, index, result)
        return outcome

    def _note(self, hand: Hand, reason: str) -> None:
        """Remember and tell why a worker is no more; one that had not started yet had nothing to lose."""
        if not hand.hello:
            self._unstarted.append(reason)
            self._say(f"a worker did not start: {reason}; another is tried")
            return
        who = f"the worker on {hand.hello.host} (process {hand.hello.pid})"
        self._losses.append(reason)
        self._say(f"{who} was lost: {reason}; its problems go to another with what was paid for them")

    async def _close(self) -> None:
        """Stop what is running, take what that had cost, and leave the cluster."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await asyncio.gather(*(hand.stop() for hand in self._pool.workers), return_exceptions=True)
        await end(*self._keepers)
        self._stack.close()


def _given_up(problem: Problem, key: str, lane: Scope, message: str) -> Outcome:
    """The outcome of a problem that no worker survives, or that was unlucky."""
    root = {"id": key, "text": problem.prompt, "depth": 0}
    return Outcome(
        problem=problem,
        answer=None,
        correct=None if problem.answer is None else False,
        chosen=None,
        candidates=(),
        usage=lane.spent,
        stop_reason="failed: backend",
        failures=(Failure(where="backend", error="WorkerLost", message=message, key=key),),
        tree={"directed": True, "multigraph": False, "graph": {}, "nodes": [root], "edges": []},
    )


def _ignore(event: Event) -> None:
    """No one listens."""
