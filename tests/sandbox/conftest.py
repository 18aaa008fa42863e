"""One sandbox for the tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tts_engine.sandbox import Limits, SubprocessSandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[SubprocessSandbox]:
    """Room for honest code, also on a busy machine."""
    async with SubprocessSandbox(limits=Limits(wall=10.0, memory=256 << 20, file_size=1 << 20)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty() -> AsyncIterator[SubprocessSandbox]:
    """For code that never ends."""
    async with SubprocessSandbox(limits=Limits(wall=0.4, memory=256 << 20)) as running:
        yield running
