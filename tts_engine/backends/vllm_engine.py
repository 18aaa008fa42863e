"""vLLM engines of this process: one for each base model, however many backends use it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from tts_engine.backends.base import ModelShape
from tts_engine.backends.cores import (
    MALLOC,
    NICE,
    SMALL_BLOCK,
    divides,
    lower,
    pick_dtype,
    small_blocks,
    threads,
    unset,
)
from tts_engine.backends.placement import (
    DEVICES,
    GIB,
    Device,
    Need,
    Share,
    Turns,
    describe,
    divide,
    kv_bytes,
    place,
)
from tts_engine.errors import ConfigError, DataError, first_line

WIDTH = {"bfloat16": 2, "float16": 2, "float32": 4}
CPU_CACHE = 2
"""GiB of keys and values of an engine on a CPU, unless VLLM_CPU_KVCACHE_SPACE or one whole context asks for more."""
IN_ENGINE = "tts_engine.backends.vllm_cpu.InEngine"
NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What tells engines apart; backends with equal ones share an engine.

    Attributes:
        dtype: as in `pick_dtype`.
        args: further keyword arguments of vLLM's `AsyncEngineArgs`, as JSON.
        share: of the GPU's memory; None divides it among the engines of this process by their needs.
        devices: as in CUDA_VISIBLE_DEVICES; empty for all.
        nice: how far this engine stands behind others on a CPU once it proposes (`Engines.step_back`); None: `NICE`
            where all are small.
        tails: whether the ends of prompts are looked for inside blocks, on a CPU.
    """

    folder: Path
    dtype: str
    context: int
    slots: int
    sleep: bool
    trust_remote_code: bool
    share: float | None
    devices: str
    args: str
    nice: int | None
    tails: bool

    @property
    def further(self) -> dict[str, Any]:
        """`args` as a mapping."""
        return dict(json.loads(self.args))

    @property
    def parallel(self) -> int:
        """Devices of one replica."""
        further = self.further
        return int(further.get("tensor_parallel_size", 1) * further.get("pipeline_parallel_size", 1))


@dataclass(slots=True, eq=False, weakref_slot=True)
class Shared:
    """An engine and its users. It starts with the first that enters and ends with the last that leaves."""

    spec: Spec
    shape: ModelShape
    adapters: list[Path] = field(default_factory=list)
    engine: Any = None
    users: int = 0
    cpu: bool = False
    behind: bool = False
    number: int = field(default_factory=lambda: next(NUMBERS))

    @property
    def name(self) -> str:
        """Tells it from other engines, of the same model too."""
        return f"{self.spec.folder.name}-{self.number}"

    @property
    def processes(self) -> list[int]:
        """Numbers of the processes in which it computes on a CPU, as far as this version of vLLM tells them."""
        if not (self.cpu and _unbound(self.spec)):
            return []
        manager = getattr(getattr(self.engine.engine_core, "resources", None), "engine_manager", None)
        return [process.pid for process in getattr(manager, "processes", ())]

    def adapter(self, path: Path) -> int:
        """The number of a LoRA adapter on this base, from 1."""
        if path not in self.adapters:
            self.adapters.append(path)
        return self.adapters.index(path) + 1

    def dtype(self, *, cpu: bool) -> str:
        """That of the weights, on this CPU or on a GPU."""
        if self.spec.dtype != "auto":
            return self.spec.dtype
        return str(pick_dtype("auto", torch.device("cpu" if cpu else "cuda"))).removeprefix("torch.")

    def need(self, *, cpu: bool) -> Need:
        """Memory on each device, weights and cache split over those of one replica."""
        spec, width, parallel = self.spec, WIDTH.get(self.dtype(cpu=cpu), 2), self.spec.parallel
        return Need(
            name=" + ".join((spec.folder.name, *(path.name for path in self.adapters))),
            weights=self.shape.parameters * width // parallel,
            kv_bytes=max(kv_bytes(self.shape, width) // parallel, 1),
            slots=spec.slots,
            context=spec.context,
            devices=spec.devices,
            parallel=parallel,
            turns=spec.sleep,
        )


class Engines:
    """All engines of the process, by what they serve."""

    def __init__(self) -> None:
        self._by_spec: WeakValueDictionary[Spec, Shared] = WeakValueDictionary()
        self._starting = asyncio.Lock()
        self._running = 0
        self.turns = Turns()

    def get(self, spec: Spec, shape: ModelShape) -> Shared:
        """The engine for `spec`, not started yet if it is new. Backends are made before any of them is entered, so
        that an engine knows all its adapters, and whom it shares the device with, when it starts."""
        return self._by_spec.setdefault(spec, Shared(spec=spec, shape=shape))

    async def enter(self, shared: Shared) -> Any:  # noqa: ANN401 - vLLM is not there when types are checked
        """The running engine.

        Raises:
            ConfigError: vLLM is missing. DataError: it does not fit, or does not start; the message has what vLLM said.
        """
        async with self._starting:
            if shared.engine is None:
                self._by_spec[shared.spec] = shared
                if shared.spec.sleep:
                    await self.turns.rest()
                shared.engine, shared.behind = await self._start(shared), False
                remember_texts(shared.engine.output_processor.tokenizer)
                self._running += 1
                if shared.spec.sleep:
                    self.turns.enter(shared.name, shared.engine.wake_up, shared.engine.sleep)
            shared.users += 1
        return shared.engine

    async def leave(self, shared: Shared) -> None:
        """The last one to leave ends the engine."""
        shared.users -= 1
        if shared.users:
            return
        engine, shared.engine = shared.engine, None
        self._by_spec.pop(shared.spec, None)
        self.turns.leave(shared.name)
        await _end(engine)
        self._running -= 1
        if not self._running:  # the next ones may belong to another event loop
            self._starting, self.turns = asyncio.Lock(), Turns()

    def step_back(self, shared: Shared) -> None:
        """An engine that proposes leaves a CPU to those that judge, which have work only as far as it went ahead: its
        own calls meet in larger batches meanwhile, where they would else be computed a few at a time."""
        if shared.behind or self._running < 2:
            return
        shared.behind = True
        nice = shared.spec.nice
        if nice is None:
            nice = NICE if divides([engine.shape.parameters for engine in self._by_spec.values()]) else 0
        for process in shared.processes if nice else ():
            lower(process, nice)

    async def _start(self, shared: Shared) -> Any:  # noqa: ANN401
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise ConfigError(f"the vllm backend needs {error.name}: pip install 'tts-engine[vllm]'") from None
        cpu = shared.cpu = current_platform.is_cpu()
        placed = self.place(current_platform.get_device_total_memory(), cpu=cpu)[shared]
        arguments = _arguments(shared, cpu=cpu) | (_on_cpu(shared) if cpu else _on_gpu(shared.spec, placed))
        try:
            with _environment(_variables(shared, list(self._by_spec.values()), cpu=cpu)):
                args = AsyncEngineArgs(**(arguments | shared.spec.further))
                return await asyncio.to_thread(AsyncLLM.from_engine_args, args)
        except Exception as error:  # vLLM raises anything between TypeError and RuntimeError here
            raise DataError(f"vLLM cannot serve {str(shared.spec.folder)!r}: {first_line(error)}") from error

    def place(self, total: int, *, cpu: bool = False) -> dict[Shared, Share]:
        """How all engines divide devices of `total` bytes; on a CPU they take from its memory what they need.

        Raises:
            DataError: they do not fit.
        """
        everyone = list(self._by_spec.values())
        needs = [shared.need(cpu=cpu) for shared in everyone]
        if cpu:
            divide(total, needs)  # sleep mode frees nothing there
            return {s: _cpu_share(s, need, total) for s, need in zip(everyone, needs, strict=True)}
        return dict(zip(everyone, place(total, needs), strict=True))

    def plan(self, device: Device, *, cpu: bool = False) -> list[str]:
        """What the engines would get of such a device and give, a line for each (placement.py has the formulas).

        Raises:
            DataError: they do not fit.
        """
        shares = self.place(device.memory, cpu=cpu)
        return [describe(shared.need(cpu=cpu), share, device) for shared, share in shares.items()]


def remember_texts(tokenizer: Any) -> None:  # noqa: ANN401
    """vLLM decodes each token by itself where logprobs are asked for, which takes this process longer than all else
    that it does with the token: its text is remembered."""
    decode, known = tokenizer.decode, dict[int, str]()

    def remembered(tokens: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if args or options or not isinstance(tokens, list) or len(tokens) != 1:
            return decode(tokens, *args, **options)
        text = known.get(tokens[0])
        if text is None:
            text = known[tokens[0]] = decode(tokens)
        return text

    tokenizer.decode = remembered


async def _end(engine: Any) -> None:  # noqa: ANN401
    """Shut an engine down. Its reader is stopped first, or it takes the end for a crash and logs one."""
    reader = getattr(engine, "output_handler", None)
    if reader is not None:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    engine.shutdown()


def _arguments(shared: Shared, *, cpu: bool) -> dict[str, Any]:
    spec = shared.spec
    arguments: dict[str, Any] = {
        "model": str(spec.folder),
        "dtype": shared.dtype(cpu=cpu),
        "max_model_len": spec.context,
        "max_num_seqs": spec.slots,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        "load_format": "safetensors",
        "trust_remote_code": spec.trust_remote_code,
        "disable_log_stats": True,
    }
    if shared.adapters:
        rank = max(map(_rank, shared.adapters))
        places = len(shared.adapters) + cpu  # a CPU gives requests without an adapter the last place: it must be empty
        arguments |= {"enable_lora": True, "max_loras": places, "max_lora_rank": rank}
    return arguments


def _on_cpu(shared: Shared) -> dict[str, Any]:
    """Chunked prefill kills a CPU engine when a request has a seed; compilation gains little; nothing can sleep. Only
    whole blocks are cached, and its own default of 128 tokens would hold next to nothing of a search's short steps."""
    arguments: dict[str, Any] = {
        "block_size": 32,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(shared.spec.context, 4096),
    }
    if _unbound(shared.spec):
        arguments["distributed_executor_backend"] = IN_ENGINE
        if shared.spec.tails:
            arguments["kv_transfer_config"] = _connector()
        if small_blocks(shared.shape.parameters):
            arguments["block_size"] = SMALL_BLOCK
    return arguments


def _connector() -> Any:  # noqa: ANN401
    from vllm.config import KVTransferConfig

    return KVTransferConfig(
        kv_connector="TailConnector", kv_connector_module_path="tts_engine.backends.vllm_tails", kv_role="kv_producer"
    )


def _unbound(spec: Spec) -> bool:
    """Whether a CPU engine computes in its own process, on threads that the system places. vLLM itself has a process
    beside it, bound to cores: the two poll for each other's messages, and several engines get the same cores."""
    alone = spec.parallel * spec.further.get("data_parallel_size", 1) == 1
    return alone and not os.environ.get("VLLM_CPU_OMP_THREADS_BIND")


def _on_gpu(spec: Spec, placed: Share) -> dict[str, Any]:
    return {"gpu_memory_utilization": round(spec.share or placed.share, 3), "enable_sleep_mode": spec.sleep}


def _variables(shared: Shared, engines: Sequence[Shared], *, cpu: bool) -> dict[str, str]:
    """What vLLM reads from the environment when one of these engines starts."""
    if not cpu:
        return {"CUDA_VISIBLE_DEVICES": shared.spec.devices} if shared.spec.devices else {}
    memory = unset({"VLLM_CPU_KVCACHE_SPACE": str(_cpu_cache(shared.need(cpu=True))), **MALLOC})
    return memory | (threads([engine.shape.parameters for engine in engines]) if _unbound(shared.spec) else {})


def _cpu_cache(need: Need) -> int:
    """GiB of keys and values on a CPU."""
    asked = int(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or CPU_CACHE)
    return max(asked, math.ceil(need.context * need.kv_bytes / GIB))


def _cpu_share(shared: Shared, need: Need, total: int) -> Share:
    cache = _cpu_cache(need) * GIB
    return Share(name=shared.name, share=(need.fixed + cache) / total, kv_tokens=cache // need.kv_bytes)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set while an engine starts: its processes inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _rank(adapter: Path) -> int:
    """Rank of a LoRA adapter, raised to one that vLLM has kernels for."""
    rank = int(adapter_config(adapter)["r"])
    return next((r for r in (8, 16, 32, 64, 128, 256, 320, 512) if r >= rank), rank)


def adapter_config(folder: Path) -> dict[str, Any]:
    """What peft wrote beside an adapter.

    Raises:
        DataError: the folder holds no LoRA adapter.
    """
    try:
        found = dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
        return found | {"r": int(found["r"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(folder)!r} holds no LoRA adapter ({error}): give the folder that peft saved") from error


def device_here() -> tuple[Device, bool]:
    """The device vLLM would use, as far as it is known, and whether it is a CPU."""
    try:
        from vllm.platforms import current_platform
    except ImportError:
        raise ConfigError("without vLLM the device is not known: name it, such as --explain H100") from None
    memory, cpu = current_platform.get_device_total_memory(), current_platform.is_cpu()
    name = "" if cpu else current_platform.get_device_name().replace(" ", "")
    known = next((device for key, device in DEVICES.items() if key.split("-")[0] in name), Device(memory=0))
    return replace(known, memory=memory), cpu


ENGINES = Engines()
