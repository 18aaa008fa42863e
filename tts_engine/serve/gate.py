"""Around every request: its number, its size and time limits, whom it may come from, and what is noted of it."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tts_engine.serve.accounts import Accounts
from tts_engine.serve.logs import LOG, say
from tts_engine.serve.metrics import Metrics
from tts_engine.serve.problems import Refusal

OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
"""What needs no key."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/v1/verify",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
)
"""What metrics tell apart; the rest is `other`."""


class Gate:
    """ASGI middleware.

    Args:
        body_bytes, body_seconds: limits of a request's body.
        accounts: who may use it.
        hosts: names under which the gateway may be addressed (against pages that bind a name to this machine); empty
            for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        accounts: Accounts,
        body_bytes: int,
        body_seconds: float,
        hosts: Sequence[str],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._accounts = accounts
        self._body_bytes = body_bytes
        self._body_seconds = body_seconds
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        note: dict[str, Any] = {}
        scope.setdefault("state", {})["note"] = note
        number = scope["state"]["id"] = secrets.token_hex(8)
        started, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _set_headers(MutableHeaders(scope=message), number)
            await send(message)

        try:
            await self._serve(scope, receive, sending)
        except Exception:
            LOG.exception("failed", extra={"fields": {"id": number}})
            if not status:
                error = Refusal(500, f"something went wrong in the gateway (request {number})", "internal_error")
                await error.response()(scope, receive, sending)
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            seconds = time.monotonic() - started
            self._metrics.requests.labels(route, str(status or 499)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            if not status or note.get("gone"):
                self._metrics.gone.inc()
            say(
                "request",
                id=number,
                method=scope["method"],
                route=route,
                status=status or 499,
                ms=round(1e3 * seconds, 1),
                **note,
            )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._read(scope, receive)
        except Refusal as error:
            await error.response()(scope, receive, send)
            return
        if body is None:
            return

        given = False

        async def receiving() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receiving, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where the client has gone.

        Raises:
            Refusal: a wrong host or key, a body that is too large, too slow or not JSON.
        """
        headers = Headers(scope=scope)
        if self._hosts and re.sub(r":\d+$", "", headers.get("host", "")) not in self._hosts:
            raise Refusal(403, "this gateway is for this machine: address it as localhost", "wrong_host")
        if scope["path"] not in OPEN:
            client = scope["client"][0] if scope.get("client") else ""
            account = scope["state"]["account"] = self._accounts.enter(headers.get("authorization"), client)
            scope["state"]["note"]["key"] = account.name
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return b""
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._body_bytes:
            raise self._too_large()
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send JSON, with `Content-Type: application/json`", "unsupported_media_type")
        try:
            async with asyncio.timeout(self._body_seconds):
                return await self._collect(receive)
        except TimeoutError:
            raise Refusal(408, "the body took too long to arrive", "timeout") from None

    async def _collect(self, receive: Receive) -> bytes | None:
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            size, more = size + len(pieces[-1]), message.get("more_body", False)
            if size > self._body_bytes:
                raise self._too_large()
        return b"".join(pieces)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self._body_bytes} bytes; send less", "request_too_large")


def _set_headers(headers: MutableHeaders, number: str) -> None:
    headers["x-request-id"] = number
    headers["x-content-type-options"] = "nosniff"
    headers.setdefault("cache-control", "no-store")
