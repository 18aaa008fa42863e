"""The vLLM backend against the local one, on the embedded models. Collected where vLLM is installed: .ci/engines."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tts_engine import Engine
from tts_engine.backends.base import Backend, CallCancelled
from tts_engine.backends.cores import small_blocks
from tts_engine.backends.factory import make_backend
from tts_engine.backends.vllm import VLLMBackend
from tts_engine.errors import BackendError, ContextExceeded, DataError
from tts_engine.problems import load_problems
from tts_engine.types import Finish, Key, Message, Prompt, Request, Role, Sampling

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]
OPTIONS = {"slots": 64}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served() -> AsyncIterator[tuple[Backend, Backend]]:
    there, here = make_backend("vllm", "embedded:policy", OPTIONS), make_backend("local", "embedded:policy", {})
    async with there, here:
        yield there, here


def ask(text: str, seed: int = 0, **sampling: object) -> Request:
    prompt = Prompt(messages=(Message(role="user", content=text),))
    return Request(
        role=Role.GENERATE,
        model="embedded:policy",
        prompt=prompt,
        sampling=Sampling(**{"max_tokens": 200, **sampling}),  # type: ignore[arg-type]
        key=Key(seed),
    )


def problems(count: int) -> list[str]:
    return [problem.prompt for problem in load_problems("arith-dev")[:count]]


async def test_greedy_text_is_the_local_backends(served: tuple[Backend, Backend]) -> None:
    there, here = served
    requests = [ask(text, temperature=0.0) for text in problems(24)]
    ours = await asyncio.gather(*map(there.complete, requests))
    theirs = await asyncio.gather(*map(here.complete, requests))
    same = [a.text == b.text for a, b in zip(ours, theirs, strict=True)]
    assert sum(same) >= 20  # bf16 rounds near-ties differently
    for a, b, equal in zip(ours, theirs, same, strict=True):
        assert a.finish is b.finish is Finish.EOS
        assert a.usage.prompt == b.usage.prompt
        if equal:
            assert a.tokens == b.tokens
            assert a.mean_logprob == pytest.approx(b.mean_logprob, abs=0.02)


async def test_seeds_repeat_whatever_runs_beside(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    text = problems(1)[0]
    alone = [(await there.complete(ask(text, seed))).text for seed in range(4)]
    crowd = await asyncio.gather(*(there.complete(ask(text, seed)) for seed in range(32)))
    assert sum(a == b.text for a, b in zip(alone, crowd, strict=False)) >= 3
    assert len({completion.text for completion in crowd}) > 1


async def test_stops_and_watched_tokens(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    said = await there.complete(ask(problems(1)[0], stop=("Step 2",), include_stop=True, watch=("Yes", "No")))
    assert (said.finish, said.stop) == (Finish.STOP, "Step 2")
    assert said.text.endswith("Step 2")
    assert len(said.logprobs) == said.tokens
    assert all({"Yes", "No"} <= set(entry.alternatives) for entry in said.logprobs)
    assert all(entry.logprob <= 0 and not math.isnan(entry.logprob) for entry in said.logprobs)


async def test_a_verifiers_text_has_logprobs_only_where_tokens_are_watched(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    call = replace(ask(problems(1)[0], max_tokens=20), role=Role.VERIFY)
    plain = await there.complete(call)
    watching = await there.complete(replace(call, sampling=replace(call.sampling, watch=("Yes",))))
    proposed = await there.complete(replace(call, role=Role.GENERATE))
    assert plain.text == watching.text == proposed.text
    assert math.isnan(plain.mean_logprob)
    assert watching.mean_logprob == pytest.approx(proposed.mean_logprob, abs=1e-3)
    assert "".join(entry.text for entry in watching.logprobs) == watching.text


async def test_a_cancelled_call_says_what_it_cost(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    task = asyncio.create_task(there.complete(ask(problems(1)[0], max_tokens=900, temperature=2.0)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(CallCancelled) as stopped:
        await task
    assert stopped.value.usage.calls == 1
    assert 0 <= stopped.value.usage.cancelled < 900


async def test_a_shared_beginning_is_computed_once(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    text = " ".join(problems(8))
    first = await there.complete(ask(text, max_tokens=1))
    second = await there.complete(ask(text, seed=1, max_tokens=1))
    assert isinstance(there, VLLMBackend)
    shape = there.info.shape
    assert shape is not None
    assert there.block_size == (16 if small_blocks(shape.parameters) else 32)
    assert second.usage.cached == first.usage.prompt - 1  # the end of the last block too


async def test_siblings_that_start_at_once_share_their_prompt(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    assert isinstance(there, VLLMBackend)
    await there.forget()
    text = " ".join(problems(8))
    siblings = await asyncio.gather(*(there.complete(ask(text, seed, max_tokens=4)) for seed in range(16)))
    assert sorted(sibling.usage.cached for sibling in siblings) == [0] + [siblings[0].usage.prompt - 1] * 15


async def test_texts_that_part_inside_a_block_share_its_beginning(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    assert isinstance(there, VLLMBackend)
    await there.forget()
    texts = ["How many apples are there?", "How many apples were there?"]
    await there.complete(ask(texts[0], max_tokens=1))
    said = await there.complete(ask(texts[1], max_tokens=1))
    one, other = (there.tokens(ask(text).prompt) for text in texts)
    assert said.usage.cached == next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


async def test_the_next_step_is_asked_for_where_the_last_one_stopped(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    for problem in problems(6):
        first = ask(problem, temperature=0.0, stop=("\nStep ",))
        first = replace(first, prompt=first.prompt.then("Step 1: "))
        said = await there.complete(first)
        second = replace(first, prompt=first.prompt.then(said.text).then("\nStep 2: "))
        usage = (await there.complete(second)).usage
        assert usage.cached == usage.prompt - 1  # what was generated too; the last token of a prompt is always computed


@pytest.mark.parametrize("caching", [True, False])
async def test_few_blocks_that_are_used_again_and_again(served: tuple[Backend, Backend], caching: bool) -> None:
    """64 blocks hold some seven of these texts at once: what is found in a block must be what it holds by then."""
    _, here = served
    few = {"num_gpu_blocks_override": 65, "enable_prefix_caching": caching}
    requests = [ask(text, temperature=0.0) for text in problems(24) for _ in range(3)]
    theirs = await asyncio.gather(*map(here.complete, requests))
    async with make_backend("vllm", "embedded:policy", OPTIONS | {"engine": few}) as there:
        ours = await asyncio.gather(*map(there.complete, requests))
        again = await asyncio.gather(*map(there.complete, requests))
    assert sum(a.text == b.text for a, b in zip(ours, theirs, strict=True)) >= 60
    assert sum(a.text == b.text for a, b in zip(again, theirs, strict=True)) >= 60
    found = [completion.usage.cached for completion in ours]
    assert (sum(count % 16 > 0 for count in found) > 24) is caching
    assert any(found) is caching


async def test_an_engine_that_proposes_leaves_the_cpu_to_others(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    judge = make_backend("vllm", "embedded:prm", {"slots": 2})
    assert isinstance(there, VLLMBackend)
    assert isinstance(judge, VLLMBackend)

    def nice(backend: VLLMBackend) -> list[int]:
        return [os.getpriority(os.PRIO_PROCESS, process) for process in backend._shared.processes]

    await there.complete(ask("1+1", max_tokens=2))
    assert nice(there) == [os.getpriority(os.PRIO_PROCESS, 0)]  # alone
    async with judge:
        await judge.complete(replace(ask("1+1", max_tokens=2), role=Role.VERIFY, model="embedded:prm"))
        await there.complete(ask("1+1", seed=1, max_tokens=2))
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert (nice(there), nice(judge)) == ([min(own + 10, 19)], [own])


PROGRAM = """
import asyncio
from tts_engine.backends.factory import make_backend

async def main():
    async with make_backend("vllm", "embedded:prm", {"slots": 2}):
        pass

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_a_program_ends_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    assert "Exception" not in ended.stderr  # an engine that lives on is shut down once more when Python ends


async def test_what_cannot_be_asked(served: tuple[Backend, Backend]) -> None:
    there, _ = served
    with pytest.raises(ContextExceeded, match="takes 1024"):
        await there.complete(ask("how many " * 800))
    with pytest.raises(BackendError, match="at least one token"):
        await there.complete(ask("1+1", max_tokens=0))
    with pytest.raises(BackendError, match="not one"):
        await there.complete(ask("1+1", watch=("forty-two apples",)))
    with pytest.raises(BackendError, match="temperature"):
        await there.complete(ask("1+1", temperature=5.0))


async def test_a_verified_search_over_two_engines(served: tuple[Backend, Backend]) -> None:
    config = {
        "policy": {"backend": "vllm", "options": OPTIONS},
        "verifier": {"backend": "vllm", "samples": 2, "options": OPTIONS},
        "strategy": {"name": "beam", "n": 4, "width": 2},
    }
    async with Engine.from_config(config) as engine:
        outcomes = [outcome async for outcome in engine.run(load_problems("arith-dev")[:8])]
    assert sum(outcome.answer is not None for outcome in outcomes) == 8
    assert sum(bool(outcome.correct) for outcome in outcomes) >= 3
    assert not any(outcome.failures for outcome in outcomes)


async def test_a_folder_that_is_no_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match=r"config\.json"):
        make_backend("vllm", str(tmp_path_factory.mktemp("empty")), {})
