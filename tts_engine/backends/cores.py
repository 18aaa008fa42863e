"""What a CPU is good at, and how several engines share one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch

from tts_engine.backends.placement import GIB

SMALL_BLOCK = 16
"""Tokens of the smallest block that vLLM's attention on a CPU takes."""
SMALL = 10_000_000
"""Parameters of a small model: several are faster on their share of a CPU's cores than on all, attention is cheap."""
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(GIB), "MALLOC_TRIM_THRESHOLD_": str(GIB)}
"""For the C library of a CPU engine. By itself glibc returns at once whatever is larger than 32 MiB, such as the logits
of 56 sequences, and the system clears new pages for them at every step."""
NICE = 10
"""As in `nice`. Measured with models that divide the cores only."""


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto`: bf16 where the hardware multiplies it, else fp32.

    On a CPU with bf16 instructions it is both the faster one and the one whose results do not depend on the batch:
    oneDNN's bf16 products give a row the same bits whatever the number of rows; MKL's fp32 ones do not below 4 rows.
    """
    if dtype != "auto":
        return cast(torch.dtype, getattr(torch, dtype))
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return torch.bfloat16 if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else torch.float32
    return torch.bfloat16


def small_blocks(parameters: int) -> bool:
    """Whether a model of so many parameters gets blocks of `SMALL_BLOCK` on this CPU (vllm_cpu.py). AMX needs tiles of
    32 for attention, of which small models have little, so that they get them there too."""
    abilities = torch.cpu.get_capabilities()
    return abilities.get("architecture") == "x86_64" and (parameters <= SMALL or not abilities.get("amx_tile"))


def divides(sizes: Sequence[int]) -> bool:
    """Whether engines of models of so many parameters divide a CPU's cores."""
    return len(sizes) > 1 and max(sizes) <= SMALL


def threads(sizes: Sequence[int]) -> dict[str, str]:
    """How engines of models of so many parameters share a CPU. Each has a thread for every core; among several, a
    thread that waits sleeps at once instead of keeping a core from another engine, and where all are small they divide
    the cores. What is set in the environment stays."""
    cores = len(os.sched_getaffinity(0))
    wanted = {"OMP_NUM_THREADS": str(max(cores // len(sizes), 1) if divides(sizes) else cores)}
    wanted |= {"OMP_WAIT_POLICY": "passive"} if len(sizes) > 1 else {}
    return unset(wanted)


def unset(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that the environment does not say, or leaves empty."""
    return {name: value for name, value in variables.items() if not os.environ.get(name)}


def lower(process: int, nice: int) -> None:
    """Let a process of ours wait for others, by so much more than now: all threads that it has, and so those that they
    start. Where the system does not allow it, all stays as it is."""
    threads = Path(f"/proc/{process}/task")
    for thread in [int(path.name) for path in threads.iterdir()] if threads.is_dir() else [process]:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + nice)
