"""Work and its end: clients that leave, queues, deadlines, keys and their budgets, and stopping."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serve.conftest import Running, Start, ask, easy
from tts_engine.cli.serve import main

LONG = ask(easy(steps=8), tts={"n": 64})
"""About half a minute of simulated work at the speeds below."""
SOON = 3.0


async def until(condition: object, seconds: float = SOON) -> None:
    """Wait for a condition (a function), which has to hold soon."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # type: ignore[arg-type]
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_work_and_pays_for_it(start: Start, stream: bool) -> None:
    server = start(speed=0.05)
    address = urlsplit(server.url)
    body = json.dumps(LONG | {"stream": stream}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await until(lambda: server.metric("tts_running") == 1)
    await asyncio.sleep(1.5)  # the prompts take 0.4 seconds, then come five tokens a second
    writer.transport.abort()  # as when a process is killed
    left = time.monotonic()
    await until(lambda: server.metric("tts_running") == 0)
    assert time.monotonic() - left < 1.0
    spent = server.metric("tts_tokens_total")
    assert server.metric('tts_tokens_total{kind="cancelled",role="generate"}') >= 0
    cancelled = [line for line in httpx.get(f"{server.url}/metrics").text.splitlines() if 'kind="cancelled"' in line]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in cancelled) > 0
    await asyncio.sleep(0.3)
    assert server.metric("tts_tokens_total") == spent
    assert server.metric("tts_disconnects_total") == 1


async def test_the_queue_is_bounded_and_the_keys_take_turns(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {}
    for name in ("greedy", "modest"):
        main(["keys", "add", name, "--keys", str(tmp_path / "keys.json")])
        keys[name] = {"authorization": f"Bearer {capsys.readouterr().out.strip()}"}
    server = start("--keys", str(tmp_path / "keys.json"), speed=2.0, running=1, waiting=6, waiting_per_key=5)
    done: list[str] = []
    body = ask(easy(), tts={"n": 2})

    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

        async def request(name: str) -> int:
            reply = await client.post("/v1/chat/completions", json=body, headers=keys[name])
            if reply.status_code == 200:
                done.append(name)
            else:
                assert reply.status_code == 429
                assert reply.json()["error"]["code"] == "overloaded"
                assert int(reply.headers["retry-after"]) >= 1
            return reply.status_code

        crowd = [asyncio.create_task(request("greedy")) for _ in range(9)]
        await until(lambda: server.metric("tts_waiting", **keys["modest"]) == 5)
        statuses = [await request("modest"), *await asyncio.gather(*crowd)]
    assert statuses.count(429) == 3
    assert done.index("modest") <= 3  # not behind the five that came before it


async def test_budgets_and_rates_of_keys(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "keys.json")
    main(["keys", "add", "poor", "--keys", path, "--budget", "tokens=400", "--rate", "60"])
    key = {"authorization": f"Bearer {capsys.readouterr().out.strip()}"}
    body = ask(easy(), tts={"n": 2})

    def spend(server: Running) -> list[httpx.Response]:
        with httpx.Client(base_url=server.url, headers=key) as client:
            return [client.post("/v1/chat/completions", json=body) for _ in range(8)]

    server = start("--keys", path)
    replies = spend(server)
    assert replies[0].status_code == 200
    assert replies[-1].status_code == 429
    assert replies[-1].json()["error"]["code"] == "insufficient_quota"
    paid = sum(reply.json()["usage"]["tts"]["total"]["tokens"] for reply in replies if reply.status_code == 200)
    assert 0 < paid <= 400
    assert server.stop() == 0
    again = spend(start("--keys", path))  # a restart forgets nothing
    assert {reply.status_code for reply in again} <= {400, 429}
    assert httpx.get(f"{server.url}/healthz").status_code if server.process.poll() is None else True
    main(["keys", "remove", "poor", "--keys", path])


async def test_a_revoked_key_is_refused_soon(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "keys.json")
    main(["keys", "add", "bob", "--keys", path, "--rate", "600"])
    key = {"authorization": f"Bearer {capsys.readouterr().out.strip()}"}
    server = start("--keys", path)

    def status(**headers: str) -> int:
        return httpx.get(f"{server.url}/v1/models", headers=headers).status_code

    assert status(**key) == 200
    assert status() == status(authorization="Bearer wrong") == status(authorization="Basic x") == 401
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    assert httpx.get(f"{server.url}/healthz").status_code == httpx.get(server.url).status_code == 200
    main(["keys", "remove", "bob", "--keys", path])
    await until(lambda: status(**key) == 401)


async def test_a_deadline_ends_a_search_with_what_it_has(start: Start) -> None:
    server = start(speed=0.5)
    began = time.monotonic()
    reply = httpx.post(
        f"{server.url}/v1/chat/completions", json=LONG | {"tts": {"n": 64, "budget": "seconds=1.5"}}, timeout=20
    )
    assert time.monotonic() - began < 10
    assert reply.status_code in (200, 408)
    if reply.status_code == 200:
        assert reply.json()["choices"][0]["tts"]["stop_reason"] == "budget"


async def test_sigterm_drains(start: Start) -> None:
    server = start(speed=1.0)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        work = asyncio.create_task(client.post("/v1/chat/completions", json=ask(easy(), stream=True)))
        await until(lambda: server.metric("tts_running") == 1)
        server.process.send_signal(signal.SIGTERM)
        reply = await work
    assert reply.status_code == 200
    assert reply.text.endswith("data: [DONE]\n\n")
    with server.process:
        assert server.process.wait(20) == 0
    assert server.entries()[-1]["event"] == "stopped"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")


def test_logs_hold_no_problems_unless_asked(start: Start) -> None:
    quiet, open_ = start(), start("--log-content")
    for server in (quiet, open_):
        httpx.post(f"{server.url}/v1/chat/completions", json=ask(easy()))
        assert server.stop() == 0
    assert easy() not in quiet.log.read_text()
    (entry,) = [entry for entry in open_.entries() if entry["event"] == "request"]
    assert entry["problem"] == easy()
    assert entry["answers"]
    assert entry["tokens"] > 0
