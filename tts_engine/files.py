"""Folders and files of results."""

from __future__ import annotations

import os
from pathlib import Path

from tts_engine.errors import DataError


def make_folder(path: Path) -> None:
    """Make a folder, and those above it; `DataError` where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {path} ({error.strerror}); choose another --out") from None


def occupied(path: Path) -> bool:
    """Whether something is there that results must not be mixed with: a file, or a folder that is not empty."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def write_text(path: Path, text: str) -> None:
    """A file, atomically: after a crash it is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
