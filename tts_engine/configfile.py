"""Configurations as nested mappings, not checked yet: YAML files and assignments such as `strategy.n=32`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tts_engine.errors import ConfigError


def load_mapping(path: Path | str | None, sets: Sequence[str] = ()) -> dict[str, Any]:
    """What a YAML file and assignments (`Config.load`) say together, not checked yet. Raises `ConfigError`."""
    data = _read(Path(path)) if path is not None else {}
    for assignment in sets:
        data = merged(data, parse_set(assignment))
    return data


def parse_set(text: str) -> dict[str, Any]:
    """`a.b=c` as a nested mapping, `c` read as YAML."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text!r} is not of the form section.key=value, such as strategy.n=32")
    try:
        tree: Any = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text!r}: the value is not YAML; put it in quotes") from None
    for key in reversed(keys):
        tree = {key: tree}
    return dict(tree)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes `1e12` for a string; nobody who writes it means that."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path} ({_reason(error)}); check the path") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{place} is not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(data or {}, dict):
        raise ConfigError(f"{path} must hold sections such as `strategy:`, not a {type(data).__name__}")
    return data or {}


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"


def merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`high` over `low`, mappings merged key by key."""
    result = dict(low)
    for key, value in high.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result
