"""How model calls and models are written down in a run's SQLite file: shared by the journal and the replay backend."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from dataclasses import asdict, fields
from functools import lru_cache
from operator import attrgetter
from pathlib import Path

from pydantic_core import to_json

from tts_engine.backends.base import ModelInfo, ModelShape
from tts_engine.errors import DataError
from tts_engine.types import Completion, Finish, Prompt, Request, TokenLogprob, Usage

APPLICATION = 0x74747331
"""SQLite's application id of our files ("tts1"): tells them from other databases."""
VERSION = 1
"""Format version; a file of another one is refused."""

SQLValue = str | bytes | int | float | None
_ZERO = {f.name: f.default for f in fields(Usage) if f.name != "wasted"}
USAGE = tuple(_ZERO)
"""What a delivered completion took; none of it is wasted yet."""
ANSWER = ("text", "tokens", "finish", "stop", "mean_logprob", "logprobs", *USAGE)
"""Columns that a completion is restored from."""
CALL = ("id", "problem", "role", "model", "key", "prompt_id", "prompt_text", *ANSWER)
_FIND = f"SELECT {', '.join(ANSWER)} FROM calls WHERE id = ?"
_JSON = json.JSONEncoder(ensure_ascii=False)
_amounts = attrgetter(*USAGE)

SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE models (name TEXT PRIMARY KEY, info TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE calls (
    id BLOB PRIMARY KEY, problem TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL, key TEXT NOT NULL,
    prompt_id BLOB NOT NULL, prompt_text TEXT,
    text TEXT NOT NULL, tokens INTEGER NOT NULL, finish TEXT NOT NULL, stop TEXT, mean_logprob REAL, logprobs TEXT,
    {", ".join(f"{name} {'REAL' if type(value) is float else 'INTEGER'} NOT NULL" for name, value in _ZERO.items())}
);
CREATE TABLE code (id BLOB PRIMARY KEY, code TEXT NOT NULL, output TEXT NOT NULL, ok INTEGER NOT NULL, seconds REAL);
CREATE TABLE outcomes (problem TEXT PRIMARY KEY, position INTEGER NOT NULL, payload TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE notes (name TEXT PRIMARY KEY, payload TEXT NOT NULL) WITHOUT ROWID;
"""


def prompt_text(prompt: Prompt) -> str:
    """A prompt as JSON."""
    messages = [[message.role, message.content] for message in prompt.messages]
    parts = {"messages": messages, "continuation": prompt.continuation, "generation_prompt": prompt.generation_prompt}
    return _JSON.encode(parts)


def prompt_id(text: str) -> bytes:
    """16 bytes that name a prompt, from its `prompt_text`."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@lru_cache(256)
def _prompt_id(prompt: Prompt) -> bytes:
    """Many calls share a prompt: it is written out once."""
    return prompt_id(prompt_text(prompt))


def call_row(
    request: Request, completion: Completion, problem: str, prompts: bool, name: bytes | None = None
) -> tuple[SQLValue, ...]:
    """Values for the columns `CALL`; the prompt's text only when `prompts`. `name`: the identity, where it is known."""
    usage = completion.usage
    return (
        name or request.identity(),
        problem,
        request.role.value,
        request.model,
        str(request.key),
        _prompt_id(request.prompt),
        prompt_text(request.prompt) if prompts else None,
        completion.text,
        completion.tokens,
        completion.finish.value,
        completion.stop,
        None if math.isnan(completion.mean_logprob) else completion.mean_logprob,
        _dump_logprobs(completion.logprobs) if completion.logprobs else None,
        *_amounts(usage),
    )


def read_completion(row: tuple[SQLValue, ...]) -> Completion:
    """The completion from the columns `ANSWER`, exactly as it was written."""
    text, tokens, finish, stop, mean_logprob, logprobs, *usage = row
    return Completion(
        text=text,  # type: ignore[arg-type]  # the types of the columns are those of SCHEMA
        tokens=tokens,  # type: ignore[arg-type]
        finish=Finish(str(finish)),
        stop=stop,  # type: ignore[arg-type]
        mean_logprob=math.nan if mean_logprob is None else float(mean_logprob),
        logprobs=() if logprobs is None else _load_logprobs(str(logprobs)),
        usage=Usage(**dict(zip(USAGE, usage, strict=True))),  # type: ignore[arg-type]
    )


def find_completion(database: sqlite3.Connection, name: bytes) -> Completion | None:
    """What was recorded for the request of that identity."""
    row = database.execute(_FIND, (name,)).fetchone()
    return None if row is None else read_completion(row)


def _dump_logprobs(tokens: tuple[TokenLogprob, ...]) -> str:
    return to_json([[t.text, t.logprob, dict(t.alternatives)] for t in tokens]).decode()


def _load_logprobs(text: str) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(text=t, logprob=p, alternatives=others) for t, p, others in json.loads(text))


def dump_info(info: ModelInfo) -> str:
    """A model's description as JSON."""
    return json.dumps(asdict(info), sort_keys=True)


def load_info(text: str) -> ModelInfo:
    """The description that `dump_info` wrote."""
    values = json.loads(text)
    shape = values.pop("shape")
    return ModelInfo(shape=None if shape is None else ModelShape(**shape), **values)


def check_file(database: sqlite3.Connection, path: Path) -> None:
    """Refuse what is no journal of this format.

    Raises:
        DataError: it is damaged, another program's database, or of another format version.
    """
    remedy = "choose another run folder, or move the file away"
    try:
        ((application,),) = database.execute("PRAGMA application_id")
        ((version,),) = database.execute("PRAGMA user_version")
        ((health,),) = database.execute("PRAGMA quick_check(1)")
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is not a journal, or is damaged ({error}); {remedy}") from error
    if application != APPLICATION:
        raise DataError(f"{path} is a database of another program; {remedy}")
    if version != VERSION:
        raise DataError(f"{path} has journal format {version}, this version reads {VERSION}; {remedy}")
    if health != "ok":
        raise DataError(f"{path} is damaged ({health}); {remedy}")
