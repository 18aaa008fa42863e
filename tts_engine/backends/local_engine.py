"""The step loop: requests join and leave a running batch; one forward pass a step for prompts and completions alike."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tts_engine.backends.local_attention import PAGE, Batch, Group, Ints, Scratch, make_group
from tts_engine.backends.local_cache import chain
from tts_engine.backends.local_calls import Call, Rows
from tts_engine.backends.local_model import Weights
from tts_engine.backends.local_sampling import draw, uniforms
from tts_engine.backends.local_slots import BUSY, FULL, Slots
from tts_engine.backends.queueing import turn
from tts_engine.errors import BackendError
from tts_engine.types import Completion, Finish, TokenLogprob, Usage

WIDEST = 512
"""New tokens of one sequence in one step at most."""
SLACK = 64
"""Padding that is cheaper than attending in one more group, in tokens."""
PREFILL = 1024
"""Prompt tokens computed in one step at most."""
SCORES = (1 << 18, 1 << 26)
"""Attention scores computed at once at most, on a CPU (1 MiB in fp32: they stay in its cache) and on a GPU."""
LEAST = 8
"""Rows of a matrix product at least: with fewer, fp32 kernels sum in another order."""


Result = tuple[Call, Completion | Exception]
Deliver = Callable[[list[Result]], None]


@dataclass(slots=True, eq=False)
class _Step:
    """One step's packed tokens; sequences in falling order of new tokens."""

    slots: Ints
    fresh: Ints
    starts: Ints
    ids: Ints
    positions: Ints
    groups: list[Group]


class Engine:
    """Runs one model in a thread of its own.

    `deliver` is called in the event loop of the calls with what ended in a step; a cancelled call ends as ABORTED. At
    most `batch` of the `slots` run; the others are kept for their prefix.
    """

    def __init__(
        self,
        weights: Weights,
        pieces: Sequence[bytes],
        deliver: Deliver,
        *,
        batch: int,
        slots: int,
        context: int,
        pages: int,
    ) -> None:
        self._weights = weights
        self._deliver = deliver
        self._pieces = pieces
        self._batch = batch
        self._slots = Slots(slots, context, pages)
        self._pool = weights.pool(pages)
        self._device = self._pool.device
        heads = weights.model.config.get_text_config().num_attention_heads
        self._group = max(1, SCORES[self._device.type == "cuda"] // (heads * PAGE))
        self._calls: dict[int, Call] = {}  # by slot, in order of admission
        self._active: Ints = np.zeros(0, np.int64)
        self._waiting: list[tuple[int, int, Call]] = []
        self._arrived = 0
        self._scratch = Scratch()
        self._rows = Rows(slots, weights)
        self._inbox: deque[Call] = deque()
        self._wake = threading.Event()
        self._asleep = False
        self._closing = False
        self._done: list[Result] = []
        self.steps = 0
        self.drawn = 0
        self.busy = self.cpu = 0.0

    # What the event loop calls

    def submit(self, call: Call) -> None:
        """Hand over a new call, or one whose `cancelled` was set."""
        self._inbox.append(call)
        if self._asleep:
            self._wake.set()

    def close(self) -> None:
        """Ask the thread to end; calls in flight fail."""
        self._closing = True
        self._wake.set()

    # The thread

    def run(self, threads: int) -> None:
        """Step until closed."""
        torch.set_num_threads(threads)
        with torch.inference_mode():
            while not self._closing:
                if self._inbox or self._calls or self._waiting:
                    self._guarded_step()
                self._flush()
                if not (self._calls or self._waiting or self._closing):
                    self._sleep()
        self._fail(BackendError("the backend was closed while the call was running"))
        self._flush()

    def _sleep(self) -> None:
        self._asleep = True
        if not self._inbox:
            self._wake.wait()
        self._asleep = False
        self._wake.clear()

    def _guarded_step(self) -> None:
        began, worked = time.perf_counter(), time.thread_time()
        try:
            self._intake()
            self._step()
        except Exception as error:  # whatever torch raises: the calls must hear of it and the thread must live
            failure = BackendError(f"the engine failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail(failure)
        self.busy += time.perf_counter() - began
        self.cpu += time.thread_time() - worked

    def _intake(self) -> None:
        while self._inbox:
            call = self._inbox.popleft()
            if not call.cancelled:
                call.hashes = chain(call.tokens)
                self._arrived += 1
                heapq.heappush(self._waiting, (turn(call.priority, self._arrived), self._arrived, call))
            elif self._calls.get(call.slot) is call:
                self._end(call, Finish.ABORTED)
            elif call.slot < 0:  # it never ran; when its turn comes it is dropped
                self._done.append((call, Completion(text="", tokens=0, finish=Finish.ABORTED)))

    def _step(self) -> None:
        self._admit()
        if not self._calls:
            return
        step = self._plan()
        logits, ready = self._forward(step)
        self.steps += 1
        if len(ready):
            self._emit(logits, ready)

    def _admit(self) -> None:
        later = []
        while self._waiting and len(self._calls) < self._batch:
            entry = heapq.heappop(self._waiting)
            call = entry[2]
            if call.cancelled:
                continue
            slot = self._slots.admit(call.tokens, call.hashes, call.limit)
            if slot == BUSY:
                later.append(entry)
                continue
            if slot == FULL:
                later.append(entry)
                break
            self._start(call, slot)
        for entry in later:
            heapq.heappush(self._waiting, entry)
        source, target = (torch.tensor(pages, device=self._device) for pages in self._slots.copies())
        if len(source):
            self._pool.index_copy_(1, target, self._pool.index_select(1, source))

    def _start(self, call: Call, slot: int) -> None:
        call.slot, call.cached = slot, int(self._slots.computed[slot])
        self._calls[slot] = call
        self._rows.start(slot, call)
        self._active = np.append(self._active, slot)

    def _plan(self) -> _Step:
        """Choose each slot's new tokens: one for those that decode, prompts up to PREFILL in order of admission."""
        state = self._slots
        need = state.length[self._active] - state.computed[self._active]
        prompts = np.where(need > 1, need, 0)
        fresh = np.minimum(np.where(need > 1, np.clip(PREFILL - (prompts.cumsum() - prompts), 0, need), 1), WIDEST)
        order = np.argsort(-fresh, kind="stable")
        order = order[: np.count_nonzero(fresh)]
        slots, fresh = self._active[order], fresh[order]
        ends = state.computed[slots] + fresh
        for i in np.flatnonzero(state.owned[slots] * PAGE < ends):
            state.grow(int(slots[i]), int(ends[i]))
        starts = fresh.cumsum() - fresh
        groups = []
        for a, b in pairwise(_edges(fresh, -(-ends // PAGE), self._group)):
            width = int(fresh[a])
            groups.append(make_group(state.table[slots[a:b]], ends[a:b], fresh[a:b], starts[a:b], width, self._device))
        ids, positions = self._packed(slots, fresh, starts)
        return _Step(slots, fresh, starts, ids, positions, groups)

    def _packed(self, slots: Ints, fresh: Ints, starts: Ints) -> tuple[Ints, Ints]:
        """Token ids and positions, [tokens]."""
        state = self._slots
        total = int(fresh.sum())
        computed = state.computed[slots]
        ids = np.empty(total, np.int64)
        last = state.length[slots] - computed == 1
        ids[starts[last]] = self._rows.last[slots[last]]
        for i in np.flatnonzero(~last):
            at, begin, n = int(starts[i]), int(computed[i]), int(fresh[i])
            ids[at : at + n] = state.tokens[slots[i]][begin : begin + n]
        return ids, np.arange(total) + np.repeat(computed - starts, fresh)

    def _forward(self, step: _Step) -> tuple[Tensor, Ints]:
        """Run the model: fp32 logits [n, V] of the slots that have all their tokens computed, and these slots."""
        state, heads = self._slots, self._weights.kv_heads
        page = state.table[np.repeat(step.slots, step.fresh), step.positions // PAGE]
        writes = (page[:, None] * heads + np.arange(heads)) * PAGE + (step.positions % PAGE)[:, None]
        state.computed[step.slots] += step.fresh
        whole = state.computed[step.slots] == state.length[step.slots]
        keep = (step.starts + step.fresh - 1)[whole]
        batch = Batch(self._pool, self._put(writes.ravel()), len(step.ids), step.groups, self._scratch)
        output = self._weights.model(
            input_ids=self._put(_padded(step.ids))[None],
            position_ids=self._put(_padded(step.positions))[None],
            use_cache=False,
            logits_to_keep=self._put(_padded(keep)),
            paged=batch,
        )
        return output.logits[0, : len(keep)].float(), step.slots[whole]

    def _put(self, array: npt.NDArray[np.int64] | npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _emit(self, logits: Tensor, slots: Ints) -> None:
        """Draw a token for each slot and end those that are done."""
        rows, state = self._rows, self._slots
        count = state.length[slots] - rows.prompt[slots]
        top_k, top_p = rows.top_k[slots], rows.top_p[slots]
        tokens = draw(
            logits,
            self._put(uniforms(rows.seed[slots], count)),
            self._put(rows.temperature[slots]),
            self._put(top_k),
            self._put(top_p),
            filtered=bool((top_k > 0).any() or (top_p < 1).any()),
        ).clamp_(max=logits.shape[1] - 1)
        norm = logits.logsumexp(-1)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - norm
        drawn, scores = tokens.cpu().numpy(), logprobs.cpu().numpy()
        self._append(slots, drawn, scores)
        if rows.detailed[slots].any():
            self._detail(logits, norm, slots, drawn, scores)
        self._finish(slots, drawn, np.isfinite(scores))

    def _append(self, slots: Ints, drawn: Ints, scores: npt.NDArray[np.float32]) -> None:
        for slot, token in zip(slots.tolist(), drawn.tolist(), strict=True):
            self._slots.tokens[slot].append(token)
        self._slots.length[slots] += 1
        self.drawn += len(slots)
        self._rows.last[slots] = drawn
        self._rows.score[slots] += scores

    def _finish(self, slots: Ints, drawn: Ints, sound: npt.NDArray[np.bool_]) -> None:
        rows = self._rows
        ended, out = rows.ends[drawn], self._slots.length[slots] >= rows.limit[slots]
        for i in np.flatnonzero(ended | out | rows.hot[slots, drawn] | ~sound).tolist():
            call = self._calls[int(slots[i])]
            if not sound[i]:
                self._clean(call.slot)
                self._end(call, BackendError("the model produced values that are not numbers (nan or infinite logits)"))
            elif ended[i]:
                self._end(call, Finish.EOS)
            elif found := call.stops.find(self._slots.tokens[call.slot][call.prompt :]):
                self._end(call, Finish.STOP, found)
            elif out[i]:
                self._end(call, Finish.LENGTH)

    def _detail(self, logits: Tensor, norm: Tensor, slots: Ints, drawn: Ints, scores: npt.NDArray[np.float32]) -> None:
        """Note the alternatives of the rows that asked for them."""
        chosen = np.flatnonzero(self._rows.detailed[slots])
        table = logits[self._put(chosen)] - norm[self._put(chosen)][:, None]
        most = min(max(self._calls[int(slots[i])].sampling.logprobs for i in chosen), logits.shape[1])
        top = table.topk(most)
        values, tokens = top.values.tolist(), top.indices.tolist()
        for row, i in enumerate(chosen.tolist()):
            call = self._calls[int(slots[i])]
            n = call.sampling.logprobs
            others = {self._text(t): v for t, v in zip(tokens[row][:n], values[row][:n], strict=True)}
            if call.watch:
                watched = table[row, [token for _, token in call.watch]].tolist()
                others |= {name: value for (name, _), value in zip(call.watch, watched, strict=True)}
            entry = TokenLogprob(text=self._text(int(drawn[i])), logprob=float(scores[i]), alternatives=others)
            call.logprobs.append(entry)

    def _text(self, token: int) -> str:
        return self._pieces[token].decode("utf-8", "replace")

    # Ends

    def _end(self, call: Call, how: Finish | Exception, found: tuple[str, int] | None = None) -> None:
        """Take a running call out of the batch and note its result."""
        generated = self._slots.tokens[call.slot][call.prompt :]
        result = how if isinstance(how, Exception) else self._completion(call, how, generated, found)
        self._slots.release(call.slot)
        del self._calls[call.slot]
        self._active = self._active[self._active != call.slot]
        self._done.append((call, result))

    def _clean(self, slot: int) -> None:
        """Wipe a slot's keys: a nan would spread to the next owner of its pages."""
        pages = self._slots.table[slot, : self._slots.owned[slot]]
        self._pool.index_fill_(1, self._put(pages), 0)
        self._slots.computed[slot] = 0

    def _completion(
        self, call: Call, finish: Finish, generated: list[int], found: tuple[str, int] | None = None
    ) -> Completion:
        shown = generated[:-1] if finish is Finish.EOS else generated
        data = b"".join([self._pieces[token] for token in shown])
        if found is not None:
            stop, before_end = found
            data = data[: len(data) - before_end] + (stop.encode() if call.sampling.include_stop else b"")
        n, lost = len(generated), finish is Finish.ABORTED
        usage = Usage(
            prompt=min(call.prompt, int(self._slots.computed[call.slot])) if lost else call.prompt,
            cached=call.cached,
            completion=0 if lost else n,
            cancelled=n if lost else 0,
            calls=1,
            seconds=time.perf_counter() - call.sent,
        )
        return Completion(
            text=data.decode("utf-8", "replace"),
            tokens=n,
            finish=finish,
            stop=None if found is None else found[0],
            logprobs=tuple(call.logprobs),
            mean_logprob=float(self._rows.score[call.slot]) / n if n else math.nan,
            usage=usage,
        )

    def _fail(self, error: Exception) -> None:
        """End every call with an error and start afresh."""
        for call in list(self._calls.values()):
            self._end(call, error)
        self._intake()
        self._done += [(call, error) for _, _, call in self._waiting]
        self._waiting.clear()
        self._slots.copies()
        self._slots.forget()

    def _flush(self) -> None:
        """Deliver what has ended: one wake-up of the event loop a step."""
        if self._done:
            done, self._done = self._done, []
            loop = done[0][0].future.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._deliver, done)


def _padded(array: Ints) -> Ints:
    """At least LEAST rows."""
    return array if len(array) >= LEAST else np.concatenate([array, np.zeros(LEAST - len(array), np.int64)])


def _edges(fresh: Ints, pages: Ints, most: int) -> list[int]:
    """Where to cut sequences, in falling order of new tokens, into groups that attend together.

    A group is padded to its first member: it ends where that would waste a quarter and more than SLACK, before those
    with a single new token, and where its scores (pages times width) would outgrow `most`.
    """
    singles = int(np.searchsorted(-fresh, -1))
    edges, waste, scores = [0], 0, 0
    for i in range(1, singles):
        width = int(fresh[edges[-1]])
        waste += width - int(fresh[i])
        scores = int(pages[edges[-1] : i + 1].sum()) * width
        if scores > most or (waste > SLACK and 4 * fresh[i] < 3 * width):
            edges.append(i)
            waste = 0
    share = pages[singles:].cumsum() // most
    cuts = np.flatnonzero(np.diff(share)) + 1 + singles
    return sorted({*edges, singles, *cuts.tolist(), len(fresh)})
