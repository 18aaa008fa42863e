"""The parts without a server: accounts, the door, progress, plans."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.conftest import easy
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.errors import ConfigError, DataError
from tts_engine.jobs import Event
from tts_engine.run import Engine
from tts_engine.serve import keys
from tts_engine.serve.accounts import ADDRESSES, Accounts, Bucket
from tts_engine.serve.admission import Admission
from tts_engine.serve.plan import budget_of, models, one_text, plan_chat
from tts_engine.serve.problems import Refusal, dumps
from tts_engine.serve.progress import Tracker
from tts_engine.serve.schema import ChatMessage, ChatRequest, Limits
from tts_engine.serve.server import check
from tts_engine.serve.settings import ServeConfig
from tts_engine.types import Role, Usage


def account_file(folder: Path, **limits: Any) -> tuple[Path, str]:  # noqa: ANN401
    key, record = keys.new_key("alice", **limits)
    keys.save(folder / "keys.json", {"alice": record})
    return folder / "keys.json", f"Bearer {key}"


def test_only_hashes_are_kept(tmp_path: Path) -> None:
    path, bearer = account_file(tmp_path)
    key = bearer.removeprefix("Bearer ")
    assert key not in path.read_text()
    records = keys.load(path)
    assert keys.find(records, key) is records["alice"]
    for wrong in (key[:-1], key + "x", key.replace("alice", "bob"), "", "-", "tts-alice-", "tts-alice-\udcff"):
        assert keys.find(records, wrong) is None


def test_bad_keys_and_files(tmp_path: Path) -> None:
    for name in ("", "a-b", "ü", "x" * 65):
        with pytest.raises(ConfigError, match="no name for a key"):
            keys.new_key(name)
    with pytest.raises(ConfigError, match="no seconds"):
        keys.new_key("a", budget="seconds=5")
    with pytest.raises(ConfigError, match="above zero"):
        keys.new_key("a", rate=0)
    (tmp_path / "bad.json").write_text("[1]")
    for path in (tmp_path / "none.json", tmp_path / "bad.json"):
        with pytest.raises(DataError, match="tts-serve keys add"):
            keys.load(path)


def test_a_period_ends_and_a_restart_does_not_end_it(tmp_path: Path) -> None:
    path, bearer = account_file(tmp_path, budget="tokens=100", period=10.0)
    now, ledger = 1005.0, Scope.root(Budget())

    def fresh() -> Accounts:
        return Accounts(ledger, path, tmp_path / "usage.json", clock=lambda: now)

    accounts = fresh()
    account = accounts.enter(bearer, "here")
    account.scope.charge(Role.GENERATE, "m", Usage(completion=100))
    with pytest.raises(Refusal, match="is spent") as refused:
        accounts.afford(account)
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "insufficient_quota", 5.0)
    accounts.save()
    again = fresh()
    with pytest.raises(Refusal, match="is spent"):
        again.afford(again.enter(bearer, "here"))
    now = 1010.0
    again.afford(again.enter(bearer, "here"))
    assert again.enter(bearer, "here").left() == {"tokens": 100}
    assert ledger.total.tokens == 100  # what was spent before a restart is not charged twice


def test_an_account_in_use_outlives_its_period(tmp_path: Path) -> None:
    path, bearer = account_file(tmp_path, period=10.0)
    now = 5.0
    accounts = Accounts(Scope.root(Budget()), path, clock=lambda: now)
    with accounts.enter(bearer, "here") as old:
        now = 15.0
        assert accounts.enter(bearer, "here") is not old
        assert not old.scope.closed
    assert old.scope.closed


def test_addresses_are_remembered_only_so_far(tmp_path: Path) -> None:
    path, bearer = account_file(tmp_path)
    accounts = Accounts(Scope.root(Budget()), path)
    statuses = []
    for number in range(10_000):
        with pytest.raises(Refusal) as refused:
            accounts.enter("Bearer tts-alice-guess", f"address{number}" if number % 2 else "same")
        statuses.append(refused.value.status)
    assert statuses[1::2] == [401] * 5000
    assert statuses[::2].count(401) <= 62
    assert len(accounts._wrong) <= ADDRESSES
    assert accounts.enter(bearer, "same").name == "alice"  # a right key is never locked out


def test_a_bucket_fills_up_again() -> None:
    now = 0.0
    bucket = Bucket(60, now=lambda: now)
    assert [bucket.take() for _ in range(60)] == [0.0] * 60
    assert bucket.take() == pytest.approx(1.0)
    now = 2.0
    assert [bucket.take() > 0 for _ in range(3)] == [False, False, True]


async def test_keys_take_turns_and_give_up_cleanly() -> None:
    door = Admission(running=1, waiting=8, per_key=6)
    order: list[str] = []

    async def work(key: str) -> None:
        async with door.ticket(key):
            order.append(key)
            await asyncio.sleep(0.01)

    crowd = [asyncio.create_task(work("a")) for _ in range(5)]
    await asyncio.sleep(0)
    late = [asyncio.create_task(work("b")) for _ in range(2)]
    await asyncio.sleep(0)
    crowd[2].cancel()
    await asyncio.gather(*crowd, *late, return_exceptions=True)
    assert order == ["a", "a", "b", "a", "b", "a"][: len(order)]
    assert len(order) == 6
    assert (door.running, door.queued) == (0, 0)


async def test_the_queue_is_bounded() -> None:
    door = Admission(running=1, waiting=3, per_key=2)
    first = door.ticket("a")
    waiting = [door.ticket("a"), door.ticket("a"), door.ticket("b")]
    for key in ("a", "b"):
        with pytest.raises(Refusal, match="too many requests are waiting"):
            door.ticket(key)
    for ticket in (*waiting, first, first):
        ticket.leave()
    assert (door.running, door.queued) == (0, 0)
    door.draining = True
    with pytest.raises(Refusal, match="stopping"):
        door.ticket("a")


def node(name: str, answer: str | None = None, score: float | None = None, **fields: object) -> Event:
    data: Mapping[str, object] = {
        "id": name,
        "done": answer is not None,
        "dead": False,
        "answer": answer,
        "score": score,
    }
    return Event(kind="node", problem="p", data={"node": {**data, **fields}})


def test_an_answer_is_certain_when_it_cannot_be_overtaken() -> None:
    tracker = Tracker("self-consistency", {"n": 5})
    said = []
    for number, answer in enumerate(["7", "8", "7", "7"]):
        tracker.take(node(str(number), answer))
        said.append(tracker.summary()["certain"])
    assert said == [False, False, False, True]
    assert tracker.summary()["answer"] == "7"
    weighted = Tracker("best-of-n", {"n": 3, "select": "weighted"})
    weighted.take(node("0", "7", 0.9))
    weighted.take(node("1", "7", 0.9))
    weighted.take(node("2", "8"))
    assert weighted.summary()["certain"]  # 1.8 against at most 1
    assert not Tracker("best-of-n", {"n": 3, "select": "best"}).summary()["certain"]
    assert not Tracker("beam", {"n": 1}).summary()["certain"]


@given(st.lists(st.tuples(st.sampled_from("789"), st.floats(0, 1)), min_size=1, max_size=8))
def test_what_is_certain_stays(votes: list[tuple[str, float]]) -> None:
    tracker = Tracker("best-of-n", {"n": len(votes), "select": "weighted"})
    certain: list[str] = []
    for number, (answer, score) in enumerate(votes):
        tracker.take(node(str(number), answer, score))
        if tracker.summary()["certain"]:
            certain.append(tracker.summary()["answer"])
    assert len(set(certain)) <= 1


def message(role: str, content: str) -> ChatMessage:
    return ChatMessage.model_validate({"role": role, "content": content})


def test_conversations_become_one_text() -> None:
    assert one_text([message("user", "x")]) == "x"
    assert one_text([message("system", "s"), message("user", "x")]) == "s\n\nx"
    turns = [message("user", "a"), message("assistant", "b"), message("user", "c")]
    assert one_text(turns) == "User: a\n\nAssistant: b\n\nUser: c"


def test_budgets_end_with_the_deadline() -> None:
    assert budget_of(None, 9.0) == Budget(seconds=9.0)
    assert budget_of("tokens=5,seconds=20", 9.0) == Budget(tokens=5, seconds=9.0)
    assert budget_of(Limits(tokens=5, seconds=2.0), 9.0) == Budget(tokens=5, seconds=2.0)


@pytest.fixture
async def engine(simulated: dict[str, Any]) -> AsyncIterator[Engine]:
    async with Engine.from_config(simulated) as engine:
        yield engine


async def test_names_of_models(engine: Engine) -> None:
    names = models(engine)
    assert names[0] == "policy"
    assert "beam/policy" in names

    def strategy(model: str, **tts: Any) -> str:  # noqa: ANN401
        body = {"model": model, "messages": [{"role": "user", "content": easy()}]} | ({"tts": tts} if tts else {})
        return plan_chat(engine, ChatRequest.model_validate(body), ServeConfig()).strategy

    assert strategy("policy") == "plain"
    assert strategy("policy", n=4) == "beam"
    assert strategy("policy", strategy="mcts") == "mcts"
    assert strategy("dvts/policy") == strategy("dvts/policy", strategy="dvts") == "dvts"


async def test_an_engine_that_forgets_keeps_nothing(simulated: dict[str, Any]) -> None:
    from tts_engine.config import Config

    async with Engine(Config.build(simulated), keep=False) as engine:
        first = await engine.solve(easy(), seed=1)
        again = await engine.solve(easy(), seed=1)
        assert first == again
        assert again.total.calls == first.total.calls > 0
        assert engine.journal_stats().calls == 0


def test_who_may_reach_it() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check(ServeConfig(host=host))
    check(ServeConfig(host="0.0.0.0", open=True))
    check(ServeConfig(host="0.0.0.0", keys="keys.json"))
    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(ConfigError, match="can be reached from other machines"):
            check(ServeConfig(host=host))
    with pytest.raises(ConfigError, match="TLS needs both"):
        check(ServeConfig(tls_key="x"))


def test_any_text_and_number_can_be_sent() -> None:
    assert json.loads(dumps({"a": "\ud800ü", "b": [float("nan"), 1.5]})) == {"a": "\ud800ü", "b": [None, 1.5]}
