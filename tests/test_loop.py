"""The event loop of the programs."""

from __future__ import annotations

import asyncio
import sys

import pytest
import uvloop

from tts_engine import loop


async def running() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_it_is_uvloops_where_that_is_installed() -> None:
    assert isinstance(loop.run(running()), uvloop.Loop)


def test_it_is_pythons_own_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert not isinstance(loop.run(running()), uvloop.Loop)


@pytest.mark.parametrize("there", [True, False])
def test_what_the_work_raises_is_raised(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    if not there:
        monkeypatch.setitem(sys.modules, "uvloop", None)

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        loop.run(fail())
