"""GenPRM: a process reward model that reasons, runs a Python check, then says Yes or No (arXiv 2504.00891).

K samples are K independent chains over the solution: each chain's turn on a step is conditioned on its own earlier
turns and has its own interpreter state. A chain stops at the first step it judges wrong, or when a judgement cannot be
parsed. What a chain says of a prefix is a pure function of the prefix and the chain's number, so a longer prefix
continues the chains of the shorter one, branches fork them, and equal texts are judged once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tts_engine.calls import Calls
from tts_engine.errors import BudgetExhausted
from tts_engine.formats import genprm as form
from tts_engine.formats.code import NO_CODE, extract_code, feedback_block
from tts_engine.sandbox.base import Sandbox, Session
from tts_engine.types import (
    Aggregation,
    CodeRun,
    Completion,
    Finish,
    Key,
    Message,
    Problem,
    Prompt,
    Request,
    Role,
    Sampling,
    StepJudgement,
    TokenLogprob,
    Usage,
    Verdict,
)
from tts_engine.verifiers.memory import Memory
from tts_engine.verifiers.verdicts import make_verdict

Mode = Literal["direct", "analysis", "code"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenPRM:
    """The verifier.

    Attributes:
        model: name of the verifier model in the engine.
        sandbox: executes the checks (used in mode `code` only).
        sampling: temperature, top-p and top-k (published: 0.6, 0.95, 20).
        mode: `code` analyses, checks with Python and judges; `analysis` leaves the check out; `direct` only judges.
        aggregation: how the mean scores of the steps become the candidate's value.
        question: form of the first user turn; `generation_prompt`: whether the assistant tag stands before the turn.
        analysis_tokens, check_tokens: bounds of one analysis and of one stretch of checking, in tokens.
        code_rounds: stretches of checking in a turn before the judgement is forced.
        threshold: a step scored below it ends the chain.
    """

    model: str
    sandbox: Sandbox
    sampling: Sampling
    mode: Mode = "code"
    aggregation: Aggregation = "product"
    question: form.QuestionForm = "question"
    generation_prompt: bool = False
    analysis_tokens: int = 2048
    check_tokens: int = 2048
    code_rounds: int = form.MAX_CODE_ROUNDS
    threshold: float = 0.5

    @property
    def cost_ratio(self) -> float:
        return 4.5  # GenPRM's on MATH is about 4 to 5

    def open(self, problem: Problem, key: Key) -> GenPRMJudge:
        return GenPRMJudge(self, problem, key)


class GenPRMJudge:
    """GenPRM at work on one problem."""

    def __init__(self, verifier: GenPRM, problem: Problem, key: Key) -> None:
        self._verifier = verifier
        self._problem = problem
        self._key = key
        self._states: Memory[tuple[int, tuple[str, ...]], _State] = Memory()

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        chains = await self._chains(steps, samples, calls)
        return make_verdict([chain.judgements for chain in chains], self._verifier.aggregation)

    def publish(self) -> None:
        self._states.publish()

    async def close(self) -> None:
        await self._states.close()
        for state in self._states.results():
            await state.interpreter.close()

    async def _chains(self, steps: tuple[str, ...], samples: int, calls: Calls) -> list[_State]:
        """All chains at once where money is no question, else in waves none of which can run dry."""
        chains: list[_State] = []
        while len(chains) < samples:
            wave = min(samples - len(chains), self._affordable(steps, calls))
            if not wave:
                break
            numbers = range(len(chains), len(chains) + wave)
            results = await asyncio.gather(*(self._state(k, steps, calls) for k in numbers), return_exceptions=True)
            chains += [result for result in results if isinstance(result, _State)]
            failed = [result for result in results if isinstance(result, BaseException)]
            if failed and (not chains or not isinstance(failed[0], BudgetExhausted)):
                raise failed[0]
            if failed:
                break
        if not chains:
            raise BudgetExhausted(calls.scope.name, "no judgement can be paid")
        return chains

    def _affordable(self, steps: tuple[str, ...], calls: Calls) -> int:
        """How many chains may run at once so that none of them depends on what the others leave over; 1 at least,
        while there is anything left."""
        if not calls.limited:
            return 2**31
        left = calls.scope.left
        model = calls.models[self._verifier.model]
        text = "\n\n".join((self._problem.prompt, *steps))
        prompt = model.backend.count_tokens(Prompt(messages=(Message(role="user", content=text),)))
        stages = self._verifier.code_rounds + 2
        turn = self._verifier.analysis_tokens + self._verifier.code_rounds * self._verifier.check_tokens
        longest = prompt + len(steps) * turn
        bound = sum((model.cost.upper_bound(longest, turn),) * (len(steps) * stages), Usage())
        room = left.times(bound)
        return room or int(left.fits(model.cost.upper_bound(1, 1)))

    async def _state(self, number: int, steps: tuple[str, ...], calls: Calls) -> _State:
        """Chain `number` after judging the last of `steps` (or where it stopped before)."""
        if not steps:
            return _State(interpreter=_Interpreter(self._verifier.sandbox.session()))
        before = await self._state(number, steps[:-1], calls)
        if not before.open:
            return before
        payer = calls.scope if calls.limited else None
        return await self._states.get((number, steps), lambda: self._advance(before, number, steps, calls), payer)

    async def _advance(self, before: _State, number: int, steps: tuple[str, ...], calls: Calls) -> _State:
        text = hashlib.blake2b("\x1e".join(steps).encode(), digest_size=8).hexdigest()
        key = self._key.child("verify", number, text)
        turn = _Turn(self._verifier, key, calls, await before.interpreter.fork())
        messages = form.conversation(
            self._problem.prompt,
            steps,
            before.turns,
            direct=self._verifier.mode == "direct",
            question=self._verifier.question,
        )
        judgement = await turn.run(messages)
        return _State(
            turns=(*before.turns, judgement.rationale),
            judgements=(*before.judgements, judgement),
            interpreter=turn.interpreter,
            open=judgement.score is not None and judgement.score >= self._verifier.threshold,
        )


class _Interpreter:
    """A sandbox session that skips checks whose result is in the journal, and catches up when a new one comes."""

    def __init__(self, session: Session, skipped: tuple[str, ...] = ()) -> None:
        self._session = session
        self._skipped = skipped

    async def fork(self) -> _Interpreter:
        return _Interpreter(await self._session.fork(), self._skipped)

    async def run(self, code: str, key: Key, calls: Calls) -> CodeRun:
        identity = hashlib.blake2b(f"{key}\x1f{code}".encode(), digest_size=16).digest()
        known = calls.journal.find_code(identity)
        if known is not None:
            self._skipped += (code,)
            return known
        for earlier in self._skipped:
            await self._session.run(earlier)
        self._skipped = ()
        run = await self._session.run(code)
        await calls.journal.write_code(identity, run)
        return run

    async def close(self) -> None:
        await self._session.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """A chain after a turn: its turns, its judgements and the interpreter as this turn left it."""

    interpreter: _Interpreter
    turns: tuple[str, ...] = ()
    judgements: tuple[StepJudgement, ...] = ()
    open: bool = True


class _Turn:
    """One verification turn: analysis, checks, judgement."""

    def __init__(self, verifier: GenPRM, key: Key, calls: Calls, interpreter: _Interpreter) -> None:
        self._verifier = verifier
        self._key = key
        self._calls = calls
        self.interpreter = interpreter
        self._runs: list[CodeRun] = []
        self._usage = Usage()

    async def run(self, messages: tuple[Message, ...]) -> StepJudgement:
        prompt = form.turn_prompt(messages, generation_prompt=self._verifier.generation_prompt)
        if self._verifier.mode == "direct":
            return await self._judge(prompt)
        index = sum(message.role == "assistant" for message in messages)
        prompt = prompt.then(form.analyze_prefix(index))
        analysis = await self._sample(prompt, "analyze", self._verifier.analysis_tokens, (form.ANALYZE_END,))
        prompt = prompt.then(analysis.text)
        if analysis.finish is not Finish.STOP:
            return self._judgement(prompt, None)
        return await (self._check(prompt) if self._verifier.mode == "code" else self._judge(prompt))

    async def _check(self, analysed: Prompt) -> StepJudgement:
        """Let the model write checks, feed their output back, read its judgement; force one after too many rounds."""
        prompt, block = analysed.then(form.VERIFY), form.VERIFY
        stops = (form.CODE_END, form.OUTPUT_END)
        for number in range(self._verifier.code_rounds):
            said = await self._sample(prompt, f"check{number}", self._verifier.check_tokens, stops, watch=True)
            prompt = prompt.then(said.text)
            if said.stop != form.CODE_END:
                return self._judgement(prompt, said.logprobs if said.stop == form.OUTPUT_END else None)
            prompt = prompt.then(feedback_block(await self._execute(block + said.text, number)))
            block = ""
        return await self._judge(analysed)

    async def _judge(self, prompt: Prompt) -> StepJudgement:
        """Force the output prefix and read the judgement."""
        prompt = prompt.then(form.OUTPUT)
        said = await self._sample(prompt, "output", 20, (form.OUTPUT_END,), watch=True)
        return self._judgement(prompt.then(said.text), said.logprobs)

    async def _execute(self, text: str, number: int) -> str:
        code = extract_code(text)
        if code is None:
            return NO_CODE
        run = await self.interpreter.run(code, self._key.child("code", number), self._calls)
        self._usage += self._calls.charge_code(run, self._verifier.model)
        self._runs.append(run)
        return run.output

    async def _sample(
        self, prompt: Prompt, stage: str, tokens: int, stop: tuple[str, ...], *, watch: bool = False
    ) -> Completion:
        sampling = replace(
            self._verifier.sampling,
            max_tokens=tokens,
            stop=stop,
            include_stop=True,
            watch=form.JUDGEMENTS if watch else (),
        )
        key = self._key.child(stage)
        completion = await self._calls.complete(
            Request(role=Role.VERIFY, model=self._verifier.model, prompt=prompt, sampling=sampling, key=key)
        )
        self._usage += completion.usage
        return completion

    def _judgement(self, prompt: Prompt, logprobs: Sequence[TokenLogprob] | None) -> StepJudgement:
        turn = "".join(prompt.continuation)
        return StepJudgement(
            score=None if logprobs is None else form.reward(tuple(logprobs)),
            rationale=turn,
            analysis=form.analysis_of(turn),
            code_runs=tuple(self._runs),
            usage=self._usage,
        )
