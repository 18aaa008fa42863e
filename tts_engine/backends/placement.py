"""How models that share devices divide the memory, what that gives, and how engines that do not fit take turns.

Plain arithmetic on sizes: nothing here needs a GPU, so a plan can be made for a machine that is not there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType

from tts_engine.backends.base import ModelShape
from tts_engine.errors import DataError

GIB = 2**30
RESERVE = 0.08
"""Share of the device that nobody plans with: the driver, the allocator's gaps, other processes."""
WORKSPACE = 0.12
"""Activations and graphs of an engine, as a share of its weights (measured by vLLM at start; this is for planning)."""
PATIENCE = 2.0
"""Seconds that an engine which sleeps lets the other one begin new calls."""
REACHED = 0.6
"""Share of a device's bandwidth and arithmetic that decoding is expected to reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Memory in bytes, its bandwidth in bytes a second, and bf16 operations a second; 0 where nobody knows."""

    memory: int
    bandwidth: float = 0.0
    flops: float = 0.0


DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        "L4": Device(memory=24 * GIB, bandwidth=0.30e12, flops=121e12),
        "RTX4090": Device(memory=24 * GIB, bandwidth=1.01e12, flops=165e12),
        "L40S": Device(memory=48 * GIB, bandwidth=0.86e12, flops=362e12),
        "A100-40": Device(memory=40 * GIB, bandwidth=1.56e12, flops=312e12),
        "A100": Device(memory=80 * GIB, bandwidth=2.04e12, flops=312e12),
        "H100": Device(memory=80 * GIB, bandwidth=3.35e12, flops=989e12),
        "H200": Device(memory=141 * GIB, bandwidth=4.80e12, flops=989e12),
    }
)
"""By the name that `tts-run --explain` takes; NVIDIA's data sheets (SXM where there is one), dense bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one engine wants of each of its devices.

    Attributes:
        weights: bytes of weights, `kv_bytes`: of keys and values a token; both as split over `parallel` devices.
        slots: sequences at once; `context`: tokens that one of them may reach. Half of it is what one is taken to hold.
        devices: which ones, as in CUDA_VISIBLE_DEVICES; needs with equal ones share them.
        turns: takes turns with the others that do.
    """

    name: str
    weights: int
    kv_bytes: int
    slots: int = 256
    context: int = 4096
    devices: str = ""
    parallel: int = 1
    turns: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that it would like to hold."""
        return self.slots * self.sequence

    @property
    def sequence(self) -> int:
        """Tokens of a sequence on average."""
        return max(self.context // 2, 1)

    @property
    def fixed(self) -> int:
        """Bytes without which it cannot start."""
        return round(self.weights * (1 + WORKSPACE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one engine gets: its share of a device's memory, and how many tokens of keys and values fit into it."""

    name: str
    share: float
    kv_tokens: int


def kv_bytes(shape: ModelShape, width: int) -> int:
    """Bytes of keys and values a token, `width` bytes a number."""
    return 2 * shape.layers * shape.kv_width * width


def divide(total: int, needs: Sequence[Need]) -> list[Share]:
    """Split `total` bytes: everybody's fixed part and one whole context first, the rest in proportion to the cache
    that each would like.

    Raises:
        DataError: that much does not fit; says by how much, and what to change.
    """
    usable = int(total * (1 - RESERVE))
    least = [need.fixed + need.context * need.kv_bytes for need in needs]
    rest = usable - sum(least)
    if rest < 0:
        names = " and ".join(need.name for need in needs)
        raise DataError(
            f"{names} need{'s' * (len(needs) == 1)} {-rest / GIB:.2f} GiB more than the {total / GIB:.1f} GiB of the"
            " device give: take smaller or quantized models, a smaller options.context, more devices"
            " (options.engine.tensor_parallel_size), or let them take turns (options.sleep: true)"
        )
    wanted = [need.kv_bytes * need.tokens for need in needs]
    shares = []
    for need, want in zip(needs, wanted, strict=True):
        cache = need.context * need.kv_bytes + int(rest * want / max(sum(wanted), 1))
        shares.append(Share(name=need.name, share=(need.fixed + cache) / total, kv_tokens=cache // need.kv_bytes))
    return shares


def place(total: int, needs: Sequence[Need]) -> list[Share]:
    """What each engine gets of devices of `total` bytes; those that take turns get all that the others leave.

    Raises:
        DataError: they do not fit, or sets of devices overlap.
    """
    _check_devices({need.devices for need in needs})
    shares: dict[int, Share] = {}
    for devices in dict.fromkeys(need.devices for need in needs):
        here = [i for i, need in enumerate(needs) if need.devices == devices]
        turning = [i for i in here if needs[i].turns]
        biggest = max(turning, key=lambda i: needs[i].fixed + needs[i].context * needs[i].kv_bytes, default=None)
        together = [i for i in here if i not in turning or i == biggest]
        shares |= zip(together, divide(total, [needs[i] for i in together]), strict=True)
        for i in turning:
            if biggest is not None and i != biggest:
                shares[i] = _instead(shares[biggest], needs[i], total)
    return [shares[i] for i in range(len(needs))]


def _instead(place: Share, need: Need, total: int) -> Share:
    """The place of the biggest, for one that takes turns with it: as much memory, its own number of tokens."""
    room = round(place.share * total)
    return Share(name=need.name, share=place.share, kv_tokens=(room - need.fixed) // need.kv_bytes)


def _check_devices(groups: set[str]) -> None:
    """Engines must share all of their devices, or none."""
    seen: dict[str, str] = {}
    for group in sorted(groups):
        for device in group.split(",") if group else ():
            if seen.setdefault(device.strip(), group) != group:
                raise DataError(
                    f"options.devices {seen[device.strip()]!r} and {group!r} overlap: make them equal or disjoint"
                )


def running(need: Need, share: Share) -> int:
    """Sequences that are expected to run at once: those whose keys and values fit, at most the slots."""
    return max(min(need.slots, share.kv_tokens // need.sequence), 1)


def throughput(need: Need, share: Share, device: Device) -> float:
    """Generated tokens a second that are expected of an engine that always has enough to do; 0 where nobody knows.

    A step of decoding reads the weights and the keys and values of all B running sequences once, and computes 2
    operations a weight for each: with weights w bytes of two-byte numbers and h bytes of keys and values a token,

        tokens/s = 0.6 B / max((w + B h T) / bandwidth, B w / flops)    with T tokens a sequence, on each of the devices

    Prefill, sampling and communication between devices are left out: an upper estimate for long completions.
    """
    if not device.bandwidth or not device.flops:
        return 0.0
    count = running(need, share)
    reading = (need.weights + count * need.kv_bytes * need.sequence) / device.bandwidth
    computing = count * need.weights / device.flops
    return REACHED * count / max(reading, computing)


def describe(need: Need, share: Share, device: Device) -> str:
    """One line of a plan."""
    where = f" on devices {need.devices}" if need.devices else ""
    each = f" on each of {need.parallel} devices" if need.parallel > 1 else ""
    turns = ", taking turns" if need.turns else ""
    speed = throughput(need, share, device)
    fast = f", about {speed:,.0f} tokens/s generated at best" if speed else ""
    return (
        f"{need.name}{where}: {need.weights / GIB:.2f} GiB of weights{each},"
        f" {100 * share.share:.0f} % of {device.memory / GIB:.0f} GiB{turns}; {share.kv_tokens:,} tokens of keys and"
        f" values ({need.kv_bytes / 1024:.1f} KiB each), {running(need, share)} sequences of {need.sequence:,} tokens"
        f" at once{fast}"
    )


class Turns:
    """Lets one of several engines be awake at a time. An engine is switched only when no call of it is running.

    Args:
        patience: seconds that a sleeping engine with calls lets the other begin new ones, so that neither starves.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._engines: dict[str, tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]] = {}
        self._awake: str | None = None
        self._fresh = False  # no call has begun since it was woken
        self._running = 0
        self._since: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self.switches = 0

    def enter(self, name: str, wake: Callable[[], Awaitable[None]], rest: Callable[[], Awaitable[None]]) -> None:
        """Add an engine that has just been started: it is the one awake (`rest` made room for it)."""
        self._engines[name] = (wake, rest)
        self._awake = name

    def leave(self, name: str) -> None:
        """Forget an engine that is about to end."""
        self._engines.pop(name, None)
        if self._awake == name:
            self._awake = None

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
                    if not self._running and (due := self._due()) is not None:
                        await self._switch(due)
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
            self._fresh = False
        try:
            yield
        finally:
            async with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _may_begin(self, name: str) -> bool:
        return self._awake == name and not self._out_of_patience()

    def _due(self) -> str | None:
        """The engine that is to be woken next, whoever notices; None while the one that is awake has its turn."""
        if self._awake in self._since and not self._out_of_patience():
            return None
        return min(((since, name) for name, since in self._sleeping()), default=(0.0, None))[1]

    def _out_of_patience(self) -> bool:
        """Whether a sleeping engine has waited long enough; never before the one that was woken has had a call."""
        return not self._fresh and any(time.monotonic() - since >= self._patience for _, since in self._sleeping())

    def _sleeping(self) -> list[tuple[str, float]]:
        """Engines with calls that are not awake, and since when they wait."""
        return [(name, since) for name, since in self._since.items() if name != self._awake]

    async def _switch(self, name: str) -> None:
        await self.rest()
        await self._engines[name][0]()
        self._awake, self._fresh = name, True
        self.switches += 1
        self._changed.notify_all()
