"""The configuration of a run: frozen, strict, no I/O inside the models. Nonsense is refused at load; the fix is named.

A value comes from the defaults, then the YAML file, then `--set a.b=c`, then the command line's flags; the later wins.
A strategy's signature is its schema (`check_params`), and so is a verifier's and a backend's.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from tts_engine.compute.budget import UNITS, Budget
from tts_engine.compute.cost import Prices
from tts_engine.compute.stopping import VoteRule
from tts_engine.configfile import load_mapping, merged
from tts_engine.errors import ConfigError

BackendName = Literal["local", "openai", "pooling", "simulated", "replay", "vllm"]
Positive = Annotated[int, Field(ge=1)]
Arguments = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
"""Keyword arguments; `null` in a later source takes those of the earlier ones away."""
Share = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

EMBEDDED_VERIFIERS = {"genprm": "embedded:genprm", "prm": "embedded:prm", "outcome": "embedded:prm"}
"""Models that verifiers use when the configuration names none."""


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PriceConfig(Section):
    """Dollars per million tokens."""

    prompt: NonNegative = 0.0
    cached: NonNegative = 0.0
    completion: NonNegative = 0.0

    def build(self) -> Prices:
        """The cost model's price table."""
        return Prices(prompt=self.prompt, cached=self.cached, completion=self.completion)


class PolicyConfig(Section):
    """The model that writes solutions.

    Attributes:
        backend: what runs it.
        model: `embedded:policy`, a folder in Hugging Face format, or a hub name.
        options: keyword arguments of the backend (`slots`, `device`, `dtype`, ...).
        temperature: None takes what the checkpoint asks for, else 1.
        max_tokens: bound of a whole solution; `step_tokens`: of one step of a step-wise search.
        max_steps: a solution with more steps is given up.
        logprobs: alternatives of each token that are asked for; some verifiers read them (`confidence`).
        prices: None when the model costs no money.
    """

    backend: BackendName = "local"
    model: str = "embedded:policy"
    options: Arguments = {}
    temperature: NonNegative | None = None
    top_p: Share = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    max_tokens: Positive = 256
    step_tokens: Positive = 96
    max_steps: Positive = 40
    logprobs: Annotated[int, Field(ge=0)] = 0
    prices: PriceConfig | None = None


class StopConfig(Section):
    """A sequential test on the votes of a candidate (compute/stopping.py)."""

    error: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    test: Literal["sprt", "beta"] = "sprt"


class VerifierConfig(Section):
    """The model that judges solutions.

    Attributes:
        name: a verifier, or `none`.
        model: as in the policy; None takes the embedded model of the verifier.
        samples: K, independent judgements of each candidate; `auto[:MOST[:ERROR[:TEST]]]` stands for a `stop` rule.
        stop: when fewer than `samples` judgements are enough (compute/stopping.py); None always takes them all.
        params: keyword arguments of the verifier; `options`: of the backend.
    """

    name: str = "genprm"
    backend: BackendName = "local"
    model: str | None = None
    samples: Positive = 8
    stop: StopConfig | None = None
    options: Arguments = {}
    params: Arguments = {}
    temperature: NonNegative = 0.6
    top_p: Share = 0.95
    top_k: Annotated[int, Field(ge=0)] = 20
    prices: PriceConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _embedded(cls, data: Any) -> Any:  # noqa: ANN401  # whatever the YAML holds
        if isinstance(data, Mapping) and isinstance(data.get("samples"), str):
            rule = VoteRule.parse(data["samples"])
            data = {**data, "samples": rule.most, "stop": {"error": rule.error, "test": rule.test}}
        if isinstance(data, Mapping) and data.get("model") is None:
            return {**data, "model": EMBEDDED_VERIFIERS.get(data.get("name", "genprm"))}
        return data

    @property
    def rule(self) -> VoteRule | None:
        """The sequential test, where there is one."""
        if self.stop is None:
            return None
        return VoteRule(most=self.samples, error=self.stop.error, test=self.stop.test)


class StrategyConfig(BaseModel):
    """A strategy and its keyword parameters (further keys; checked by `resolve`)."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str = "beam"

    @property
    def params(self) -> dict[str, Any]:
        """The strategy's keyword arguments."""
        return dict(self.model_extra or {})


class LimitConfig(Section):
    """Limits in any subset of the units; numbers may be written `20k`, times `5m`."""

    tokens: Positive | None = None
    flops: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    dollars: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @field_validator(*UNITS, mode="before")
    @classmethod
    def _suffixed(cls, value: Any, info: Any) -> Any:  # noqa: ANN401  # whatever the YAML holds
        return getattr(Budget.parse(f"{info.field_name}={value}"), info.field_name) if isinstance(value, str) else value

    def build(self) -> Budget:
        """The ledger's budget."""
        return Budget(tokens=self.tokens, flops=self.flops, seconds=self.seconds, dollars=self.dollars)


class BudgetConfig(LimitConfig):
    """Limits of the whole run (both models), and of each problem."""

    per_problem: LimitConfig = LimitConfig()


class SandboxConfig(Section):
    """How model-written Python is executed."""

    workers: Positive = 2
    wall_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    memory_mb: Positive = 512
    unsafe: bool = False


class RunConfig(Section):
    """How the problems are worked off.

    Attributes:
        seed: of every random draw.
        concurrency: problems at once.
        allocate: `adaptive` lets the run's budget flow to the problems where it helps most, at one price for all; None
            deals it out evenly.
        in_flight: calls of all models together that run at once, where they share a device: the policy's and the
            verifier's are then admitted by weighted fair queueing (compute/scheduler.py). None: the backends decide.
        journal: keep every finished call in the run folder.
        baseline: for sets, also draw plain samples for the comparison with not searching.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    concurrency: Positive = 32
    allocate: Literal["adaptive"] | None = None
    in_flight: Positive | None = None
    journal: bool = True
    baseline: bool = True


class RayConfig(Section):
    """Workers on a Ray cluster, where one is asked for (`--ray`).

    Attributes:
        workers: how many; None for as many as the cluster has room for.
        cpus_per_worker, gpus_per_worker: what each gets. GPUs None: one, where the cluster has some and a worker runs a
            model itself.
    """

    workers: Positive | None = None
    cpus_per_worker: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    gpus_per_worker: NonNegative | None = None


WAYS = {
    *("url", "key_env", "key_header", "headers", "concurrency", "rate"),
    *("timeout", "stall", "tries", "silence", "pause"),
    *("process", "kept", "slots"),
}
"""Options of a backend that say how an endpoint is reached, or where a model runs: a run may be resumed with others."""
NOT_IN_DIGEST: dict[str, Any] = {
    "run": {"concurrency", "in_flight", "journal", "baseline"},
    "sandbox": {"workers"},
    "policy": {"options": WAYS},
    "verifier": {"options": WAYS},
    "ray": True,
}
"""What does not change an outcome."""


NEW_KEYS = (("policy", "logprobs"), ("verifier", "stop"), ("run", "allocate"))
"""Keys that are younger than journals that should stay readable: left out of the digest while they are not set."""


class Config(Section):
    """Everything that defines a run."""

    policy: PolicyConfig = PolicyConfig()
    verifier: VerifierConfig = VerifierConfig.model_validate({})
    strategy: StrategyConfig = StrategyConfig()
    budget: BudgetConfig = BudgetConfig()
    sandbox: SandboxConfig = SandboxConfig()
    run: RunConfig = RunConfig()
    ray: RayConfig = RayConfig()

    @classmethod
    def load(
        cls, path: Path | str | None = None, sets: Sequence[str] = (), overrides: Mapping[str, Any] | None = None
    ) -> Self:
        """Merge the sources, later ones first in rank.

        Args:
            path: a YAML file; None starts from the defaults.
            sets: `a.b=c` with `c` in YAML, such as `strategy.n=32` or `budget.tokens=null`.
            overrides: nested mapping, such as `{"strategy": {"name": "beam"}}`.

        Raises:
            ConfigError: a file that is no configuration, an unknown key, a value of the wrong kind.
        """
        return cls.build(merged(load_mapping(path, sets), overrides or {}))

    @classmethod
    def build(cls, data: Mapping[str, Any]) -> Self:
        """The configuration of a nested mapping; `ConfigError` where it is wrong."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_sentence(cls, error.errors()[0])) from None

    def digest(self) -> str:
        """16 hexadecimal digits that name everything that changes results (not, for example, the concurrency)."""
        data = self.model_dump(mode="json", exclude=NOT_IN_DIGEST)
        for section, key in NEW_KEYS:
            if not data[section][key]:
                del data[section][key]
        text = json.dumps(data, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def to_yaml(self) -> str:
        """YAML that `load` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def resolve(config: Config, strategies: Mapping[str, Callable[..., Any]], verifiers: Mapping[str, Any]) -> Config:
    """The configuration with every parameter of its strategy and verifier checked and written out.

    Args:
        strategies, verifiers: the registries; signatures are the schemas. `samples` of a strategy is the verifier's.

    Raises:
        ConfigError: an unknown name or parameter, or a strategy that needs a verifier and has none.
    """
    strategy = lookup(config.strategy.name, strategies, "strategy")
    if "samples" in config.strategy.params:
        raise ConfigError("strategy.samples is not a key; set verifier.samples (or --verifier-samples) instead")
    if config.verifier.name == "none" and judges(strategy):
        raise ConfigError(
            f"strategy {config.strategy.name} needs a verifier; use one of {', '.join(verifiers)}, or another strategy"
        )
    params = check_params(strategy, config.strategy.params, f"strategy {config.strategy.name}", ("search", "samples"))
    verifier = config.verifier
    if verifier.name != "none":
        factory = lookup(verifier.name, verifiers, "verifier", also=("none",))
        checked = check_params(factory, verifier.params, f"verifier {verifier.name}", ("model", "sandbox", "sampling"))
        verifier = verifier.model_copy(update={"params": checked})
    return config.model_copy(
        update={"strategy": StrategyConfig(name=config.strategy.name, **params), "verifier": verifier}
    )


def judges(strategy: Callable[..., Any]) -> bool:
    """Whether a strategy needs a verifier: it takes `samples`, its judgements of a candidate."""
    return "samples" in inspect.signature(strategy).parameters


def lookup(name: str, registry: Mapping[str, Any], what: str, also: Sequence[str] = ()) -> Any:  # noqa: ANN401
    """The entry `name`; `ConfigError` with the known names (`also` included) when there is none."""
    if name not in registry:
        raise ConfigError(f"unknown {what} {name!r}{_nearest(name, [*registry, *also])}")
    return registry[name]


def check_params(
    function: Callable[..., Any], given: Mapping[str, Any], what: str, reserved: Collection[str] = ()
) -> dict[str, Any]:
    """Check keyword arguments against a signature; returns them together with the defaults of the others.

    Types, literals and bounds come from the annotations (`Annotated[int, Field(ge=1)]`); a plain `int` is only a type.

    Args:
        what: names the function in messages, such as `strategy beam`.
        reserved: parameters that the engine fills in; they are neither allowed nor returned.

    Raises:
        ConfigError: an unknown, missing or wrong parameter.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
        if name not in reserved and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    for name in given:
        if name not in parameters:
            raise ConfigError(f"{what} has no parameter {name!r}{_nearest(name, list(parameters))}")
    checked = {}
    for name, parameter in parameters.items():
        if name in given:
            checked[name] = _checked(parameter.annotation, given[name], f"{what}: {name}")
        elif parameter.default is parameter.empty:
            raise ConfigError(f"{what} needs the parameter {name!r}; give it")
        else:
            checked[name] = parameter.default
    return checked


def _checked(annotation: Any, value: Any, what: str) -> Any:  # noqa: ANN401  # any parameter's type
    if annotation is inspect.Parameter.empty:
        return value
    try:
        return _type(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{what}={value!r} is wrong: {_complaint(error.errors()[0])}") from None


def _type(annotation: Any) -> TypeAdapter[Any]:  # noqa: ANN401
    """What checks values of a type; that of a type is made once, as every problem of a run asks for the same ones."""
    try:
        return _known_type(annotation)
    except TypeError:  # it cannot be hashed
        return TypeAdapter(annotation)


_known_type = lru_cache(256)(TypeAdapter)


def _sentence(model: type[BaseModel], error: ErrorDetails) -> str:
    """A validation error in one sentence that names the key and the fix."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *sections, key = (str(part) for part in error["loc"])
        place = f"section {'.'.join(sections)}" if sections else "the configuration"
        return f"{place} has no key {key!r}{_nearest(key, _keys(model, sections))}"
    return f"{path}={error['input']!r} is wrong: {_complaint(error)}"


def _complaint(error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"it {text}" if text.startswith("should") else text


def _keys(model: type[BaseModel], sections: Sequence[str]) -> list[str]:
    for section in sections:
        annotation = model.model_fields[section].annotation
        kinds = (annotation, *getattr(annotation, "__args__", ()))
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(model.model_fields)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} {'use one of' if len(known) > 1 else 'known:'} {', '.join(known) or 'none'}"
