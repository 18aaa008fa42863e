"""Dividing a device between models, and engines that take turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.backends.base import ModelShape
from tts_engine.backends.placement import (
    DEVICES,
    GIB,
    RESERVE,
    Device,
    Need,
    Turns,
    divide,
    kv_bytes,
    place,
    running,
    throughput,
)
from tts_engine.errors import DataError

QWEN_7B = ModelShape(layers=28, width=3584, mlp=18944, vocabulary=152064, kv_width=512, parameters=7_615_616_512)


def need(name: str, gib: float, slots: int, context: int = 16, devices: str = "", *, turns: bool = False) -> Need:
    return Need(
        name=name,
        weights=int(gib * GIB),
        kv_bytes=57344,
        slots=slots,
        context=context,
        devices=devices,
        turns=turns,
    )


def test_keys_and_values_of_a_known_model() -> None:
    assert kv_bytes(QWEN_7B, 2) == 2 * 28 * 512 * 2 == 57344


def test_the_rest_is_divided_by_what_each_would_like_to_cache() -> None:
    policy, verifier = divide(80 * GIB, [need("policy", 14, 10_000), need("verifier", 14, 30_000)])
    assert policy.share + verifier.share == pytest.approx(1 - RESERVE, abs=1e-6)
    assert verifier.kv_tokens == pytest.approx(3 * policy.kv_tokens, rel=1e-4)


@given(
    total=st.integers(8, 200),
    needs=st.lists(st.tuples(st.floats(0.1, 40), st.integers(1, 10**5)), min_size=1, max_size=4),
)
def test_what_is_given_fits_or_is_refused(total: int, needs: list[tuple[float, int]]) -> None:
    wanted = [need(str(i), gib, tokens) for i, (gib, tokens) in enumerate(needs)]
    least = sum(one.fixed + one.context * one.kv_bytes for one in wanted)
    if least > int(total * GIB * (1 - RESERVE)):
        with pytest.raises(DataError, match="GiB more"):
            divide(total * GIB, wanted)
        return
    shares = divide(total * GIB, wanted)
    assert sum(share.share for share in shares) <= 1 - RESERVE + 1e-9
    for share, one in zip(shares, wanted, strict=True):
        assert share.share * total * GIB >= one.fixed + share.kv_tokens * one.kv_bytes - 1e-3 * GIB
        assert share.kv_tokens >= one.context


def test_too_large_says_by_how_much() -> None:
    with pytest.raises(DataError, match=r"policy and verifier need 9\.28 GiB more than the 24\.0 GiB"):
        divide(24 * GIB, [need("policy", 14, 1000), need("verifier", 14, 1000)])


def test_a_context_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"verifier needs 1\.03 GiB more"):  # 8.75 + 7 of 14.72
        divide(16 * GIB, [need("verifier", 7.8125, 1, context=7 * GIB // 57344 + 1)])


def test_those_that_take_turns_get_the_same_memory_one_after_the_other() -> None:
    needs = [need("policy", 40, 64, turns=True), need("verifier", 20, 64, turns=True), need("small", 2, 64)]
    policy, verifier, small = place(80 * GIB, needs)
    assert policy.share == verifier.share
    assert policy.share + small.share <= 1 - RESERVE + 1e-9
    assert verifier.kv_tokens - policy.kv_tokens == pytest.approx(20 * 1.12 * GIB / 57344, rel=1e-4)
    with pytest.raises(DataError, match="policy and verifier"):
        place(48 * GIB, [need("policy", 40, 1), need("verifier", 20, 1)])


def test_separate_devices_are_not_shared() -> None:
    one, other = place(24 * GIB, [need("policy", 14, 64, devices="0"), need("verifier", 14, 64, devices="1")])
    assert one.share == other.share == pytest.approx(1 - RESERVE, abs=1e-6)
    with pytest.raises(DataError, match="overlap"):
        place(80 * GIB, [need("policy", 14, 64, devices="0,1"), need("verifier", 14, 64, devices="1")])


def test_expected_speed() -> None:
    """One sequence reads all weights for each token; very many are held up by arithmetic."""
    device = Device(memory=80 * GIB, bandwidth=2e12, flops=3e14)
    alone = Need(name="m", weights=2 * 10**10, kv_bytes=1, slots=1, context=2)
    (share,) = divide(device.memory, [alone])
    assert throughput(alone, share, device) == pytest.approx(0.6 * 2e12 / 2e10, rel=1e-6)
    crowd = Need(name="m", weights=2 * 10**10, kv_bytes=1, slots=100_000, context=2)
    (share,) = divide(device.memory, [crowd])
    assert running(crowd, share) == 100_000
    assert throughput(crowd, share, device) == pytest.approx(0.6 * 3e14 / 2e10, rel=1e-6)
    assert throughput(crowd, share, Device(memory=device.memory)) == 0
    assert all(known.flops > known.bandwidth > known.memory for known in DEVICES.values())


class Engine:
    """Awake or not; a call while it rests is an error."""

    def __init__(self) -> None:
        self.awake = True

    async def wake(self) -> None:
        await asyncio.sleep(0)
        self.awake = True

    async def rest(self) -> None:
        await asyncio.sleep(0)
        self.awake = False


async def turning(names: str, patience: float) -> tuple[Turns, dict[str, Engine]]:
    turns, engines = Turns(patience), {}
    for name in names:
        await turns.rest()
        engine = engines[name] = Engine()
        turns.enter(name, engine.wake, engine.rest)
    return turns, engines


async def test_only_one_is_awake_and_every_call_finds_its_engine_awake() -> None:
    turns, engines = await turning("abc", patience=0.01)
    done: list[str] = []

    async def call(name: str, pause: float) -> None:
        await asyncio.sleep(pause)
        async with turns.use(name):
            assert [key for key, engine in engines.items() if engine.awake] == [name]
            await asyncio.sleep(0.002)
            assert engines[name].awake
            done.append(name)

    await asyncio.gather(*(call(name, 0.003 * i) for i in range(30) for name in "abc"))
    assert sorted(done) == sorted("abc" * 30)
    assert 2 <= turns.switches <= 60


async def test_a_stalled_loop_leaves_nobody_waiting_for_ever() -> None:
    """All lose patience at once where the event loop stands still for longer, as on a machine with too much to do."""
    turns, engines = await turning("ab", patience=0.005)
    done: list[str] = []

    async def call(name: str) -> None:
        async with turns.use(name):
            assert [key for key, engine in engines.items() if engine.awake] == [name]
            await asyncio.sleep(0)
            time.sleep(0.006)  # the loop stands still
            done.append(name)

    async with asyncio.timeout(20):
        await asyncio.gather(*(call(name) for _ in range(20) for name in "abba"))
    assert sorted(done) == sorted("abba" * 20)


async def test_an_engine_with_endless_calls_does_not_starve_the_other() -> None:
    turns, _ = await turning("ab", patience=0.02)
    asked = asyncio.Event()

    async def busy(ask: Callable[[], Awaitable[None]]) -> None:
        while not asked.is_set():
            async with turns.use("b"):
                await ask()

    async def other() -> None:
        async with turns.use("a"):
            asked.set()

    await asyncio.wait_for(asyncio.gather(*(busy(lambda: asyncio.sleep(0.005)) for _ in range(4)), other()), 20)


async def test_a_cancelled_caller_leaves_nothing_behind() -> None:
    turns, engines = await turning("ab", patience=60)
    async with turns.use("b"):
        waiter = asyncio.create_task(turns.use("a").__aenter__())
        await asyncio.sleep(0.01)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        async with turns.use("b"):
            assert engines["b"].awake
    async with turns.use("a"):
        assert engines["a"].awake
