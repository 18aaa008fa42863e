"""From a configuration to objects, and the loop over problems.

async with Engine.from_config() as engine:
    outcome = await engine.solve("Ann has 3 apples ...", strategy="beam", verifier_samples=8)
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tts_engine.backends.base import Backend
from tts_engine.backends.factory import make_backend
from tts_engine.calls import Calls, Model
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.config import Config, PolicyConfig, VerifierConfig, check_params, lookup
from tts_engine.errors import ConfigError, DataError, UsageError
from tts_engine.formats.policy import solve_prompt
from tts_engine.journal import Journal, JournalStats
from tts_engine.judging import Verifier
from tts_engine.policy import LanguagePolicy
from tts_engine.resolving import make_verifier, resolved, with_members
from tts_engine.sandbox.base import Sandbox
from tts_engine.search import Search
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Completion, Failure, Key, Outcome, Place, Problem, Request, Sampling, Usage, Verdict

DEADLINE_GRACE = 1.0
"""Seconds after a deadline until a strategy that does not heed it is stopped from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened while problems are being solved."""

    kind: Literal["problem_started", "call", "problem_done"]
    problem: str
    data: Mapping[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]
Run = Callable[[Search], Awaitable[Outcome]]


class Engine:
    """Policy, verifier, sandbox, journal and ledger, ready to solve problems. An async context manager.

    Args:
        config: what to run; see config.py.
        journal: file that keeps every finished call; None keeps them in memory.
        resume: continue the journal if the file exists.
        judge_only: do not start the policy; `judge` is all that can be asked for.

    Raises:
        UsageError: (on construction or on entering) the configuration names something that does not exist or fit.
    """

    def __init__(
        self, config: Config, *, journal: Path | None = None, resume: bool = False, judge_only: bool = False
    ) -> None:
        self.config = resolved(config)
        self.ledger = Scope.root(config.budget.build())
        self._journal_path = journal
        self._resume = resume
        self._judge_only = judge_only
        self._stack = AsyncExitStack()
        self._models: dict[str, Model] = {}
        self._verifier: Verifier | None = None
        self._sandbox: Sandbox | None = None

    @classmethod
    def from_config(
        cls,
        config: Config | Mapping[str, Any] | Path | str | None = None,
        *,
        journal: Path | None = None,
        resume: bool = False,
    ) -> Engine:
        """From a `Config`, a mapping with its keys, a YAML file, or nothing (the embedded models)."""
        if isinstance(config, str | Path):
            config = Config.load(config)
        elif not isinstance(config, Config):
            config = Config.build(config or {})
        return cls(config, journal=journal, resume=resume)

    async def __aenter__(self) -> Engine:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def solve(
        self,
        problem: Problem | str,
        *,
        strategy: str | None = None,
        verifier_samples: int | None = None,
        budget: Budget | str | None = None,
        seed: int | None = None,
        **params: Any,  # noqa: ANN401  # the strategy's own keyword parameters, checked against its signature
    ) -> Outcome:
        """Solve one problem.

        Args:
            problem: a `Problem`, or its text.
            strategy: by name; the configured one if None.
            verifier_samples: judgements per candidate; the configured number if None.
            budget: for this problem, inside that of the run, e.g. `"tokens=20k"`.
            seed: of all random draws; the configured one if None.
            params: the strategy's own parameters, such as `n=32`.

        Raises:
            UsageError: unknown strategy or parameter, or a problem that does not fit the policy's context.
        """
        if isinstance(problem, str):
            problem = Problem(id="problem", prompt=problem)
        if isinstance(budget, str):
            budget = Budget.parse(budget)
        name = strategy or self.config.strategy.name
        given = dict(self.config.strategy.params if name == self.config.strategy.name else {}) | params
        if verifier_samples is not None and verifier_samples < 1:
            raise ConfigError(f"verifier_samples={verifier_samples} must be at least 1; for none use self-consistency")
        bound = self._strategy(name, given, verifier_samples)
        scope = self.ledger.child(f"problem:{problem.id}", budget or self.config.budget.per_problem.build())
        key = Key(self.config.run.seed if seed is None else seed, (problem.id,))
        return await self._solve(problem, bound, scope, key, priority=0, on_event=None)

    async def judge(
        self, problem: Problem, steps: Sequence[str], samples: Sequence[int], *, priority: int = 0
    ) -> dict[int, Verdict]:
        """What the verifier thinks of a solution that is there already, for each number of samples.

        Samples are nested: the largest number is all that is paid for. Solutions to one problem need problems of
        different ids, or they share their random draws.

        Raises:
            ConfigError: no verifier is configured.
            BackendError, BudgetExhausted, SandboxError, VerifierError: the verifier could not judge.
        """
        if self._verifier is None:
            raise ConfigError("there is no verifier to judge with: choose one")
        scope = self.ledger.child(f"problem:{problem.id}", self.config.budget.per_problem.build())
        calls = Calls(models=self._models, journal=self._journal, scope=scope, problem=problem.id, priority=priority)
        judge = self._verifier.open(problem, Key(self.config.run.seed, (problem.id,)))
        with scope:
            try:
                return {number: await judge(tuple(steps), number, calls) for number in sorted(samples, reverse=True)}
            finally:
                await judge.close()

    async def run(self, problems: Sequence[Problem], on_event: OnEvent | None = None) -> AsyncIterator[Outcome]:
        """Solve many problems with the configured strategy, `run.concurrency` at once, in order of completion.

        A budget of the run is dealt out evenly in program order, so that an outcome does not depend on the others.

        Raises:
            UsageError: a problem does not fit the policy's context; nothing has been paid then.
        """
        for problem in problems:
            self._allowances(problem)
        strategy = self._strategy(self.config.strategy.name, self.config.strategy.params)
        async for outcome in self._each(problems, strategy, self.ledger, self.config.run.seed, on_event):
            yield outcome

    async def baseline(self, problems: Sequence[Problem], n: int) -> AsyncIterator[Outcome]:
        """`n` plain samples a problem and no verifier: what not searching gives; on an account of its own."""
        strategy = self._strategy("self-consistency", {"n": n})
        account = Scope.root(Budget(), "baseline")
        async for outcome in self._each(problems, strategy, account, self.config.run.seed, None, "baseline"):
            yield outcome

    def counters(self) -> dict[str, dict[str, float]]:
        """Per model, what its backend has counted so far."""
        return {
            name: dict(counters())
            for name, model in self._models.items()
            if (counters := getattr(model.backend, "counters", None)) is not None
        }

    @property
    def backends(self) -> Mapping[str, Backend]:
        """The running backends by model name."""
        return {name: model.backend for name, model in self._models.items()}

    def journal_stats(self) -> JournalStats:
        """What is in the journal, and how much of it was found instead of paid for."""
        return self._journal.stats()

    def explain(self) -> list[str]:
        """What will be used, one line each: models and the sandbox's protections."""
        lines = [
            f"{name}: {model.backend.info.shape.parameters if model.backend.info.shape else 0:,} parameters,"
            f" context {model.backend.info.context}"
            for name, model in self._models.items()
        ]
        if self._sandbox is not None:
            lines.append(f"sandbox: {', '.join(self._sandbox.protections())}")
        return lines

    async def _start(self) -> None:
        policy, verifier = self.config.policy, self.config.verifier
        wanted: dict[str, PolicyConfig | VerifierConfig] = {} if self._judge_only else {policy.model: policy}
        for judging in with_members(verifier) if verifier.name != "none" else ():
            if judging.model is not None:
                wanted.setdefault(judging.model, judging)
        made = {name: make_backend(config.backend, name, config.options) for name, config in wanted.items()}
        started = await asyncio.gather(*(self._stack.enter_async_context(backend) for backend in made.values()))
        for (name, config), backend in zip(wanted.items(), started, strict=True):
            self._models[name] = Model(backend=backend, cost=_cost(backend, config))
        self._check_units()
        if verifier.name != "none":
            self._verifier = await make_verifier(verifier, self._start_sandbox)
        assert policy.temperature is not None  # resolved
        self._policy = LanguagePolicy(
            model=policy.model,
            sampling=Sampling(
                temperature=policy.temperature, top_p=policy.top_p, top_k=policy.top_k, max_tokens=policy.max_tokens
            ),
            step_tokens=policy.step_tokens,
            max_steps=policy.max_steps,
        )
        self._journal = self._stack.enter_context(Journal.open(self._journal_path, self._identity(), self._resume))
        for model in self._models.values():
            await self._journal.write_model(model.backend.info)

    def _check_units(self) -> None:
        """A limit in a unit that a model cannot be charged in would be no limit at all."""
        budget, each = self.config.budget, self.config.budget.per_problem
        for name, model in self._models.items():
            if (budget.flops or each.flops) and not model.cost.counts_flops:
                raise ConfigError(f"the FLOPs of {name} are not known: give the budget in tokens or seconds")
            if (budget.dollars or each.dollars) and model.cost.prices is None:
                raise ConfigError(f"{name} has no prices: set policy.prices and verifier.prices, or budget in tokens")

    async def _start_sandbox(self) -> Sandbox:
        """The sandbox, started by the first who asks."""
        if self._sandbox is not None:
            return self._sandbox
        from tts_engine.sandbox.pool import Limits, SubprocessSandbox

        config = self.config.sandbox
        limits = Limits(wall=config.wall_seconds, memory=config.memory_mb * 2**20)
        sandbox = SubprocessSandbox(workers=config.workers, limits=limits, unsafe=config.unsafe)
        self._sandbox = await self._stack.enter_async_context(sandbox)
        return self._sandbox

    def _identity(self) -> dict[str, Any]:
        models = {name: model.backend.info.fingerprint for name, model in self._models.items()}
        return {"config": self.config.digest(), "models": models}

    def _strategy(self, name: str, params: Mapping[str, Any], samples: int | None = None) -> Run:
        """The named strategy with its parameters checked and bound; `samples` None takes the configured number."""
        if self._judge_only:
            raise UsageError("this engine only judges; make one without judge_only to solve problems")
        function = lookup(name, STRATEGIES, "strategy")
        checked = check_params(function, params, f"strategy {name}", ("search", "samples"))
        if "samples" in inspect.signature(function).parameters:
            if self._verifier is None:
                raise ConfigError(f"strategy {name} needs a verifier: choose one, or use self-consistency")
            checked["samples"] = self.config.verifier.samples if samples is None else samples
        return partial(function, **checked)

    async def _each(
        self,
        problems: Sequence[Problem],
        strategy: Run,
        account: Scope,
        seed: int,
        on_event: OnEvent | None,
        branch: str = "",
    ) -> AsyncIterator[Outcome]:
        gate = asyncio.Semaphore(self.config.run.concurrency)
        per_problem = self.config.budget.per_problem.build() if not branch else None
        lanes = account.split(len(problems), "share") if problems else []

        async def one(index: int, problem: Problem, lane: Scope) -> Outcome:
            async with gate:
                scope = lane.child(f"problem:{problem.id}", per_problem)
                key = Key(seed, (*((branch,) if branch else ()), problem.id))
                with lane:
                    return await self._solve(problem, strategy, scope, key, index, on_event)

        tasks = [
            asyncio.create_task(one(index, problem, lane))
            for index, (problem, lane) in enumerate(zip(problems, lanes, strict=True))
        ]
        try:
            for finished in asyncio.as_completed(tasks):
                yield await finished
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _solve(
        self,
        problem: Problem,
        strategy: Run,
        scope: Scope,
        key: Key,
        priority: int,
        on_event: OnEvent | None,
    ) -> Outcome:
        started = time.monotonic()
        tell = on_event or _ignore
        tell(Event(kind="problem_started", problem=problem.id))
        with scope:
            outcome = await self._search(problem, strategy, scope, key, priority, tell)
        outcome = replace(outcome, seconds=time.monotonic() - started)
        result = {"answer": outcome.answer, "correct": outcome.correct, "stop_reason": outcome.stop_reason}
        await self._journal.write_outcome(str(key), priority, result)
        tell(Event(kind="problem_done", problem=problem.id, data={"outcome": outcome}))
        return outcome

    async def _search(
        self,
        problem: Problem,
        strategy: Run,
        scope: Scope,
        key: Key,
        priority: int,
        tell: OnEvent,
    ) -> Outcome:
        def on_call(request: Request, completion: Completion) -> None:
            tell(Event(kind="call", problem=problem.id, data={"request": request, "completion": completion}))

        calls = Calls(
            models=self._models,
            journal=self._journal,
            scope=scope,
            problem=problem.id,
            priority=priority,
            on_call=None if tell is _ignore else on_call,
        )
        judge = self._verifier.open(problem, key) if self._verifier else None
        allowance, step = self._allowances(problem)
        search = Search(
            problem,
            policy=self._policy,
            judge=judge,
            calls=calls,
            key=key,
            allowance=allowance,
            step_allowance=step,
            cost_ratio=self._verifier.cost_ratio if self._verifier else 0.0,
        )
        try:
            seconds = scope.left.seconds
            async with asyncio.timeout(None if seconds is None else max(seconds, 0) + DEADLINE_GRACE):
                return await strategy(search)
        except Exception as error:  # a strategy's own failure: attributed here, what was found is kept
            if isinstance(error, UsageError):
                raise
            where: Place = "budget" if isinstance(error, TimeoutError) else "strategy"
            search.failures.append(Failure(where=where, error=type(error).__name__, message=str(error), key=str(key)))
            return search.best_so_far("weighted")
        finally:
            if judge is not None:
                await judge.close()

    def _allowances(self, problem: Problem) -> tuple[Usage | None, Usage | None]:
        """Upper bounds of a whole solution and of a step; refuses a problem that leaves the policy no room."""
        policy, model = self.config.policy, self._models[self.config.policy.model]
        prompt = model.backend.count_tokens(solve_prompt(problem.prompt))
        room = model.backend.info.context - prompt
        if room < 1:
            raise DataError(
                f"problem {problem.id} has {prompt} tokens, but {policy.model} takes {model.backend.info.context}:"
                " shorten it or use a policy with a longer context"
            )
        whole = model.cost.upper_bound(prompt, min(policy.max_tokens, room))
        return whole, model.cost.upper_bound(prompt, min(policy.step_tokens, room))


def solve(
    problem: Problem | str,
    *,
    config: Config | Mapping[str, Any] | Path | str | None = None,
    **options: Any,  # noqa: ANN401  # those of `Engine.solve`
) -> Outcome:
    """Solve one problem synchronously; `options` as for `Engine.solve`.

    >>> solve("Ann has 3 boxes of 4 pens. How many pens?", strategy="beam").answer  # doctest: +SKIP
    '12'
    """

    async def once() -> Outcome:
        async with Engine.from_config(config) as engine:
            return await engine.solve(problem, **options)

    return asyncio.run(once())


def _ignore(event: Event) -> None:
    """No one listens."""


def _cost(backend: Backend, config: PolicyConfig | VerifierConfig) -> CostModel:
    return CostModel(backend.info.shape, config.prices.build() if config.prices else None)
