"""A model in a vLLM engine inside this process: prefix caching, priorities, seeds, abort on cancel.

Written against what vLLM 0.26 and 0.32 share. Prompts go to the engine as token ids, encoded segment by segment like
those of the local backend, so a turn that is generated in several calls finds its keys and values in the cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import PurePath
from typing import Any

from tts_engine.backends.base import CallCancelled, ModelInfo, counted
from tts_engine.backends.local import resolve
from tts_engine.backends.local_model import fingerprint, read_config
from tts_engine.backends.local_text import Encoder, Recent
from tts_engine.backends.shapes import count_parameters, shape_of
from tts_engine.backends.vllm_engine import ENGINES, Spec, adapter_config
from tts_engine.errors import BackendError, ConfigError, EndpointDown
from tts_engine.types import Completion, Finish, Prompt, Request, Role, Sampling, TokenLogprob, Usage

MOST_SEED = 2**63
PROPOSING = (Role.GENERATE, Role.REFINE)
"""Whose texts become candidates; the other roles judge."""
FINISHES = {"length": Finish.LENGTH, "abort": Finish.ABORTED}


class VLLMBackend:
    """Serves one model, or a LoRA adapter on it; see `tts_engine.backends.base.Backend`.

    Backends with the same base model and the same options share one engine, its memory and its scheduler: the policy
    and a verifier that is a LoRA adapter on it, or the same model in both roles. Different models on one GPU divide
    its memory by their needs, or take turns (`sleep`).

    Args:
        model: folder with config.json, *.safetensors and a tokenizer, or the name of a model in the hub; or the folder
            of a LoRA adapter (peft).
        name: how requests name the model; the folder's name by default.
        base: the model that an adapter belongs to; the one its adapter_config.json names by default.
        dtype: `auto` (float32 on a CPU without bfloat16 instructions, else bfloat16), `bfloat16`, `float16`, `float32`.
        context: most tokens of prompt and completion; the model's own by default.
        slots: sequences that run at once.
        memory: share of the GPU for this engine, 0 to 1; by default divided by need.
        sleep: this engine may be laid to rest while another one with `sleep` runs.
        devices: the GPUs of this engine, as in CUDA_VISIBLE_DEVICES (`"0"`, `"0,1"`); all by default.
        trust_remote_code: run Python code that comes with the model.
        nice: on a CPU that several engines share, how far this one stands behind the others once it proposes steps, so
            that judging goes first (0 to 19, as in `nice`; by default 10 where they divide the cores, else 0).
        tails: on a CPU, find the ends of prompts inside the blocks of the prefix cache too (vllm_tails.py).
        engine: further arguments of vLLM's AsyncEngineArgs (`tensor_parallel_size`, `quantization`, ...).

    Raises:
        DataError: the folder holds no usable model. ConfigError: an argument makes no sense, or vLLM is missing.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        base: str | None = None,
        dtype: str = "auto",
        context: int | None = None,
        slots: int = 256,
        memory: float | None = None,
        sleep: bool = False,
        devices: str = "",
        trust_remote_code: bool = False,
        nice: int | None = None,
        tails: bool = True,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        if slots < 1 or (context is not None and context < 2) or (memory is not None and not 0 < memory <= 1):
            raise ConfigError("slots must be at least 1, context at least 2, memory a share above 0 and at most 1")
        if nice is not None and not 0 <= nice <= 19:
            raise ConfigError(f"nice is {nice}: use 0 (all engines alike) to 19 (last of all)")
        folder = resolve(model, code=trust_remote_code)
        self._adapter_folder = folder if (folder / "adapter_config.json").is_file() else None
        if self._adapter_folder:
            base = base or str(adapter_config(folder).get("base_model_name_or_path"))
            folder = resolve(base, code=trust_remote_code)
        self.folder = folder
        config = read_config(folder, trust_remote_code=trust_remote_code)
        own = getattr(config.get_text_config(), "max_position_embeddings", None) or 4096
        self._name = name or PurePath(model).name
        self._context = min(context or own, own)
        spec = Spec(
            folder=folder,
            dtype=dtype,
            context=self._context,
            slots=slots,
            sleep=sleep,
            trust_remote_code=trust_remote_code,
            share=memory,
            devices=devices,
            args=json.dumps(dict(engine or {}), sort_keys=True),
            nice=nice,
            tails=tails,
        )
        self._shared = ENGINES.get(spec, shape_of(config, count_parameters(folder)))
        self._number = self._shared.adapter(self._adapter_folder) if self._adapter_folder else 0
        self._usage = Usage()
        self._requests = itertools.count()
        self._engine: Any = None

    @cached_property
    def info(self) -> ModelInfo:
        """Name, sizes and fingerprint (of the adapter too), read from the files."""
        folders = [self.folder, *([self._adapter_folder] if self._adapter_folder else ())]
        print_ = "".join(map(fingerprint, folders))
        return ModelInfo(name=self._name, context=self._context, shape=self._shared.shape, fingerprint=print_)

    async def __aenter__(self) -> VLLMBackend:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self._shared.spec.trust_remote_code)
        self._encoder = Encoder(tokenizer)
        self._watches = Recent(self._encoder.watched, 256)
        self._engine = await ENGINES.enter(self._shared)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._engine = None
        await ENGINES.leave(self._shared)

    def count_tokens(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt, exactly."""
        return len(self.tokens(prompt))

    def tokens(self, prompt: Prompt) -> list[int]:
        """A prompt as the engine gets it."""
        return self._encoder.prompt(prompt)

    def asked(self, request: Request, tokens: list[int]) -> dict[str, Any]:
        """What AsyncLLM's `generate` is asked for a request with this prompt."""
        return {
            "prompt": {"prompt_token_ids": tokens},
            "sampling_params": self._params(request, len(tokens)),
            "priority": request.priority,
            "lora_request": self._adapter(),
        }

    @property
    def block_size(self) -> int:
        """Tokens that the running engine's prefix cache keeps or drops together."""
        return int(self._engine.vllm_config.cache_config.block_size)

    @property
    def engine(self) -> Any:  # noqa: ANN401
        """vLLM's own AsyncLLM while this backend is open."""
        return self._engine

    async def forget(self) -> None:
        """Empty the engine's prefix cache."""
        await self._engine.reset_prefix_cache(reset_connector=True)

    def counters(self) -> dict[str, float]:
        """What this backend did so far: tokens by kind, calls, and how often engines took turns."""
        return counted(self._usage) | {"switches": ENGINES.turns.switches}

    async def complete(self, request: Request) -> Completion:
        """Answer a request; see `Backend.complete`."""
        if self._engine is None:
            raise BackendError(f"the backend of {self._name} is not open: use it inside `async with`")
        if request.role in PROPOSING:
            ENGINES.step_back(self._shared)
        tokens = self._encoder.request(request, self._name, self._context)
        sent = time.perf_counter()
        async with self._turn():
            output = await self._run(request, tokens)
        completion = self._completion(request.sampling, output, len(tokens), time.perf_counter() - sent)
        self._usage += completion.usage
        return completion

    def _turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return ENGINES.turns.use(self._shared.name) if self._shared.spec.sleep else nullcontext()

    async def _run(self, request: Request, tokens: list[int]) -> Any:  # noqa: ANN401 - vLLM's RequestOutput
        """The finished output. A cancellation aborts the request and is raised again with what it had computed."""
        number = f"{self._name}-{next(self._requests)}"
        work = asyncio.ensure_future(self._last(request, tokens, number))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await self._engine.abort(number)
            usage = await self._lost(work, len(tokens))
            self._usage += usage
            raise CallCancelled(usage) from None

    async def _last(self, request: Request, tokens: list[int], number: str) -> Any:  # noqa: ANN401
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            asked = self.asked(request, tokens)
            outputs = [one async for one in self._engine.generate(request_id=number, **asked)]
        except EngineDeadError as error:
            raise EndpointDown(f"the vLLM engine of {self._name} died: see its log, then resume the run") from error
        except BackendError:
            raise
        except Exception as error:  # its kind differs from version to version
            raise BackendError(f"vLLM refused a call of {self._name}: {error}") from error
        if not outputs:
            raise BackendError(f"vLLM gave no output for a call of {self._name}")
        return outputs[-1]

    async def _lost(self, work: asyncio.Future[Any], prompt: int) -> Usage:
        """What an aborted request had computed."""
        try:
            output = await work
        except (BackendError, EndpointDown, asyncio.CancelledError):
            return Usage(calls=1)
        generated = len(output.outputs[0].token_ids) if output.outputs else 0
        if not generated:  # it may never have been scheduled
            return Usage(calls=1)
        return Usage(prompt=prompt, cached=output.num_cached_tokens or 0, cancelled=generated, calls=1)

    def _adapter(self) -> Any:  # noqa: ANN401
        if self._adapter_folder is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(f"adapter-{self._number}", self._number, str(self._adapter_folder))

    def _params(self, request: Request, prompt: int) -> Any:  # noqa: ANN401
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        sampling = request.sampling
        watch = [token for _, token in self._watches(sampling.watch)]
        details: dict[str, Any] = {"logprobs": sampling.logprobs}
        if watch and sampling.logprobs == 0 and "logprob_token_ids" in SamplingParams.__struct_fields__:
            details = {"logprob_token_ids": watch}
        elif not sampling.logprobs and not watch and request.role not in PROPOSING:
            details = {}  # they take this process as long as the tokens themselves, for a mean that nobody reads
        elif watch:
            details = {"logprobs": max(sampling.logprobs, 20)}
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=request.key.int() % MOST_SEED,
            stop=list(sampling.stop) or None,
            include_stop_str_in_output=sampling.include_stop,
            max_tokens=min(sampling.max_tokens, self._context - prompt),
            output_kind=RequestOutputKind.FINAL_ONLY,
            spaces_between_special_tokens=False,
            **details,
        )

    def _completion(self, sampling: Sampling, output: Any, prompt: int, seconds: float) -> Completion:  # noqa: ANN401
        said = output.outputs[0]
        count = len(said.token_ids)
        stop = said.stop_reason if isinstance(said.stop_reason, str) else None
        finish = Finish.STOP if stop is not None else FINISHES.get(said.finish_reason, Finish.EOS)
        return Completion(
            text=said.text,
            tokens=count,
            finish=finish,
            stop=stop,
            logprobs=self._logprobs(sampling, said) if sampling.watch or sampling.logprobs else (),
            mean_logprob=_mean(said),
            usage=Usage(
                prompt=prompt, cached=output.num_cached_tokens or 0, completion=count, calls=1, seconds=seconds
            ),
        )

    def _logprobs(self, sampling: Sampling, said: Any) -> tuple[TokenLogprob, ...]:  # noqa: ANN401
        watch = self._watches(sampling.watch)
        entries = []
        for token, table in zip(said.token_ids, said.logprobs or (), strict=False):
            ranked = sorted(table.items(), key=lambda item: -item[1].logprob)[: sampling.logprobs]
            others = {value.decoded_token or "": value.logprob for _, value in ranked}
            others |= {text: table[number].logprob for text, number in watch if number in table}
            entries.append(
                TokenLogprob(text=table[token].decoded_token or "", logprob=table[token].logprob, alternatives=others)
            )
        return tuple(entries)


def _mean(said: Any) -> float:  # noqa: ANN401
    """Mean logprob of the drawn tokens."""
    tables = said.logprobs or ()
    found = [table[token].logprob for token, table in zip(said.token_ids, tables, strict=False) if token in table]
    return sum(found) / len(found) if found else float("nan")
