"""From the configuration to verifiers: what a checkpoint asks for, members of ensembles, and the objects themselves."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from tts_engine import allocation
from tts_engine.backends.embedded import EMBEDDED
from tts_engine.backends.factory import checkpoint_params
from tts_engine.config import Config, PolicyConfig, StrategyConfig, VerifierConfig, resolve
from tts_engine.errors import ConfigError
from tts_engine.formats import genprm, prm
from tts_engine.formats import policy as policy_format
from tts_engine.judging import Verifier
from tts_engine.sandbox.base import Sandbox
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Sampling
from tts_engine.verifiers import VERIFIERS
from tts_engine.verifiers.sequential import Sequential

FORMATS = {"genprm": genprm, "prm": prm}
"""What our own checkpoints are trained on, by verifier."""
OWN = ("local", "vllm")
"""Backends whose models are folders, in which a checkpoint of ours says how it wants to be asked."""


def resolved(config: Config) -> Config:
    """The configuration with every parameter checked and written out; what the models' own checkpoints ask for stands
    where nothing is given. Doing it twice changes nothing.

    Raises:
        ConfigError: an unknown name or parameter, also of a member. DataError: a checkpoint of another format.
    """
    config = resolve(_with_checkpoint_params(config), STRATEGIES, VERIFIERS)
    members(config.verifier)
    return config


def members(config: VerifierConfig) -> list[VerifierConfig]:
    """The resolved configurations of the members, where the verifier is made of some."""
    return [resolved_verifier(member) for member in config.params.get("members", ())]


def resolved_verifier(config: VerifierConfig | Mapping[str, Any]) -> VerifierConfig:
    """A verifier's configuration (or a mapping with its keys) by itself, resolved. Raises as `resolved` does."""
    return resolved(Config.build({"verifier": config, "strategy": {"name": "self-consistency"}})).verifier


def with_members(config: VerifierConfig) -> Iterator[VerifierConfig]:
    """The verifier's configuration, then those of its members and of theirs."""
    yield config
    for member in members(config):
        yield from with_members(member)


async def make_verifier(config: VerifierConfig, start_sandbox: Callable[[], Awaitable[Sandbox]]) -> Verifier:
    """The verifier that a resolved configuration describes.

    Args:
        start_sandbox: gives the sandbox, where the verifier or a member asks for one.

    Raises:
        ConfigError: it needs a model and none is named.
    """
    factory = VERIFIERS[config.name]
    accepted = inspect.signature(factory).parameters
    if "model" in accepted and config.model is None:
        raise ConfigError(f"verifier {config.name} needs a model: set verifier.model (or --verifier-model)")
    offered: dict[str, Any] = {
        "model": config.model,
        "sampling": Sampling(temperature=config.temperature, top_p=config.top_p, top_k=config.top_k),
    }
    if "sandbox" in accepted:
        offered["sandbox"] = await start_sandbox()
    params = dict(config.params)
    if "members" in accepted:
        params["members"] = [await make_verifier(member, start_sandbox) for member in members(config)]
    verifier: Verifier = factory(**{k: v for k, v in offered.items() if k in accepted}, **params)
    return verifier if config.rule is None else Sequential(verifier=verifier, rule=config.rule)


def _with_checkpoint_params(config: Config) -> Config:
    asked = {"policy": _asked_policy(config.policy), "verifier": _asked(config.verifier)}
    return config.model_copy(update=asked | {"strategy": _asked_strategy(config)})


def _asked_strategy(config: Config) -> StrategyConfig:
    """What is known of the embedded models is the default where both are."""
    strategy, models = config.strategy, (config.policy.model, config.verifier.model or "")
    embedded = all(model.startswith(EMBEDDED) for model in models)
    if strategy.name != "adaptive-allocation" or "beliefs" in strategy.params or not embedded:
        return strategy
    asked: dict[str, Any] = {"name": strategy.name, **strategy.params, "beliefs": allocation.EMBEDDED}
    return StrategyConfig(**asked)


def _asked_policy(policy: PolicyConfig) -> PolicyConfig:
    if policy.temperature is not None:
        return policy
    params: dict[str, Any] = {}
    if policy.backend in OWN:
        params = checkpoint_params(policy.model, "policy", policy_format.FORMAT_VERSION)
    return policy.model_copy(update={"temperature": float(params.get("temperature", 1.0))})


def _asked(verifier: VerifierConfig) -> VerifierConfig:
    form = FORMATS.get(verifier.name)
    if form is None or verifier.backend not in OWN or verifier.model is None:
        return verifier
    params = checkpoint_params(verifier.model, verifier.name, form.FORMAT_VERSION)
    return verifier.model_copy(update={"params": params | verifier.params})
