"""What a sweep compares: the schema of a grid file, and the single runs that it asks for."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tts_engine.config import Config, Positive, VerifierConfig, check_params, judges, lookup
from tts_engine.configfile import load_mapping
from tts_engine.errors import ConfigError
from tts_engine.report.points import SELECTORS, Grid
from tts_engine.resolving import resolved
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Problem

INDEPENDENT = ("best-of-n", "self-consistency")
"""Strategies that need not be run at every setting: their samples are independent, so all settings are subsets."""
DEFAULT_N, DEFAULT_K = (1, 2, 4, 8, 16), (1, 2, 4, 8)
Numbers = Annotated[list[Positive], Field(min_length=1)]


class SearchGrid(BaseModel):
    """A strategy that is run at each setting; further keys are its parameters, each a value or a list of values."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str
    n: Numbers | None = None
    k: Numbers | None = None

    def params(self) -> Iterator[dict[str, Any]]:
        """Every combination of the further parameters."""
        given = {key: value if isinstance(value, list) else [value] for key, value in (self.model_extra or {}).items()}
        for values in itertools.product(*given.values()):
            yield dict(zip(given, values, strict=True))


class SweepConfig(BaseModel):
    """A grid file.

    Attributes:
        dataset, limit, seeds: the problems, and how many seeds each is drawn under, from that of `engine` on.
        n, k: numbers of solutions and judgements; the largest are sampled, the others are subsets of them.
        select: selectors (report/points.py).
        policies: models; none is that of `engine`. verifiers: names, or sections as in a configuration; may be empty.
        searches: strategies that have to be run at each setting.
        engine: a configuration of `tts-run`, the base of all runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dataset: str | None = None
    limit: Positive | None = None
    seeds: Positive = 1
    n: Numbers = list(DEFAULT_N)
    k: Numbers = list(DEFAULT_K)
    select: list[str] = list(SELECTORS)
    policies: list[str] = []
    verifiers: list[str | dict[str, Any]] = ["genprm"]
    searches: list[SearchGrid] = []
    engine: dict[str, Any] = {}

    @classmethod
    def load(cls, path: Path | None, changes: Mapping[str, Any]) -> SweepConfig:
        """A grid file (None: the defaults) with what the command line changes.

        Raises:
            ConfigError: an unknown key or a wrong value; names it.
        """
        data = load_mapping(path) if path is not None else {}
        try:
            found = cls.model_validate({**data, **changes})
        except ValidationError as error:
            raise ConfigError(_sentence(error, path)) from None
        for how in found.select:
            lookup(how, dict.fromkeys(SELECTORS), "selector")
        return found

    def grid(self, draws: int) -> Grid:
        """What the report evaluates."""
        return Grid(n=sorted(set(self.n)), k=sorted(set(self.k)), selectors=self.select, draws=draws)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run over all problems under one seed: samples to take subsets of (`independent`), or a search at a setting.

    `n` is 0 for a strategy that has no such parameter, `k` for one that does not verify.
    """

    verifier: str | None
    strategy: str
    n: int
    k: int
    seed: int
    params: tuple[tuple[str, Any], ...] = ()

    @property
    def independent(self) -> bool:
        """Whether its candidates are independent samples."""
        return self.strategy in INDEPENDENT

    @property
    def file(self) -> str:
        """Name of its file of results."""
        extra = "".join(f"-{key}{value}" for key, value in self.params)
        judged = f"-{self.verifier}-k{self.k}" if self.verifier else ""
        return f"{self.strategy}-n{self.n}{judged}{extra}-seed{self.seed}.jsonl".replace("/", "_").replace(" ", "")


def base_configs(sweep: SweepConfig) -> list[Config]:
    """A configuration for each policy, without what differs between the runs.

    Raises:
        ConfigError: the base has a budget: what is measured would be cut off.
    """
    base = Config.build(sweep.engine)
    if base.budget.model_dump(exclude_none=True) != {"per_problem": {}}:
        raise ConfigError(
            "a comparison measures what runs cost without a limit; take the budget out of the configuration"
        )
    plain = {**sweep.engine, "strategy": {"name": "self-consistency"}, "verifier": {"name": "none"}}
    names = sweep.policies or [base.policy.model]
    return [resolved(Config.build(plain | {"policy": {**sweep.engine.get("policy", {}), "model": m}})) for m in names]


def verifier_configs(sweep: SweepConfig) -> list[VerifierConfig]:
    """The verifiers, on top of the base's section where it has the same name.

    Raises:
        ConfigError: one that is not known, or two of one name.
    """
    base = dict(sweep.engine.get("verifier", {}))
    sections = [{"name": v} if isinstance(v, str) else v for v in sweep.verifiers if v != "none"]
    names = [section.get("name", "genprm") for section in sections]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"verifiers names {max(names, key=names.count)} twice; compare the two in sweeps of their own"
        )
    full = [
        (base if base.get("name", "genprm") == name else {}) | section
        for name, section in zip(names, sections, strict=True)
    ]
    return [
        resolved(Config.build({"verifier": section, "strategy": {"name": "best-of-n"}})).verifier for section in full
    ]


def tasks(sweep: SweepConfig, verifiers: Sequence[VerifierConfig]) -> list[Task]:
    """All runs of one policy; those that only sample first, the largest N and K once.

    Raises:
        ConfigError: a search that is not known, has a wrong parameter, or needs a verifier and there is none.
    """
    n, k = max(sweep.n), max(sweep.k)
    names = [verifier.name for verifier in verifiers]
    found = []
    first = Config.build(sweep.engine).run.seed
    for seed in range(first, first + sweep.seeds):
        found += [Task(verifier=name, strategy="best-of-n", n=n, k=k, seed=seed) for name in names]
        found += [] if names else [Task(verifier=None, strategy="self-consistency", n=n, k=0, seed=seed)]
        for search in sweep.searches:
            found += _searches(search, sweep, names, seed)
    return found


def _searches(search: SearchGrid, sweep: SweepConfig, verifiers: Sequence[str], seed: int) -> Iterator[Task]:
    function = lookup(search.name, STRATEGIES, "strategy")
    accepted = inspect.signature(function).parameters
    judged = judges(function)
    if search.name in INDEPENDENT:
        raise ConfigError(f"{search.name} need not be among the searches: n, k and select cover it")
    if judged and not verifiers:
        raise ConfigError(f"strategy {search.name} needs a verifier: name one in verifiers")
    for name, n, k, params in itertools.product(
        verifiers if judged else [None],
        (search.n or sweep.n) if "n" in accepted else [0],
        (search.k or sweep.k) if judged else [0],
        search.params(),
    ):
        given = params | ({"n": n} if n else {})
        check_params(function, given, f"strategy {search.name}", ("search", "samples"))
        yield Task(verifier=name, strategy=search.name, n=n, k=k, seed=seed, params=tuple(sorted(params.items())))


def planned(found: Sequence[Task], problems: Sequence[Problem]) -> str:
    """One line on what is going to be done."""
    sampled = [task for task in found if task.independent]
    kinds = {(task.verifier, task.k): None for task in sampled if task.verifier}
    judged = "".join(f", {k} judgements by {verifier}" for verifier, k in kinds)
    seeds = len({task.seed for task in found})
    searches = len(found) - len(sampled)
    runs = f"; {searches} runs of searches" if searches else ""
    return f"{len(problems)} problems, {seeds} seeds: {max(task.n for task in sampled)} solutions each{judged}{runs}"


def _sentence(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    keys = ", ".join(SweepConfig.model_fields)
    if first["type"] == "extra_forbidden":
        return f"{path or 'the grid'} has no key {place!r}; use one of {keys}"
    return f"{path or 'the grid'}: {place}={first['input']!r} is wrong: {first['msg']}"
