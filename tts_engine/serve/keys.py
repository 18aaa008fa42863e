"""API keys: random, kept as hashes, each with its own limits.

A key reads `tts-NAME-SECRET`; the file keeps SHA-256 of the whole (the secret has 256 random bits, so a slow hash would
protect nothing more). The name finds the record, the hashes are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tts_engine.compute.budget import Budget
from tts_engine.errors import ConfigError, DataError

_NAME = re.compile(r"[A-Za-z0-9_.]{1,64}")
_NOBODY = hashlib.sha256(b"nobody").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is kept of a key.

    Attributes:
        hash: hexadecimal SHA-256 of the key.
        budget: what it may spend in each period, as `--budget` writes it; None for no limit.
        period: length of a period in seconds.
        rate: requests a minute; None for no limit.
    """

    name: str
    hash: str
    budget: str | None = None
    period: float = 86400.0
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and Budget.parse(self.budget).seconds is not None:
            raise ConfigError("a key's budget has no seconds; give it in tokens, flops or dollars")
        if self.period <= 0 or (self.rate is not None and self.rate <= 0):
            raise ConfigError("a key's period and rate must be above zero")


def new_key(
    name: str, *, budget: str | None = None, period: float = 86400.0, rate: float | None = None
) -> tuple[str, Record]:
    """A fresh key and its record.

    Raises:
        ConfigError: a name or a limit that makes no sense.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a key: use letters, digits, _ and . (64 at most)")
    key = f"tts-{name}-{secrets.token_urlsafe(32)}"
    return key, Record(name=name, hash=_digest(key), budget=budget, period=period, rate=rate)


def find(records: Mapping[str, Record], key: str) -> Record | None:
    """The record of a key; None where it is not one of ours. Takes the same time for every wrong key of a length."""
    name = key.split("-", 2)[1] if key.count("-") >= 2 else ""
    record = records.get(name)
    right = hmac.compare_digest(_digest(key), record.hash if record else _NOBODY)
    return record if right else None


def load(path: Path) -> dict[str, Record]:
    """The records of a file, by name.

    Raises:
        DataError: it cannot be read, or is not a file of keys.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["keys"]
        records = [Record(**entry) for entry in entries]
    except OSError as error:
        raise DataError(f"cannot read the keys {path} ({error.strerror}); make one with `tts-serve keys add`") from None
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{path} is not a file of keys; make one with `tts-serve keys add`") from None
    return {record.name: record for record in records}


def save(path: Path, records: Mapping[str, Record]) -> None:
    """Write the file, readable by its owner alone; it is replaced in one step.

    Raises:
        DataError: it cannot be written.
    """
    text = json.dumps({"keys": [asdict(record) for record in records.values()]}, indent=2) + "\n"
    write_private(path, text)


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; its owner alone can read it. Raises DataError where that is not possible."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}); choose another place") from None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
