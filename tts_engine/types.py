"""The values that flow through the engine: frozen, slotted, keyword-only, hashable where they identify something."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, TypeVar

V = TypeVar("V")


def altered(value: V, **changes: object) -> V:
    """`dataclasses.replace` for the values of this module, in half the time; names are not checked."""
    new: V = object.__new__(type(value))
    for name in value.__slots__:  # type: ignore[attr-defined]
        object.__setattr__(new, name, changes[name] if name in changes else getattr(value, name))
    return new


class Role(StrEnum):
    """What a model call is for; usage is kept per role."""

    GENERATE = "generate"
    VERIFY = "verify"
    CRITIQUE = "critique"
    REFINE = "refine"


class Finish(StrEnum):
    """How a completion ended."""

    STOP = "stop"
    """A stop string appeared."""
    EOS = "eos"
    """The model ended its turn."""
    LENGTH = "length"
    """`max_tokens` or the context window was reached."""
    ABORTED = "aborted"
    """Cancelled, or refused by the budget."""


@dataclass(frozen=True, slots=True)
class Key:
    """Where a random draw happens: a seed and a path in the search tree.

    Equal keys give equal draws, whatever the order in which completions arrive.

    >>> Key(7).child("problem", 3) == Key(7, ("problem", 3))
    True
    """

    seed: int
    path: tuple[int | str, ...] = ()

    def child(self, *parts: int | str) -> Key:
        """The key of a place below this one."""
        return Key(self.seed, self.path + parts)

    def int(self) -> int:
        """A 64-bit integer that depends on seed and path alone (blake2b)."""
        text = "\x1f".join([str(self.seed), *(f"{type(p).__name__}:{p}" for p in self.path)])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def __str__(self) -> str:
        return "/".join([str(self.seed), *map(str, self.path)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question; `answer` is the reference (None when nobody knows) and is never shown to a model."""

    id: str
    prompt: str
    answer: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What calls cost. Adds up with `+`; `sum(usages, Usage())` works. Measured times do not count in comparisons.

    Attributes:
        prompt: prompt tokens sent, cached ones included.
        cached: prompt tokens whose computation was reused.
        completion: tokens generated and delivered.
        cancelled: tokens generated, then thrown away by a cancellation.
        wasted: of the computed tokens, those that nobody used: all of a cancelled call's, prompt included, and those
            of results that a strategy threw away (`Calls.waste`). Not a cost of its own.
        flops: floating point operations by the cost model (compute/cost.py).
        seconds: time from sending a call to its end, added over calls (calls overlap: not wall-clock).
        dollars: by the price table of the config.
        calls: number of model calls.
        code_runs: Python checks executed; `code_seconds`: time those took.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    cancelled: int = 0
    wasted: int = 0
    flops: float = 0.0
    seconds: float = field(default=0.0, compare=False)
    dollars: float = 0.0
    calls: int = 0
    code_runs: int = 0
    code_seconds: float = field(default=0.0, compare=False)

    @property
    def tokens(self) -> int:
        """Tokens that were computed: uncached prompt + completion + cancelled."""
        return self.prompt - self.cached + self.completion + self.cancelled

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt=self.prompt + other.prompt,
            cached=self.cached + other.cached,
            completion=self.completion + other.completion,
            cancelled=self.cancelled + other.cancelled,
            wasted=self.wasted + other.wasted,
            flops=self.flops + other.flops,
            seconds=self.seconds + other.seconds,
            dollars=self.dollars + other.dollars,
            calls=self.calls + other.calls,
            code_runs=self.code_runs + other.code_runs,
            code_seconds=self.code_seconds + other.code_seconds,
        )

    def asdict(self) -> dict[str, float]:
        """Plain dictionary, with `tokens`, for JSON."""
        return dict(zip(_AMOUNTS, _amounts(self), strict=True), tokens=self.tokens)


_AMOUNTS = tuple(f.name for f in fields(Usage))
_amounts = attrgetter(*_AMOUNTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model reads: a conversation, then the beginning of the turn it is to continue.

    `continuation` is kept in segments: a backend that tokenizes encodes each on its own, so that a turn which is
    generated in several calls keeps exactly the token boundaries it was generated (and trained) with.
    `generation_prompt` says whether the chat template's assistant tag stands before the continuation
    (upstream GenPRM omits it).
    """

    messages: tuple[Message, ...]
    continuation: tuple[str, ...] = ()
    generation_prompt: bool = True

    def then(self, *segments: str) -> Prompt:
        """The same conversation with the open turn extended."""
        return altered(self, continuation=self.continuation + segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off.

    Attributes:
        stop: strings that end the completion; `include_stop` keeps the matched one in the text.
        watch: strings that are one token each in the model's vocabulary; their logprobs (under the model's own
            distribution: temperature 1, before top-p and top-k) are reported for every generated token.
        logprobs: how many of the most likely alternatives to report for every generated token (0: none).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    watch: tuple[str, ...] = ()
    logprobs: int = 0


@lru_cache(256)
def _described(sampling: Sampling) -> str:
    return str(sampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of a model. Equal requests have equal `key`s: a request is drawn once and journalled under its key."""

    role: Role
    model: str
    prompt: Prompt
    sampling: Sampling
    key: Key
    priority: int = 0
    """Lower is more urgent."""

    def identity(self) -> bytes:
        """16 bytes that name this draw: model, prompt, sampling and key (priority does not change the result)."""
        prompt = self.prompt
        parts = [f"\x1e{message.role}\x1f{message.content}" for message in prompt.messages]
        parts += [f"\x1d{segment}" for segment in prompt.continuation]
        parts.append(f"\x1c{prompt.generation_prompt}\x1f{self.model}\x1f{_described(self.sampling)}\x1f{self.key}")
        return hashlib.blake2b("".join(parts).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One generated token: its text, its logprob, and the logprobs of watched or most likely alternatives."""

    text: str
    logprob: float
    alternatives: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The answer to a `Request`.

    Attributes:
        text: generated text (with the stop string when `include_stop`).
        tokens: number of generated tokens, stop string included.
        finish: how it ended; `stop` is the matched stop string when `finish` is STOP.
        logprobs: one entry a generated token when `watch` or `logprobs` was asked for, else empty.
        mean_logprob: mean logprob of the generated tokens (nan when the backend offers none; vLLM's leaves it out for
            texts of a verifier or a critic without watched tokens, where nobody reads it).
        retries: why it had to be asked for again, once for every try that failed (`HTTP 503`, `timeout`, ...).
        recalled: it was found in the journal, not drawn now.
    """

    text: str
    tokens: int
    finish: Finish
    stop: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    mean_logprob: float = math.nan
    usage: Usage = field(default_factory=Usage)
    retries: tuple[str, ...] = field(default=(), compare=False)
    recalled: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a solution, as text without the separator to its neighbours.

    `mean_logprob` is that of the tokens of the completion that the step was part of (nan when unknown).
    """

    text: str
    finish: Finish = Finish.STOP
    mean_logprob: float = field(default=math.nan, hash=False, compare=False)
    usage: Usage = field(default_factory=Usage, hash=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRun:
    """One execution of model-written Python: the code, the feedback string shown to the model, and how it went."""

    code: str
    output: str
    ok: bool
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepJudgement:
    """What one verifier sample said about one step.

    Attributes:
        score: in [0, 1], or None when the judgement could not be parsed (never a made-up number).
        rationale: the verifier's full turn.
        analysis: the part that a policy can be given as a critique.
        code_runs: the checks it ran.
        usage: what this judgement cost.
    """

    score: float | None
    rationale: str = ""
    analysis: str = ""
    code_runs: tuple[CodeRun, ...] = ()
    usage: Usage = field(default_factory=Usage, hash=False, compare=False)


Aggregation = Literal["last", "mean", "min", "product"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a verifier thinks of a candidate.

    Attributes:
        samples: K chains, each a tuple of one `StepJudgement` a step it reached. A chain that stopped early (it found
            an error, or became unparseable) counts only for the steps it reached.
        step_scores: mean score of each step over the valid samples that reached it; a step that no valid sample reached
            ends the tuple.
        value: one number in [0, 1] for the candidate; None when no sample was valid.
        valid: whether `value` means anything.
        invalid_samples: how many chains were unparseable or truncated.
        usage: what judging all these steps cost, whenever each of them was judged.
    """

    step_scores: tuple[float, ...]
    value: float | None
    samples: tuple[tuple[StepJudgement, ...], ...] = ()
    invalid_samples: int = 0
    usage: Usage = field(default_factory=Usage, hash=False, compare=False)

    @property
    def valid(self) -> bool:
        return self.value is not None

    def first_error(self, threshold: float = 0.5) -> int | None:
        """0-based index of the first step scored below `threshold`; None if there is none."""
        return next((i for i, score in enumerate(self.step_scores) if score < threshold), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A partial or finished solution: a path in the tree.

    Attributes:
        done: it ended by itself (end of turn or an answer); never true for a truncated one.
        dead: it can not be continued (a step was truncated or the call failed): no answer will come from it.
        answer: extracted answer, None while there is none.
        parent: key of the candidate it was expanded from, None for the root.
        usage: what generating it cost (its steps, not its judgement).
        mean_logprob: mean logprob per generated token over all its steps (nan when unknown).
        confidences: of each generated token, minus the mean logprob of its most likely alternatives, in nats; empty
            unless the policy asks for them (`policy.logprobs`).
    """

    problem: Problem
    key: Key
    steps: tuple[Step, ...] = ()
    done: bool = False
    dead: bool = False
    answer: str | None = None
    parent: Key | None = None
    mean_logprob: float = math.nan
    confidences: tuple[float, ...] = field(default=(), hash=False, compare=False)
    usage: Usage = field(default_factory=Usage, hash=False, compare=False)

    @property
    def text(self) -> str:
        return "\n".join(step.text for step in self.steps)

    @property
    def depth(self) -> int:
        return len(self.steps)


Place = Literal["backend", "verifier", "sandbox", "grader", "strategy", "budget"]
"""The part of the engine that a failure is attributed to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error that was attributed and recorded instead of ending the run."""

    where: Place
    error: str
    message: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate with its verdict (None: not judged)."""

    candidate: Candidate
    verdict: Verdict | None = None

    @property
    def rank(self) -> float:
        """The verdict's value for ordering candidates; below all values where there is none."""
        return self.verdict.value if self.verdict is not None and self.verdict.value is not None else -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of solving one problem.

    Attributes:
        answer: the selected answer; None when no candidate gave one.
        correct: whether it equals the reference; None when there is no reference.
        chosen: index into `candidates` of the candidate shown as the solution; None when there is none.
        candidates: all finished candidates with their verdicts, in program order.
        usage: by role.
        stop_reason: "finished", "budget: <scope>", "failed: <where>", "no answer" (no solution came to one) or
            "interrupted".
        tree: node-link form of the networkx search tree (see search.py).
        seconds: wall-clock time.
        retries: why model calls had to be made again, and how often.
    """

    problem: Problem
    answer: str | None
    correct: bool | None
    chosen: int | None
    candidates: tuple[Judged, ...]
    usage: Mapping[Role, Usage] = field(hash=False)
    stop_reason: str = "finished"
    failures: tuple[Failure, ...] = ()
    tree: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    seconds: float = field(default=0.0, compare=False)
    retries: Mapping[str, int] = field(default_factory=dict, hash=False, compare=False)

    @property
    def total(self) -> Usage:
        """Usage of all roles together."""
        return sum(self.usage.values(), Usage())
