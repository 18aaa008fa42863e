"""What the engine asks of anything that can run a language model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from tts_engine.errors import BackendError
from tts_engine.types import Completion, Prompt, Request, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that the cost model needs (`compute/cost.py`): L layers, width d, MLP width m, vocabulary V.

    `kv_width` is the width of keys (and of values): d, or less with grouped-query attention.
    `gated` says whether the MLP has three matrices (SwiGLU) rather than two.
    """

    layers: int
    width: int
    mlp: int
    vocabulary: int
    kv_width: int
    gated: bool = True
    parameters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known about a served model. `shape` is None when nobody tells (closed endpoints)."""

    name: str
    context: int
    shape: ModelShape | None
    fingerprint: str
    """Changes when the weights or the tokenizer change; part of the journal's identity of a run."""


def counted(usage: Usage) -> dict[str, float]:
    """The usages of all calls as the `counters` of a backend, cancelled calls included."""
    names = ("prompt", "cached", "completion", "cancelled", "calls")
    return {name: getattr(usage, name) for name in names}


class CallCancelled(asyncio.CancelledError):
    """A cancelled call that had been computing; `usage` says what: prompt, cached and cancelled tokens, one call."""

    def __init__(self, usage: Usage) -> None:
        super().__init__()
        self.usage = usage


class CallBroken(BackendError):
    """A call that broke off after it had computed something, and may be made again; `usage` says what, as above.

    `kinds` names why its tries failed, as in `Completion.retries`.
    """

    def __init__(self, message: str, kinds: tuple[str, ...], usage: Usage) -> None:
        super().__init__(message)
        self.kinds = kinds
        self.usage = usage


class Backend(Protocol):
    """One model, served.

    A backend is an async context manager; outside it no call is allowed. `complete` may be called any number of times
    at once. Cancelling the task that awaits it frees the model's slot at once; the backend then raises
    `CallCancelled` (a CancelledError) where it knows what the call had cost. The completion's `usage` has `prompt`,
    `cached`, `completion`, `calls` and `seconds` filled in; FLOPs and dollars are added by the ledger.

    Raises (from `complete`):
        ContextExceeded: the prompt leaves no room for one token. A completion that runs into the end of the
            context ends with Finish.LENGTH instead.
        CallBroken: the connection or the server failed midway: what was computed has to be paid for.
        UsageError: no call can succeed (wrong key, endpoint down): the run is over.
        BackendError: anything else that went wrong.
    """

    @property
    def info(self) -> ModelInfo: ...

    async def __aenter__(self) -> Backend: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def complete(self, request: Request) -> Completion: ...

    def count_tokens(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt (exact, or an upper bound where the tokenizer is unknown)."""
        ...
