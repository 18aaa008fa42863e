"""A labelled set of the embedded domain: solutions that the policy samples, labelled by the domain's exact checker."""

from __future__ import annotations

from importlib.resources import as_file

from tts_engine.backends.embedded import folder_of
from tts_engine.errors import DataError
from tts_engine.formats.answers import extract_answer
from tts_engine.problems import builtin_sets
from tts_engine.report.labelled import ALL_RIGHT, Labelled
from tts_engine.types import Key, Problem
from tts_engine.verifiers.training.domain import Story, first_error
from tts_engine.verifiers.training.problem_sets import read_set


def sample_labelled(policy: str, problems: str, n: int, *, per_problem: int, seed: int) -> list[Labelled]:
    """`n` solutions, at most `per_problem` different ones of a problem, as many right as wrong ones where there are
    enough.

    Args:
        policy: `embedded:NAME` or a folder.
        problems: a built-in problem set whose problems have plans.

    Raises:
        DataError: no such set, or the policy gives fewer different solutions.
    """
    stories = sorted(_stories(problems), key=lambda story: Key(seed, ("order", story.id)).int())
    from tts_engine.verifiers.training.rollouts import sample_solutions

    checkpoint = folder_of(policy)
    quota = {True: n - n // 2, False: n // 2}
    found: dict[bool, list[Labelled]] = {True: [], False: []}
    spare: list[Labelled] = []
    batch = max(8, n // per_problem)
    for start in range(0, len(stories), batch):
        part = stories[start : start + batch]
        sampled = sample_solutions(checkpoint, [s.text for s in part], 4 * per_problem, seed=seed)
        for story, solutions in zip(part, sampled, strict=True):
            for item in label_solutions(story, solutions, per_problem):
                group = found[item.label == ALL_RIGHT]
                (group if len(group) < quota[item.label == ALL_RIGHT] else spare).append(item)
        if all(len(found[kind]) == quota[kind] for kind in found):
            break
    items = [*found[True], *found[False], *spare][:n]
    if len(items) < n:
        raise DataError(f"{problems} gives only {len(items)} different solutions; lower --n or raise --per-problem")
    return sorted(items, key=lambda item: Key(seed, ("shuffle", item.problem.id)).int())


def _stories(name: str) -> list[Story]:
    known = builtin_sets()
    if name not in known:
        raise DataError(f"there is no built-in problem set {name!r}; use one of {', '.join(known) or 'none'}")
    with as_file(known[name]) as path:
        return read_set(path)


def label_solutions(story: Story, solutions: list[tuple[str, ...]], most: int) -> list[Labelled]:
    """The first different solutions that end with an answer, right and wrong ones in turn."""
    ended = [steps for steps in dict.fromkeys(solutions) if extract_answer(steps[-1]) is not None]
    errors = {steps: first_error(story, steps) for steps in ended}
    right, wrong = ([s for s in ended if (errors[s] is None) is kind] for kind in (True, False))
    longer, shorter = (right, wrong) if len(right) > len(wrong) else (wrong, right)
    mixed = [steps for pair in zip(longer, shorter, strict=False) for steps in pair] + longer[len(shorter) :]
    return [_item(story, number, steps, errors[steps]) for number, steps in enumerate(mixed[:most])]


def _item(story: Story, number: int, steps: tuple[str, ...], error: int | None) -> Labelled:
    meta = {
        "generator": "embedded:policy",
        "final_answer_correct": extract_answer(steps[-1]) == story.answer,
        "level": story.level,
    }
    problem = Problem(id=f"{story.id}-{number}", prompt=story.text, meta=meta)
    return Labelled(problem=problem, steps=steps, label=ALL_RIGHT if error is None else error)
