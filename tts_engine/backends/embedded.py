"""The checkpoints inside the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tts_engine.errors import ConfigError

EMBEDDED = "embedded:"


def folder_of(model: str) -> Path:
    """Folder of a checkpoint: of `embedded:NAME` inside the package, else the folder that `model` is.

    Raises:
        ConfigError: there is no such embedded checkpoint.
    """
    return embedded_path(model) if model.startswith(EMBEDDED) else Path(model)


def embedded_path(model: str) -> Path:
    """Folder of the checkpoint `embedded:NAME` inside the package."""
    assets = Path(str(files("tts_engine") / "assets"))
    folder = assets / model.removeprefix(EMBEDDED)
    if not (folder / "config.json").is_file():
        known = ", ".join(f"{EMBEDDED}{path.parent.name}" for path in sorted(assets.glob("*/config.json")))
        raise ConfigError(f"there is no embedded model {model!r}: use {known or 'tts-train embedded to make them'}")
    return folder
