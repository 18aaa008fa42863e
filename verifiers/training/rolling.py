"""The stage `rollouts`: a completer carries each prefix of the sampled solutions on, as often as a label needs it.

All solutions to a problem share the draws of prefixes that they share; each draw has a key of its own, so that a
plan (plans.py) that stops early has seen the first draws of the one that does not. Requests of many problems are
under way at once: the backend batches them and computes a shared prefix once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tts_engine.backends.base import Backend
from tts_engine.errors import DataError
from tts_engine.together import end
from tts_engine.types import Key, Sampling, Usage
from tts_engine.verifiers.training import plans
from tts_engine.verifiers.training.collection import Positive, complete, is_right
from tts_engine.verifiers.training.manifest import Folder, Record, differences
from tts_engine.verifiers.training.models import ModelSettings
from tts_engine.verifiers.training.plans import Case, Counts, Plan, Stop
from tts_engine.verifiers.training.rpe import Count, exact_threshold, rollouts_for
from tts_engine.verifiers.training.stages import Done, Run, work_off

Root = Literal["drawn", "pass1"]
Number = Positive | Literal["adaptive"]
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")
"""What the draws of a completer depend on beside its weights."""


async def rollouts(
    run: Run,
    *,
    model: ModelSettings | None = None,
    k: Number = "adaptive",
    stop: Stop = "rpe",
    threshold: float = 0.8,
    doubt: Annotated[float, Field(gt=0, lt=0.5)] = 0.02,
    root: Root = "pass1",
    reuse: str | None = None,
) -> None:
    """Stage `rollouts`: Monte Carlo counts for the steps of each sampled solution.

    Args:
        model: the completer; its `max_tokens` bounds one rollout.
        k: rollouts a step at most; `adaptive` is 128, 64 or 32 by the problem's Pass@1.
        stop: when a step has enough. `zero`: at all K, and the solution ends at the first MC of 0 (published);
            `never`: at all K, for every step; `rpe`: once the label of relative progress is decided but for `doubt`, up
            to the first bad step; `right`: at the first right one; `halves`: OmegaPRM's binary search.
        threshold: of relative progress, for `stop: rpe`.
        root: MC before the first step: the `pass1` of the sampled solutions (published), or `drawn` by the completer
            from the bare problem, for few solutions or another completer.
        reuse: another folder of this pipeline; what its rollouts drew from the same prefixes, with the same seed and
            completer, is taken over instead of drawn again, as when one compares thresholds. The counts are the same.
    """
    model = model or ModelSettings(temperature=0.7)
    plan = planner(stop, exact_threshold(threshold), doubt)
    params: Record = {"model": model.model_dump(mode="json"), "k": k, "stop": stop, "root": root}
    params |= {"threshold": threshold, "doubt": doubt} if stop == "rpe" else {}
    identity = run.folder.identity("rollouts", params, run.seed, ("problems", "sample"))
    if run.folder.finished("rollouts", identity):
        return
    units = by_problem(run.folder.read("problems"), run.folder.read("sample"))
    sampling = model.sampling()
    async with model.started() as backend:
        fingerprint = {"completer": backend.info.fingerprint}
        known = drawn_before(Folder(Path(reuse)), identity, fingerprint) if reuse else {}

        async def work(unit: tuple[Record, list[Record]]) -> Done:
            problem, solutions = unit
            key = Key(run.seed, ("rollout", problem["id"]))
            draws = Draws(backend, model.model, problem, sampling, key, known.get(problem["id"], {}))
            return await roll(draws, [case_of(s, k, root) for s in solutions], solutions, plan)

        done = await work_off(run, "rollouts", identity, units, work, fingerprint)
    run.folder.commit(
        "rollouts", identity, done.records, counts=done.counts, usage=done.usage.asdict(), models=fingerprint
    )


def planner(stop: Stop, threshold: Fraction, doubt: float) -> Callable[[Case], Plan]:
    """The plan that `stop` names."""
    known: dict[Stop, Callable[[Case], Plan]] = {
        "never": lambda case: plans.all_draws(case, cut=False),
        "zero": plans.all_draws,
        "rpe": lambda case: plans.until_decided(case, threshold, doubt),
        "right": plans.until_right,
        "halves": plans.by_halves,
    }
    return known[stop]


def by_problem(problems: list[Record], solutions: list[Record]) -> dict[str, tuple[Record, list[Record]]]:
    """Problems that have solutions, with them."""
    known = {problem["id"]: problem for problem in problems}
    units: dict[str, tuple[Record, list[Record]]] = {}
    for solution in solutions:
        name = solution["problem_id"]
        if name not in known:
            raise DataError(f"there is no problem {name} for the solution {solution['id']}; sample again")
        units.setdefault(name, (known[name], []))[1].append(solution)
    return units


def drawn_before(folder: Folder, identity: Record, models: Record) -> dict[str, dict[tuple[str, ...], Record]]:
    """The draws of a folder's rollouts by problem and prefix.

    Raises:
        DataError: there are none, or they were drawn from other problems, with another seed or by another completer.
    """
    facts = folder.facts("rollouts")
    if changes := differences(_origin(facts["identity"], facts["models"]), _origin(identity, models)):
        raise DataError(f"the rollouts of {folder.path} cannot be reused here: {changes}")
    entries = folder.read("rollouts")
    return {entry["id"]: {tuple(node["prefix"]): node for node in entry["nodes"]} for entry in entries}


def _origin(identity: Record, models: Record) -> Record:
    """What draws with equal names have in common."""
    return {
        "seed": identity["seed"],
        "problems": identity["inputs"]["problems"]["digest"],
        "sampling": {name: identity["params"]["model"][name] for name in SAMPLING},
        "models": models,
    }


@dataclass
class Draws:
    """Rollouts of one problem: each is drawn once, whoever asks for it.

    Attributes:
        known: nodes of earlier rollouts by prefix: draws as a text of 0 and 1, and what they took.
        made: the draws of each prefix, in order, as tasks.
        spent: tokens of each prefix.
    """

    backend: Backend
    name: str
    problem: Record
    sampling: Sampling
    key: Key
    known: Mapping[tuple[str, ...], Record] = field(default_factory=dict)
    made: dict[tuple[str, ...], list[asyncio.Future[bool]]] = field(default_factory=dict)
    spent: Counter[tuple[str, ...]] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)

    async def first(self, prefix: tuple[str, ...], n: int) -> list[bool]:
        """The first n draws of a prefix: whether each reached the right answer."""
        if prefix not in self.made:
            self.made[prefix] = self._taken_over(prefix)
        tasks = self.made[prefix]
        tasks += [asyncio.create_task(self._draw(prefix, number)) for number in range(len(tasks), n)]
        return list(await asyncio.gather(*tasks[:n]))

    def _taken_over(self, prefix: tuple[str, ...]) -> list[asyncio.Future[bool]]:
        node = self.known.get(prefix, {"draws": "", "tokens": 0})
        self.spent[prefix] += node["tokens"]
        done: list[asyncio.Future[bool]] = [asyncio.get_running_loop().create_future() for _ in node["draws"]]
        for future, draw in zip(done, node["draws"], strict=True):
            future.set_result(draw == "1")
        return done

    async def close(self) -> None:
        """Stop what is still under way, as after a failure."""
        await end(*(task for tasks in self.made.values() for task in tasks))

    async def _draw(self, prefix: tuple[str, ...], number: int) -> bool:
        key = self.key.child("\x1e".join(prefix), number)
        steps, usage = await complete(self.backend, self.name, self.problem, prefix, self.sampling, key)
        self.usage += usage
        self.spent[prefix] += usage.tokens
        return is_right(steps, self.problem["answer"])


async def roll(draws: Draws, cases: list[Case], solutions: list[Record], plan: Callable[[Case], Plan]) -> Done:
    """The counts of all solutions to one problem, and the draws that they rest on."""
    try:
        counted = await asyncio.gather(
            *(follow(plan(case), draws, solution["steps"]) for case, solution in zip(cases, solutions, strict=True))
        )
        nodes: list[Record] = [
            {
                "prefix": list(prefix),
                "draws": "".join("01"[task.result()] for task in tasks),
                "tokens": draws.spent[prefix],
            }
            for prefix, tasks in sorted(draws.made.items())
        ]
    finally:
        await draws.close()
    record = {
        "id": draws.problem["id"],
        "k": cases[0].k,
        "counts": {
            s["id"]: [c and [c.right, c.total] for c in counts] for s, counts in zip(solutions, counted, strict=True)
        },
        "nodes": nodes,
    }
    drawn = sum(len(node["draws"]) for node in nodes)
    return Done([record], draws.usage, Counter(solutions=len(solutions), rollouts=drawn, prefixes=len(nodes)))


def case_of(solution: Record, k: Number, root: Root) -> Case:
    """What a plan needs to know of a sampled solution."""
    pass1 = Count(*solution["pass1"])
    most = rollouts_for(pass1) if k == "adaptive" else k
    return Case(steps=len(solution["steps"]), correct=solution["correct"], pass1=pass1, k=most, root=root == "drawn")


async def follow(plan: Plan, draws: Draws, steps: list[str]) -> Counts:
    """Give a plan what it asks for, until it has its counts."""
    try:
        wanted = next(plan)
        while True:
            found = {step: await draws.first(tuple(steps[: step + 1]), n) for step, n in wanted.items()}
            wanted = plan.send(found)
    except StopIteration as stop:
        counts: Counts = stop.value
        return counts
