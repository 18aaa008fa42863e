"""The folder of a training pipeline: one output file a stage, and beside it a manifest that says what it was made from.

An output appears under its name only when it is whole, and a stage takes an input only with its manifest and with the
content that the manifest names. Half-finished work waits in `.STAGE.partial.jsonl`, which no other stage looks at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tts_engine.errors import DataError
from tts_engine.files import make_folder, write_text

VERSION = 1
"""Of the files; a manifest of another version is refused."""
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Folder:
    """The outputs of all stages.

    Layout: `STAGE.jsonl` and `STAGE.manifest.json`; a stage that makes a model has the folder `STAGE/` instead.
    """

    path: Path

    def output(self, stage: str) -> Path:
        return self.path / f"{stage}.jsonl"

    def partial(self, stage: str) -> Path:
        return self.path / f".{stage}.partial.jsonl"

    def manifest(self, stage: str) -> Path:
        return self.path / f"{stage}.manifest.json"

    def make(self) -> None:
        """Make the folder; `DataError` where that fails."""
        make_folder(self.path)

    def identity(self, stage: str, params: Mapping[str, Any], seed: int, inputs: Iterable[str]) -> Record:
        """What decides the content of a stage's output.

        Raises:
            DataError: an input is missing, half-finished, or not the one its manifest describes.
        """
        digests = {name: self._checked(name)["output"] for name in inputs}
        return {"stage": stage, "version": VERSION, "seed": seed, "params": dict(params), "inputs": digests}

    def finished(self, stage: str, identity: Record) -> bool:
        """Whether the stage is done with this identity.

        Raises:
            DataError: it was done with another one; names the difference.
        """
        if not self.manifest(stage).exists():
            return False
        changes = differences(self._checked(stage)["identity"], identity)
        if changes:
            raise DataError(
                f"{self.path} has the stage {stage} from other settings ({changes}); add --again to make it and what"
                " follows anew, or choose another --out"
            )
        return True

    def commit(self, stage: str, identity: Record, records: Iterable[Record], **facts: Any) -> None:  # noqa: ANN401
        """Put a stage's output and then its manifest in place; `DataError` where the disk refuses."""
        text = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        self._write(self.output(stage), text)
        self.seal(stage, identity, self.output(stage), **facts)

    def seal(self, stage: str, identity: Record, output: Path, **facts: Any) -> None:  # noqa: ANN401
        """Write the manifest of an output that is in place, and forget the partial work.

        Args:
            output: the file that stands for the output (the weights, for a model).
            facts: what else is worth keeping: counts, usage, fingerprints of models.
        """
        named = {"file": str(output.relative_to(self.path)), "digest": digest(output)}
        entry = {"identity": identity, "output": named, **facts}
        self._write(self.manifest(stage), json.dumps(entry, indent=2, allow_nan=False) + "\n")
        self.partial(stage).unlink(missing_ok=True)

    def facts(self, stage: str) -> Record:
        """The manifest of a finished stage; `DataError` where there is none or the output is another."""
        return self._checked(stage)

    def read(self, stage: str) -> list[Record]:
        """The records of a finished stage; `DataError` where it is not finished."""
        self._checked(stage)
        return list(_lines(self.output(stage)))

    def forget(self, stage: str) -> None:
        """Take a stage's manifest and partial work away, so that it is made anew."""
        self.manifest(stage).unlink(missing_ok=True)
        self.partial(stage).unlink(missing_ok=True)

    def _checked(self, stage: str) -> Record:
        path = self.manifest(stage)
        if not path.is_file():
            raise DataError(f"{self.path} has no finished stage {stage}: run `tts-train {stage}` first")
        try:
            entry: Record = json.loads(path.read_text(encoding="utf-8"))
            version, named = entry["identity"]["version"], entry["output"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise DataError(f"{path} is no manifest; run `tts-train {stage} --again`") from None
        if version != VERSION:
            raise DataError(f"{path} is of version {version}, not {VERSION}; run `tts-train {stage} --again`")
        output = self.path / named["file"]
        if not output.is_file() or digest(output) != named["digest"]:
            raise DataError(f"{output} is not what the stage {stage} left there; run `tts-train {stage} --again`")
        return entry

    def _write(self, path: Path, text: str) -> None:
        try:
            write_text(path, text)
        except OSError as error:
            raise DataError(
                f"cannot write {path} ({error.strerror}); make room there or choose another --out"
            ) from None


def digest(path: Path) -> str:
    """16 hexadecimal digits of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def differences(there: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """`key: value there, value now` for every key that differs; empty where nothing does."""
    found = []
    for key in sorted(there.keys() | now.keys()):
        a, b = there.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found.append(differences(a, b, f"{prefix}{key}."))
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} there, {b!r} now")
    return "; ".join(filter(None, found))


def _lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
