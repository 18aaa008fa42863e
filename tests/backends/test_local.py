"""The local backend against transformers' own generate, and against itself under load."""

from __future__ import annotations

import asyncio
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tts_engine.backends.base import CallCancelled
from tts_engine.backends.local import LocalBackend
from tts_engine.errors import BackendError, ConfigError, ContextExceeded, DataError
from tts_engine.types import Completion, Finish, Key, Message, Prompt, Request, Role, Sampling, Usage

WORDS = ["apples", "boxes", "pens", "now", "half", "double", "12+30=42.", "Step", "friends", "crates"]


def ask(text: str, key: int = 0, prompt: Prompt | None = None, priority: int = 0, **sampling: object) -> Request:
    """A request with one user turn."""
    return Request(
        role=Role.GENERATE,
        model="tiny",
        prompt=prompt or Prompt(messages=(Message(role="user", content=text),)),
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
        key=Key(key),
        priority=priority,
    )


def story(seed: int, words: int) -> str:
    """Some words; equal seeds begin alike."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


class Reference:
    """Greedy completions by `generate`, eager and in fp32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")

    def ids(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens, straight from the tokenizer."""
        turns = [{"role": m.role, "content": m.content} for m in prompt.messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt.generation_prompt)
        parts = [text, *prompt.continuation]
        return [token for part in parts for token in self.tokenizer(part, add_special_tokens=False)["input_ids"]]

    def greedy(self, request: Request) -> str:
        """The text `generate` gives."""
        ids = self.ids(request.prompt)
        new = request.sampling.max_tokens
        out = self.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=new, do_sample=False
        )
        return str(self.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))


@pytest.mark.parametrize("family", ["llama", "qwen"])
async def test_greedy_equals_generate_under_load(family: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    reference = Reference(folder)
    calls = [
        ask(story(i % 4, 3 + 11 * (i % 9)), temperature=0, max_tokens=3 + 7 * (i % 5)) for i in range(36)
    ]  # many share prefixes; prompts of 10 to 300 tokens

    async with LocalBackend(folder, dtype="float32", slots=12, threads=1) as backend:
        lost: list[Usage] = []

        async def attempt(call: Request) -> Completion | None:
            try:
                return await backend.complete(call)
            except CallCancelled as stopped:
                lost.append(stopped.usage)
                return None

        async def one(i: int, call: Request) -> Completion | None:
            await asyncio.sleep(0.004 * (i % 7))
            task = asyncio.create_task(attempt(call))
            if i % 6 == 5:  # somebody gives up
                await asyncio.sleep(0.01)
                task.cancel()
            return await task

        results = await asyncio.gather(*(one(i, call) for i, call in enumerate(calls)))
        counters = backend.counters()

    given = [result for result in results if result is not None]
    assert len(given) >= 30
    for call, result in zip(calls, results, strict=True):
        if result is not None:
            assert result.text == reference.greedy(call)
    total = sum((*(result.usage for result in given), *lost), Usage())
    assert all(counters[name] == getattr(total, name) for name in ("prompt", "cached", "completion", "cancelled"))
    assert counters["drawn"] == total.completion + total.cancelled
    assert counters["cached"] > 0


async def test_chain_continues_its_own_cache(llama: Path) -> None:
    reference = Reference(llama)
    async with LocalBackend(llama, dtype="float32", threads=1) as backend:
        prompt = Prompt(messages=(Message(role="user", content=story(1, 60)),))
        before = 0
        for turn in range(6):
            call = ask("", prompt=prompt, temperature=0, max_tokens=9)
            result = await backend.complete(call)
            assert result.text == reference.greedy(call)
            assert result.usage.prompt == backend.count_tokens(prompt) == len(reference.ids(prompt))
            # All but the segments added since, whose first tokens may be cut otherwise than they were drawn.
            assert result.usage.cached >= before - 10
            before = result.usage.prompt
            prompt = prompt.then(result.text, f"\n[Code Output] {turn} True\n")


async def test_siblings_share_one_computation(llama: Path) -> None:
    text = story(2, 50)
    async with LocalBackend(llama, threads=1) as backend:
        results = await asyncio.gather(*(backend.complete(ask(text, key=i, max_tokens=8)) for i in range(20)))
    cached = sorted(result.usage.cached for result in results)
    assert cached[0] == 0
    assert cached[1:] == [results[0].usage.prompt - 1] * 19
    assert len({result.text for result in results}) > 10  # each by its own key


async def test_completion_is_the_same_alone_and_among_others(llama: Path) -> None:
    """To the bit where the products are (see `cores.pick_dtype`), with cold and warm caches."""
    probes = [ask(story(3, 10 + 15 * i), key=i, max_tokens=24, logprobs=2, top_p=1 - i % 2 / 20) for i in range(6)]
    others = [ask(story(i, 4 + i % 50), key=i, max_tokens=5 + i % 30, temperature=0.7) for i in range(100)]
    async with LocalBackend(llama, threads=1) as backend:
        alone = [await backend.complete(probe) for probe in probes]
    async with LocalBackend(llama, threads=1, slots=64) as backend:
        crowd = asyncio.gather(*(backend.complete(other) for other in others))
        await asyncio.sleep(0.01)
        among = await asyncio.gather(*(backend.complete(probe) for probe in probes))
        await crowd
        warm = await asyncio.gather(*(backend.complete(probe) for probe in probes))
    assert sum(result.usage.cached for result in warm) > sum(result.usage.cached for result in alone)
    exact = torch.cpu.get_capabilities().get("avx512_bf16", False)
    for a, b, c in zip(alone, among, warm, strict=True):
        assert a.text == b.text == c.text
        if exact:
            assert a.logprobs == b.logprobs == c.logprobs
            assert a.mean_logprob == b.mean_logprob == c.mean_logprob


async def test_stop_strings(llama: Path) -> None:
    async with LocalBackend(llama, dtype="float32", threads=1) as backend:
        whole = await backend.complete(ask(story(4, 20), key=4, max_tokens=40))
        assert whole.finish is Finish.LENGTH
        stop = max(re.findall(r"[ -~]{5,8}", whole.text[10:]), key=len)  # spans tokens
        at = whole.text.index(stop)
        cut, kept = [
            await backend.complete(
                ask(story(4, 20), key=4, max_tokens=40, stop=("never in it", stop), include_stop=include)
            )
            for include in (False, True)
        ]
    assert cut.text == whole.text[:at]
    assert kept.text == whole.text[: at + len(stop)]
    assert cut.finish is kept.finish is Finish.STOP
    assert cut.stop == kept.stop == stop
    assert cut.tokens == kept.tokens < whole.tokens


async def test_logprobs_are_the_models_own(llama: Path) -> None:
    reference = Reference(llama)
    call = ask(story(5, 30), key=5, max_tokens=6, temperature=0.5, top_k=3, watch=("Yes", "No"), logprobs=3)
    async with LocalBackend(llama, dtype="float32", threads=1) as backend:
        result = await backend.complete(call)
        with pytest.raises(BackendError, match="one"):
            await backend.complete(replace(call, sampling=replace(call.sampling, watch=("Yes and No",))))
    ids = reference.ids(call.prompt)
    assert len(result.logprobs) == result.tokens
    assert result.mean_logprob == pytest.approx(math.fsum(t.logprob for t in result.logprobs) / result.tokens, abs=1e-5)
    with torch.no_grad():
        logprobs = reference.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    first = result.logprobs[0]
    for text in ("Yes", "No"):
        assert first.alternatives[text] == pytest.approx(
            float(logprobs[reference.tokenizer.convert_tokens_to_ids(text)]), abs=1e-3
        )
    assert max(first.alternatives.values()) == pytest.approx(float(logprobs.max()), abs=1e-3)
    assert first.logprob in list(first.alternatives.values())[:3]  # top_k 3 draws from the top three


async def test_end_of_turn_ends_and_is_not_text(llama: Path) -> None:
    async with LocalBackend(llama, dtype="float32", threads=1) as backend:
        results = await asyncio.gather(
            *(backend.complete(ask(story(i, 9), key=i, max_tokens=400, temperature=1.5)) for i in range(24))
        )
    ended = [result for result in results if result.finish is Finish.EOS]
    assert ended
    assert all("<eos>" not in result.text for result in results)
    assert all(result.finish in {Finish.EOS, Finish.LENGTH} for result in results)


async def test_context_ends_with_length_and_refuses_long_prompts(llama: Path) -> None:
    async with LocalBackend(llama, context=48, threads=1) as backend:
        fits = ask(story(6, 6), temperature=0, max_tokens=500)
        room = 48 - backend.count_tokens(fits.prompt)
        result = await backend.complete(fits)
        assert result.tokens <= room
        assert result.finish is Finish.EOS or (result.finish is Finish.LENGTH and result.tokens == room)
        with pytest.raises(ContextExceeded, match=r"\d+ tokens.*48"):
            await backend.complete(ask(story(6, 60)))
        with pytest.raises(BackendError, match="at least one"):
            await backend.complete(ask("x", max_tokens=0))


async def test_cancelled_tokens_are_counted_and_the_slot_is_free_again(llama: Path) -> None:
    async with LocalBackend(llama, slots=1, threads=1) as backend:
        task = asyncio.create_task(backend.complete(ask(story(7, 9), max_tokens=480, temperature=2.0)))
        while backend.counters()["steps"] < 5:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        after = await backend.complete(ask("next", max_tokens=2))
        counters = backend.counters()
    assert after.tokens <= 2
    assert counters["cancelled"] >= 4
    assert counters["completion"] == after.tokens


@pytest.mark.parametrize(("kept", "again"), [(3, True), (0, False)])
async def test_ended_sequences_are_kept_for_their_prefix(llama: Path, kept: int, again: bool) -> None:
    async with LocalBackend(llama, slots=1, kept=kept, threads=1) as backend:
        for number in range(3):
            await backend.complete(ask(story(number, 6), max_tokens=2))
        back = await backend.complete(ask(story(0, 6), max_tokens=2))
    assert (back.usage.cached > 0.8 * back.usage.prompt) == again


async def test_no_more_run_at_once_than_there_are_slots(llama: Path) -> None:
    async with LocalBackend(llama, slots=2, kept=6, threads=1) as backend:
        await asyncio.gather(*(backend.complete(ask(story(i, 6), max_tokens=16, key=i)) for i in range(6)))
        counters = backend.counters()
    assert counters["drawn"] <= 2 * counters["steps"]


@pytest.mark.parametrize("options", [{"kept": -1}, {"slots": 0}, {"threads": 0}, {"context": 1}])
def test_sizes_that_make_no_sense_are_refused(llama: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="slots and threads must be at least 1, kept at least 0"):
        LocalBackend(llama, **options)  # type: ignore[arg-type]


async def test_urgent_requests_go_first(llama: Path) -> None:
    order: list[int] = []

    async def one(backend: LocalBackend, priority: int) -> None:
        await backend.complete(ask(story(priority, 9), max_tokens=3, priority=priority))
        order.append(priority)

    async with LocalBackend(llama, slots=1, threads=1) as backend:
        running = asyncio.create_task(backend.complete(ask(story(8, 9), max_tokens=60, temperature=0)))
        await asyncio.sleep(0)
        await asyncio.gather(*(one(backend, priority) for priority in (5, 3, 1, 4, 2)))
        await running
    assert order[1:] == sorted(order[1:])  # the first may have found the slot free


async def test_engine_errors_fail_the_calls_and_the_engine_lives_on(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LocalBackend(llama, threads=1) as backend:
        with monkeypatch.context() as broken:
            broken.setattr(backend._engine, "_forward", lambda step: 1 / 0)
            calls = [backend.complete(ask("x", key=i)) for i in range(3)]
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [BackendError] * 3
        assert "ZeroDivisionError" in str(results[0])
        assert (await backend.complete(ask("x", max_tokens=2))).tokens > 0


async def test_closing_fails_what_is_running(llama: Path) -> None:
    backend = LocalBackend(llama, threads=1)
    with pytest.raises(BackendError, match="not open"):
        await backend.complete(ask("x"))
    async with backend:
        task = asyncio.create_task(backend.complete(ask("x", max_tokens=400, temperature=2.0)))
        await asyncio.sleep(0.005)
    with pytest.raises(BackendError, match="closed"):
        await task


async def test_small_cache_gives_the_same_texts(llama: Path) -> None:
    """Pages run short: sequences wait and prefixes are evicted, nothing else changes."""
    calls = [ask(story(i % 5, 20 + i), key=i, max_tokens=30) for i in range(30)]
    texts = []
    for kv_bytes in (None, 3 << 20):
        async with LocalBackend(llama, threads=1, kv_bytes=kv_bytes) as backend:
            results = await asyncio.gather(*(backend.complete(call) for call in calls))
        texts.append([result.text for result in results])
    assert texts[0] == texts[1]


async def test_two_models_in_one_process(llama: Path, qwen: Path) -> None:
    async with LocalBackend(llama, threads=1) as one, LocalBackend(qwen, name="judge", threads=1) as other:
        results = await asyncio.gather(
            *(backend.complete(ask(story(i, 9), key=i, max_tokens=5)) for i in range(8) for backend in (one, other))
        )
    assert len(results) == 16
    assert one.info.fingerprint != other.info.fingerprint
    assert other.info.name == "judge"
    assert one.info.name == "llama"


def test_info_tells_the_shape(qwen: Path) -> None:
    backend = LocalBackend(qwen)
    shape = backend.info.shape
    assert shape is not None
    assert (shape.layers, shape.width, shape.mlp, shape.kv_width, shape.gated) == (2, 64, 96, 32, True)
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(qwen).parameters())
    assert shape.parameters == parameters
    assert backend.info.context == 512


def test_bad_folders_are_named(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model folder"):
        LocalBackend(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"config\.json"):
        LocalBackend(tmp_path)
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(DataError, match="safetensors"):
        LocalBackend(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(DataError, match="cannot be read"):
        LocalBackend(tmp_path)
    with pytest.raises(ConfigError, match="dtype"):
        LocalBackend(llama, dtype="int4")


async def test_a_cache_too_small_for_one_context_is_refused(llama: Path) -> None:
    with pytest.raises(DataError, match="kv_bytes"):
        async with LocalBackend(llama, kv_bytes=1000):
            pass
