"""An engine for programs that are synchronous, or that run event loops of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tts_engine.compute.ledger import Scope
from tts_engine.config import Config
from tts_engine.errors import UsageError, VerifierError
from tts_engine.run import Engine
from tts_engine.types import Outcome, Problem, Verdict

Result = TypeVar("Result")
Source = Config | Mapping[str, Any] | Path | str | None
"""What an engine can be made from (`Engine.from_config`)."""


class Hosted:
    """An `Engine` in a thread of its own. It starts when it is first used and ends with `close`; a context manager.

    `solve` and `judge` wait for their result; `asolve` and `ajudge` are for coroutines on any asyncio loop. All may be
    called from any number of threads at once, and a cancelled one stops its work in the engine.

    Args:
        config: what to run; the embedded models if None.

    Raises:
        UsageError: (at the first use) the configuration names something that does not exist or fit.
    """

    def __init__(self, config: Source = None) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._started: Future[Engine] | None = None

    def __enter__(self) -> Self:
        self._engine()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def solve(self, problem: Problem | str, **options: Any) -> Outcome:  # noqa: ANN401  # those of `Engine.solve`
        """As `Engine.solve`."""
        return self._wait(self._submit(lambda engine: engine.solve(problem, **options)))

    def judge(self, problem: Problem | str, steps: Sequence[str], samples: int | None = None) -> Verdict:
        """What the verifier says of a solution in steps.

        Args:
            samples: number of judgements; the configured one if None.

        Raises:
            UsageError: there is nothing to judge, or no verifier to do it.
            VerifierError: not one judgement could be read.
        """
        return self._wait(self._submit(lambda engine: judge(engine, problem, steps, samples)))

    async def asolve(self, problem: Problem | str, **options: Any) -> Outcome:  # noqa: ANN401  # as above
        """As `solve`."""
        await asyncio.to_thread(self._engine)
        return await asyncio.wrap_future(self._submit(lambda engine: engine.solve(problem, **options)))

    async def ajudge(self, problem: Problem | str, steps: Sequence[str], samples: int | None = None) -> Verdict:
        """As `judge`."""
        await asyncio.to_thread(self._engine)
        return await asyncio.wrap_future(self._submit(lambda engine: judge(engine, problem, steps, samples)))

    def close(self) -> None:
        """End the engine, if it was started; what it was doing is stopped. It would start again when used again."""
        with self._lock:
            started, self._started = self._started, None
        if started is not None:
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()

    def _engine(self) -> Engine:
        with self._lock:
            if self._started is None:
                started: Future[Engine] = Future()
                self._thread = threading.Thread(target=self._run, args=(started,), daemon=True, name="tts-engine")
                self._thread.start()
                started.result()
                self._started = started
            return self._started.result()

    def _run(self, started: Future[Engine]) -> None:
        try:
            asyncio.run(self._live(started))
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _live(self, started: Future[Engine]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._jobs = set[asyncio.Task[Any]]()
        async with Engine.from_config(self._config) as engine:
            started.set_result(engine)
            await self._over.wait()
            for job in self._jobs:
                job.cancel()
            await asyncio.gather(*self._jobs, return_exceptions=True)

    def _submit(self, work: Callable[[Engine], Coroutine[Any, Any, Result]]) -> Future[Result]:
        engine = self._engine()

        async def job() -> Result:
            task = asyncio.create_task(work(engine))
            self._jobs.add(task)
            task.add_done_callback(self._jobs.discard)
            return await task

        return asyncio.run_coroutine_threadsafe(job(), self._loop)

    @staticmethod
    def _wait(future: Future[Result]) -> Result:
        try:
            return future.result()
        finally:
            future.cancel()


async def judge(
    engine: Engine,
    problem: Problem | str,
    steps: Sequence[str],
    samples: int | None,
    account: Scope | None = None,
) -> Verdict:
    """One verdict by an engine's own verifier, paid by `account`; the rest as for `Hosted.judge`."""
    asked = Problem(id="problem", prompt=problem) if isinstance(problem, str) else problem
    name = engine.judging()
    if name is None:
        raise UsageError("there is no verifier to judge with: set verifier.name")
    if not steps or not all(step.strip() for step in steps):
        raise UsageError("there is nothing to judge: give the solution as steps that are not empty")
    number = engine.samples(name) if samples is None else samples
    if number < 1:
        raise UsageError(f"samples={number} must be at least 1")
    verdict = (await engine.judge(asked, steps, [number], account=account))[number]
    if not verdict.valid:
        raise VerifierError(f"none of {number} judgements could be read")
    return verdict
