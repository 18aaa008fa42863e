"""Execution of model-written Python in isolated processes."""

from __future__ import annotations

from tts_engine.sandbox.base import Sandbox, Session
from tts_engine.sandbox.pool import Limits, SubprocessSandbox

__all__ = ["Limits", "Sandbox", "Session", "SubprocessSandbox"]
