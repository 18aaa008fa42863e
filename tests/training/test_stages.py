"""The folder of a pipeline: nothing half-finished or foreign is accepted, nothing finished is paid for twice."""

from __future__ import annotations

import asyncio
import errno
import json
from collections import Counter
from pathlib import Path

import pytest

from tts_engine.errors import BackendError, DataError
from tts_engine.types import Usage
from tts_engine.verifiers.training.manifest import Folder, differences
from tts_engine.verifiers.training.stages import Done, Run, work_off


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = Folder(tmp_path / "out")
    folder.make()
    return Run(folder=folder, concurrency=2)


def first(run: Run, n: int = 3) -> dict[str, object]:
    identity = run.folder.identity("first", {"n": n}, 0, ())
    run.folder.commit("first", identity, [{"id": i} for i in range(n)], counts={"kept": n})
    return identity


def test_a_committed_stage_is_found_again(run: Run) -> None:
    identity = first(run)
    assert run.folder.finished("first", identity)
    assert run.folder.read("first") == [{"id": 0}, {"id": 1}, {"id": 2}]
    assert run.folder.facts("first")["counts"] == {"kept": 3}


def test_other_settings_are_refused_and_named(run: Run) -> None:
    first(run)
    with pytest.raises(DataError, match=r"params.n: 3 there, 4 now.*--again"):
        run.folder.finished("first", run.folder.identity("first", {"n": 4}, 0, ()))


def test_an_input_that_is_missing_changed_or_half_written_is_refused(run: Run) -> None:
    with pytest.raises(DataError, match="no finished stage first"):
        run.folder.identity("second", {}, 0, ("first",))
    first(run)
    run.folder.identity("second", {}, 0, ("first",))
    output = run.folder.output("first")
    output.write_text(output.read_text()[:-4])
    with pytest.raises(DataError, match="is not what the stage first left"):
        run.folder.read("first")


def test_a_new_input_makes_a_stage_outdated(run: Run) -> None:
    first(run)
    identity = run.folder.identity("second", {}, 0, ("first",))
    run.folder.commit("second", identity, [], counts={})
    run.folder.forget("first")
    first(run, n=5)
    with pytest.raises(DataError, match=r"inputs\.first"):
        run.folder.finished("second", run.folder.identity("second", {}, 0, ("first",)))


@pytest.mark.parametrize("text", ["", "{", '{"identity": {"version": 99}, "output": {}}'])
def test_a_broken_manifest_is_refused(run: Run, text: str) -> None:
    first(run)
    run.folder.manifest("first").write_text(text)
    with pytest.raises(DataError, match="--again"):
        run.folder.read("first")


async def test_interrupted_work_goes_on_where_it_stopped_and_gives_the_same(run: Run) -> None:
    identity = run.folder.identity("work", {}, 0, ())
    units = {str(i): i for i in range(8)}
    done: list[int] = []

    async def work(unit: int) -> Done:
        if unit == 5 and len(done) < 6:
            raise asyncio.CancelledError
        await asyncio.sleep(0)
        done.append(unit)
        return Done([{"id": unit}], Usage(completion=unit, calls=1), Counter(even=int(unit % 2 == 0)))

    with pytest.raises(asyncio.CancelledError):
        await work_off(run, "work", identity, units, work)
    kept = list(done)
    assert 0 < len(kept) < 8
    with run.folder.partial("work").open("a") as file:
        file.write('{"unit": "7", "records": [{"id"')  # a crash in the middle of a line
    done += [-1] * 6
    found = await work_off(run, "work", identity, units, work)
    assert [record["id"] for record in found.records] == list(range(8))
    assert found.usage == Usage(completion=28, calls=8)
    assert found.counts == {"even": 4}
    assert not set(kept) & set(done[len(kept) + 6 :])


async def test_partial_work_of_other_settings_or_models_is_refused(run: Run) -> None:
    identity = run.folder.identity("work", {"n": 1}, 0, ())

    async def work(unit: int) -> Done:
        return Done([{"id": unit}])

    await work_off(run, "work", identity, {"1": 1}, work, {"policy": "a"})
    with pytest.raises(DataError, match=r"models.policy: 'a' there, 'b' now"):
        await work_off(run, "work", identity, {"1": 1}, work, {"policy": "b"})


async def test_two_processes_do_not_work_on_one_stage(run: Run) -> None:
    identity = run.folder.identity("work", {}, 0, ())

    async def work(unit: int) -> Done:
        with pytest.raises(DataError, match="another process is working"):
            await work_off(run, "work", identity, {"1": 1}, work)
        return Done([{"id": unit}])

    assert (await work_off(run, "work", identity, {"1": 1}, work)).records == [{"id": 1}]


async def test_a_failed_unit_is_counted_and_many_end_the_stage(run: Run) -> None:
    identity = run.folder.identity("work", {}, 0, ())
    broken = {3}

    async def work(unit: int) -> Done:
        if unit in broken:
            raise BackendError("out of memory")
        return Done([{"id": unit}])

    units = {str(i): i for i in range(20)}
    found = await work_off(run, "work", identity, units, work)
    assert found.counts == {"failed": 1}
    assert len(found.records) == 19
    run.folder.forget("work")
    broken |= {4, 5}
    with pytest.raises(BackendError, match="3 of 20 problems failed, such as: out of memory"):
        await work_off(run, "work", identity, units, work)
    kept = [json.loads(line) for line in run.folder.partial("work").read_text().splitlines()[1:]]
    assert len(kept) == 17
    broken.clear()
    assert len((await work_off(run, "work", identity, units, work)).records) == 20


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another --out"):
        Folder(tmp_path / "file" / "out").make()


def test_a_full_disk_is_one_sentence_and_leaves_no_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str, encoding: str) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DataError, match=r"No space left on device.*make room"):
        first(run)
    assert list(run.folder.path.iterdir()) == []


def test_differences_name_nested_keys() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2}) == ""
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b: 1 there, 2 now"
