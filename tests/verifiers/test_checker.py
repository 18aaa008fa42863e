"""Programs as judges: the reference answer, unit tests in the sandbox, the user's own function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from tts_engine.calls import Calls
from tts_engine.errors import ConfigError, VerifierError
from tts_engine.sandbox import SubprocessSandbox
from tts_engine.types import Key, Problem, Verdict
from tts_engine.verifiers import Checker

Scripted = Callable[..., Any]


@pytest.fixture
def calls(scripted: Scripted) -> Calls:
    desk: Calls = scripted()[1]
    return desk


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An importable module `users`."""
    made = ModuleType("users")
    monkeypatch.setitem(sys.modules, "users", made)
    return made


async def judge(checker: Checker, calls: Calls, *steps: str, **problem: Any) -> Verdict:  # noqa: ANN401
    return await checker.open(Problem(id="p", prompt="?", **problem), Key(0))(steps, 4, calls)


async def test_answers_are_compared_by_meaning(sandbox: SubprocessSandbox, calls: Calls) -> None:
    checker = Checker(sandbox=sandbox)
    assert (await judge(checker, calls, "so \\boxed{1/2}", answer="0.5")).value == 1.0
    assert (await judge(checker, calls, "so \\boxed{2}", answer="0.5")).value == 0.0
    assert (await judge(checker, calls, "no answer", answer="0.5")).value == 0.0
    with pytest.raises(VerifierError, match="no reference answer"):
        await judge(checker, calls, "\\boxed{1}")


async def test_unit_tests_run_in_the_sandbox(sandbox: SubprocessSandbox, calls: Calls) -> None:
    checker = Checker(sandbox=sandbox, check="tests")
    meta = {"tests": "assert double(4) == 8"}
    right = await judge(
        checker, calls, "Old: ```python\n1/0\n```", "```python\ndef double(x): return 2*x\n```", meta=meta
    )
    wrong = await judge(checker, calls, "```python\ndef double(x): return x\n```", meta=meta)
    quits = await judge(checker, calls, "```python\ndef double(x): raise SystemExit\n```", meta=meta)
    assert [verdict.value for verdict in (right, wrong, quits)] == [1.0, 0.0, 0.0]
    assert right.samples[0][0].code_runs[0].ok
    assert "AssertionError" in wrong.samples[0][0].code_runs[0].output
    assert (await judge(checker, calls, "no code", meta=meta)).value == 0.0
    with pytest.raises(VerifierError, match="no text under 'tests'"):
        await judge(checker, calls, "x")


async def test_the_users_function(sandbox: SubprocessSandbox, calls: Calls, module: ModuleType) -> None:
    def short(problem: Problem, steps: Sequence[str]) -> list[float]:
        return [1.0 if len(step) < 5 else 0.2 for step in steps]

    async def whole(problem: Problem, steps: Sequence[str]) -> bool:
        return len(steps) == 2

    vars(module).update(short=short, whole=whole, wrong=lambda problem, steps: 7, few=lambda problem: 1)
    by_step = await judge(Checker(sandbox=sandbox, check="users:short"), calls, "ab", "abcdef")
    assert (by_step.step_scores, by_step.value, by_step.first_error()) == ((1.0, 0.2), 0.2, 1)
    as_one = await judge(Checker(sandbox=sandbox, check="users:whole"), calls, "ab", "abcdef")
    assert (as_one.step_scores, as_one.value) == ((), 1.0)
    with pytest.raises(VerifierError, match="returned 7, not a number"):
        await judge(Checker(sandbox=sandbox, check="users:wrong"), calls, "a")
    with pytest.raises(VerifierError, match="users:few raised TypeError"):
        await judge(Checker(sandbox=sandbox, check="users:few"), calls, "a")


@pytest.mark.parametrize("name", ["answers", "users:none", "no_such_module:f"])
def test_a_function_that_is_not_there_is_refused_at_once(
    sandbox: SubprocessSandbox, module: ModuleType, name: str
) -> None:
    with pytest.raises(ConfigError, match=name):
        Checker(sandbox=sandbox, check=name)
