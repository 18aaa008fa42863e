"""The first two stages: the problems, and the solutions that a policy writes to them.

Step forcing (the first heading is given, steps are split at `\\nStep `), dropping rules and balance as published
(2504.00891): cut-off and one-step outputs are invalid; a problem without a right or without a wrong path is dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from tts_engine.backends.base import Backend
from tts_engine.compute.cost import CostModel
from tts_engine.errors import DataError
from tts_engine.formats import policy as form
from tts_engine.formats.answers import extract_answer, same_answer
from tts_engine.types import Finish, Key, Problem, Request, Role, Sampling, Usage
from tts_engine.verifiers.training.domain import LEVELS, Reduction, Story, rng_of, stated_value
from tts_engine.verifiers.training.flaws import flawed_steps
from tts_engine.verifiers.training.manifest import Record
from tts_engine.verifiers.training.models import ModelSettings
from tts_engine.verifiers.training.stages import Done, Run, work_off
from tts_engine.verifiers.training.stories import generate

STORIES = "stories"
"""The source of problems that are made up as they are needed (stories.py)."""
Positive = Annotated[int, Field(ge=1)]
TRIES = 20
"""Made-up solutions that are thrown away for negative numbers, which the policy never writes."""


def problems(run: Run, *, source: str = STORIES, limit: Positive = 1000) -> None:
    """Stage `problems`: the problems that solutions are sampled to.

    Args:
        source: `stories` for new stories of the embedded domain (never held-out ones), a file, or a built-in set.
        limit: how many.
    """
    identity = run.folder.identity("problems", {"source": source, "limit": limit}, run.seed, ())
    if run.folder.finished("problems", identity):
        return
    if source == STORIES:
        found = [story_record(new_story(run.seed, number), number) for number in range(limit)]
    else:
        found = [_problem_record(problem) for problem in run.problems(source) if problem.answer is not None]
    counts = {"problems": len(found[:limit])}
    if not found:
        raise DataError(f"no problem of {source} has an answer; rollouts cannot be graded without")
    run.folder.commit("problems", identity, found[:limit], counts=counts)


def new_story(seed: int, number: int) -> Story:
    """The story of that number; not one that the embedded recipe samples (embedded.py)."""
    return generate(seed, LEVELS[number % len(LEVELS)], "training", number)


def story_record(story: Story, number: int) -> Record:
    """A story with all that a teacher who has understood it knows."""
    plan = [[r.expression, r.label, r.reading] for r in story.plan]
    head = {"id": f"{number}-{story.id}", "problem": story.text, "answer": story.answer}
    return {**head, "level": story.level, "story": plan}


def story_of(record: Mapping[str, Any]) -> Story:
    """The story of a problem's record.

    Raises:
        DataError: the problem is no story of the domain.
    """
    if "story" not in record:
        raise DataError(f"problem {record['id']} is no story of the embedded domain; use problems.source={STORIES}")
    plan = tuple(Reduction(*parts) for parts in record["story"])
    return Story(text=record["problem"], plan=plan, level=record["level"])


def _problem_record(problem: Problem) -> Record:
    return {"id": problem.id, "problem": problem.prompt, "answer": problem.answer}


async def sample(
    run: Run,
    *,
    model: ModelSettings | None = None,
    per_problem: Positive = 8,
    keep: Positive = 4,
    misread: Annotated[float, Field(ge=0, le=1)] = 0.0,
) -> None:
    """Stage `sample`: `per_problem` solutions to each problem, of which `keep` different ones stay, balanced.

    Args:
        model: the policy.
        keep: as many right as wrong ones, where there are enough.
        misread: share of the problems with solutions, by lot, that get another one, made up, in which a step misreads
            the story (a wrong number or operation) and all is well calculated: a good policy rarely does that, so its
            solutions alone hardly show a verifier that readings can be wrong. Stories of the embedded domain only.
    """
    model = model or ModelSettings()
    params: Record = {"model": model.model_dump(mode="json"), "per_problem": per_problem, "keep": keep}
    params |= {"misread": misread} if misread else {}
    identity = run.folder.identity("sample", params, run.seed, ("problems",))
    if run.folder.finished("sample", identity):
        return
    sampling = model.sampling()
    async with model.started() as backend:

        async def work(problem: Record) -> Done:
            key = Key(run.seed, ("sample", problem["id"]))
            texts = await asyncio.gather(
                *(complete(backend, model.model, problem, (), sampling, key.child(n)) for n in range(per_problem))
            )
            done = kept(problem, [steps for steps, _ in texts], keep, sum((usage for _, usage in texts), Usage()))
            return with_misreading(problem, done, run.seed, misread) if misread else done

        units = {problem["id"]: problem for problem in run.folder.read("problems")}
        fingerprint = {"policy": backend.info.fingerprint}
        done = await work_off(run, "sample", identity, units, work, fingerprint)
    if not done.records:
        raise DataError("the policy has not one problem with right and wrong solutions; sample more or other problems")
    run.folder.commit(
        "sample", identity, done.records, counts=done.counts, usage=done.usage.asdict(), models=fingerprint
    )


async def complete(
    backend: Backend, name: str, problem: Record, steps: tuple[str, ...], sampling: Sampling, key: Key
) -> tuple[tuple[str, ...] | None, Usage]:
    """The whole solution that begins with `steps` (None if it was cut off), and what it cost."""
    request = Request(
        role=Role.GENERATE, model=name, prompt=form.solve_prompt(problem["problem"], steps), sampling=sampling, key=key
    )
    completion = await backend.complete(request)
    ended = completion.finish in (Finish.EOS, Finish.STOP)
    text = form.heading(len(steps)) + completion.text.strip()
    usage = CostModel(backend.info.shape).price(completion.usage)
    return (*steps, *form.split_steps(text)) if ended else None, usage


def is_right(steps: Sequence[str] | None, answer: str) -> bool:
    """Whether a solution ends with the right answer; `GraderError` where that cannot be told."""
    found = extract_answer(steps[-1]) if steps else None
    return found is not None and same_answer(found, answer)


def kept(problem: Record, solutions: Sequence[tuple[str, ...] | None], keep: int, usage: Usage) -> Done:
    """The solutions to one problem that stay, with the Pass@1 of all that were drawn; counts what was dropped."""
    right = sum(is_right(steps, problem["answer"]) for steps in solutions)
    counts = Counter(drawn=len(solutions), right=right)
    valid: list[tuple[str, ...]] = []
    for steps in solutions:
        reason = invalid(steps)
        if reason:
            counts[f"dropped: {reason}"] += 1
        elif steps in valid:
            counts["dropped: twice"] += 1
        elif steps is not None:
            valid.append(steps)
    good = [steps for steps in valid if is_right(steps, problem["answer"])]
    bad = [steps for steps in valid if steps not in good]
    if not good or not bad:
        counts["problems without a right path" if bad else "problems without a wrong path"] += 1
        return Done([], usage, counts)
    chosen = balanced(good, bad, keep)
    counts += Counter({"kept": len(chosen), "kept right": sum(steps in good for steps in chosen)})
    counts["dropped: surplus"] += len(valid) - len(chosen)
    records = [_record(problem, steps, steps in good, [right, len(solutions)]) for steps in chosen]
    return Done(records, usage, counts)


def _record(problem: Record, steps: Sequence[str], correct: bool, pass1: list[int]) -> Record:
    name = hashlib.blake2b(chr(30).join(steps).encode(), digest_size=4).hexdigest()
    head = {"id": f"{problem['id']}#{name}", "problem_id": problem["id"]}
    return {**head, "steps": list(steps), "correct": correct, "pass1": pass1}


def with_misreading(problem: Record, done: Done, seed: int, share: float) -> Done:
    """The solutions that stay, for that share of the problems with one more whose flaw is a misreading."""
    rng = rng_of(seed, "misread", problem["id"])
    if not done.records or rng.random() >= share:
        return done
    story = story_of(problem)
    tries = (flawed_steps(rng, story, rng.randrange(len(story.plan)), slips=0.0) for _ in range(TRIES))
    steps = next((t for t in tries if all(stated_value(step) is not None for step in t)), None)
    if steps is None or list(steps) in [record["steps"] for record in done.records]:
        return done
    made = _record(problem, steps, is_right(steps, problem["answer"]), done.records[0]["pass1"])
    return Done([*done.records, made], done.usage, done.counts + Counter({"made up": 1}))


def invalid(steps: Sequence[str] | None) -> str | None:
    """Why a solution cannot be used; None if it can."""
    if steps is None:
        return "cut off"
    if len(steps) < 2:
        return "one step"
    return None if extract_answer(steps[-1]) is not None else "no answer"


def balanced(good: Sequence[tuple[str, ...]], bad: Sequence[tuple[str, ...]], keep: int) -> list[tuple[str, ...]]:
    """At most `keep` of both, as even as there are enough; the first ones of each."""
    share = min(len(good), max(keep // 2, keep - len(bad)))
    return [*good[:share], *bad[: keep - share]]
