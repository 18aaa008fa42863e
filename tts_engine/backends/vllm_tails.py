"""The ends of prompts from vLLM's own cache. vLLM imports this by name, in the process of the engine.

vLLM's prefix cache finds whole blocks. A search asks again and again for a text that ends inside one: siblings with the
same prompt, a step that goes on where another stopped, the next turn of a chain. This connector (vLLM's interface for
keys and values from elsewhere) finds them in blocks of the same cache, in use or freed and not yet used again, and has
such a block copied to the one that the request got. Written against vLLM 0.32, which calls the interface experimental.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA
from vllm.v1.kv_cache_interface import FullAttentionSpec

from tts_engine.backends.tails import Tails

Held = tuple[int, Hashable, list[int]]
"""A block, what is before it, and its tokens."""


@dataclass(slots=True)
class Copies(KVConnectorMetadata):  # type: ignore[misc]  # vLLM is not there when types are checked
    """Blocks to be copied before a step: from, to."""

    pairs: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Start:
    """A request that starts in this step.

    Attributes:
        missing: tokens that it has to compute until it generates.
        held: what its new blocks will hold then.
    """

    name: str
    missing: int
    held: list[Held]


class TailConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Looks in the scheduler, copies in the worker. Passes over models with several kinds of attention, and requests
    with images or embeddings, whose tokens do not say what they hold."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:  # noqa: ANN401
        super().__init__(vllm_config, role, kv_cache_config)
        groups = kv_cache_config.kv_cache_groups
        alike = len(groups) == 1 and isinstance(groups[0].kv_cache_spec, FullAttentionSpec)
        self._usable = alike and vllm_config.cache_config.enable_prefix_caching
        self._size = vllm_config.cache_config.block_size
        self._tails, self._soon = Tails(), Tails()
        self._asked: dict[str, tuple[int, int]] = {}
        self._starts: list[Start] = []
        self._pairs: list[tuple[int, int]] = []
        self._caches: list[torch.Tensor] = []

    @property
    def requires_kv_delivery(self) -> bool:
        """No other engine waits for anything."""
        return False

    # In the scheduler. Copies are made in the order of steps, before what the step computes: what was in a block when
    # a step was scheduled is still there, even if the same step gives the block to someone else.

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:  # noqa: ANN401
        """How many tokens of its next block are found, or None to be asked again at the next step, where this one
        computes more of them for someone else: siblings come at the same moment."""
        if not self._reads(request):
            return 0, False
        index = num_computed_tokens // self._size
        end = min(num_computed_tokens + self._size, request.num_tokens - 1)
        tokens, parent = request.all_token_ids[num_computed_tokens:end], _before(request, index)
        block, count = self._tails.find(parent, tokens)
        if self._soon.find(parent, tokens)[1] > count:
            return None, False
        self._asked[request.request_id] = index, block
        return count, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:  # noqa: ANN401
        """The request got its blocks: from the index on that was asked for they are new, all where nothing was."""
        if not self._usable:
            return
        asked = self._asked.pop(request.request_id, None)
        numbers = blocks.get_block_ids()[0]
        for number in numbers[asked[0] if asked else 0 :]:
            self._tails.drop(number)
        if asked is None:
            return
        first, source = asked
        if num_external_tokens:
            self._pairs.append((source, numbers[first]))
        held = list(self._held(request, numbers, first, request.num_tokens))
        for one in held:
            self._soon.add(*one)
        missing = request.num_tokens - first * self._size - num_external_tokens
        self._starts.append(Start(request.request_id, missing, held))

    def build_connector_meta(self, scheduler_output: Any) -> Copies:  # noqa: ANN401
        """What this step copies. What it computes is there for the next one."""
        running = scheduler_output.scheduled_cached_reqs
        for name, groups in zip(running.req_ids, running.new_block_ids, strict=True):
            if groups and name not in running.resumed_req_ids:  # those that resume asked for their blocks, as new ones
                for number in groups[0]:
                    self._tails.drop(number)
        for start in self._starts:
            if scheduler_output.num_scheduled_tokens[start.name] >= start.missing:  # all of its prompt
                for one in start.held:
                    self._tails.add(*one)
        self._starts.clear()
        self._soon.clear()
        pairs, self._pairs = self._pairs, []
        return Copies(pairs)

    def request_finished_all_groups(
        self,
        request: Any,  # noqa: ANN401
        block_ids: tuple[list[int], ...],
    ) -> tuple[bool, dict[str, Any] | None]:
        """Remember what it generated. Its blocks may be freed."""
        self._asked.pop(request.request_id, None)
        if self._reads(request):
            known = min(request.num_computed_tokens, request.num_tokens)
            for one in self._held(request, block_ids[0], request.num_prompt_tokens // self._size, known):
                self._tails.add(*one)
        return False, None

    def reset_cache(self) -> bool:
        """Forget all blocks."""
        self._tails.clear()
        return True

    def _reads(self, request: Any) -> bool:  # noqa: ANN401
        return self._usable and not request.mm_features and request.prompt_embeds is None

    def _held(self, request: Any, numbers: list[int], first: int, known: int) -> Iterator[Held]:  # noqa: ANN401
        """What the blocks of a request hold from index `first` on, where they hold its first `known` tokens."""
        for index, start in enumerate(range(first * self._size, known, self._size), first):
            tokens = request.all_token_ids[start : min(start + self._size, known)]
            yield numbers[index], _before(request, index), tokens

    # In the worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Those of all layers, each once and with a block in each row."""
        once = {cache.data_ptr(): cache for cache in kv_caches.values()}
        self._caches = [torch.unflatten(cache, 0, (self._kv_cache_config.num_blocks, -1)) for cache in once.values()]

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Copy, before the step computes. All are read before any is written: one may be both. (vLLM's own function
        for this goes byte by byte on a CPU.)"""
        pairs = self._get_connector_metadata().pairs
        if not pairs:
            return
        sources, targets = torch.tensor(pairs, device=self._caches[0].device).unbind(1)
        for cache in self._caches:
            cache.index_copy_(0, targets, cache.index_select(0, sources))

    def wait_for_layer_load(self, layer_name: str) -> None:
        """All is copied."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """All is saved where it is."""

    def wait_for_save(self) -> None:
        """All is saved where it is."""


def _before(request: Any, index: int) -> Hashable:  # noqa: ANN401
    """What stands for all that is before the block with this index, and for the adapter that computes it."""
    if index:
        return bytes(request.block_hashes[index - 1])
    adapter = request.lora_request.lora_int_id if request.lora_request else 0
    return adapter, request.cache_salt
