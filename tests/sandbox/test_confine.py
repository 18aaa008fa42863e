"""Confinement on a kernel without Landlock: no file opens, everything else as always."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import os, socket, sys
from tts_engine.sandbox import confine
phrases = confine.confine(None)
assert any("no file opens" in phrase for phrase in phrases), phrases
try:
    exec(sys.argv[1])
except OSError as error:
    print(type(error).__name__)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("open('/etc/passwd')", "PermissionError"),
        ("open('f', 'w')", "PermissionError"),
        ("socket.socket()", "PermissionError"),
        ("os.fork()", "PermissionError"),
        ("print(sum(range(10)))", "45"),
    ],
)
def test_seccomp_alone_closes_all_files(tmp_path: Path, code: str, output: str) -> None:
    command = [sys.executable, "-c", _PROGRAM, code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.strip() == output
    assert list(tmp_path.iterdir()) == []
