"""Dividing a device between models, and engines that take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.backends.base import ModelShape
from tts_engine.backends.placement import GIB, RESERVE, Need, Turns, divide, kv_bytes
from tts_engine.errors import DataError

QWEN_7B = ModelShape(layers=28, width=3584, mlp=18944, vocabulary=152064, kv_width=512, parameters=7_615_616_512)


def need(name: str, gib: float, tokens: int, kv: int = 57344) -> Need:
    return Need(name=name, weights=int(gib * GIB), kv_bytes=kv, tokens=tokens)


def test_keys_and_values_of_a_known_model() -> None:
    assert kv_bytes(QWEN_7B, 2) == 2 * 28 * 512 * 2 == 57344


def test_the_rest_is_divided_by_what_each_would_like_to_cache() -> None:
    policy, verifier = divide(80 * GIB, [need("policy", 14, 100_000), need("verifier", 14, 300_000)])
    assert policy.share + verifier.share == pytest.approx(1 - RESERVE, abs=1e-6)
    assert verifier.kv_tokens == pytest.approx(3 * policy.kv_tokens, rel=1e-4)


@given(
    total=st.integers(8, 200),
    needs=st.lists(st.tuples(st.floats(0.1, 40), st.integers(1, 10**6)), min_size=1, max_size=4),
)
def test_what_is_given_fits_or_is_refused(total: int, needs: list[tuple[float, int]]) -> None:
    wanted = [need(str(i), gib, tokens) for i, (gib, tokens) in enumerate(needs)]
    least = sum(one.fixed + 16 * one.kv_bytes for one in wanted)
    if least > int(total * GIB * (1 - RESERVE)):
        with pytest.raises(DataError, match="GiB more"):
            divide(total * GIB, wanted)
        return
    shares = divide(total * GIB, wanted)
    assert sum(share.share for share in shares) <= 1 - RESERVE + 1e-9
    for share, one in zip(shares, wanted, strict=True):
        assert share.share * total * GIB >= one.fixed + share.kv_tokens * one.kv_bytes - 1e-3 * GIB


def test_too_large_says_by_how_much() -> None:
    with pytest.raises(DataError, match=r"policy and verifier need 9\.3 GiB more than the 24\.0 GiB"):
        divide(24 * GIB, [need("policy", 14, 1000), need("verifier", 14, 1000)])


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
