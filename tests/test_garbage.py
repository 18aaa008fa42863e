"""The collector is quiet inside and as before outside."""

from __future__ import annotations

import gc
import weakref

import pytest

from tts_engine.garbage import COLLECT_EVERY, collected_rarely


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_there_is_left_alone_and_what_comes_is_not() -> None:
    before = gc.get_threshold()
    old = Ring()
    seen = weakref.ref(old)
    gc.collect()
    with collected_rarely():
        assert gc.get_threshold() == (COLLECT_EVERY, *before[1:])
        new = weakref.ref(Ring())
        del old
        gc.collect()
        assert new() is None
        assert seen() is not None
    assert gc.get_threshold() == before
    gc.collect()
    assert seen() is None


def test_a_failure_inside_brings_the_old_ways_back() -> None:
    before = gc.get_threshold()
    with pytest.raises(RuntimeError), collected_rarely():
        raise RuntimeError
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
