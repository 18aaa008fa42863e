"""Models that share an engine or take turns, and engines that fail, for real on a CPU. See .ci/engines."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import shutil
from contextlib import suppress
from operator import itemgetter
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tts_engine import Engine, Problem
from tts_engine.backends.base import Backend
from tts_engine.backends.cores import MALLOC
from tts_engine.backends.embedded import embedded_path
from tts_engine.backends.factory import make_backend
from tts_engine.backends.placement import GIB
from tts_engine.backends.vllm import VLLMBackend
from tts_engine.backends.vllm_engine import ENGINES
from tts_engine.errors import ConfigError, DataError, EndpointDown
from tts_engine.problems import load_problems
from tts_engine.types import Completion, Key, Message, Outcome, Prompt, Request, Role, Sampling

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(600)]
OPTIONS = {"slots": 32}
RANK, ALPHA = 8, 16
ADAPTED = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def greedy(problem: Problem) -> Request:
    prompt = Prompt(messages=(Message(role="user", content=problem.prompt),))
    sampling = Sampling(max_tokens=120, temperature=0.0)
    return Request(role=Role.GENERATE, model="any", prompt=prompt, sampling=sampling, key=Key(0))


def with_adapter(folder: Path) -> tuple[Path, Path]:
    """A LoRA adapter on the embedded policy as peft saves it, and the model that results when it is merged."""
    base = embedded_path("embedded:policy")
    adapter, merged = folder / "adapter", folder / "merged"
    shutil.copytree(base, merged)
    adapter.mkdir()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    config |= {"base_model_name_or_path": str(base), "target_modules": [name.split(".")[1] for name in ADAPTED]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    weights: dict[str, torch.Tensor] = load_file(base / "model.safetensors")
    parts: dict[str, torch.Tensor] = {}
    torch.manual_seed(0)
    for name in [name for name in weights if any(part in name for part in ADAPTED)]:
        rows, columns = weights[name].shape
        down, up = torch.randn(RANK, columns) * 0.07, torch.randn(rows, RANK) * 0.07
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        parts |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        weights[name] = (weights[name].float() + ALPHA / RANK * up @ down).to(weights[name].dtype)
    save_file(parts, adapter / "adapter_model.safetensors")
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    return adapter, merged


async def said(backend: Backend, problems: list[Problem]) -> list[Completion]:
    return await asyncio.gather(*(backend.complete(greedy(problem)) for problem in problems))


def alike(some: list[Completion], others: list[Completion]) -> int:
    return sum(a.text == b.text for a, b in zip(some, others, strict=True))


def engine_processes() -> list[tuple[str, list[str]]]:
    """The names that vLLM has given its processes, and what these have left of their environments."""
    found = list[tuple[str, list[str]]]()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            environment = Path(f"/proc/{process.pid}/environ").read_text(encoding="utf-8").split("\0")
            found.append((process.name(), environment))
    return sorted((one for one in found if one[0].startswith("VLLM")), key=itemgetter(0))


async def test_an_adapter_and_its_base_share_one_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    adapter, merged = with_adapter(tmp_path)
    base, tuned = make_backend("vllm", "embedded:policy", OPTIONS), make_backend("vllm", str(adapter), OPTIONS)
    assert isinstance(base, VLLMBackend)
    assert isinstance(tuned, VLLMBackend)
    assert base.info.fingerprint != tuned.info.fingerprint
    problems = load_problems("arith-dev")[:12]
    async with base, tuned:
        assert base._shared is tuned._shared
        plain, changed = await asyncio.gather(said(base, problems), said(tuned, problems))
    async with make_backend("local", "embedded:policy", {}) as local, make_backend("local", str(merged), {}) as whole:
        assert alike(plain, await said(local, problems)) >= 9  # bf16 rounds near-ties differently
        assert alike(changed, await said(whole, problems)) >= 6
    assert alike(plain, changed) <= 6
    noise = capfd.readouterr().err
    assert "output_handler" not in noise
    assert "Traceback" not in noise
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_one_model_in_both_roles() -> None:
    """The embedded policy asked for Yes or No after its own solutions: one engine, both roles on the bill."""
    judge = {"name": "outcome", "backend": "vllm", "model": "embedded:policy", "options": OPTIONS}
    judge |= {"params": {"good": "Yes", "bad": "No", "question": "\nIs it right? "}}
    config = {
        "policy": {"backend": "vllm", "options": OPTIONS},
        "verifier": judge,
        "strategy": {"name": "best-of-n", "n": 4},
    }
    async with Engine.from_config(config) as engine:
        assert len(ENGINES.place(80 * GIB)) == 1
        outcomes = [outcome async for outcome in engine.run(load_problems("arith-dev")[:3])]
    assert all(set(outcome.usage) == {Role.GENERATE, Role.VERIFY} for outcome in outcomes)
    assert all(judged.verdict and judged.verdict.valid for o in outcomes for judged in o.candidates)


async def test_an_engine_computes_in_its_own_process_unless_it_is_bound_to_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for bound, names in ((None, ["VLLM::EngineCore"]), ("0", ["VLLM::EngineCore", "VLLM::Worker"])):
        if bound:
            monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", bound)
        async with make_backend("vllm", "embedded:policy", OPTIONS) as backend:
            assert len((await said(backend, load_problems("arith-dev")[:1]))[0].text) > 0
            processes = engine_processes()
            assert [name for name, _ in processes] == names
            kept = {f"{name}={value}" for name, value in MALLOC.items()}
            assert all(kept <= set(environment) for _, environment in processes)


async def test_two_engines_take_turns() -> None:
    """A CPU frees nothing, but every call finds its engine awake, and both get on."""
    options = OPTIONS | {"sleep": True}
    config = {
        "policy": {"backend": "vllm", "options": options},
        "verifier": {"backend": "vllm", "samples": 2, "options": options},
        "strategy": {"name": "best-of-n", "n": 4},
    }
    async with Engine.from_config(config) as engine:
        outcomes = [outcome async for outcome in engine.run(load_problems("arith-dev")[:4])]
        assert ENGINES.turns.switches >= 2
    assert not any(outcome.failures for outcome in outcomes)
    assert sum(outcome.answer is not None for outcome in outcomes) == 4


async def test_a_dead_engine_ends_the_run_and_resuming_finishes_it(tmp_path: Path) -> None:
    problems = load_problems("arith-dev")[:12]
    config = {
        "policy": {"backend": "vllm", "options": OPTIONS},
        "verifier": {"name": "none"},
        "strategy": {"name": "self-consistency", "n": 4},
        "run": {"concurrency": 2},
    }
    journal = tmp_path / "journal.sqlite"
    found: list[Outcome] = []

    async def until_it_dies() -> None:
        async with Engine.from_config(config, journal=journal) as engine:
            async for outcome in engine.run(problems):
                found.append(outcome)
                for process in multiprocessing.active_children():
                    process.kill()

    with pytest.raises(EndpointDown, match="died: see its log, then resume"):
        await until_it_dies()
    assert 1 <= len(found) < 12
    async with Engine.from_config(config, journal=journal, resume=True) as engine:
        outcomes = {outcome.problem.id: outcome async for outcome in engine.run(problems)}
        assert engine.journal_stats().hits >= 4 * len(found)
    assert len(outcomes) == 12
    assert all(outcomes[outcome.problem.id].answer == outcome.answer for outcome in found)


async def test_what_cannot_be_started(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(embedded_path("embedded:policy"), broken)
    (broken / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    with pytest.raises(DataError, match="vLLM cannot serve"):
        async with make_backend("vllm", str(broken), OPTIONS):
            pass
    too_large = make_backend("vllm", "embedded:policy", OPTIONS)
    with pytest.raises(DataError, match=r"GiB more than the 0\.0 GiB"):
        ENGINES.place(2**20)
    del too_large
    with pytest.raises(DataError, match="no_such_argument"):
        async with make_backend("vllm", "embedded:policy", {"engine": {"no_such_argument": 1}}):
            pass
    with pytest.raises(ConfigError, match="slots"):
        make_backend("vllm", "embedded:policy", {"slots": 0})
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="LoRA adapter"):
        make_backend("vllm", str(tmp_path / "half"), {})
