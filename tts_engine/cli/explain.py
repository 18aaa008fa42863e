"""`tts-run --explain`: what a configuration would start, and what that would get of a device."""

from __future__ import annotations

from collections.abc import Mapping

from tts_engine.backends.factory import make_backend
from tts_engine.backends.placement import DEVICES, GIB, Device
from tts_engine.config import Config, PolicyConfig, VerifierConfig
from tts_engine.errors import ConfigError
from tts_engine.parts import wanted_models

FORMULA = (
    "tokens/s = 0.6 B / max((weights + B sequences of keys and values) / bandwidth, 2 parameters B / operations a"
    " second) of a device; sequences are taken to hold half of the context; prefill is left out"
)


def plan(config: Config, name: str) -> list[str]:
    """The plan of a resolved configuration, in lines.

    Args:
        name: a device of `placement.DEVICES`, with `:GIB` for another size of memory; empty for the one that is here.

    Raises:
        ConfigError: no such device. DataError: the models do not fit, or one is missing.
    """
    verifiers = [] if config.verifier.name == "none" else [config.verifier]
    wanted = wanted_models(config.policy, verifiers)
    lines = [_other(model, each) for model, each in wanted.items() if each.backend != "vllm"]
    engines = {model: each for model, each in wanted.items() if each.backend == "vllm"}
    return lines + (_engines(engines, name) if engines else [])


def _other(model: str, config: PolicyConfig | VerifierConfig) -> str:
    options = ", ".join(f"{key}={value}" for key, value in config.options.items())
    return f"{model}: the {config.backend} backend{f' ({options})' if options else ''}; nothing is planned for it"


def _engines(wanted: Mapping[str, PolicyConfig | VerifierConfig], name: str) -> list[str]:
    from tts_engine.backends.vllm_engine import ENGINES, device_here

    backends = [make_backend("vllm", model, each.options) for model, each in wanted.items()]
    device, cpu = (device_of(name), False) if name else device_here()
    lines = ENGINES.plan(device, cpu=cpu)
    lines.append(f"{len(backends)} models in {len(lines)} vLLM engines")
    return [*lines, FORMULA] if device.bandwidth else lines


def device_of(name: str) -> Device:
    """A device by name, such as `H100` or `H100:94`.

    Raises:
        ConfigError: nobody knows it.
    """
    kind, _, gib = name.partition(":")
    known = DEVICES.get(kind, Device(memory=0) if kind.lower() == "gpu" and gib else None)
    if known is None or (gib and not gib.isdecimal()):
        raise ConfigError(f"--explain {name}: use one of {', '.join(DEVICES)}, or GPU:80 for any other of 80 GiB")
    memory = int(gib) * GIB if gib else known.memory
    return Device(memory=memory, bandwidth=known.bandwidth, flops=known.flops)
