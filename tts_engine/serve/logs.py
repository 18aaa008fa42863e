"""Structured logs: one JSON object a line on standard error. No key ever; problems and answers only when asked for."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

LOG = logging.getLogger("tts_engine.serve")


class JsonLines(logging.Formatter):
    """A record as a line: time, level, event, and the fields given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Of an exception: its type and where it came from, not its message, which may quote a prompt."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["at"] = [f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(record.exc_info[2])][-8:]
        return json.dumps(line, default=str)


def to_stderr() -> None:
    """Send the gateway's and the server's records to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("tts_engine.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    LOG.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def say(event: str, **fields: Any) -> None:  # noqa: ANN401  # JSON values
    """Log an event."""
    LOG.info(event, extra={"fields": fields})
