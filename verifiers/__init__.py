"""Verifiers, each a factory whose keyword arguments are its configuration. Import as `tts_engine.verifiers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tts_engine.verifiers.genprm import GenPRM
from tts_engine.verifiers.prm import DiscriminativePRM

VERIFIERS: Mapping[str, Callable[..., Any]] = MappingProxyType({"genprm": GenPRM, "prm": DiscriminativePRM})
"""By the name used in configurations."""

__all__ = ["VERIFIERS", "DiscriminativePRM", "GenPRM"]
