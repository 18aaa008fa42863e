"""What a verifier asks of anything that executes model-written Python."""

from __future__ import annotations

from typing import Protocol

from tts_engine.types import CodeRun


class Session(Protocol):
    """The interpreter state of one verification chain: what one check defines, the next one sees, nobody else does."""

    async def run(self, code: str) -> CodeRun:
        """Execute `code`; its printed output (or error text) is the feedback. Cancelling kills it."""
        ...

    async def fork(self) -> Session:
        """A session that starts from this one's state and goes its own way."""
        ...

    async def close(self) -> None: ...


class Sandbox(Protocol):
    """A pool of isolated workers; an async context manager."""

    async def __aenter__(self) -> Sandbox: ...

    async def __aexit__(self, *exc: object) -> None: ...

    def session(self) -> Session:
        """A new, empty interpreter state. Cheap: no worker is occupied between runs."""
        ...

    def protections(self) -> tuple[str, ...]:
        """The protections that are active on this machine, one short phrase each, for people."""
        ...
