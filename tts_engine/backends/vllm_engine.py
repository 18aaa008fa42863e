"""vLLM engines of this process: one for each base model, however many backends use it."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tts_engine.backends.base import ModelShape
from tts_engine.backends.placement import GIB, Need, Share, Turns, divide, kv_bytes
from tts_engine.errors import DataError

WIDTH = {"bfloat16": 2, "float16": 2, "float32": 4}
CPU_CACHE = 2
"""GiB of keys and values of an engine on a CPU, unless VLLM_CPU_KVCACHE_SPACE says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What tells engines apart; backends with equal ones share an engine.

    Attributes:
        args: further keyword arguments of vLLM's `AsyncEngineArgs`, as JSON.
        share: of the GPU's memory; None divides it among the engines of this process by their needs.
    """

    folder: Path
    dtype: str
    context: int
    slots: int
    sleep: bool
    trust_remote_code: bool
    share: float | None
    args: str


@dataclass(slots=True, eq=False)
class Shared:
    """An engine and its users. It starts with the first that enters and ends with the last that leaves."""

    spec: Spec
    shape: ModelShape
    adapters: list[str] = field(default_factory=list)
    engine: Any = None
    placed: Share | None = None
    users: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def adapter(self, path: str) -> int:
        """The number of a LoRA adapter on this base, from 1."""
        if path not in self.adapters:
            self.adapters.append(path)
        return self.adapters.index(path) + 1

    @property
    def width(self) -> int:
        """Bytes a number."""
        return WIDTH.get(self.spec.dtype, 2)

    def need(self) -> Need:
        """Its weights, and half of the context for each of its slots."""
        return Need(
            name=self.spec.folder.name,
            weights=self.shape.parameters * self.width,
            kv_bytes=kv_bytes(self.shape, self.width),
            tokens=self.spec.slots * self.spec.context // 2,
        )


class Engines:
    """All engines of the process, by what they serve."""

    def __init__(self) -> None:
        self._by_spec: dict[Spec, Shared] = {}
        self._starting = asyncio.Lock()
        self.turns = Turns()

    def get(self, spec: Spec, shape: ModelShape) -> Shared:
        """The engine for `spec`, not started yet if it is new. Backends are made before any of them is entered, so
        that an engine knows all its adapters, and whom it shares the device with, when it starts."""
        return self._by_spec.setdefault(spec, Shared(spec=spec, shape=shape))

    async def enter(self, shared: Shared) -> Any:  # noqa: ANN401 - vLLM is not there when types are checked
        """The running engine.

        Raises:
            DataError: it does not start; what vLLM said is in the message.
        """
        async with self._starting:
            if shared.engine is None:
                if shared.spec.sleep:
                    await self.turns.rest()
                shared.engine = await self._start(shared)
                if shared.spec.sleep:
                    self.turns.enter(shared.spec.folder.name, shared.engine.wake_up, shared.engine.sleep)
            shared.users += 1
        return shared.engine

    async def leave(self, shared: Shared) -> None:
        """The last one to leave ends the engine."""
        shared.users -= 1
        if not shared.users:
            engine, shared.engine = shared.engine, None
            self._by_spec.pop(shared.spec, None)
            engine.shutdown()

    def drop(self, shared: Shared) -> None:
        """Forget an engine that was never started."""
        if not shared.users:
            self._by_spec.pop(shared.spec, None)

    async def _start(self, shared: Shared) -> Any:  # noqa: ANN401
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            args = AsyncEngineArgs(**self._arguments(shared))
            return await asyncio.to_thread(AsyncLLM.from_engine_args, args)
        except DataError:
            raise
        except Exception as error:  # vLLM raises anything between TypeError and RuntimeError here
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"vLLM cannot serve {str(shared.spec.folder)!r}: {reason}") from error

    def _arguments(self, shared: Shared) -> dict[str, Any]:
        from vllm.platforms import current_platform

        spec = shared.spec
        arguments: dict[str, Any] = {
            "model": str(spec.folder),
            "dtype": spec.dtype,
            "max_model_len": spec.context,
            "max_num_seqs": spec.slots,
            "enable_prefix_caching": True,
            "scheduling_policy": "priority",
            "load_format": "safetensors",
            "trust_remote_code": spec.trust_remote_code,
            "enable_sleep_mode": spec.sleep,
            "disable_log_stats": True,
        }
        if shared.adapters:
            rank = max(map(_rank, shared.adapters))
            arguments |= {"enable_lora": True, "max_loras": len(shared.adapters), "max_lora_rank": rank}
        arguments |= self._on_cpu(spec) if current_platform.is_cpu() else self._on_gpu(shared)
        further: dict[str, Any] = json.loads(spec.args)
        return arguments | further

    def _on_cpu(self, spec: Spec) -> dict[str, Any]:
        """Chunked prefill kills a CPU engine when a request has a seed, compilation gains little."""
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_CACHE))
        return {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(spec.context, 4096),
        }

    def _on_gpu(self, shared: Shared) -> dict[str, Any]:
        share = shared.spec.share or self.place(_device_bytes())[shared.spec].share
        return {"gpu_memory_utilization": round(share, 3)}

    def place(self, total: int) -> dict[Spec, Share]:
        """How the engines divide a device of `total` bytes; those that take turns get all that the others leave.

        Raises:
            DataError: they do not fit.
        """
        awake = [shared for shared in self._by_spec.values() if not shared.spec.sleep]
        turning = [shared for shared in self._by_spec.values() if shared.spec.sleep]
        biggest = max(turning, key=lambda shared: shared.need().fixed, default=None)
        together = [*awake, biggest] if biggest else awake
        placed = dict(zip((one.spec for one in together), divide(total, [one.need() for one in together]), strict=True))
        for other in turning:
            if biggest and other is not biggest:
                placed[other.spec] = _alone(placed[biggest.spec], biggest.need(), other.need())
        for shared in self._by_spec.values():
            shared.placed = placed[shared.spec]
        return placed


def _alone(place: Share, biggest: Need, need: Need) -> Share:
    """The share of one that takes turns with the biggest: as much memory, its own number of tokens."""
    room = biggest.fixed + place.kv_tokens * biggest.kv_bytes
    return Share(name=need.name, share=place.share, kv_tokens=(room - need.fixed) // need.kv_bytes)


def _rank(adapter: str) -> int:
    """Rank of a LoRA adapter, raised to one that vLLM has kernels for.

    Raises:
        DataError: the folder holds no adapter.
    """
    try:
        rank = int(json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{adapter!r} holds no LoRA adapter ({error}): give the folder that peft saved") from error
    return next((r for r in (8, 16, 32, 64, 128, 256, 320, 512) if r >= rank), rank)


def _device_bytes() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[1])


def plan(shared: Shared, total: int | None) -> str:
    """One line: weights, memory for keys and values, tokens that fit."""
    need = shared.need()
    line = f"{need.weights / GIB:.2f} GiB of weights, {need.kv_bytes / 1024:.1f} KiB of keys and values a token"
    if total is None or shared.placed is None:
        return line
    room = shared.placed
    return f"{line}; {100 * room.share:.0f} % of {total / GIB:.0f} GiB, room for {room.kv_tokens:,} tokens"


ENGINES = Engines()
