"""A program as judge: the reference answer, unit tests, or the user's own Python callable. Costs no tokens."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tts_engine.calls import Calls
from tts_engine.errors import ConfigError, VerifierError
from tts_engine.formats.answers import compared, extract_answer, same_answer
from tts_engine.sandbox.base import Sandbox
from tts_engine.types import CodeRun, Key, Problem, StepJudgement, Verdict
from tts_engine.verifiers.verdicts import make_verdict

Check = Callable[[Problem, Sequence[str]], Any]
PASSED = "all tests passed"
_FENCED = re.compile(r"```(?:python)?\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker:
    """The verifier; it says the same every time, so one sample is taken.

    Attributes:
        sandbox: executes unit tests.
        check: `answer` compares the boxed answer with the problem's reference (an oracle where the reference is what is
            to be found); `tests` runs the last code block of the solution and then the problem's `tests` field;
            `module:function` calls the user's `function(problem, steps)`, which may be async and returns a bool or a
            number in [0, 1] for the whole, or a list of them, one for each step. It runs unconfined, as any code of
            the user's own.
    """

    sandbox: Sandbox
    check: str = "answer"

    def __post_init__(self) -> None:
        if self.check not in ("answer", "tests"):
            load(self.check)

    @property
    def cost_ratio(self) -> float:
        return 0.0

    def open(self, problem: Problem, key: Key) -> CheckerJudge:
        return CheckerJudge(self, problem)


class CheckerJudge:
    """The checker at work on one problem."""

    def __init__(self, verifier: Checker, problem: Problem) -> None:
        self._verifier = verifier
        self._problem = problem

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        if self._verifier.check == "answer":
            return await self._answer(steps)
        if self._verifier.check == "tests":
            return await self._tests(steps)
        return as_verdict(await self._own(steps), len(steps))

    def publish(self) -> None:
        """Nothing is shared."""

    async def close(self) -> None:
        """Nothing is held."""

    async def _own(self, steps: tuple[str, ...]) -> Any:  # noqa: ANN401  # whatever the user's function returns
        check = load(self._verifier.check)
        try:
            found = check(self._problem, steps)
            return await found if inspect.isawaitable(found) else found
        except Exception as error:
            raise VerifierError(f"{self._verifier.check} raised {type(error).__name__}: {error}") from error

    async def _answer(self, steps: tuple[str, ...]) -> Verdict:
        if self._problem.answer is None:
            raise VerifierError(f"problem {self._problem.id} has no reference answer to check against")
        answer = extract_answer("\n".join(steps))
        await compared([answer], self._problem.answer)
        return as_verdict(answer is not None and same_answer(answer, self._problem.answer), len(steps))

    async def _tests(self, steps: tuple[str, ...]) -> Verdict:
        tests = self._problem.meta.get("tests")
        if not isinstance(tests, str):
            raise VerifierError(f"problem {self._problem.id} has no text under 'tests'")
        blocks = _FENCED.findall("\n".join(steps))
        if not blocks:
            return as_verdict(False, len(steps))
        session = self._verifier.sandbox.session()
        try:
            run = await session.run(f"{blocks[-1]}\n{tests}\nprint({PASSED!r})")
        finally:
            await session.close()
        return as_verdict(run.ok and run.output.endswith(PASSED), len(steps), (run,))


def as_verdict(found: Any, steps: int, runs: tuple[CodeRun, ...] = ()) -> Verdict:  # noqa: ANN401  # the user's
    """The verdict for what a check returns.

    Raises:
        VerifierError: it is neither a bool or number in [0, 1] nor a list of them, one for each of `steps` steps.
    """
    if isinstance(found, list | tuple) and len(found) == steps and all(map(_is_score, found)):
        return make_verdict([tuple(StepJudgement(score=float(score)) for score in found)], "min")
    if not _is_score(found):
        raise VerifierError(f"the check returned {found!r}, not a number in [0, 1] or one for each of {steps} steps")
    judgement = StepJudgement(score=float(found), code_runs=runs)
    return Verdict(step_scores=(), value=float(found), samples=((judgement,),))


def load(name: str) -> Check:
    """The function `module:function`; `ConfigError` where there is none."""
    module, colon, function = name.partition(":")
    if not colon:
        raise ConfigError(f"check={name!r} is not known: use answer, tests, or module:function")
    try:
        check: Check = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"check={name!r} cannot be imported ({error}); see that Python finds the module") from None
    return check


def _is_score(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, bool | int | float) and 0 <= value <= 1
