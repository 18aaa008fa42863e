"""The stages `filter` and `refinements`: from explained solutions to conversations that a model is trained on.

A line of their outputs is one conversation: `{"id", "messages": [{"role", "content", "train"}, ...]}`, rendered by the
formats that inference uses; `train` marks the turns that carry loss (in them, the trainer masks code output).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tts_engine.errors import DataError
from tts_engine.formats import genprm, policy
from tts_engine.types import Key, Message
from tts_engine.verifiers.training.collection import Positive
from tts_engine.verifiers.training.manifest import Record
from tts_engine.verifiers.training.rationales import says
from tts_engine.verifiers.training.stages import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A solution with its labels, up to the first bad one, and the teacher's turns (`{text, says, ran}`)."""

    id: str
    problem: str
    steps: tuple[str, ...]
    labels: tuple[bool, ...]
    turns: tuple[Record, ...]

    @property
    def kind(self) -> str:
        """`good` where no step is bad."""
        return "good" if all(self.labels) else "bad"

    @property
    def parsed(self) -> bool:
        """Whether there are turns and each holds a judgement."""
        return bool(self.turns) and all(turn["says"] is not None for turn in self.turns)

    @property
    def agrees(self) -> bool:
        """Whether the teacher itself thinks of every step what its label says."""
        return [turn["says"] for turn in self.turns] == [says(good) for good in self.labels]

    @property
    def ran(self) -> bool:
        return all(turn["ran"] for turn in self.turns)

    def conversation(self) -> Record:
        """The chain as a conversation; the loss falls on the verifier's turns."""
        texts = tuple(turn["text"] for turn in self.turns)
        messages = genprm.conversation(self.problem, self.steps, texts[:-1])
        return conversation(self.id, messages, texts[-1])


Test = Callable[[Explained], bool]


def conversation(name: str, messages: Sequence[Message], answer: str, only_last: bool = False) -> Record:
    """A line of training data: messages and the last assistant's turn; the loss is on that one, or on all of them."""
    lines = [{"role": m.role, "content": m.content, "train": m.role == "assistant" and not only_last} for m in messages]
    return {"id": name, "messages": [*lines, {"role": "assistant", "content": answer, "train": True}]}


def filter_(
    run: Run,
    *,
    consensus: bool = True,
    executable: bool = True,
    longest: Positive = 100_000,
    balance: Annotated[float, Field(ge=1)] | None = 2.0,
) -> None:
    """Stage `filter`: the explained solutions that are worth learning from, as conversations.

    Args:
        consensus: remove a solution if the teacher's own judgement of a step is not its label.
        executable: remove a solution if one of its checks failed to run.
        longest: remove a conversation with more characters.
        balance: keep at most so many times as many solutions of one kind (no bad step, one) as of the other; None: all.
    """
    params = {"consensus": consensus, "executable": executable, "longest": longest, "balance": balance}
    identity = run.folder.identity("filter", params, run.seed, ("problems", "sample", "label", "rationales"))
    if run.folder.finished("filter", identity):
        return
    tests: dict[str, Test] = {"unparseable": lambda e: e.parsed}
    tests |= {"no consensus": lambda e: e.agrees} if consensus else {}
    tests |= {"a check failed": lambda e: e.ran} if executable else {}
    tests["too long"] = lambda e: characters(e.conversation()) <= longest
    stay, removed = sift(explained(run), tests)
    even = balanced_out(stay, balance, run.seed)
    removed["surplus"] = kinds(stay) - kinds(even)
    if not even:
        raise DataError(f"the filters left nothing to learn from: {table(removed, even)}")
    counts = {"removed": {name: dict(found) for name, found in removed.items()}, "kept": dict(kinds(even))}
    run.folder.commit("filter", identity, [e.conversation() for e in even], counts=counts)


def explained(run: Run) -> list[Explained]:
    """The explained solutions of the pipeline's folder."""
    texts = {entry["id"]: entry["problem"] for entry in run.folder.read("problems")}
    steps = {entry["id"]: tuple(entry["steps"]) for entry in run.folder.read("sample")}
    labels = {entry["id"]: tuple(entry["labels"]) for entry in run.folder.read("label")}
    return [
        Explained(
            id=entry["id"],
            problem=texts[entry["problem_id"]],
            steps=steps[entry["id"]],
            labels=labels[entry["id"]],
            turns=tuple(entry["turns"]),
        )
        for entry in run.folder.read("rationales")
    ]


def sift(entries: Iterable[Explained], tests: Mapping[str, Test]) -> tuple[list[Explained], dict[str, Counter[str]]]:
    """What passes all tests, and what each test removed of that which those before it had left."""
    stay = list(entries)
    removed = {}
    for name, test in tests.items():
        passed = [entry for entry in stay if test(entry)]
        removed[name] = kinds(stay) - kinds(passed)
        stay = passed
    return stay, removed


def balanced_out(entries: Sequence[Explained], most: float | None, seed: int) -> list[Explained]:
    """The entries without the surplus of the larger kind, drawn by lot; order is kept."""
    found = kinds(entries)
    limit = len(entries) if most is None else int(most * min(found["good"], found["bad"]))
    if most is None or max(found.values(), default=0) <= limit:
        return list(entries)
    larger = max(found, key=lambda kind: found[kind])
    lots = sorted((e for e in entries if e.kind == larger), key=lambda e: Key(seed, ("balance", e.id)).int())
    out = {entry.id for entry in lots[limit:]}
    return [entry for entry in entries if entry.id not in out]


def kinds(entries: Iterable[Explained]) -> Counter[str]:
    """How many solutions without and with a bad step."""
    return Counter(entry.kind for entry in entries)


def table(removed: Mapping[str, Mapping[str, int]], kept: Sequence[Explained]) -> str:
    """What each filter removed, in a line."""
    parts = [f"{name} {sum(found.values())}" for name, found in removed.items()]
    return ", ".join([*parts, f"kept {len(kept)}"])


def characters(record: Record) -> int:
    """Length of a conversation."""
    return sum(len(message["content"]) for message in record["messages"])


def refinements(run: Run, *, longest: Positive = 100_000) -> None:
    """Stage `refinements`: for a policy, its own failures with the critique of the first bad step and a right solution.

    The critique is the analysis of the teacher's turn; the right solution is one that the policy found itself.

    Args:
        longest: leave out a conversation with more characters.
    """
    needed = ("problems", "sample", "label", "rationales")
    identity = run.folder.identity("refinements", {"longest": longest}, run.seed, needed)
    if run.folder.finished("refinements", identity):
        return
    right: dict[str, Record] = {}
    for solution in run.folder.read("sample"):
        if solution["correct"]:
            right.setdefault(solution["problem_id"], solution)
    owners = {entry["id"]: entry["problem_id"] for entry in run.folder.read("rationales")}
    failures = [e for e in explained(run) if e.kind == "bad" and e.parsed and e.agrees and owners[e.id] in right]
    made = [refinement(e, right[owners[e.id]]["steps"]) for e in failures]
    records = [record for record in made if characters(record) <= longest]
    run.folder.commit(
        "refinements", identity, records, counts={"kept": len(records), "too long": len(made) - len(records)}
    )


def refinement(failure: Explained, better: Sequence[str]) -> Record:
    """One conversation: problem, failed solution, critique of its first bad step, right solution."""
    step, turn = failure.steps[len(failure.labels) - 1], failure.turns[-1]
    critique = genprm.analysis_of(turn["text"])
    messages = policy.refine_messages(failure.problem, "\n".join(failure.steps), step, critique)
    return conversation(failure.id, messages, "\n".join(better), only_last=True)
