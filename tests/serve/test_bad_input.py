"""What clients should not send, over the wire: right status, OpenAI's shape, no internals, a server that goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serve.conftest import Running, Start, ask, begin, easy, simulated_config
from tts_engine.cli.serve import main

GOOD = ask(easy())
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    running = begin(
        folder, "--config", str(simulated_config(folder, body_bytes=20_000, body_seconds=1, header_seconds=1))
    )
    yield running
    assert running.stop() == 0


def with_tts(**fields: object) -> dict[str, Any]:
    return GOOD | {"tts": fields}


REFUSED = {
    "no JSON": (b"{", 400, "invalid_json"),
    "not UTF-8": (b"\xff\xfe", 400, "invalid_json"),
    "no object": (b"[]", 400, "invalid_value"),
    "a number of a million digits": (b"1" * 19_000, 400, None),
    "deeply nested": (b"[" * 19_000, 400, "invalid_json"),
    "empty": (b"", 400, None),
    "too large": (b" " * 30_000, 413, "request_too_large"),
    "no messages": (GOOD | {"messages": []}, 400, "invalid_value"),
    "an empty message": (ask("  "), 400, "invalid_value"),
    "a role that is none": (GOOD | {"messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_value"),
    "an image": (GOOD | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "invalid_value"),
    "an answer to go on with": (GOOD | {"messages": [{"role": "assistant", "content": "x"}]}, 400, "invalid_value"),
    "half a character": (b'{"model": "policy", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, None),
    "half a character as a name": (b'{"model": "policy", "messages": [], "\\ud800": 1}', 400, "unknown_parameter"),
    "no model": ({"messages": GOOD["messages"]}, 400, "missing_required_parameter"),
    "an unknown model": (GOOD | {"model": "gpt-4"}, 404, "model_not_found"),
    "an unknown strategy": (GOOD | {"model": "magic/policy"}, 404, "model_not_found"),
    "an unknown strategy in tts": (GOOD | {"model": "policy", "tts": {"strategy": "magic"}}, 400, "invalid_value"),
    "two strategies": (with_tts(strategy="beam"), 400, "invalid_value"),
    "an unknown verifier": (with_tts(verifier="magic"), 400, "invalid_value"),
    "no verifier where one is needed": (with_tts(verifier="none"), 400, "invalid_value"),
    "a verifier that is not asked": (
        GOOD | {"model": "self-consistency/policy", "tts": {"verifier_samples": 2}},
        400,
        "invalid_value",
    ),
    "an unknown field": (GOOD | {"temprature": 1}, 400, "unknown_parameter"),
    "tools": (GOOD | {"tools": [{"type": "function"}]}, 400, "unsupported_parameter"),
    "logprobs": (GOOD | {"logprobs": True}, 400, "unsupported_parameter"),
    "a temperature below zero": (GOOD | {"temperature": -1}, 400, "invalid_value"),
    "a text for a number": (GOOD | {"max_tokens": "5"}, 400, "invalid_value"),
    "too many choices": (GOOD | {"n": 10**9}, 400, "invalid_value"),
    "too many candidates": (with_tts(n=10**9), 400, "invalid_value"),
    "too many samples": (with_tts(verifier_samples=10**9), 400, "invalid_value"),
    "too many automatic samples": (with_tts(verifier_samples="auto:9999"), 400, "invalid_value"),
    "automatic samples that are none": (with_tts(verifier_samples="some"), 400, "invalid_value"),
    "too long a list of widths": (GOOD | {"model": "beam/policy", "tts": {"width": [1] * 999}}, 400, "invalid_value"),
    "a parameter of the engine": (with_tts(sampling=1), 400, "unknown_parameter"),
    "no budget": (with_tts(budget="tokens=0"), 400, "invalid_value"),
    "a debt": (with_tts(budget={"tokens": -5}), 400, "invalid_value"),
    "an endless budget": (with_tts(budget="flops=1e999"), 400, "invalid_value"),
    "a budget without a unit": (with_tts(budget="5"), 400, "invalid_value"),
    "a budget for nothing": (with_tts(budget="tokens=1"), 400, "budget_too_small"),
    "two seeds": (GOOD | {"seed": 1, "tts": {"seed": 2}}, 400, "invalid_value"),
    "an endless seed": (GOOD | {"seed": 10**30}, 400, "invalid_value"),
    "usage of no stream": (GOOD | {"stream_options": {"include_usage": True}}, 400, "invalid_value"),
    "a huge prompt": (ask("1 " * 5_000), 400, "invalid_value"),
    "a problem of another kind": (ask("What is life?"), 502, "model_failed"),
}


@pytest.mark.parametrize(("body", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_with_a_reason(server: Running, body: object, status: int, code: str | None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=JSON)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == (code or error["code"])
    assert not any(word in error["message"] for word in ("Traceback", ".py", "Error:", "pydantic", "object at"))


def test_automatic_samples_are_taken(server: Running) -> None:
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=with_tts(verifier_samples="auto:4"))
    assert reply.status_code == 200


def test_other_addresses_methods_and_kinds_of_content(server: Running) -> None:
    url = f"{server.url}/v1/chat/completions"
    assert httpx.get(f"{server.url}/v2").status_code == 404
    refused = httpx.get(url)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    plain = httpx.post(url, content=json.dumps(GOOD), headers={"content-type": "text/plain"})
    assert plain.status_code == 415  # so that no page of another site can send it
    elsewhere = httpx.get(f"{server.url}/v1/models", headers={"host": "evil.example"})
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (403, "wrong_host")


def test_what_verify_refuses(server: Running) -> None:
    def send(**fields: object) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/verify", json={"problem": easy(), "steps": ["2+2=4."]} | fields)

    assert send().status_code == 200
    assert send(steps=[]).status_code == 400
    assert send(steps=["x"] * 999).json()["error"]["param"] == "steps"
    assert send(verifier="magic").status_code == send(verifier="none").status_code == send(samples=0).status_code == 400
    assert send(budget="tokens=1").json()["error"]["code"] == "budget_too_small"
    unknown = send(sample=2).json()["error"]
    assert (unknown["param"], unknown["code"]) == ("sample", "unknown_parameter")
    fields = httpx.get(f"{server.url}/openapi.json").json()["components"]["schemas"]["VerifyRequest"]["properties"]
    assert unknown["param"] not in fields
    assert "samples" in fields
    assert len(send(verifier_samples=2).json()["samples"]) == 2


async def talk(url: str, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What the server says until it closes the connection."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_slow_and_half_open_clients_are_dropped(server: Running) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    body = head + b"content-type: application/json\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{"
    silent, header, content, garbage = await asyncio.gather(
        talk(server.url), talk(server.url, head), talk(server.url, body), talk(server.url, b"\x00\x01\r\n\r\n")
    )
    assert silent == header == b""
    assert b"408" in content.splitlines()[0]
    assert b"400" in garbage.splitlines()[0]


def test_a_crowd_of_half_open_connections_keeps_nobody_out(server: Running) -> None:
    address = urlsplit(server.url)

    async def crowd() -> int:
        pairs = [await asyncio.open_connection(address.hostname, address.port) for _ in range(200)]
        async with httpx.AsyncClient() as client:
            status = (await client.post(f"{server.url}/v1/chat/completions", json=GOOD)).status_code
        for _, writer in pairs:
            writer.close()
        return status

    assert asyncio.run(crowd()) == 200


async def test_ten_thousand_keys_tried(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys.json"
    assert main(["keys", "add", "alice", "--keys", str(keys)]) == 0
    right = capsys.readouterr().out.strip()
    assert right not in keys.read_text()
    server = start("--keys", str(keys))

    def attempt(key: str, close: bool = False) -> bytes:
        return (
            f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
            f"connection: {'close' if close else 'keep-alive'}\r\n\r\n"
        ).encode()

    async def burglar(number: int) -> bytes:
        tries = [attempt(f"tts-alice-{number}-{i}") for i in range(499)]
        return await talk(server.url, b"".join(tries) + attempt(right[:-1], close=True))

    def honest() -> float:
        began = time.monotonic()
        assert httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer {right}"}).status_code == 200
        return time.monotonic() - began

    burglary = asyncio.gather(*(burglar(i) for i in range(20)))
    await asyncio.sleep(0.2)
    assert await asyncio.to_thread(honest) < 20  # the server answers while it is being tried
    said = b"".join(await burglary)
    assert said.count(b"HTTP/1.1 401") + said.count(b"HTTP/1.1 429") == 10_000
    assert said.count(b"HTTP/1.1 401") <= 70
    assert b"retry-after" in said
    assert right not in server.log.read_text()
