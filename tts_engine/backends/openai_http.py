"""Calls over HTTP that come through: pooled connections, limits of rate and concurrency, retries, deadlines.

A try that failed for a reason that may pass (429, 5xx, no connection, silence, a stream that broke off) is made again
after a jittered, growing pause, or after the one the server asks for. A key never leaves this module: it is read from
the environment, sent in one header, and taken out of everything that a server says.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from asyncio_throttle import Throttler
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from tts_engine.errors import BackendError, ConfigError, ContextExceeded, EndpointDown

LONGEST_PAUSE = 30.0
"""Seconds between two tries at most, unless the server asks for more."""
Take = Callable[[dict[str, Any]], bool | None]
"""Takes a chunk of an answer; True: that was enough."""
_PASSING = {408, 409, 425, 429}
_CONTEXT = re.compile(
    r"context.{0,20}(length|window|size)|maximum.{0,20}(length|context)|longer than the|too long", re.IGNORECASE
)
_QUOTA = re.compile(r"insufficient_quota|billing", re.IGNORECASE)


class Again(BackendError):
    """A try that failed for a reason that may pass.

    Attributes:
        kind: `HTTP 503`, `timeout`, `unreachable` or `broken off`.
        after: seconds that the server asks to wait.
    """

    def __init__(self, kind: str, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.kind = kind
        self.after = after


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to try.

    Attributes:
        timeout: seconds of one try, from sending it to its last token.
        stall: seconds without a byte after which a try is given up.
        tries: tries of one call.
        silence: seconds without a byte of any answer after which a failing endpoint counts as down.
        pause: seconds before the second try, at most; doubled each time.
    """

    timeout: float = 900.0
    stall: float = 120.0
    tries: int = 8
    silence: float = 300.0
    pause: float = 1.0


class Endpoint:
    """One server. An async context manager.

    Args:
        url: base of the API, such as `http://localhost:8000/v1`.
        key_env: environment variable with the key; unset: no key is sent.
        key_header: header for the key; `Authorization` sends it as a bearer token.
        headers: further headers, nothing secret.
        concurrency: calls in flight at once.
        rate: calls that may start within a minute; None: any number.

    Raises:
        ConfigError: a URL that is none, or one with a password in it.
    """

    def __init__(
        self,
        url: str,
        *,
        key_env: str,
        key_header: str = "Authorization",
        headers: Mapping[str, str] | None = None,
        concurrency: int = 64,
        rate: int | None = None,
        patience: Patience,
    ) -> None:
        self.url = _checked(url)
        self._key = os.environ.get(key_env, "")
        self._key_env = key_env
        self._headers = dict(headers or {}) | _authorization(key_header, self._key)
        self._concurrency = concurrency
        self._patience = patience
        self._slots = asyncio.Semaphore(concurrency)
        self._turn = asyncio.Lock()
        self._throttle = Throttler(rate, 60.0, retry_interval=0.05) if rate else None
        self._not_before = 0.0
        self._heard = 0.0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            proxy=_proxy(self.url),
            connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=60.0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=self._patience.stall),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def get(self, path: str) -> Any:  # noqa: ANN401  # JSON
        """A small JSON document, None where there is none; raises as `call` does, after one try."""
        try:
            async with asyncio.timeout(30), self._session.get(self.url + path, allow_redirects=False) as response:
                text = await response.text()
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise self._refusal(response, text)
                return json.loads(text)
        except (TimeoutError, aiohttp.ClientError, json.JSONDecodeError) as error:
            raise self._passing(error) from error

    async def call(self, path: str, body: Mapping[str, Any], take: Take) -> None:
        """One try of a call: hands the JSON chunks of its answer to `take` until they end, or it says True: enough.
        Then, and where it is cancelled, the connection is closed.

        Raises:
            Again: it failed for a reason that may pass.
            ContextExceeded, BackendError: the server refuses this call.
            ConfigError: it refuses all of them: wrong key, no such model, quota used up.
        """
        async with self._slots:
            await self._wait_turn()
            try:
                async with (
                    asyncio.timeout(self._patience.timeout),
                    self._session.post(self.url + path, json=body, allow_redirects=False) as response,
                ):
                    if response.status != 200:
                        raise self._refusal(response, await response.text())
                    await self._read(response, take)
            except (TimeoutError, aiohttp.ClientError, json.JSONDecodeError) as error:
                raise self._passing(error) from error

    async def persist(self, once: Callable[[], Awaitable[None]]) -> None:
        """Do `once`, which makes a call, again for as long as it fails for a reason that may pass and there is hope.

        Raises:
            Again: it was tried often enough. EndpointDown: nothing of any answer has arrived for too long.
        """
        started = time.monotonic()
        try:
            return await once()
        except Again as error:
            failures = [error]
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Again), stop=self.give_up, wait=self.pause, reraise=True
        ):
            attempt.retry_state.start_time = started
            with attempt:
                if failures:  # tenacity hears of the first try too
                    raise failures.pop()
                await once()

    def give_up(self, state: RetryCallState) -> bool:
        """tenacity's `stop`: whether a failed call has been tried for long enough.

        Raises:
            EndpointDown: nothing of any answer has arrived for too long, or the server asks to wait longer than that.
        """
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Again) and error.after > self._patience.silence:
            raise EndpointDown(f"{error}, and asks to wait for {error.after:.0f} s: go on with --resume then")
        quiet = time.monotonic() - max(self._heard, state.start_time)
        if quiet > self._patience.silence:
            raise EndpointDown(
                f"the endpoint {self.url} has answered nothing for {quiet:.0f} s ({error}): see to it, then go on with"
                " --resume"
            )
        return state.attempt_number >= self._patience.tries and getattr(error, "kind", "") != "unreachable"

    def pause(self, state: RetryCallState) -> float:
        """tenacity's `wait`: seconds until the next try. What a server asks for holds for all calls."""
        error = state.outcome.exception() if state.outcome else None
        after = error.after if isinstance(error, Again) else 0.0
        self._not_before = max(self._not_before, time.monotonic() + after)
        return max(after, wait_random_exponential(self._patience.pause, LONGEST_PAUSE)(state))

    async def _wait_turn(self) -> None:
        """Until the server's wish for a pause and the rate allow another call; one waits, the others queue."""
        async with self._turn:
            while (left := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(left)
            if self._throttle:
                await self._throttle.acquire()

    async def _read(self, response: aiohttp.ClientResponse, take: Take) -> None:
        """Server-sent events, or one document where the server does not stream."""
        if response.content_type == "application/json":
            self._hand(json.loads(await response.text()), take)
            return
        rest = b""
        while data := await response.content.readany():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                payload = line[5:].strip()
                if line[:5] != b"data:" or payload == b"[DONE]":
                    continue
                if self._hand(json.loads(payload.decode("utf-8", "surrogatepass")), take):
                    return

    def _hand(self, chunk: dict[str, Any], take: Take) -> bool:
        if "error" in chunk:
            raise Again("broken off", self._clean(f"the server broke off: {_message(chunk)}"))
        self._heard = time.monotonic()
        return bool(take(chunk))

    def _passing(self, error: Exception) -> Again:
        """A failure of the network, in our terms."""
        reason = self._clean(str(error) or type(error).__name__)
        if isinstance(error, aiohttp.ClientConnectorError):
            return Again("unreachable", f"cannot reach {self.url} ({reason})")
        if isinstance(error, TimeoutError):  # also aiohttp's own
            return Again("timeout", f"{self.url} did not answer in time")
        return Again("broken off", f"the connection to {self.url} broke off ({reason})")

    def _refusal(self, response: aiohttp.ClientResponse, text: str) -> Exception:
        """What an answer other than 200 means."""
        status, said = response.status, self._clean(_message(text))
        if status in (401, 403):
            return ConfigError(f"{self.url} refuses the key ({status}: {said}): put a valid one into ${self._key_env}")
        if _QUOTA.search(said) and status in (402, 429):
            return ConfigError(f"{self.url} wants money ({status}: {said}): see to the account, then use --resume")
        if status in _PASSING or status >= 500:
            return Again(f"HTTP {status}", f"{self.url} answered {status}: {said}", _retry_after(response.headers))
        if status == 404:
            return ConfigError(f"{self.url} has no such model or path ({said}): check options.url and the model's name")
        if 300 <= status < 400:
            return ConfigError(
                f"{self.url} redirects to {response.headers.get('Location', '?')}: set options.url to it"
            )
        if _CONTEXT.search(said):
            return ContextExceeded(f"{self.url} refuses the prompt: {said}")
        return BackendError(f"{self.url} refuses a call ({status}: {said}); options.drop leaves keys out of calls")

    def _clean(self, text: str) -> str:
        """Without the key, in one line."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return " ".join(text.split())[:300]


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no URL of an endpoint: give options.url such as http://localhost:8000/v1")
    if parts.password or parts.username or parts.query:
        raise ConfigError(f"options.url for {parts.hostname} must hold no key and no password: use options.key_env")
    return url.rstrip("/")


def _proxy(url: str) -> str | None:
    """The proxy that the environment names. (aiohttp's own way would also send passwords from ~/.netrc.)"""
    parts = urlsplit(url)
    return None if proxy_bypass(str(parts.hostname)) else getproxies().get(parts.scheme)


def _authorization(header: str, key: str) -> dict[str, str]:
    if not key:
        return {}
    return {header: f"Bearer {key}" if header.lower() == "authorization" else key}


def _message(said: Any) -> str:  # noqa: ANN401  # JSON, or text that may be JSON
    """The message of an error in any of the usual forms."""
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except json.JSONDecodeError:
            return str(said)
    if isinstance(said, Mapping):
        inner = said.get("error") or said.get("detail") or said.get("message") or said
        return _message(inner) if isinstance(inner, Mapping) and inner is not said else _plain(inner)
    return str(said)


def _plain(said: Any) -> str:  # noqa: ANN401
    return said if isinstance(said, str) else json.dumps(said)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of `Retry-After` (a number or a date), 0 without one."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
