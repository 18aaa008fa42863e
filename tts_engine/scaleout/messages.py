"""What the driver and its workers say to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tts_engine.backends.base import ModelInfo
from tts_engine.compute.budget import Amount
from tts_engine.jobs import Event
from tts_engine.journal import Rows
from tts_engine.types import Problem, Role, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A worker that is ready; `lines` say what it uses, as `Engine.explain` does."""

    version: str
    host: str
    pid: int
    models: Sequence[ModelInfo]
    lines: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A problem for a worker.

    Attributes:
        index: its place in the set.
        share: what it may spend in all, calls that are found in `known` included.
        fresh: of that, what is left for new calls.
        known: rows of the driver's journal: what was paid for this problem before.
        plain: so many plain samples, for the comparison with not searching; None searches as configured.
    """

    problem: Problem
    index: int
    share: Amount
    fresh: Amount
    known: Rows
    plain: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What a cancelled call had cost."""

    problem: str
    role: Role
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What happened on a worker since the last one: journal rows (still waited for), cancelled calls, and events."""

    rows: Rows
    lost: Sequence[Lost]
    events: Sequence[Event]
