"""Commands that tests start as a shell would."""

from __future__ import annotations

import signal


def interruptible() -> None:
    """In the child: a shell without job control starts what it runs in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
