"""Who may use the gateway, how often and for how much: a scope of the ledger for every key and period."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tts_engine.compute.budget import Budget
from tts_engine.compute.ledger import Scope
from tts_engine.errors import DataError
from tts_engine.serve import keys
from tts_engine.serve.problems import Refusal

ANYONE = "anyone"
"""The name of the account where there are no keys."""
LOOK_EVERY = 1.0
"""Seconds after which the file of keys is looked at again."""
WRONG_A_MINUTE = 60.0
"""Wrong keys that an address may try a minute; then it is told to wait."""
ADDRESSES = 4096
"""How many addresses are remembered."""
SPENT = ("tokens", "flops", "dollars")
"""The units that a key's budget is in."""
LEAST: Mapping[str, Any] = {"tokens": 1, "flops": 1.0, "dollars": 1e-12}

Clock = Callable[[], float]


class Bucket:
    """A rate limit: `rate` a minute, and as many at once."""

    def __init__(self, rate: float, now: Clock = time.monotonic) -> None:
        self.rate = rate
        self._now = now
        self._level, self._at = max(1.0, rate), now()

    def take(self) -> float:
        """Take one; seconds to wait where there is none, else 0."""
        now = self._now()
        self._level = min(max(1.0, self.rate), self._level + (now - self._at) * self.rate / 60)
        self._at = now
        if self._level < 1:
            return (1 - self._level) * 60 / self.rate
        self._level -= 1
        return 0.0


@dataclass(slots=True, kw_only=True)
class Account:
    """A key at work in one period.

    Attributes:
        scope: pays for its requests.
        before: what the period had spent before this account was opened, by unit.
        ends: when the period ends, in seconds since the epoch.
        active: requests that are being worked on.
        over: a later account has taken its place.
    """

    record: keys.Record
    scope: Scope
    before: Mapping[str, float]
    ends: float
    bucket: Bucket | None
    active: int = 0
    over: bool = False

    @property
    def name(self) -> str:
        """The key's name; not the key."""
        return self.record.name

    def __enter__(self) -> Self:
        self.active += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self.active -= 1
        self.retire(self.over)

    def retire(self, over: bool = True) -> None:
        """Close the account once nobody works on it."""
        self.over = over
        if over and not self.active:
            self.scope.close()

    def short(self) -> bool:
        """Whether hardly anything is free; only then need `left` be asked, which adds up all requests under way."""
        free = self.scope.left
        return any((amount := getattr(free, unit)) is not None and amount <= LEAST[unit] for unit in SPENT)

    def spent(self) -> dict[str, float]:
        """What the period has spent, by unit."""
        total = self.scope.total
        return {unit: self.before.get(unit, 0) + getattr(total, unit) for unit in SPENT}

    def left(self) -> dict[str, float]:
        """What is left of the budget, by unit of it."""
        budget, spent = _budget(self.record), self.spent()
        return {unit: limit - spent[unit] for unit in SPENT if (limit := getattr(budget, unit)) is not None}


class Accounts:
    """All accounts.

    Args:
        ledger: of the engine.
        path: file of keys; None lets anyone in. It may change at any time.
        usage: file that keeps what was spent in the running periods.
    """

    def __init__(self, ledger: Scope, path: Path | None, usage: Path | None = None, clock: Clock = time.time) -> None:
        self._ledger = ledger
        self._path = path
        self._usage = usage
        self._clock = clock
        self._looked, self._changed = -LOOK_EVERY, -1.0
        self._records: dict[str, keys.Record] = {}
        self._accounts: dict[str, Account] = {}
        self._wrong: OrderedDict[str, Bucket] = OrderedDict()
        self._before = _read(usage)
        self._look()

    def enter(self, authorization: str | None, address: str) -> Account:
        """The account of a request.

        Args:
            authorization: the header; address: where the request comes from.

        Raises:
            Refusal: no key or a wrong one (401), too many of these or too many requests (429).
        """
        record = keys.Record(name=ANYONE, hash="") if self._path is None else self._check(authorization, address)
        account = self._open(record)
        wait = account.bucket.take() if account.bucket else 0.0
        if wait:
            raise Refusal(
                429,
                f"too many requests with this key: {record.rate:g} a minute",
                "rate_limit_exceeded",
                retry_after=wait,
            )
        return account

    def afford(self, account: Account) -> None:
        """Refuse where the period's budget is spent.

        Raises:
            Refusal: 429, until the next period.
        """
        if account.short() and any(amount <= 0 for amount in account.left().values()):
            message = "the budget of this key is spent; wait for its next period"
            raise Refusal(429, message, "insufficient_quota", retry_after=account.ends - self._clock())

    def save(self) -> None:
        """Keep what the running periods have spent. Raises DataError where that is not possible."""
        if self._usage is None:
            return
        kept = self._before | {name: {"ends": each.ends, **each.spent()} for name, each in self._accounts.items()}
        now = self._clock()
        keys.write_private(self._usage, json.dumps({k: v for k, v in kept.items() if v["ends"] > now}) + "\n")

    def _check(self, authorization: str | None, address: str) -> keys.Record:
        self._look()
        scheme, _, key = (authorization or "").partition(" ")
        record = keys.find(self._records, key.strip()) if scheme.lower() == "bearer" else None
        if record is not None:
            return record
        wait = self._wrong_key(address)
        if wait:
            raise Refusal(429, "too many wrong keys; wait", "rate_limit_exceeded", retry_after=wait)
        if not authorization:
            raise Refusal(401, "there is no API key: send it as `Authorization: Bearer KEY`", "missing_api_key")
        raise Refusal(401, "the API key is wrong", "invalid_api_key")

    def _wrong_key(self, address: str) -> float:
        bucket = self._wrong.get(address) or Bucket(WRONG_A_MINUTE)
        self._wrong[address] = bucket
        self._wrong.move_to_end(address)
        if len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)
        return bucket.take()

    def _look(self) -> None:
        """Read the keys again where the file has changed; one that cannot be read changes nothing after the start."""
        now = time.monotonic()
        if self._path is None or now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        try:
            changed = self._path.stat().st_mtime
            if changed != self._changed:
                self._records, self._changed = keys.load(self._path), changed
        except (OSError, DataError):
            if self._changed < 0:
                keys.load(self._path)
                raise

    def _open(self, record: keys.Record) -> Account:
        """The account of the period; what it spent under other limits, or before a restart, counts."""
        old, now = self._accounts.get(record.name), self._clock()
        if old is not None and old.record == record and now < old.ends:
            return old
        ends = (now // record.period + 1) * record.period
        before = self._before.pop(record.name, {})
        bucket = None if record.rate is None else Bucket(record.rate)
        if old is not None:
            before = {"ends": old.ends, **old.spent()}
            bucket = old.bucket if old.record == record else bucket
            old.retire()
        spent = {unit: before.get(unit, 0) for unit in SPENT} if before.get("ends") == ends else {}
        scope = self._ledger.child(f"key:{record.name}", _rest(_budget(record), spent))
        self._accounts[record.name] = Account(record=record, scope=scope, before=spent, ends=ends, bucket=bucket)
        return self._accounts[record.name]


def _budget(record: keys.Record) -> Budget:
    return Budget.parse(record.budget) if record.budget else Budget()


def _rest(budget: Budget, spent: Mapping[str, float]) -> Budget:
    """The budget less what was spent; a spent one as the least there is (`Accounts.afford` refuses it)."""
    limits = {unit: getattr(budget, unit) for unit in SPENT if getattr(budget, unit) is not None}
    return Budget(**{unit: max(limit - spent.get(unit, 0), LEAST[unit]) for unit, limit in limits.items()})


def _read(path: Path | None) -> dict[str, dict[str, float]]:
    """What a stopped gateway had written; nothing where that cannot be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path is not None else {}
    except (OSError, ValueError):
        return {}
