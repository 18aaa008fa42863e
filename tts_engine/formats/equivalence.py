"""Answers compared by algebra, in a warm process of its own, so that no absurd expression can stall or crash a run."""

from __future__ import annotations

import atexit
import json
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tts_engine.errors import GraderError
from tts_engine.formats import equivalence_worker as worker

START_SECONDS = 60.0
"""How long the process may take to import its libraries, on a slow disk."""
PATIENCE = 60.0
"""Seconds before a process that neither answers nor uses up its processor time is killed."""
LONGEST = 1 << 14
"""Characters of an answer that is looked at."""


class Grader:
    """The process, started when it is first needed and again when it died. Safe to use from several threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._absurd: set[str] = set()

    def ask(self, *texts: str) -> Any:  # noqa: ANN401  # as the worker says
        """The worker's answer to one or two texts (`equivalence_worker`), within some seconds.

        A text that once took too long, or took the process down, is unreadable from then on.

        Raises:
            GraderError: the process cannot be started.
        """
        unknown = worker.UNKNOWN[len(texts)]
        with self._lock:
            if max(map(len, texts)) > LONGEST or self._absurd.intersection(texts):
                return unknown
            found, guilty = self._ask(texts) or (unknown, max(texts, key=len))
            if guilty is not None:
                self._absurd.add(guilty)
            return found

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, texts: Sequence[str]) -> tuple[Any, str | None] | None:
        """The worker's answer; None when it had to be killed, or died."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(texts) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            line = process.stdout.readline() if ready else ""
        except OSError:
            line = ""
        if not line:
            self.close()
            return None
        found, guilty = json.loads(line)
        return found, guilty

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = _start()
        return self._process


def _start() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(worker.__file__).resolve())],
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
    except OSError as error:
        raise GraderError(f"cannot start {sys.executable} to compare answers: {error}") from None
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    if not ready or process.stdout.readline() != worker.READY:
        process.kill()
        process.communicate()
        raise GraderError("math-verify cannot be loaded; install it again: pip install 'math-verify[antlr4_13_2]'")
    return process


_GRADER = Grader()
atexit.register(_GRADER.close)


@lru_cache(maxsize=65536)
def compare(answer: str, reference: str) -> tuple[bool, bool]:
    """Whether `answer` gives `reference`, and the other way round; (False, False) where it cannot be found out.

    Raises:
        GraderError: as `Grader.ask`.
    """
    there, back = _GRADER.ask(answer, reference)
    return there, back


@lru_cache(maxsize=65536)
def mark(answer: str) -> tuple[float, float] | None:
    """Numbers that answers of equal meaning share up to rounding (`equivalence_worker.mark`); raises as `compare`."""
    found = _GRADER.ask(answer)
    return None if found is None else (found[0], found[1])
