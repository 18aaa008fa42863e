"""What a configuration stands for: running models, the policy over them, verifiers and the sandbox they share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from tts_engine.backends.base import Backend
from tts_engine.backends.factory import make_backend
from tts_engine.calls import Model
from tts_engine.compute.cost import CostModel
from tts_engine.compute.scheduler import Gate
from tts_engine.config import Config, PolicyConfig, VerifierConfig
from tts_engine.errors import ConfigError
from tts_engine.judging import Verifier
from tts_engine.policy import LanguagePolicy
from tts_engine.resolving import make_verifier, with_members
from tts_engine.sandbox.base import Sandbox
from tts_engine.types import Sampling


class Parts:
    """The running parts of an engine.

    Attributes:
        models: by name.
        verifiers: by name; the configured one first, if there is one.
        policy: what writes solutions.
        sandbox: None where no verifier runs code.
    """

    def __init__(self, config: Config) -> None:
        self.models: dict[str, Model] = {}
        self.verifiers: dict[str, Verifier] = {}
        self.policy = policy_of(config.policy)
        self.sandbox: Sandbox | None = None
        self._config = config

    async def start(self, stack: AsyncExitStack, verifiers: Sequence[VerifierConfig], *, judge_only: bool) -> None:
        """Start what is needed; leaving `stack` ends it.

        Args:
            verifiers: resolved; empty for none.
            judge_only: the policy's model is not started.

        Raises:
            UsageError: the configuration names something that does not exist or fit.
        """
        wanted = wanted_models(None if judge_only else self._config.policy, verifiers)
        made = {name: make_backend(config.backend, name, config.options) for name, config in wanted.items()}
        started = await asyncio.gather(*(stack.enter_async_context(backend) for backend in made.values()))
        limit = self._config.run.in_flight
        gate = None if limit is None else Gate(limit)
        for (name, config), backend in zip(wanted.items(), started, strict=True):
            self.models[name] = Model(backend=backend, cost=_cost(backend, config), gate=gate)
        self._check_units()
        for verifier in verifiers:
            self.verifiers[verifier.name] = await make_verifier(verifier, lambda: self._start_sandbox(stack))

    def explain(self) -> list[str]:
        """What will be used, one line each: models and the sandbox's protections."""
        lines = [
            f"{name}: {f'{shape.parameters:,} parameters' if (shape := model.backend.info.shape) else 'size unknown'},"
            f" context {model.backend.info.context}"
            for name, model in self.models.items()
        ]
        if self.sandbox is not None:
            lines.append(f"sandbox: {', '.join(self.sandbox.protections())}")
        return lines

    def _check_units(self) -> None:
        """A limit in a unit that a model cannot be charged in would be no limit at all."""
        budget, each = self._config.budget, self._config.budget.per_problem
        for name, model in self.models.items():
            if (budget.flops or each.flops) and not model.cost.counts_flops:
                raise ConfigError(f"the FLOPs of {name} are not known: give the budget in tokens or seconds")
            if (budget.dollars or each.dollars) and model.cost.prices is None:
                raise ConfigError(f"{name} has no prices: set policy.prices and verifier.prices, or budget in tokens")

    async def _start_sandbox(self, stack: AsyncExitStack) -> Sandbox:
        """The sandbox, started by the first who asks."""
        if self.sandbox is not None:
            return self.sandbox
        from tts_engine.sandbox.pool import Limits, SubprocessSandbox

        config = self._config.sandbox
        limits = Limits(wall=config.wall_seconds, memory=config.memory_mb * 2**20)
        sandbox = SubprocessSandbox(workers=config.workers, limits=limits, unsafe=config.unsafe)
        self.sandbox = await stack.enter_async_context(sandbox)
        return self.sandbox


def wanted_models(
    policy: PolicyConfig | None, verifiers: Sequence[VerifierConfig]
) -> dict[str, PolicyConfig | VerifierConfig]:
    """Every model by name, with the section that says what runs it: the first one, where several name it."""
    wanted: dict[str, PolicyConfig | VerifierConfig] = {} if policy is None else {policy.model: policy}
    for judging in (each for verifier in verifiers for each in with_members(verifier)):
        if judging.model is not None:
            wanted.setdefault(judging.model, judging)
    return wanted


def policy_of(config: PolicyConfig) -> LanguagePolicy:
    """The policy that a resolved configuration describes."""
    assert config.temperature is not None  # resolved
    return LanguagePolicy(
        model=config.model,
        sampling=Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            max_tokens=config.max_tokens,
            logprobs=config.logprobs,
        ),
        step_tokens=config.step_tokens,
        max_steps=config.max_steps,
    )


def _cost(backend: Backend, config: PolicyConfig | VerifierConfig) -> CostModel:
    return CostModel(backend.info.shape, config.prices.build() if config.prices else None)
