"""GenPRM on scripted and simulated models, with checks executed for real in the sandbox."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.verifiers.conftest import Actor
from tts_engine.backends.arithmetic import Task
from tts_engine.backends.simulated import SimulatedBackend
from tts_engine.calls import Calls, Model
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.formats import genprm as form
from tts_engine.journal import Journal
from tts_engine.sandbox import SubprocessSandbox
from tts_engine.types import Completion, Finish, Key, Problem, Request, Sampling, TokenLogprob, Usage
from tts_engine.verifiers import GenPRM

PROBLEM = Problem(id="p", prompt="3 and 4?")
STEPS = ("Step 1: 3+4=7.", "Step 2: so 7.")
YES, NO = ({"Yes": -0.1, "No": -3.0}, {"Yes": -3.0, "No": -0.1})


@dataclass
class Script(Actor):
    """A model that answers the n-th call with the n-th text."""

    texts: list[str]

    async def complete(self, request: Request) -> Completion:
        text = self.texts[len(self.asked)]
        self.asked.append(request)
        stop = next((s for s in request.sampling.stop if text.endswith(s)), None)
        tokens = [
            TokenLogprob(text=part, logprob=-0.1, alternatives={"Yes": YES, "No": NO}.get(part, {}))
            for part in text.replace("Yes", "\0Yes\0").replace("No}", "\0No\0}").split("\0")
        ]
        return Completion(
            text=text,
            tokens=len(tokens),
            finish=Finish.STOP if stop else Finish.LENGTH,
            stop=stop,
            logprobs=tuple(tokens) if request.sampling.watch else (),
            usage=Usage(prompt=10, completion=len(tokens), calls=1),
        )


MakeCalls = Callable[..., Calls]


def calls_for(backend: Script | SimulatedBackend, budget: Budget | None = None) -> Calls:
    model = Model(backend=backend, cost=CostModel())
    scope = Scope.root(budget or Budget())
    return Calls(models={"verifier": model}, journal=Journal.open(None, {}, False), scope=scope, problem="p")


def genprm(sandbox: SubprocessSandbox, **options: object) -> GenPRM:
    return GenPRM(model="verifier", sandbox=sandbox, sampling=Sampling(), **options)  # type: ignore[arg-type]


ANALYSIS = "3 plus 4 is asked.\n</analyze>\n"
ACCEPT = f"</verify>\n{form.verdict_text('Yes')}"
REJECT = f"</verify>\n{form.verdict_text('No')}"


async def test_a_turn_runs_its_check_and_reads_the_judgement(sandbox: SubprocessSandbox) -> None:
    script = Script([ANALYSIS, "x = 3+4\nprint(x == 7)\n```\n", ACCEPT])
    verdict = await genprm(sandbox).open(PROBLEM, Key(0))(STEPS[:1], 1, calls_for(script))
    (turn,) = verdict.samples[0]
    assert turn.rationale == (
        "<analyze>\nLet's analyze the Paragraph 1 step by step: 3 plus 4 is asked.\n</analyze>\n"
        "<verify>\nLet's use python code to find any potential error:\n```python\nx = 3+4\nprint(x == 7)\n```\n"
        "[Code Output]\n\n```\nTrue\n```\n</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
    )
    assert turn.code_runs[0].output == "True"
    assert turn.analysis == "3 plus 4 is asked."
    assert verdict.value == pytest.approx(1 / (1 + 2.718281828 ** (-2.9)))
    assert (turn.usage.calls, turn.usage.code_runs) == (3, 1)
    assert [request.sampling.stop for request in script.asked] == [
        ("</analyze>\n",),
        ("\n```\n", "</output>\n"),
        ("\n```\n", "</output>\n"),
    ]


async def test_a_chain_keeps_its_turns_and_its_variables_and_stops_at_no(sandbox: SubprocessSandbox) -> None:
    script = Script([ANALYSIS, "x = 7\n```\n", ACCEPT, ANALYSIS, "print(x + 1)\n```\n", REJECT])
    calls = calls_for(script)
    judge = genprm(sandbox).open(PROBLEM, Key(0))
    verdict = await judge((*STEPS, "Step 3: never judged"), 1, calls)
    first, second = verdict.samples[0]
    assert (first.score or 0) > 0.5 > (second.score or 1)
    assert second.code_runs[0].output == "8"
    assert [m.role for m in script.asked[3].prompt.messages] == ["system", "user", "assistant", "user"]
    assert script.asked[3].prompt.messages[2].content == first.rationale
    assert len(verdict.step_scores) == 2
    assert verdict.first_error() == 1
    assert calls.scope.total.code_runs == 2


async def test_an_unparseable_judgement_is_invalid_not_a_number(sandbox: SubprocessSandbox) -> None:
    for texts in (["rambling without end"], [ANALYSIS, "print(1)\n```\n", "no judgement</output>\n"]):
        verdict = await genprm(sandbox).open(PROBLEM, Key(0))(STEPS[:1], 1, calls_for(Script(texts)))
        assert verdict.value is None
        assert not verdict.valid
        assert verdict.invalid_samples == 1


async def test_endless_checking_is_bounded_and_a_judgement_forced(sandbox: SubprocessSandbox) -> None:
    check = "print(1)\n```\n"
    again = f"```python\n{check}"
    script = Script([ANALYSIS, check, again, again, "{Yes}$\n</output>\n"])
    verdict = await genprm(sandbox).open(PROBLEM, Key(0))(STEPS[:1], 1, calls_for(script))
    assert verdict.value is not None
    assert verdict.value > 0.5
    assert script.asked[-1].prompt.continuation[-1] == form.OUTPUT
    assert "<verify>" not in "".join(script.asked[-1].prompt.continuation)
    assert len(verdict.samples[0][0].code_runs) == 3


async def test_a_fence_without_code_gets_the_protocols_feedback(sandbox: SubprocessSandbox) -> None:
    script = Script([ANALYSIS, "print(1)\n```\n", "and so\n```\n", ACCEPT])
    await genprm(sandbox).open(PROBLEM, Key(0))(STEPS[:1], 1, calls_for(script))
    assert script.asked[-1].prompt.continuation[-1] == (
        "[Code Output]\n\n```\nCode format error: No code found.\n```\n"
    )


@pytest.mark.parametrize(("mode", "calls"), [("direct", 1), ("analysis", 2)])
async def test_cheaper_modes(sandbox: SubprocessSandbox, mode: str, calls: int) -> None:
    script = Script([ANALYSIS, "{No}$\n</output>\n"][2 - calls :])
    verdict = await genprm(sandbox, mode=mode).open(PROBLEM, Key(0))(STEPS[:1], 1, calls_for(script))
    assert verdict.value is not None
    assert verdict.value < 0.5
    assert len(script.asked) == calls
    assert script.asked[0].prompt.messages[0].content == (form.SYSTEM_DIRECT if mode == "direct" else form.SYSTEM)


async def simulated(sandbox: SubprocessSandbox) -> tuple[GenPRM, Problem, tuple[str, ...], SimulatedBackend]:
    task = Task(true_positive=0.8, false_positive=0.3)
    problem = task.problem(Key(3), steps=4)
    numbers = [int(word) for word in problem.prompt.replace(".", "").split() if word.isdigit()]
    steps = tuple(f"Step {i + 1}: {n}+1={n + 1}." for i, n in enumerate(numbers))
    return genprm(sandbox), problem, steps, SimulatedBackend("verifier", task=task)


async def test_judging_step_by_step_equals_judging_at_once_and_costs_the_same(sandbox: SubprocessSandbox) -> None:
    verifier, problem, steps, backend = await simulated(sandbox)
    async with backend:
        at_once, growing = calls_for(backend), calls_for(backend)
        whole = await verifier.open(problem, Key(0))(steps, 8, at_once)
        judge = verifier.open(problem, Key(0))
        for i in range(1, len(steps) + 1):
            last = await judge(steps[:i], 8, growing)
    assert last == whole
    assert growing.scope.total == at_once.scope.total


async def test_samples_are_nested_and_equal_texts_are_judged_once(sandbox: SubprocessSandbox) -> None:
    verifier, problem, steps, backend = await simulated(sandbox)
    async with backend:
        judge, calls = verifier.open(problem, Key(0)), calls_for(backend)
        eight = await judge(steps, 8, calls)
        spent = calls.scope.total
        assert (await judge(steps, 8, calls), calls.scope.total) == (eight, spent)
        fewer = await verifier.open(problem, Key(0))(steps, 3, calls_for(backend))
    assert eight.samples[:3] == fewer.samples


async def test_a_tight_budget_buys_fewer_whole_chains_and_is_kept(sandbox: SubprocessSandbox) -> None:
    _, problem, steps, backend = await simulated(sandbox)
    small = genprm(sandbox, analysis_tokens=40, check_tokens=40)
    async with backend:
        calls = calls_for(backend, Budget(tokens=8_000))
        verdict = await small.open(problem, Key(0))(steps, 64, calls)
    assert 0 < len(verdict.samples) < 64
    assert verdict.invalid_samples == 0
    assert calls.scope.total.tokens <= 8_000
