"""Results that are computed once."""

from __future__ import annotations

import asyncio

import pytest

from tts_engine.verifiers.memory import Memory


async def test_what_is_known_is_there_without_waiting() -> None:
    memory: Memory[str, int] = Memory()
    opened = asyncio.Event()

    async def compute() -> int:
        await opened.wait()
        return 7

    asked = asyncio.create_task(memory.get("a", compute))
    await asyncio.sleep(0)
    assert memory.known("a") is None  # under way
    opened.set()
    assert await asked == 7
    assert (memory.known("a"), memory.known("b")) == (7, None)
    assert memory.known("a", payer="anybody") == 7


async def test_payers_know_their_own_until_it_is_published() -> None:
    memory: Memory[str, int] = Memory()

    async def compute() -> int:
        return 7

    await memory.get("a", compute, payer="me")
    assert [memory.known("a", payer) for payer in ("me", "you", None)] == [7, None, None]
    memory.publish()
    assert [memory.known("a", payer) for payer in ("me", "you", None)] == [7, 7, 7]


async def test_a_failure_is_not_known() -> None:
    memory: Memory[str, int] = Memory()

    async def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await memory.get("a", fail)
    assert memory.known("a") is None
