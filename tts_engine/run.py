"""From a configuration to objects, and the loop over problems.

async with Engine.from_config() as engine:
    outcome = await engine.solve("Ann has 3 apples ...", strategy="beam", verifier_samples=8)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tts_engine.backends.base import Backend, ModelInfo
from tts_engine.calls import Calls
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.compute.stopping import VoteRule
from tts_engine.config import Config, VerifierConfig, lookup
from tts_engine.errors import ConfigError, UsageError
from tts_engine.flow import flow
from tts_engine.jobs import Event, Job, OnEvent, Run, work
from tts_engine.journal import Blank, Journal, JournalStats
from tts_engine.parts import Parts
from tts_engine.preparing import bind_strategy, make_job
from tts_engine.resolving import resolved, resolved_verifier
from tts_engine.together import each
from tts_engine.types import Completion, Key, Outcome, Problem, Prompt, Request, Role, Sampling, Verdict
from tts_engine.verifiers.sequential import Sequential

__all__ = ["Engine", "Event", "Job", "OnEvent", "solve"]


class Engine:
    """Policy, verifier, sandbox, journal and ledger, ready to solve problems. An async context manager.

    Any number of problems may be solved at once, each with its own strategy, verifier, budget, seed and sampling.

    Args:
        config: what to run; see config.py.
        journal: file that keeps every finished call, or a journal that is open; None keeps them in memory.
        resume: continue the journal if the file exists.
        judge_only: do not start the policy; `judge` is all that can be asked for.
        keep: False forgets every call once it was used, so that the memory of a server does not grow.
        verifiers: further ones, which `solve` and `judge` can be asked for by name.

    Raises:
        UsageError: (on construction or on entering) the configuration names something that does not exist or fit.
    """

    def __init__(
        self,
        config: Config,
        *,
        journal: Path | str | Journal | None = None,
        resume: bool = False,
        judge_only: bool = False,
        keep: bool = True,
        verifiers: Sequence[VerifierConfig] = (),
    ) -> None:
        self.config = resolved(config)
        self.ledger = Scope.root(config.budget.build())
        own = self.config.verifier
        asked = [] if own.name == "none" else [own]
        self._judging = {each.name: each for each in (*asked, *map(resolved_verifier, verifiers))}
        self._parts = Parts(self.config)
        self._given = Path(journal) if isinstance(journal, str) else journal
        self._resume = resume
        self._judge_only = judge_only
        self._keep = keep
        self._stack = AsyncExitStack()

    @classmethod
    def from_config(
        cls,
        config: Config | Mapping[str, Any] | Path | str | None = None,
        *,
        journal: Path | str | Journal | None = None,
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
        budget: Budget | str | None = None,
        account: Scope | None = None,
        on_event: OnEvent | None = None,
        **options: Any,  # noqa: ANN401  # those of `prepare`
    ) -> Outcome:
        """Solve one problem. May be cancelled: that stops all its work at once, and what was computed stays paid.

        Args:
            problem: a `Problem`, or its text.
            budget: for this problem, inside that of the run, e.g. `"tokens=20k"`.
            account: the scope that pays, the run's ledger if None.
            on_event: hears what happens.
            options: strategy, verifier, verifier_samples, seed, sampling and the strategy's own parameters (`prepare`).

        Raises:
            UsageError: as `prepare`.
        """
        if isinstance(problem, str):
            problem = Problem(id="problem", prompt=problem)
        return await self.work(self.prepare(problem, **options), budget=budget, account=account, on_event=on_event)

    def prepare(
        self,
        problem: Problem,
        *,
        strategy: str | None = None,
        verifier: str | None = None,
        verifier_samples: int | str | None = None,
        seed: int | None = None,
        sampling: Sampling | None = None,
        **params: Any,  # noqa: ANN401  # the strategy's own keyword parameters, checked against its signature
    ) -> Job:
        """Check how a problem is to be solved; `work` does it.

        Args:
            strategy, verifier: by name; the configured one if None.
            verifier_samples: judgements per candidate, or `auto[:MOST[:ERROR[:TEST]]]`; the configured number if None.
            seed: of all random draws; the configured one if None.
            sampling: how the policy samples; as configured if None.
            params: the strategy's own parameters, such as `n=32`.

        Raises:
            UsageError: unknown strategy, verifier or parameter, or a problem that does not fit the policy's context.
        """
        name = strategy or self.config.strategy.name
        given = dict(self.config.strategy.params if name == self.config.strategy.name else {}) | params
        rule = VoteRule.parse(verifier_samples) if isinstance(verifier_samples, str) else None
        samples = verifier_samples if isinstance(verifier_samples, int) else rule.most if rule else None
        if samples is not None and samples < 1:
            raise ConfigError(f"verifier_samples={samples} must be at least 1; for none use self-consistency")
        judging = self.judging(verifier)
        bound = self._strategy(name, given, judging, samples)
        key = Key(self.config.run.seed if seed is None else seed, (problem.id,))
        job = make_job(self._parts, problem, bound, key, judging, sampling=sampling)
        if rule is None or job.verifier is None:
            return job
        return replace(job, verifier=Sequential(verifier=job.verifier, rule=rule))

    async def work(
        self,
        job: Job,
        *,
        budget: Budget | str | None = None,
        account: Scope | None = None,
        on_event: OnEvent | None = None,
    ) -> Outcome:
        """Solve what was prepared; arguments as for `solve`."""
        budget = Budget.parse(budget) if isinstance(budget, str) else budget
        payer = self.ledger if account is None else account
        scope = payer.child(f"problem:{job.problem.id}", budget or self.config.budget.per_problem.build())
        return await work(job, self.calls(scope, job), on_event)

    async def complete(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        key: Key,
        budget: Budget | None = None,
        account: Scope | None = None,
    ) -> Completion:
        """One plain call of the policy's model: neither search nor verifier.

        Raises:
            BackendError: the call failed. BudgetExhausted: it cannot be paid.
        """
        payer = self.ledger if account is None else account
        with payer.child("plain", budget) as scope:
            calls = self._calls(scope, "plain")
            model = self.config.policy.model
            return await calls.complete(
                Request(role=Role.GENERATE, model=model, prompt=prompt, sampling=sampling, key=key)
            )

    async def judge(
        self,
        problem: Problem,
        steps: Sequence[str],
        samples: Sequence[int],
        *,
        priority: int = 0,
        verifier: str | None = None,
        seed: int | None = None,
        budget: Budget | None = None,
        account: Scope | None = None,
    ) -> dict[int, Verdict]:
        """What the verifier thinks of a solution that is there already, for each number of samples.

        Samples are nested: the largest number is all that is paid for. Solutions to one problem need problems of
        different ids, or they share their random draws.

        Args:
            verifier, seed, budget, account: as for `solve`.

        Raises:
            ConfigError: no such verifier is configured.
            BackendError, BudgetExhausted, SandboxError, VerifierError: the verifier could not judge.
        """
        name = self.judging(verifier)
        if name is None:
            raise ConfigError("there is no verifier to judge with: choose one")
        payer = self.ledger if account is None else account
        scope = payer.child(f"problem:{problem.id}", budget or self.config.budget.per_problem.build())
        calls = self._calls(scope, problem.id, priority)
        key = Key(self.config.run.seed if seed is None else seed, (problem.id,))
        judge = self._parts.verifiers[name].open(problem, key)
        with scope:
            try:
                return {number: await judge(tuple(steps), number, calls) for number in sorted(samples, reverse=True)}
            finally:
                await judge.close()
                await calls.under_way.end()

    async def run(self, problems: Sequence[Problem], on_event: OnEvent | None = None) -> AsyncIterator[Outcome]:
        """Solve many problems with the configured strategy, `run.concurrency` at once, in order of completion.

        A budget of the run is dealt out evenly in program order, so that an outcome does not depend on the others; with
        `run.allocate` it flows to where it helps (flow.py), and outcomes come in program order.

        Raises:
            UsageError: a problem does not fit the policy's context; nothing has been paid then.
        """
        jobs, per_problem = self.jobs(problems), self.config.budget.per_problem.build()
        outcomes = (self._flow if self.config.run.allocate else self._each)(jobs, self.ledger, per_problem, on_event)
        async for outcome in outcomes:
            yield outcome

    async def baseline(self, problems: Sequence[Problem], n: int) -> AsyncIterator[Outcome]:
        """`n` plain samples a problem and no verifier: what not searching gives; on an account of its own."""
        async for outcome in self._each(self.plain_jobs(problems, n), Scope.root(Budget(), "baseline"), None, None):
            yield outcome

    def jobs(self, problems: Sequence[Problem]) -> list[Job]:
        """How `run` solves them; raises as it does."""
        judging, seed = self.judging(), self.config.run.seed
        strategy = self._strategy(self.config.strategy.name, self.config.strategy.params, judging)
        return [
            make_job(self._parts, p, strategy, Key(seed, (p.id,)), judging, priority=i) for i, p in enumerate(problems)
        ]

    def plain_jobs(self, problems: Sequence[Problem], n: int) -> list[Job]:
        """How `baseline` samples them."""
        strategy, seed = self._strategy("self-consistency", {"n": n}, None), self.config.run.seed
        return [
            make_job(self._parts, p, strategy, Key(seed, ("baseline", p.id)), None, priority=i)
            for i, p in enumerate(problems)
        ]

    def calls(self, scope: Scope, job: Job) -> Calls:
        """Where a job's calls are made, paid by `scope`."""
        return self._calls(scope, job.problem.id, job.priority)

    def judging(self, name: str | None = None) -> str | None:
        """The name of the verifier that is used where `name` is asked for; None for `none`.

        Raises:
            ConfigError: there is no such verifier here.
        """
        name = name or self.config.verifier.name
        if name == "none":
            return None
        lookup(name, self._judging, "verifier", also=("none",))
        return name

    @property
    def verifiers(self) -> Sequence[str]:
        """The verifiers that can be asked for, the configured one first."""
        return list(self._judging)

    def samples(self, verifier: str) -> int:
        """The configured number of samples of a verifier."""
        return self._judging[verifier].samples

    @property
    def sampling(self) -> Sampling:
        """How the policy samples where nothing else is asked for."""
        return self._parts.policy.sampling

    def counters(self) -> dict[str, dict[str, float]]:
        """Per model, what its backend has counted so far."""
        return {
            name: dict(counters())
            for name, model in self._parts.models.items()
            if (counters := getattr(model.backend, "counters", None)) is not None
        }

    @property
    def backends(self) -> Mapping[str, Backend]:
        """The running backends by model name."""
        return {name: model.backend for name, model in self._parts.models.items()}

    @property
    def models(self) -> list[ModelInfo]:
        """What is known about the running models."""
        return [backend.info for backend in self.backends.values()]

    def journal_stats(self) -> JournalStats:
        """What is in the journal, and how much of it was found instead of paid for."""
        return self._journal.stats()

    def explain(self) -> list[str]:
        """What will be used, one line each: models and the sandbox's protections."""
        return self._parts.explain()

    async def _start(self) -> None:
        await self._parts.start(self._stack, list(self._judging.values()), judge_only=self._judge_only)
        self._journal = self._stack.enter_context(self._open_journal())
        for info in self.models:
            await self._journal.write_model(info)

    def _open_journal(self) -> Journal:
        if isinstance(self._given, Journal):
            return self._given
        opened = Journal.open if self._keep or self._given else Blank.open
        return opened(self._given, identity(self.config, self.models), self._resume)

    def _calls(self, scope: Scope, problem: str, priority: int = 0) -> Calls:
        return Calls(models=self._parts.models, journal=self._journal, scope=scope, problem=problem, priority=priority)

    def _strategy(self, name: str, params: Mapping[str, Any], judging: str | None, samples: int | None = None) -> Run:
        """The named strategy with its parameters checked and bound; `samples` None takes the configured number."""
        if self._judge_only:
            raise UsageError("this engine only judges; make one without judge_only to solve problems")
        if judging is None:
            return bind_strategy(name, params, None)
        return bind_strategy(name, params, self.samples(judging) if samples is None else samples)

    def _flow(
        self, jobs: Sequence[Job], account: Scope, per_problem: Budget | None, on_event: OnEvent | None
    ) -> AsyncIterator[Outcome]:
        """As `_each`, with one price for all problems."""
        return flow(
            jobs,
            account,
            self.calls,
            lambda payer, job: payer.child(f"problem:{job.problem.id}", per_problem),
            on_event,
            self.config.run.concurrency,
        )

    def _each(
        self, jobs: Sequence[Job], account: Scope, per_problem: Budget | None, on_event: OnEvent | None
    ) -> AsyncIterator[Outcome]:
        """The outcomes of all jobs, each paid from an even share."""
        lanes = account.split(len(jobs), "share") if jobs else []

        async def one(paid: tuple[Job, Scope]) -> Outcome:
            job, lane = paid
            scope = lane.child(f"problem:{job.problem.id}", per_problem)
            with lane:
                return await work(job, self.calls(scope, job), on_event)

        return each(one, zip(jobs, lanes, strict=True), self.config.run.concurrency)


def identity(config: Config, models: Sequence[ModelInfo]) -> dict[str, Any]:
    """What a run must have in common with a journal to continue it."""
    return {"config": config.digest(), "models": {info.name: info.fingerprint for info in models}}


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
