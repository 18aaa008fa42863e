"""Python's garbage collector in a process that searches."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

COLLECT_EVERY = 20_000
"""Objects more than were freed, after which the collector looks at the young ones; Python's own number is 700."""


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Let the collector run less often, and not over what is there on entering; on leaving all is as it was.

    A full pass goes through the modules of torch or vLLM and all that the searches under way hold, nearly all of which
    is still needed; with small models that takes a good part of the time (docs/saturation.md). Enter it when the models
    are loaded. It changes the whole process, so only the programs of this package do it; a program of your own may.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
