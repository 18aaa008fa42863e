"""How models that share a device divide its memory, and how engines that do not fit together take turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tts_engine.backends.base import ModelShape
from tts_engine.errors import DataError

GIB = 2**30
RESERVE = 0.08
"""Share of the device that nobody plans with: the driver, the allocator's gaps, other processes."""
WORKSPACE = 0.12
"""Activations and graphs of an engine, as a share of its weights (measured by vLLM at start; this is for planning)."""
PATIENCE = 2.0
"""Seconds that an engine which sleeps lets the other one begin new calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one engine wants: bytes of weights, bytes of keys and values a token, tokens that it would like to hold."""

    name: str
    weights: int
    kv_bytes: int
    tokens: int

    @property
    def fixed(self) -> int:
        """Bytes without which it cannot start."""
        return round(self.weights * (1 + WORKSPACE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one engine gets: its share of the device's memory, and how many tokens of keys and values fit into it."""

    name: str
    share: float
    kv_tokens: int


def kv_bytes(shape: ModelShape, width: int) -> int:
    """Bytes of keys and values a token, `width` bytes a number."""
    return 2 * shape.layers * shape.kv_width * width


def divide(total: int, needs: Sequence[Need]) -> list[Share]:
    """Split `total` bytes: everybody's fixed part first, the rest in proportion to the cache each would like.

    Raises:
        DataError: the weights alone do not fit; says by how much, and what to change.
    """
    usable = int(total * (1 - RESERVE))
    rest = usable - sum(need.fixed for need in needs)
    least = sum(need.kv_bytes for need in needs) * 16
    if rest < least:
        names = " and ".join(need.name for need in needs)
        raise DataError(
            f"{names} need {(least - rest) / GIB:.1f} GiB more than the {total / GIB:.1f} GiB of the device: take"
            " smaller or quantized models, put them on separate devices, or let them take turns (options.sleep: true)"
        )
    wanted = [need.kv_bytes * need.tokens for need in needs]
    shares = []
    for need, want in zip(needs, wanted, strict=True):
        cache = int(rest * want / max(sum(wanted), 1))
        shares.append(Share(name=need.name, share=(need.fixed + cache) / total, kv_tokens=cache // need.kv_bytes))
    return shares


class Turns:
    """Lets one of several engines be awake at a time. An engine is switched only when no call of it is running.

    Args:
        patience: seconds that a sleeping engine with calls lets the other begin new ones, so that neither starves.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._engines: dict[str, tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]] = {}
        self._awake: str | None = None
        self._running = 0
        self._since: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self.switches = 0

    def enter(self, name: str, wake: Callable[[], Awaitable[None]], rest: Callable[[], Awaitable[None]]) -> None:
        """Add an engine that has just been started: it is the one awake (`rest` made room for it)."""
        self._engines[name] = (wake, rest)
        self._awake = name

    async def rest(self) -> None:
        """Lay the engine that is awake to rest, so that another one can start."""
        if self._awake is not None:
            await self._engines[self._awake][1]()
            self._awake = None

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[None]:
        """A call of the engine `name`: waits until it is awake."""
        async with self._changed:
            self._waiting[name] = self._waiting.get(name, 0) + 1
            self._since.setdefault(name, time.monotonic())
            try:
                while not self._may_begin(name):
                    if not self._running and self._awake != name and self._oldest() == name:
                        await self._switch(name)
                    else:
                        await self._changed.wait()
            finally:
                self._waiting[name] -= 1
                if not self._waiting[name]:
                    del self._since[name]
                elif self._awake == name:
                    self._since[name] = time.monotonic()
                self._changed.notify_all()
            self._running += 1
        try:
            yield
        finally:
            async with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _may_begin(self, name: str) -> bool:
        if self._awake != name:
            return False
        others = [since for other, since in self._since.items() if other != name]
        return not others or time.monotonic() - min(others) < self._patience

    def _oldest(self) -> str:
        return min((since, name) for name, since in self._since.items())[1]

    async def _switch(self, name: str) -> None:
        await self.rest()
        await self._engines[name][0]()
        self._awake = name
        self.switches += 1
