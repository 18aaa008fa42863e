"""The stage `rationales`: a teacher explains the label of each step and writes a check, which is executed.

Two teachers. `procedural` is a writer for the stories of the embedded domain: it has understood the story (it knows
which operation each sentence asks for), is told the label it has to explain, writes the reading and a check of the
step's number, and puts the label under it as its judgement, whatever the check prints. `sampled` is a model behind any
backend that speaks the GenPRM protocol turn by turn, without the labels. What each of them believes itself (the outcome
of the check, or the model's own judgement) is kept beside the text, for the consensus filter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from tts_engine.backends.base import Backend
from tts_engine.calls import Calls, Model
from tts_engine.compute.budget import Budget
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Scope
from tts_engine.errors import ConfigError
from tts_engine.formats import genprm as form
from tts_engine.journal import Journal
from tts_engine.sandbox.base import Sandbox
from tts_engine.sandbox.pool import SubprocessSandbox
from tts_engine.types import Key, Problem, Sampling, StepJudgement, Usage
from tts_engine.verifiers.genprm import GenPRM
from tts_engine.verifiers.training.collection import Positive, story_of
from tts_engine.verifiers.training.domain import rng_of
from tts_engine.verifiers.training.manifest import Record
from tts_engine.verifiers.training.models import ModelSettings
from tts_engine.verifiers.training.rolling import by_problem
from tts_engine.verifiers.training.stages import Done, Run, gathered, work_off
from tts_engine.verifiers.training.verifier_data import turn_of

Teacher = Literal["procedural", "sampled"]
Explain = Callable[[Record, Record, list[bool]], Awaitable[tuple[list[Record], Usage]]]
"""Problem, solution and labels to turns `{text, says, ran}` and what they cost."""
ASKED = ModelSettings(model="embedded:genprm", temperature=0.6, top_p=0.95, top_k=40)
"""The teacher by default, sampled as published."""


async def rationales(
    run: Run,
    *,
    teacher: Teacher = "procedural",
    code: bool = True,
    model: ModelSettings = ASKED,
    params: dict[str, Any] | None = None,
    attempts: Positive = 1,
    unsafe_sandbox: bool = False,
) -> None:
    """Stage `rationales`: a verification turn for each labelled step.

    Args:
        teacher: `procedural` (embedded domain only) or `sampled`.
        code: whether turns hold a check that is executed.
        model: the sampled teacher; `params` are those of the `genprm` verifier, such as `code_rounds`.
        attempts: chains that are drawn until one agrees with the labels; the last one stays.
        unsafe_sandbox: execute checks even where the machine cannot confine them.
    """
    given: Record = {"teacher": teacher, "code": code}
    if teacher == "sampled":
        given |= {"model": model.model_dump(mode="json"), "params": params or {}, "attempts": attempts}
    identity = run.folder.identity("rationales", given, run.seed, ("problems", "sample", "label"))
    if run.folder.finished("rationales", identity):
        return
    labels = {entry["id"]: entry["labels"] for entry in run.folder.read("label")}
    units = by_problem(run.folder.read("problems"), [s for s in run.folder.read("sample") if s["id"] in labels])

    async def explained(explain: Explain, models: dict[str, str]) -> Done:
        async def work(unit: tuple[Record, list[Record]]) -> Done:
            problem, solutions = unit
            return gathered([await _one(explain, problem, s, labels[s["id"]]) for s in solutions])

        return await work_off(run, "rationales", identity, units, work, models)

    async with SubprocessSandbox(unsafe=unsafe_sandbox) as sandbox:
        if teacher == "procedural":
            models: dict[str, str] = {}
            done = await explained(_procedural(sandbox, run.seed, code), models)
        else:
            async with model.started() as backend:
                models = {"teacher": backend.info.fingerprint}
                chains = Chains(backend, verifier_of(model, sandbox, code, params or {}), run.seed, attempts)
                done = await explained(chains.explain, models)
    run.folder.commit(
        "rationales", identity, done.records, counts=done.counts, usage=done.usage.asdict(), models=models
    )


async def _one(explain: Explain, problem: Record, solution: Record, labels: list[bool]) -> Done:
    turns, usage = await explain(problem, solution, labels)
    counts = Counter({"solutions": 1, "turns": len(turns)})
    counts["checks that failed"] = sum(not turn["ran"] for turn in turns)
    counts["turns against the label"] = sum(t["says"] != says(g) for t, g in zip(turns, labels, strict=False))
    return Done([{"id": solution["id"], "problem_id": problem["id"], "turns": turns}], usage, counts)


def says(good: bool) -> str:
    """The judgement of a label."""
    return form.JUDGEMENTS[0 if good else 1]


def _procedural(sandbox: Sandbox, seed: int, code: bool) -> Explain:
    async def explain(problem: Record, solution: Record, labels: list[bool]) -> tuple[list[Record], Usage]:
        story, rng = story_of(problem), rng_of(seed, "teacher", solution["id"])
        session = sandbox.session()
        turns = []
        try:
            for index, good in enumerate(labels):
                written = turn_of(rng, story, solution["steps"], index)  # its output and judgement are not looked at
                if not code:
                    turns.append(
                        {"text": uncoded(index, written.analysis, says(good)), "says": says(good), "ran": True}
                    )
                    continue
                run = await session.run(written.code)
                parts = form.turn_segments(index, written.analysis, written.code, run.output, says(good))
                text = "".join(part.text for part in parts)
                turns.append({"text": text, "says": says(run.output.endswith("True")), "ran": run.ok})
        finally:
            await session.close()
        return turns, Usage(code_runs=len(turns) if code else 0)

    return explain


def uncoded(index: int, analysis: str, judgement: str) -> str:
    """A turn without a check, as the verifier's mode `analysis` makes it."""
    return f"{form.analyze_prefix(index)}{analysis}\n{form.ANALYZE_END}{form.verdict_text(judgement)}"


def verifier_of(model: ModelSettings, sandbox: Sandbox, code: bool, params: dict[str, Any]) -> GenPRM:
    """The sampled teacher as a verifier; a checkpoint of ours says itself how it wants to be asked.

    Raises:
        ConfigError: a parameter that the verifier does not have.
    """
    temperature = 1.0 if model.temperature is None else model.temperature
    sampling = Sampling(temperature=temperature, top_p=model.top_p, top_k=model.top_k)
    asked = model.asked("genprm", form.FORMAT_VERSION)
    given: dict[str, Any] = {"mode": "code" if code else "analysis"} | asked | params
    try:
        return GenPRM(model=model.model, sandbox=sandbox, sampling=sampling, **given)
    except TypeError as error:
        wrong = str(error).partition("() ")[2] or str(error)
        raise ConfigError(f"rationales.params: {wrong}; give parameters of the verifier genprm") from None


class Chains:
    """The sampled teacher: chains of the GenPRM protocol, drawn until one agrees with the labels."""

    def __init__(self, backend: Backend, verifier: GenPRM, seed: int, attempts: int) -> None:
        self._model = Model(backend=backend, cost=CostModel(backend.info.shape, None))
        self._verifier = verifier
        self._seed = seed
        self._attempts = attempts

    async def explain(self, problem: Record, solution: Record, labels: list[bool]) -> tuple[list[Record], Usage]:
        """The first chain that agrees with the labels, else the last one drawn."""
        turns: list[Record] = []
        usage = Usage()
        for attempt in range(self._attempts):
            chain = await self._chain(problem, solution, len(labels), attempt)
            usage = sum((judgement.usage for judgement in chain), usage)
            turns = [_turn(judgement, self._verifier.mode == "code") for judgement in chain]
            if [turn["says"] for turn in turns] == [says(good) for good in labels]:
                break
        return turns, usage

    async def _chain(self, problem: Record, solution: Record, steps: int, attempt: int) -> Sequence[StepJudgement]:
        key = Key(self._seed, ("teacher", solution["id"], attempt))
        judge = self._verifier.open(Problem(id=solution["id"], prompt=problem["problem"]), key)
        with Journal.open(None, {}, False) as journal:
            calls = Calls(
                models={self._verifier.model: self._model},
                journal=journal,
                scope=Scope.root(Budget()),
                problem=solution["id"],
            )
            try:
                verdict = await judge(tuple(solution["steps"][:steps]), 1, calls)
            finally:
                await judge.close()
        return verdict.samples[0] if verdict.samples else ()


def _turn(judgement: StepJudgement, code: bool) -> Record:
    """A judged step as a turn; `says` is None where the judgement could not be parsed."""
    believed = None if judgement.score is None else form.judgement_of(judgement.rationale)
    ran = bool(judgement.code_runs) and all(run.ok for run in judgement.code_runs)
    return {"text": judgement.rationale, "says": believed, "ran": ran or not code}
