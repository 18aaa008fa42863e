"""One SQLite file a run: every finished model call and code check, the outcomes, and whose run it is.

A call that was written is found again by the request's identity: that is the cache, the resume and the replay of a run.
Writing resolves after the commit; what was committed survives `kill -9` (write-ahead log, synchronous=NORMAL: a power
cut may lose the last moments, never the file). All writes of one turn of the event loop share one transaction. Other
processes may read the file at any time:

    sqlite3 journal.sqlite "SELECT role, model, count(*), sum(completion) FROM calls GROUP BY 1, 2"
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from tts_engine.backends import record
from tts_engine.backends.base import ModelInfo
from tts_engine.backends.record import SQLValue
from tts_engine.errors import DataError
from tts_engine.types import CodeRun, Completion, Request, Usage

Row = tuple[SQLValue, ...]
Rows = Mapping[str, Sequence[Row]]
"""By table."""
T = TypeVar("T")

_WRITES = {
    "calls": f"INSERT OR IGNORE INTO calls ({', '.join(record.CALL)}) VALUES ({', '.join('?' * len(record.CALL))})",
    "code": "INSERT OR IGNORE INTO code VALUES (?, ?, ?, ?, ?)",
    "outcomes": "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)",
    "notes": "INSERT OR REPLACE INTO notes VALUES (?, ?)",
    "models": "INSERT OR IGNORE INTO models VALUES (?, ?)",
    "lost": "INSERT INTO lost VALUES (?, ?, ?, ?, ?, ?, ?)",
}
_LOST = (
    "CREATE TABLE IF NOT EXISTS lost (problem TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL,"
    " key TEXT NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL, cancelled INTEGER NOT NULL)"
)
"""What cancelled calls had computed; they are drawn again when they are wanted again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStats:
    """Counts since the journal was opened; `calls` and `outcomes` are in the file, whoever wrote them."""

    calls: int
    outcomes: int
    hits: int
    misses: int
    writes: int
    commits: int


class Journal:
    """The journal of one run, for one event loop at a time. A context manager; make it with `Journal.open`."""

    def __init__(self, database: sqlite3.Connection, prompts: bool) -> None:
        """Internal: use `Journal.open`."""
        self._database = database
        self._prompts = prompts
        self._rows: dict[str, list[Row]] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._written = _nothing_yet(database)
        self._hits = self._misses = self._writes = self._commits = 0

    @classmethod
    def open(cls, path: Path | None, identity: Mapping[str, Any], resume: bool, prompts: bool = False) -> Self:
        """Start a journal, or continue one.

        Args:
            path: the file; None keeps the journal in memory.
            identity: what a run must have in common with the file to continue it (JSON values), such as the hash of the
                resolved config and the fingerprints of the models.
            resume: continue the file if it exists; otherwise an existing file is refused.
            prompts: store the text of prompts too (as JSON); completions are always stored.

        Raises:
            DataError: the file exists and `resume` is false, is no journal, is damaged, or belongs to another run.
        """
        known = path is not None and path.exists()
        if known and not resume:
            raise DataError(f"{path} exists; resume that run, or choose another run folder")
        try:
            database = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=10.0)
        except sqlite3.Error as error:
            raise DataError(f"cannot open {path} ({error}); choose a run folder that can be written") from error
        try:
            _prepare(database, path or Path(":memory:"), identity)
        except BaseException:
            database.close()
            raise
        return cls(database, prompts)

    async def write_call(
        self, request: Request, completion: Completion, problem: str, name: bytes | None = None
    ) -> None:
        """Keep a finished call; returns when it can no longer be lost. Of equal requests the first one stays.

        `name`: the request's identity, where the caller knows it.
        """
        await self._write("calls", record.call_row(request, completion, problem, self._prompts, name))

    def find_call(self, request: Request, name: bytes | None = None) -> Completion | None:
        """The completion written for an equal request, exactly as it was; None if there is none."""
        name = name or request.identity()
        if self._written is not None and name not in self._written:
            return self._counted(None)
        return self._counted(record.find_completion(self._database, name))

    def lose_call(self, request: Request, usage: Usage, problem: str) -> None:
        """Keep what a cancelled call had computed; committed with the next turn of the event loop."""
        names = (problem, request.role.value, request.model, str(request.key))
        self._put("lost", (*names, usage.prompt, usage.cached, usage.cancelled))

    def lost(self) -> Usage:
        """All that cancelled calls had computed, whichever process made them."""
        self.flush()
        sql = "SELECT count(*), total(prompt), total(cached), total(cancelled) FROM lost"
        calls, prompt, cached, cancelled = map(int, self._database.execute(sql).fetchone())
        wasted = prompt - cached + cancelled
        return Usage(prompt=prompt, cached=cached, cancelled=cancelled, wasted=wasted, calls=calls)

    async def write_code(self, identity: bytes, run: CodeRun) -> None:
        """Keep an executed check under a name of 16 bytes or more; of equal names the first one stays."""
        await self._write("code", (identity, run.code, run.output, run.ok, run.seconds))

    def find_code(self, identity: bytes) -> CodeRun | None:
        """The check written under that name; None if there is none."""
        sql = "SELECT code, output, ok, seconds FROM code WHERE id = ?"
        row = self._database.execute(sql, (identity,)).fetchone()
        run = row and CodeRun(code=row[0], output=row[1], ok=bool(row[2]), seconds=row[3])
        return self._counted(run)

    async def write_outcome(self, problem_id: str, index: int, payload: Mapping[str, Any]) -> None:
        """Keep the result of a problem (JSON values), `index` being its place in the set; the last one stays."""
        await self._write("outcomes", (problem_id, index, json.dumps(payload)))

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """All results by problem id, in the order of the set."""
        rows = self._database.execute("SELECT problem, payload FROM outcomes ORDER BY position, problem")
        return {problem: json.loads(payload) for problem, payload in rows}

    async def write_note(self, name: str, payload: Any) -> None:  # noqa: ANN401  # any JSON value
        """Keep a JSON value under a name; the last one stays."""
        await self._write("notes", (name, json.dumps(payload)))

    def notes(self) -> dict[str, Any]:
        """All notes by name."""
        return {name: json.loads(payload) for name, payload in self._database.execute("SELECT * FROM notes")}

    async def write_model(self, info: ModelInfo) -> None:
        """Keep what is known about a model; the replay backend presents itself with it."""
        await self._write("models", (info.name, record.dump_info(info)))

    def stats(self) -> JournalStats:
        """Counts for reports."""
        calls, outcomes = self._database.execute(
            "SELECT (SELECT count(*) FROM calls), (SELECT count(*) FROM outcomes)"
        ).fetchone()
        return JournalStats(
            calls=calls,
            outcomes=outcomes,
            hits=self._hits,
            misses=self._misses,
            writes=self._writes,
            commits=self._commits,
        )

    def flush(self) -> None:
        """Commit now what is waiting; a failure is raised by the writes that wait for it."""
        rows, waiters = self._rows, self._waiters
        self._rows, self._waiters, self._loop = {}, [], None
        if not rows:
            return
        try:
            self._commit(rows)
        except sqlite3.Error as error:
            failure = DataError(f"cannot write the journal ({error}); see to its disk, then resume the run")
            wake(waiters, failure)
        else:
            wake(waiters, None)

    def close(self) -> None:
        """Commit what is waiting and close the file; again: nothing happens."""
        self.flush()
        self._database.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def write_rows(self, rows: Rows) -> None:
        """Keep rows that another process's journal collected; returns when they can no longer be lost."""
        waits = [self._put(table, row) for table, values in rows.items() for row in values]
        if waits:
            await self._committed(waits[-1])

    def rows(self, problem: str, after: int) -> tuple[Rows, int]:
        """What a journal elsewhere needs to go on with a problem: its calls, and all checks behind the first `after`.

        Returns:
            the rows by table, and the place of the last check.
        """
        self.flush()
        self._database.execute("CREATE INDEX IF NOT EXISTS calls_of_problem ON calls (problem)")
        calls = self._database.execute(f"SELECT {', '.join(record.CALL)} FROM calls WHERE problem = ?", (problem,))
        checks = self._database.execute("SELECT rowid, * FROM code WHERE rowid > ? ORDER BY rowid", (after,)).fetchall()
        return {"calls": calls.fetchall(), "code": [row[1:] for row in checks]}, checks[-1][0] if checks else after

    async def _write(self, table: str, row: Row) -> None:
        await self._committed(self._put(table, row))

    async def _committed(self, loop: asyncio.AbstractEventLoop) -> None:
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _put(self, table: str, row: Row) -> asyncio.AbstractEventLoop:
        """Add a row to this turn's transaction."""
        loop = asyncio.get_running_loop()
        self._rows.setdefault(table, []).append(row)
        if self._loop is not loop:
            self._loop = loop
            loop.call_soon(self.flush)
        return loop

    def _commit(self, rows: Rows) -> None:
        number = sum(map(len, rows.values()))
        if number == 1:  # commits by itself
            ((table, (row,)),) = rows.items()
            self._database.execute(_WRITES[table], row)
        else:
            self._commit_together(rows)
        self._commits += 1
        self._writes += number
        if self._written is not None:
            self._written.update([row[0] for row in rows.get("calls", ())])

    def _commit_together(self, rows: Rows) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for table, values in rows.items():
                self._database.executemany(_WRITES[table], values)
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _counted(self, found: T | None) -> T | None:
        self._hits += found is not None
        self._misses += found is None
        return found


class Blank(Journal):
    """A journal that keeps nothing and knows nothing: for a server, whose memory must not grow."""

    async def write_call(
        self, request: Request, completion: Completion, problem: str, name: bytes | None = None
    ) -> None:
        pass

    def find_call(self, request: Request, name: bytes | None = None) -> Completion | None:
        return None

    def find_code(self, identity: bytes) -> CodeRun | None:
        return None

    def lose_call(self, request: Request, usage: Usage, problem: str) -> None:
        pass

    def _put(self, table: str, row: Row) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def _write(self, table: str, row: Row) -> None:
        pass


def wake(waiters: list[asyncio.Future[None]], failure: DataError | None) -> None:
    """Let those who wait for a write go on: with the failure, if there is one."""
    for waiter in waiters:
        if waiter.done():  # its task was cancelled; the row is written all the same
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)


def _prepare(database: sqlite3.Connection, path: Path, identity: Mapping[str, Any]) -> None:
    """Lay the tables of a new file in one transaction, or check an old one."""
    try:
        empty = database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    except sqlite3.DatabaseError:
        empty = False
    if empty:
        _lay(database, identity)
        return
    record.check_file(database, path)
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute(_LOST)
    ((written,),) = database.execute("SELECT value FROM meta WHERE name = 'identity'")
    _compare(path, json.loads(written), json.loads(json.dumps(identity)))


def _lay(database: sqlite3.Connection, identity: Mapping[str, Any]) -> None:
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("BEGIN IMMEDIATE")
    database.execute(f"PRAGMA application_id={record.APPLICATION}")
    database.execute(f"PRAGMA user_version={record.VERSION}")
    for statement in (*record.SCHEMA.split(";")[:-1], _LOST):
        database.execute(statement)
    database.execute("INSERT INTO meta VALUES ('identity', ?)", (json.dumps(identity, sort_keys=True),))
    database.execute("COMMIT")


def _nothing_yet(database: sqlite3.Connection) -> set[SQLValue] | None:
    """Where the names of this process's calls go, so that a new one is known as new without a query; None where the
    file has calls already."""
    return None if database.execute("SELECT 1 FROM calls LIMIT 1").fetchone() else set()


def _compare(path: Path, written: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    differing = sorted(key for key in written.keys() | given.keys() if written.get(key) != given.get(key))
    if differing:
        pairs = "; ".join(f"{key}: {written.get(key)!r} there, {given.get(key)!r} now" for key in differing)
        raise DataError(f"{path} belongs to another run ({pairs}); use its configuration, or another run folder")
