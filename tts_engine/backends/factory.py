"""Backends by name, made on demand: torch is imported only when a local model is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tts_engine.backends.base import Backend
from tts_engine.backends.embedded import EMBEDDED, embedded_path, folder_of
from tts_engine.errors import ConfigError, DataError


def local(model: str, process: bool = False, **options: Any) -> Backend:  # noqa: ANN401  # the backend's arguments
    """A Hugging Face folder, hub name or embedded checkpoint on torch; `process`: in a process of its own."""
    folder = embedded_path(model) if model.startswith(EMBEDDED) else model
    if process:
        from tts_engine.backends.process import ProcessBackend

        return ProcessBackend(folder, name=model, **options)
    from tts_engine.backends.local import LocalBackend

    return LocalBackend(folder, name=model, **options)


def simulated(model: str, task: Mapping[str, Any] | None = None, **options: Any) -> Backend:  # noqa: ANN401
    """A simulated model; `task` holds the keyword arguments of `Task`."""
    from tts_engine.backends.arithmetic import Task
    from tts_engine.backends.simulated import SimulatedBackend

    return SimulatedBackend(model, task=Task(**(task or {})), **options)


def replay(model: str, journal: str, recorded: str | None = None) -> Backend:
    """A recorded model from a journal: `recorded` is its name there, by default the same."""
    from tts_engine.backends.replay import ReplayBackend

    return ReplayBackend(Path(journal), recorded or model)


def openai(model: str, **options: Any) -> Backend:  # noqa: ANN401
    """A model of an OpenAI-compatible server; `options` are those of `openai_options.Options`."""
    try:
        from tts_engine.backends.openai import OpenAIBackend
    except ImportError as error:
        raise ConfigError(f"the openai backend needs {error.name}: pip install 'tts-engine[openai]'") from None
    return OpenAIBackend(model, **options)


def pooling(model: str, **options: Any) -> Backend:  # noqa: ANN401
    """A reward model of a vLLM server (`/pooling`, `/classify`); `options` are those of `PoolingBackend`."""
    try:
        from tts_engine.backends.pooling import PoolingBackend
    except ImportError as error:
        raise ConfigError(f"the pooling backend needs {error.name}: pip install 'tts-engine[openai]'") from None
    return PoolingBackend(model, **options)


def vllm(model: str, base: str | None = None, **options: Any) -> Backend:  # noqa: ANN401
    """A vLLM engine in this process; `base` and `options` are those of `VLLMBackend`."""
    from tts_engine.backends.vllm import VLLMBackend

    folder, below = (str(embedded_path(m)) if m and m.startswith(EMBEDDED) else m for m in (model, base))
    return VLLMBackend(folder or model, name=model, base=below, **options)


BACKENDS: Mapping[str, Callable[..., Backend]] = MappingProxyType(
    {"local": local, "openai": openai, "pooling": pooling, "simulated": simulated, "replay": replay, "vllm": vllm}
)


def make_backend(name: str, model: str, options: Mapping[str, Any]) -> Backend:
    """The backend `name` serving `model`.

    Raises:
        ConfigError: unknown backend or option.
        DataError: the model cannot be loaded.
    """
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}: use one of {', '.join(BACKENDS)}")
    try:
        return BACKENDS[name](model, **options)
    except TypeError as error:
        raise ConfigError(f"options of backend {name}: {str(error).partition('() ')[2] or error}") from None


def checkpoint_params(model: str, form: str, version: int) -> dict[str, Any]:
    """How a checkpoint of ours wants to be asked: the verifier parameters in its `tts_format.json`, if it has one.

    Args:
        form, version: the format that the caller is going to speak, e.g. `genprm` and its FORMAT_VERSION.

    Raises:
        DataError: the checkpoint was trained on another format or version.
    """
    card = folder_of(model) / "tts_format.json"
    if not card.is_file():
        return {}
    data = json.loads(card.read_text(encoding="utf-8"))
    if (data.get("format"), data.get("version")) != (form, version):
        raise DataError(
            f"{model} was trained on format {data.get('format')} {data.get('version')}, not {form} {version}:"
            " choose the verifier that fits it, or train it again with tts-train"
        )
    return dict(data.get("params", {}))
