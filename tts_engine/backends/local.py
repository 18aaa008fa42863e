"""A Hugging Face causal LM in this process, on a CPU or one GPU, with continuous batching and prefix reuse.

Repeatable: a completion depends on the request alone (prompt, sampling, key) up to the rounding of the matrix
products. On CPUs with bf16 instructions (`dtype="auto"` there) it is the same to the bit whatever else runs beside it
and whatever was cached; in fp32 prompts and completions are rounded differently (about 1e-6), so a cached prefix can
move a draw that is closer to a border than that. On a GPU nothing of the kind is promised.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from tts_engine.backends.base import CallCancelled, ModelInfo, counted
from tts_engine.backends.cores import pick_dtype
from tts_engine.backends.local_attention import PAGE
from tts_engine.backends.local_calls import Call
from tts_engine.backends.local_engine import Engine, Result
from tts_engine.backends.local_model import (
    Weights,
    fingerprint,
    load,
    pick_device,
    read_config,
)
from tts_engine.backends.local_slots import pages_for
from tts_engine.backends.local_text import Encoder, Recent, Stops, token_bytes
from tts_engine.backends.shapes import count_parameters, shape_of
from tts_engine.errors import BackendError, ConfigError, DataError
from tts_engine.types import Completion, Prompt, Request, Usage


class LocalBackend:
    """Serves one model; see `tts_engine.backends.base.Backend`.

    A prompt that repeats tokens some earlier or running request has computed (from the start on) reuses them. A
    completion that comes back as a continuation segment is encoded afresh: where the tokenizer would have cut it
    otherwise than the model did, the rest is computed again, so that results never depend on what is cached.

    Args:
        model: folder with config.json, *.safetensors and a tokenizer, or the name of a model in the hub.
        name: how requests name the model; the folder's name by default.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: `auto`, `float32`, `bfloat16`, `float16`.
        slots: sequences that run at once.
        kept: sequences that have ended and are kept for their prefix; with fewer, prompts are computed again.
        context: most tokens of prompt and completion; the model's own by default.
        threads: cores for the matrix products; half of the cores by default, for two models share a machine. Torch
            keeps one number for the whole process: the backend that was opened last decides.
        kv_bytes: memory for keys and values at most; a quarter of the machine's memory (of the GPU's free memory,
            half) by default. On a CPU it is taken page by page.

    Raises:
        DataError: the folder holds no usable model.
        ConfigError: an argument makes no sense.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        slots: int = 256,
        kept: int = 512,
        context: int | None = None,
        threads: int | None = None,
        kv_bytes: int | None = None,
    ) -> None:
        if min(slots, 1 if threads is None else threads) < 1 or kept < 0 or (context is not None and context < 2):
            raise ConfigError("slots and threads must be at least 1, kept at least 0, context at least 2")
        if dtype not in {"auto", "float32", "bfloat16", "float16"}:
            raise ConfigError(f"unknown dtype {dtype!r}: use auto, float32, bfloat16 or float16")
        self.folder = resolve(model)
        self._config = read_config(self.folder)
        self._name = name or self.folder.name
        self._device, self._dtype = pick_device(device), dtype
        self._batch, self._slots, self._kv_bytes = slots, slots + kept, kv_bytes
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) // 2)
        own = getattr(self._config.get_text_config(), "max_position_embeddings", None) or 4096
        self._context = min(context or own, own)
        self._usage = Usage()
        self._open = False

    @cached_property
    def info(self) -> ModelInfo:
        """Name, sizes and fingerprint, read from the files (all of them, once)."""
        shape = shape_of(self._config, count_parameters(self.folder))
        return ModelInfo(name=self._name, context=self._context, shape=shape, fingerprint=fingerprint(self.folder))

    async def __aenter__(self) -> LocalBackend:
        await asyncio.to_thread(self._load)
        self._thread = threading.Thread(
            target=self._engine.run, args=(self._threads,), name=f"engine of {self._name}", daemon=True
        )
        self._thread.start()
        self._open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open = False
        self._engine.close()
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)  # what the engine delivered last

    def _load(self) -> None:
        weights = load(self.folder, self._device, pick_dtype(self._dtype, self._device))
        pieces = token_bytes(weights.tokenizer)
        pieces += [b""] * (weights.vocabulary - len(pieces))  # output rows beyond the tokenizer
        self._encoder = Encoder(weights.tokenizer)
        self._watches = Recent(self._encoder.watched, 256)
        self._stops = Recent(lambda stops: Stops(stops, pieces, weights.vocabulary), 256)
        self._engine = Engine(
            weights,
            pieces,
            self._deliver,
            batch=self._batch,
            slots=self._slots,
            context=self._context,
            pages=self._pages(weights),
        )

    def _pages(self, weights: Weights) -> int:
        """As many pages as those that run can use, within `kv_bytes`; what is kept shares them."""
        allowed = (self._kv_bytes or _spare_bytes(self._device)) // weights.page_bytes
        one = pages_for(self._context)
        if allowed < one:
            raise DataError(
                f"a context of {self._context} tokens needs {one * weights.page_bytes >> 20} MiB of cache, more than "
                f"kv_bytes allows: raise kv_bytes or lower context to {allowed * PAGE} tokens"
            )
        return min(allowed, one * self._batch)

    async def complete(self, request: Request) -> Completion:
        """Answer a request; see `Backend.complete`."""
        call = self._call(request)
        self._engine.submit(call)
        try:
            result = await call.future
        except asyncio.CancelledError:
            raise CallCancelled(await self._abandon(call)) from None
        if isinstance(result, Exception):
            raise result
        self._usage += result.usage
        return result

    def count_tokens(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt, exactly."""
        return len(self._encoder.prompt(prompt))

    def counters(self) -> dict[str, float]:
        """What this backend did so far.

        `prompt`, `cached`, `completion`, `cancelled` and `calls` add up the usages of all calls, cancelled ones
        included. The engine's own: `drawn` tokens, `steps`, `busy_seconds` in steps, and `cpu_seconds`, what its thread
        computed in these (the rest is waiting for the interpreter or a core).
        """
        engine = self._engine
        own = {"drawn": engine.drawn, "steps": engine.steps, "busy_seconds": engine.busy, "cpu_seconds": engine.cpu}
        return counted(self._usage) | own

    def _call(self, request: Request) -> Call:
        """Check a request and put it into the engine's terms."""
        if not self._open:
            raise BackendError(f"the backend of {self._name} is not open: use it inside `async with`")
        sampling = request.sampling
        tokens = self._encoder.request(request, self._name, self._context)
        return Call(
            tokens=tokens,
            sampling=sampling,
            stops=self._stops(sampling.stop),
            watch=self._watches(sampling.watch),
            seed=request.key.int(),
            priority=request.priority,
            limit=min(len(tokens) + sampling.max_tokens, self._context),
            future=asyncio.get_running_loop().create_future(),
            sent=time.perf_counter(),
            prompt=len(tokens),
        )

    async def _abandon(self, call: Call) -> Usage:
        """The caller is gone: stop the engine's work, wait for its last step on it, count what it had computed."""
        if call.ended is None:
            call.future = asyncio.get_running_loop().create_future()  # its last result comes here
            call.cancelled = True
            self._engine.submit(call)
            await _until_done(call.future)
        if not isinstance(call.ended, Completion):
            return Usage()
        usage = call.ended.usage
        lost = replace(usage, completion=0, cancelled=usage.completion + usage.cancelled)
        self._usage += lost
        return lost

    def _deliver(self, results: list[Result]) -> None:
        """Runs in the event loop."""
        for call, result in results:
            call.ended = result
            if not call.future.done():  # else it was cancelled a moment ago; its caller sees what it cost
                call.future.set_result(result)


async def _until_done(future: asyncio.Future[Completion | Exception]) -> None:
    """Wait, whoever cancels meanwhile: the engine ends every call within a step, also when it fails or closes."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])


def resolve(model: str | Path, *, code: bool = False) -> Path:
    """The folder of a model; a name such as `Qwen/Qwen2.5-0.5B` is looked for in the hub.

    Args:
        code: the Python code that comes with it is wanted too.

    Raises:
        DataError: there is no such folder, nor such a model within reach.
    """
    folder = Path(model).expanduser()
    if folder.is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)) or str(model).startswith("."):
        return folder
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", *(["*.py"] if code else ())]
        return Path(snapshot_download(str(model), allow_patterns=wanted))
    except Exception as error:  # the hub's client raises many kinds, all of which mean the same here
        raise DataError(
            f"no model folder {str(model)!r}, and no such model can be had from the hub: give the path of a folder"
        ) from error


def _spare_bytes(device: torch.device) -> int:
    """Memory that keys and values may take by default."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
