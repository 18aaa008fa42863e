"""The local backend's parts on their own: pages and prefixes, drawing, text."""

from __future__ import annotations

import random
import resource
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tts_engine.backends.local_attention import LOG2E, PAGE, Scratch, attend, make_group
from tts_engine.backends.local_cache import BLOCK, PrefixIndex, chain
from tts_engine.backends.local_model import untouched
from tts_engine.backends.local_sampling import draw, keep_likely, uniforms
from tts_engine.backends.local_slots import BUSY, FULL, Slots
from tts_engine.backends.local_text import Encoder, Stops, token_bytes
from tts_engine.errors import BackendError
from tts_engine.types import Message, Prompt


def test_splitmix_is_the_published_one() -> None:
    """The first outputs of splitmix64 from seed 0 and 1234567 (reference implementation)."""
    seeds = np.array([0, 1234567], np.uint64)
    wanted = np.array([0xE220A8397B1DCDAF, 6457827717110365317], np.uint64)
    got = uniforms(seeds, np.zeros(2, np.int64))
    assert got == pytest.approx((wanted >> np.uint64(40)).astype(np.float64) / 2**24, abs=0)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0])
    n = 20_000
    uniform = torch.from_numpy(uniforms(np.full(n, 5, np.uint64), np.arange(n)))
    settings_ = (torch.full((n,), 0.8), torch.zeros(n, dtype=torch.int64), torch.ones(n))
    tokens = draw(logits.expand(n, 4), uniform, *settings_, filtered=False)
    frequency = torch.bincount(tokens, minlength=4) / n
    assert frequency.tolist() == pytest.approx((logits / 0.8).softmax(-1).tolist(), abs=0.015)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 400), st.floats(0.05, 1.0))
def test_filters_keep_what_a_sort_keeps(seed: int, k: int, p: float) -> None:
    probs = torch.randn(3, 300, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(-1)
    kept = keep_likely(probs, torch.tensor([k, 0, k]), torch.tensor([p, p, 1.0]))
    for row, (top_k, top_p) in enumerate([(k, p), (0, p), (k, 1.0)]):
        ordered = sorted(probs[row].double().tolist(), reverse=True)[: top_k or 300]
        wanted, count = top_p * (sum(ordered) if top_k else 1.0), int((kept[row] > 0).sum())
        assert sum(ordered[:count]) >= wanted - 1e-5  # enough; up to the last digits of the sums
        assert count == 1 or sum(ordered[: count - 1]) <= wanted + 1e-5  # and no more
        assert float(kept[row][kept[row] > 0].min()) == pytest.approx(ordered[count - 1])
        assert torch.equal(kept[row][kept[row] > 0], probs[row][kept[row] > 0])


def test_greedy_rows_stand_beside_drawn_ones() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]]).repeat(2, 1)
    tokens = draw(
        logits,
        torch.tensor([0.999, 0.999]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([0, 0]),
        torch.tensor([1.0, 1.0]),
        filtered=False,
    )
    assert tokens.tolist() == [1, 2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 40)), min_size=1, max_size=5), st.integers(0, 99))
def test_paged_attention_is_attention(sequences: list[tuple[int, int]], seed: int) -> None:
    """Against softmax(q k^T) v on whole sequences, pages lying anywhere, in place and copied."""
    generator = torch.Generator().manual_seed(seed)
    heads, kv, dim, total = 4, 2, 8, 40
    cache = torch.randn(2, total, kv, PAGE, dim, generator=generator)
    lengths = np.array([length for length, _ in sequences])
    fresh = np.array([min(length, new) for length, new in sequences])
    spread = 1 + seed % 2  # 2: scattered, copied
    pages = torch.randperm(total // spread, generator=generator).numpy() * spread
    table = np.stack([pages[i * 4 : i * 4 + 4] for i in range(len(sequences))])
    starts = fresh.cumsum() - fresh
    query = torch.randn(int(fresh.sum()), heads, dim, generator=generator)
    width = int(fresh.max())
    group = make_group(table, lengths, fresh, starts, width, "cpu")
    got = attend(query[group.queries] * LOG2E, cache[0], cache[1], group, Scratch()).view(-1, width, heads * dim)
    for i, (length, new) in enumerate(zip(lengths, fresh, strict=True)):
        k, v = (cache[j][table[i]].transpose(0, 1).reshape(kv, -1, dim)[:, :length] for j in (0, 1))
        k, v = k.repeat_interleave(heads // kv, 0), v.repeat_interleave(heads // kv, 0)
        q = query[starts[i] : starts[i] + new].transpose(0, 1)
        hidden = torch.ones(new, length, dtype=torch.bool).triu(length - new + 1)
        weights = (q @ k.mT).masked_fill(hidden, -torch.inf).softmax(-1)
        wanted = (weights @ v).transpose(0, 1).reshape(new, -1)
        torch.testing.assert_close(got[i, :new], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_takes_memory_only_as_it_is_used(dtype: torch.dtype) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    cache = untouched((8, 1 << 24), dtype)
    assert resident() - before < cache.nbytes // 10
    assert cache.dtype is dtype
    assert cache.data_ptr() % 64 == 0
    assert not cache[:, -100:].any()
    cache[3, 5:9] = 1
    assert cache[3].sum() == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), max_size=70), min_size=1, max_size=12), st.lists(st.integers(0, 1)))
def test_prefix_index_finds_the_longest(known: list[list[int]], prompt: list[int]) -> None:
    index = PrefixIndex(len(known))
    for slot, tokens in enumerate(known):
        index.put(slot, tokens)
    slot, length = index.best(prompt, chain(prompt))
    common = [
        next((i for i, (a, b) in enumerate(zip(k, prompt, strict=False)) if a != b), min(len(k), len(prompt)))
        for k in known
    ]
    longest = max(common)
    assert length == (longest if longest >= BLOCK else 0)
    if length:
        assert common[slot] == longest
    for slot in range(len(known)):
        index.drop(slot)
    assert index.best(prompt, chain(prompt)) == (-1, 0)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 150), st.integers(1, 100)), max_size=40), st.randoms())
def test_slots_never_share_or_lose_pages(asks: list[tuple[int, int, int]], chance: random.Random) -> None:
    """Random arrivals and ends: every page has one owner at most, promises hold, shared prefixes are really there."""
    context, total = 256, 12
    slots = Slots(6, context, total)
    cache: dict[int, list[int]] = {page: [-1] * PAGE for page in range(total)}
    running: dict[int, int] = {}
    for family, length, new in asks:
        tokens = [family * 1000 + i for i in range(length)]
        most = min(length + new, context)
        slot = slots.admit(list(tokens), chain(tokens), most)
        source, target = slots.copies()
        contents = [list(cache[page]) for page in source]
        for page, content in zip(target, contents, strict=True):
            cache[page] = content
        if slot not in (FULL, BUSY):
            start = int(slots.computed[slot])
            slots.grow(slot, most)  # all that was promised
            held = [cache[int(slots.table[slot, i // PAGE])][i % PAGE] for i in range(start)]
            assert held == tokens[:start]
            for i in range(start, length):
                cache[int(slots.table[slot, i // PAGE])][i % PAGE] = tokens[i]
            slots.computed[slot] = length
            running[slot] = length
        owned = Counter(int(page) for s in range(6) for page in slots.table[s, : slots.owned[s]])
        assert all(count == 1 for count in owned.values())
        assert sum(owned.values()) + slots._pages.free == total
        if running and chance.random() < 0.5:
            ending = chance.choice(sorted(running))
            del running[ending]
            slots.release(ending)
    for slot in list(running):
        slots.release(slot)
    slots.forget()
    assert slots._pages.free == total


def test_cut_encoding_equals_whole_encoding(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    encoder = Encoder(tokenizer)
    turns = []
    for i in range(12):
        turns.append(Message(role="user", content=f"Step {i}: now 12+30=42. Yes, No <assistant> \\boxed{{ é\n"))
        turns.append(Message(role="assistant", content="<analyze>\nLet's analyze the Paragraph 1</output>\n"))
        for generation_prompt in (True, False):
            prompt = Prompt(messages=tuple(turns), generation_prompt=generation_prompt)
            text = tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in turns],
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
            whole = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert encoder.prompt(prompt) == whole
    assert encoder._separators is not None
    tail = encoder.prompt(prompt.then("ap", "ples"))[len(whole) :]
    parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("ap", "ples")]
    assert tail == [token for part in parts for token in part]  # segments keep their boundary


def test_token_bytes_spell_the_text(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    pieces = token_bytes(tokenizer)
    text = "Tom has é €30 and 𝄞 <analyze>\nLet's analyze the Paragraph 3: \\boxed{Yes}</output>\n"
    ids = tokenizer(text)["input_ids"]
    assert b"".join(pieces[token] for token in ids).decode() == text
    assert all(pieces[token] == b"" for token in tokenizer.all_special_ids)


def test_stops_are_found_where_they_complete() -> None:
    pieces = [b"", b"a", b"b", b"ab", b"\n", b"\n\n", b"c\xc3", b"\xa9!"]
    stops = Stops(("ab\n", "b\n", "é"), pieces, len(pieces))
    assert stops.hot.tolist() == [False, False, False, False, True, True, False, True]
    assert stops.find([1, 2, 4]) == ("ab\n", 3)  # of two that end together, the longer
    assert stops.find([2, 0, 5]) == ("b\n", 3)  # the stop ends inside the token: one byte of text follows it
    assert stops.find([6, 7]) == ("é", 3)
    assert stops.find([4, 1, 4]) is None
    with pytest.raises(BackendError, match="empty"):
        Stops(("",), pieces, len(pieces))
