"""A Ray cluster: joined, or started on this machine for one run. The only place that knows Ray."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from tts_engine.config import Config
from tts_engine.errors import ConfigError, TTSError, first_line
from tts_engine.parts import wanted_models
from tts_engine.scaleout.messages import Batch, Hello, Task
from tts_engine.scaleout.worker import Worker
from tts_engine.types import Outcome, Problem

CONNECT_SECONDS = 5.0
STORE_BYTES = 80 * 2**20
"""Shared memory of a local cluster: nothing large is put there."""
IN_PROCESS = ("local", "vllm")
"""Backends that run a model inside the worker."""
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""No statistics are sent; workers without GPUs see none."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch that, set to 0, keeps a local cluster on the loopback address, on Linux too."""


class WorkerLost(TTSError):
    """A worker's process or machine has gone; `str(error)` says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a worker takes of the cluster."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, config: Config, nodes: Sequence[Mapping[str, float]]) -> Need:
        """As configured; without a word on GPUs, one where there are some and a worker runs a model itself."""
        gpus = config.ray.gpus_per_worker
        if gpus is None:
            judging = [] if config.verifier.name == "none" else [config.verifier]
            models = wanted_models(config.policy, judging).values()
            gpus = float(any(m.backend in IN_PROCESS for m in models) and any(node.get("GPU") for node in nodes))
        return cls(cpus=config.ray.cpus_per_worker, gpus=gpus)

    def room(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """How many workers fit on the nodes, if nothing else runs there."""
        pairs = (("CPU", self.cpus), ("GPU", self.gpus))
        return sum(min(int(node.get(name, 0) / each) for name, each in pairs if each > 0) for node in nodes)

    def __str__(self) -> str:
        return f"CPU={self.cpus:g}" + (f", GPU={self.gpus:g}" if self.gpus else "")


class Hand:
    """A worker on the cluster, seen from the driver. Every call raises `WorkerLost` once it has gone.

    Attributes:
        hello: who it is, once it has started.
        finished: whether it has solved a problem.
        checks: how many of the journal's checks it knows.
    """

    def __init__(self, actor: Any, ray: Any) -> None:  # noqa: ANN401  # Ray is optional, and types neither
        self._actor = actor
        self._ray = ray
        self.hello: Hello | None = None
        self.finished = False
        self.checks = 0

    async def place(self) -> None:
        await self._answer("place")

    async def start(self) -> Hello:
        self.hello = cast(Hello, await self._answer("start"))
        return self.hello

    async def check(self, problems: Sequence[Problem]) -> None:
        await self._answer("check", problems)

    async def solve(self, task: Task) -> Outcome:
        outcome = cast(Outcome, await self._answer("solve", task))
        self.finished = True
        return outcome

    async def exchange(self) -> Batch:
        return cast(Batch, await self._answer("exchange"))

    async def stop(self) -> None:
        await self._answer("stop")

    def dismiss(self) -> None:
        """End its process."""
        self._ray.kill(self._actor, no_restart=True)

    async def _answer(self, method: str, *arguments: Any) -> Any:  # noqa: ANN401
        from ray.exceptions import RayError, RayTaskError

        try:
            return await getattr(self._actor, method).remote(*arguments)
        except RayTaskError as error:  # raised by the worker's own code
            raise error.cause from None
        except RayError as error:
            raise WorkerLost(reason(str(error))) from None


class Cluster:
    """A Ray cluster. A context manager; leaving ends what was started for it.

    Args:
        address: `HOST:PORT`; or `auto`: the one that RAY_ADDRESS names or `ray start` has started on this machine, else
            a new one on this machine alone, whose ports cannot be reached from elsewhere.

    Raises:
        ConfigError: (on entering) Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._folder: str | None = None
        self._ray: Any = None

    @property
    def local(self) -> bool:
        """Whether it was started for this run."""
        return self._folder is not None

    def nodes(self) -> list[dict[str, float]]:
        """The resources of each machine that is there, by Ray's names (`CPU`, `GPU`)."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def hire(self, config: Config, need: Need) -> Hand:
        """Ask for a worker, wherever there is room; `Hand.place` returns when it has got it."""
        actor = self._ray.remote(Worker).options(
            num_cpus=need.cpus,
            num_gpus=need.gpus,
            max_restarts=0,
            max_concurrency=config.run.concurrency + 8,
            scheduling_strategy="SPREAD",
        )
        return Hand(actor.remote(config.model_dump(mode="json")), self._ray)

    def __enter__(self) -> Cluster:
        self._ray = _import_ray()
        self._ray._private.worker.print_to_stdstream = _unheard
        address = _chosen(self._address)
        try:
            if address is None:
                self._start()
            else:
                self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            self._leave()
            where = f"join the Ray cluster at {address}" if address else "start Ray on this machine"
            raise ConfigError(f"cannot {where} ({first_line(error)[:200]}); see to it, or leave out --ray") from None
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()

    def _start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="tts-ray-", dir="/tmp")  # Ray's sockets have long names below it
        with loopback():
            self._ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=self._folder,
            )

    def _leave(self) -> None:
        self._ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def loopback() -> Iterator[None]:
    """What Ray starts meanwhile listens on the loopback address alone."""
    from ray._private import ray_constants  # which has read the switch when Ray was imported

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    os.environ[LOOPBACK] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(LOOPBACK, None)


def _unheard(*args: object, **kwargs: object) -> None:
    """Takes what Ray would print about lost workers over our display: the driver says it in a line."""


def _import_ray() -> Any:  # noqa: ANN401
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ConfigError("--ray needs Ray: pip install 'tts-engine[ray]'") from None
    return ray


def _chosen(address: str) -> str | None:
    """The address of a cluster that answers; None for a new one on this machine."""
    if address != "auto":
        return _answering(address, "--ray")
    named = os.environ.get("RAY_ADDRESS")
    if named and named not in ("auto", "local"):
        return _answering(named, "RAY_ADDRESS")
    from ray._private.utils import read_ray_address

    started = read_ray_address()
    return started if started and _answers(started) else None


def _answering(address: str, source: str) -> str:
    """`address`, after a look whether anyone is there: Ray itself would try for a minute."""
    if not re.fullmatch(r"[^/]+:\d{1,5}", address):
        raise ConfigError(f"{source} {address} is not of the form HOST:PORT (or auto)")
    if not _answers(address):
        raise ConfigError(f"no Ray cluster answers at {address}; start one there (ray start --head), or use --ray auto")
    return address


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return True
    except (OSError, OverflowError):
        return False


def reason(text: str) -> str:
    """One line from what Ray says of a lost worker."""
    detail = re.search(r"exit detail: ([^.\n]+)|^(\w*Error: .+)$|([^.\n]*node[^.\n]*(?:died|dead)[^.\n]*)", text, re.M)
    found = next((group for group in detail.groups() if group), "") if detail else ""
    return (found or next((line for line in text.splitlines() if line.strip()), "no reason given")).strip()[:200]
