import asyncio
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tts_engine.journal
from tts_engine.backends.base import ModelInfo, ModelShape
from tts_engine.backends.replay import ReplayBackend
from tts_engine.errors import BackendError, DataError
from tts_engine.journal import Blank, Journal
from tts_engine.types import (
    CodeRun,
    Completion,
    Finish,
    Key,
    Message,
    Prompt,
    Request,
    Role,
    Sampling,
    TokenLogprob,
    Usage,
)

IDENTITY = {"config": "c0ffee", "models": {"policy": "f1"}}
INFO = ModelInfo(
    name="policy",
    context=512,
    shape=ModelShape(layers=2, width=8, mlp=16, vocabulary=50, kv_width=8),
    fingerprint="f1",
)


def ask(number: int, text: str = "2+3?") -> Request:
    return Request(
        role=Role.GENERATE,
        model="policy",
        prompt=Prompt(messages=(Message(role="user", content=text),), continuation=("Step 1: ",)),
        sampling=Sampling(),
        key=Key(0, ("p", number)),
    )


def say(text: str) -> Completion:
    return Completion(text=text, tokens=3, finish=Finish.EOS, usage=Usage(prompt=7, completion=3, flops=1e10, calls=1))


def same(a: Completion | None, b: Completion) -> bool:
    """Equal, where nan equals nan."""
    return a is not None and repr(a) == repr(b)


texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False).map(lambda x: x + 0.0)  # SQLite keeps no sign of zero
logprobs = st.builds(
    TokenLogprob, text=texts, logprob=numbers, alternatives=st.dictionaries(texts, numbers, max_size=3)
)
small = st.integers(0, 2**40)
seconds = st.floats(0, 1e30)
usages = st.builds(
    Usage,
    prompt=small,
    cached=small,
    completion=small,
    cancelled=small,
    flops=seconds,
    seconds=seconds,
    dollars=seconds,
)
completions = st.builds(
    Completion,
    text=texts,
    tokens=small,
    finish=st.sampled_from(Finish),
    stop=st.none() | texts,
    logprobs=st.lists(logprobs, max_size=3).map(tuple),
    mean_logprob=st.just(math.nan) | numbers,
    usage=usages,
)


@given(completions)
@settings(deadline=None, max_examples=60)
def test_a_call_comes_back_exactly(completion: Completion) -> None:
    async def round_trip() -> Completion | None:
        with Journal.open(None, {}, resume=False) as journal:
            await journal.write_call(ask(1), completion, "p")
            return journal.find_call(ask(1))

    assert same(asyncio.run(round_trip()), completion)


async def test_the_first_of_equal_requests_stays_and_others_are_not_found() -> None:
    with Journal.open(None, {}, resume=False) as journal:
        await asyncio.gather(*(journal.write_call(ask(1), say(text), "p") for text in "ab"))
        await journal.write_call(ask(1), say("c"), "p")
        assert same(journal.find_call(ask(1)), say("a"))
        assert journal.find_call(ask(2)) is None
        assert journal.find_call(ask(1, "2+4?")) is None
        stats = journal.stats()
    assert (stats.calls, stats.hits, stats.misses) == (1, 1, 2)


async def test_writes_of_one_turn_of_the_loop_share_a_transaction(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", {}, resume=False) as journal:
        await asyncio.gather(*(journal.write_call(ask(i), say("x"), "p") for i in range(200)))
        await journal.write_note("n", 1)
        assert (journal.stats().calls, journal.stats().commits) == (200, 2)


async def test_a_cancelled_writer_loses_nothing() -> None:
    with Journal.open(None, {}, resume=False) as journal:
        writer = asyncio.create_task(journal.write_call(ask(1), say("a"), "p"))
        other = asyncio.create_task(journal.write_call(ask(2), say("b"), "p"))
        await asyncio.sleep(0)
        writer.cancel()
        await other
        assert same(journal.find_call(ask(1)), say("a"))


async def test_close_commits_what_waits(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j", {}, resume=False)
    writer = asyncio.create_task(journal.write_call(ask(1), say("a"), "p"))
    await asyncio.sleep(0)
    journal.close()
    await writer
    with Journal.open(tmp_path / "j", {}, resume=True) as again:
        assert same(again.find_call(ask(1)), say("a"))


def test_one_journal_serves_one_loop_after_another() -> None:
    with Journal.open(None, {}, resume=False) as journal:
        for i in range(2):
            asyncio.run(journal.write_call(ask(i), say("a"), "p"))
        assert journal.stats().calls == 2


async def test_a_blank_journal_keeps_nothing() -> None:
    with Blank.open(None, {}, resume=False) as journal:
        await journal.write_call(ask(1), say("5"), "p")
        await journal.write_outcome("p", 0, {})
        assert journal.find_call(ask(1)) is None
        assert (journal.stats().calls, journal.stats().outcomes, journal.stats().writes) == (0, 0, 0)


async def test_code_outcomes_and_notes(tmp_path: Path) -> None:
    run = CodeRun(code="print(1)", output="1\n", ok=True, seconds=0.25)
    with Journal.open(tmp_path / "j", IDENTITY, resume=False) as journal:
        await journal.write_code(b"k" * 16, run)
        await journal.write_outcome("second", 1, {"answer": "6"})
        await journal.write_outcome("first", 0, {"answer": None})
        await journal.write_outcome("first", 0, {"answer": "5"})
        await journal.write_note("seed", {"value": 7})
    with Journal.open(tmp_path / "j", IDENTITY, resume=True) as journal:
        assert journal.find_code(b"k" * 16) == run
        assert journal.find_code(b"x" * 16) is None
        assert list(journal.outcomes().items()) == [("first", {"answer": "5"}), ("second", {"answer": "6"})]
        assert journal.notes() == {"seed": {"value": 7}}


@pytest.mark.parametrize("prompts", [False, True])
async def test_auditors_read_columns_while_the_run_goes_on(tmp_path: Path, prompts: bool) -> None:
    with Journal.open(tmp_path / "j", {}, resume=False, prompts=prompts) as journal:
        await journal.write_call(ask(1), say("five"), "problem-9")
        program = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"
        sql = "SELECT problem, role, model, key, prompt, completion, finish, text, prompt_text IS NOT NULL FROM calls"
        row = subprocess.run(
            [sys.executable, "-c", program, tmp_path / "j", sql], capture_output=True, text=True
        ).stdout
        expected = ("problem-9", "generate", "policy", "0/p/1", 7, 3, "eos", "five", int(prompts))
        assert row.strip() == str(expected)
        assert (b"2+3?" in (tmp_path / "j-wal").read_bytes()) == prompts


def test_refuses_to_overwrite(tmp_path: Path) -> None:
    Journal.open(tmp_path / "j", IDENTITY, resume=False).close()
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(DataError, match="resume that run, or choose another"):
        Journal.open(tmp_path / "j", IDENTITY, resume=False)
    with pytest.raises(DataError, match="config: 'c0ffee' there, 'bad' now\\); use its configuration"):
        Journal.open(tmp_path / "j", {**IDENTITY, "config": "bad"}, resume=True)
    assert (tmp_path / "j").read_bytes() == before


def test_refuses_what_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text("not a database, but long enough to be read as one" * 30)
    with pytest.raises(DataError, match="move the file away"):
        Journal.open(path, {}, resume=True)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(DataError, match="another program"):
        Journal.open(path, {}, resume=True)
    with pytest.raises(DataError, match="another program"):
        ReplayBackend(path)
    with pytest.raises(DataError, match="cannot open"):
        Journal.open(tmp_path / "nowhere" / "j", {}, resume=False)


def test_refuses_another_format_version(tmp_path: Path) -> None:
    Journal.open(tmp_path / "j", {}, resume=False).close()
    with sqlite3.connect(tmp_path / "j") as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(DataError, match="format 99"):
        Journal.open(tmp_path / "j", {}, resume=True)


async def test_refuses_a_damaged_file(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", {}, resume=False) as journal:
        await asyncio.gather(*(journal.write_call(ask(i), say("x" * 500), "p") for i in range(100)))
    data = bytearray((tmp_path / "j").read_bytes())
    data[-20000:-10000] = b"\xaa" * 10000
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        Journal.open(tmp_path / "j", {}, resume=True)


def test_resumes_a_file_whose_making_was_interrupted(tmp_path: Path) -> None:
    (tmp_path / "j").touch()
    Journal.open(tmp_path / "j", IDENTITY, resume=True).close()
    Journal.open(tmp_path / "j", IDENTITY, resume=True).close()
    Journal.open(tmp_path / "new", IDENTITY, resume=True).close()


async def test_a_write_that_fails_says_so(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", {}, resume=False) as journal:
        await journal.write_note("n", 1)
        other = sqlite3.connect(tmp_path / "j")
        other.execute("DROP TABLE calls")
        other.close()
        with pytest.raises(DataError, match="cannot write the journal"):
            await journal.write_call(ask(1), say("a"), "p")
        await journal.write_note("m", 2)
        assert journal.notes() == {"m": 2, "n": 1}


VICTIM = """
import asyncio, sys
from pathlib import Path
from test_journal import ask, say
from tts_engine.journal import Journal

async def write(journal, i):
    await journal.write_call(ask(i), say(f"text {i}"), "p")
    print(i, flush=True)

async def main():
    journal = Journal.open(Path(sys.argv[1]), {}, resume=False)
    for start in range(0, 10**9, 20):
        await asyncio.gather(*(write(journal, i) for i in range(start, start + 20)))

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 50, 777])
def test_kill_9_loses_no_acknowledged_call(tmp_path: Path, acknowledged: int) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(tts_engine.journal.__file__).parents[1])}
    command = [sys.executable, "-c", VICTIM, str(tmp_path / "j")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent, env=env) as victim:
        assert victim.stdout
        seen = [int(next(victim.stdout)) for _ in range(acknowledged)]
        victim.send_signal(signal.SIGKILL)
        seen += [int(line) for line in victim.stdout if line.endswith("\n")]
    assert victim.returncode == -signal.SIGKILL
    with Journal.open(tmp_path / "j", {}, resume=True) as journal:
        assert all(same(journal.find_call(ask(i)), say(f"text {i}")) for i in seen)


async def test_replay_serves_what_was_recorded_and_nothing_else(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", {}, resume=False) as journal:
        await journal.write_model(INFO)
        await journal.write_call(ask(1), say("a"), "p")
        async with ReplayBackend(tmp_path / "j") as backend:
            assert backend.info == INFO
            assert same(await backend.complete(ask(1)), say("a"))
            assert backend.count_tokens(ask(5).prompt) == 7
            with pytest.raises(BackendError, match="generate call of policy with key 0/p/2"):
                await backend.complete(ask(2))
            assert backend.count_tokens(ask(1, "x" * 99).prompt) > 99
        async with ReplayBackend(tmp_path / "j", count=lambda prompt: 42) as backend:
            assert backend.count_tokens(ask(1, "other").prompt) == 42
            assert backend.count_tokens(ask(5).prompt) == 7


async def test_replay_names_the_recorded_models(tmp_path: Path) -> None:
    other = ModelInfo(name="judge", context=9, shape=None, fingerprint="f2")
    with Journal.open(tmp_path / "j", {}, resume=False) as journal:
        with pytest.raises(DataError, match="none"):
            ReplayBackend(tmp_path / "j")
        await journal.write_model(INFO)
        await journal.write_model(other)
    with pytest.raises(DataError, match="judge, policy"):
        ReplayBackend(tmp_path / "j")
    with pytest.raises(DataError, match="does not exist"):
        ReplayBackend(tmp_path / "missing")
    async with ReplayBackend(tmp_path / "j", model="judge") as backend:
        assert backend.info == other


def test_identity_is_compared_as_json(tmp_path: Path) -> None:
    Journal.open(tmp_path / "j", {"b": (1, 2), "a": 1}, resume=False).close()
    Journal.open(tmp_path / "j", json.loads('{"a": 1, "b": [1, 2]}'), resume=True).close()


async def test_a_new_file_and_one_that_goes_on_know_the_same_calls(tmp_path: Path) -> None:
    asked = [ask(i, text) for i in range(3) for text in ("2+3?", "2+4?")]
    with Journal.open(tmp_path / "j", {}, resume=False) as journal:
        for request in asked[:4]:
            assert journal.find_call(request) is None
            await journal.write_call(request, say("a"), "p")
        known = [journal.find_call(request) is not None for request in asked]
    for _ in range(2):
        with Journal.open(tmp_path / "j", {}, resume=True) as journal:
            assert [journal.find_call(request) is not None for request in asked] == known
    assert known == [True] * 4 + [False] * 2


async def test_rows_of_another_process_are_found(tmp_path: Path) -> None:
    with Journal.open(None, {}, resume=False) as there, Journal.open(tmp_path / "j", {}, resume=False) as here:
        await there.write_call(ask(1), say("a"), "p")
        rows, _ = there.rows("p", 0)
        assert here.find_call(ask(1)) is None
        await here.write_rows(rows)
        await here.write_rows({"calls": []})
        assert same(here.find_call(ask(1)), say("a"))
