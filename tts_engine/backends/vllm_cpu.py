"""How an engine computes on a CPU in its own process. vLLM imports this by name, there and where the engine is made.

Written against vLLM 0.32.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.attention.backend import MultipleOf
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from tts_engine.backends.cores import SMALL_BLOCK


class SmallBlocks(CPUAttentionBackend):  # type: ignore[misc]  # vLLM is not there when types are checked
    """vLLM's attention on a CPU with the smallest block that its kernel takes; it offers 32 itself, for AMX."""

    @staticmethod
    def get_supported_kernel_block_sizes(*_: object) -> list[Any]:
        """Sizes in tokens."""
        return [MultipleOf(SMALL_BLOCK)]


class InEngine(UniProcExecutor):  # type: ignore[misc]
    """Computes in the engine's process; as "uni" vLLM refuses that to a CPU, since it sets threads elsewhere."""


register_backend(AttentionBackendEnum.CPU_ATTN, f"{__name__}.{SmallBlocks.__name__}")
