"""A log of several files: full segments are packed while the run goes on; a limit; readers see one log."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.events import packing, reader, segments, writer
from hyperflow.events.packed import pack
from hyperflow.events.reader import Follower
from hyperflow.events.summary import summarise
from hyperflow.events.writer import EventLog
from hyperflow.records import index
from hyperflow.wire.numbers import TaskNumber
from tests.helpers import wait_until


class NoPacking(packing.Packing):
    """Leaves segments as they are."""

    def add(self, source: Path, target: Path) -> None:
        """Do nothing."""


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 1.5 kB, which stay plain."""
    monkeypatch.setattr(writer, "SEGMENT", 1500)
    monkeypatch.setattr(packing, "Packing", NoPacking)


def evaluate(log: EventLog, *numbers: int) -> None:
    """Log evaluations, each with a flush of its own."""
    for number in numbers:
        task = TaskNumber(number)
        log.submitted("f", 1, [task])
        log.running([task], "worker-0@north")
        log.done([task], [0.5], "worker-0@north")
        log.flush()


def done(path: Path) -> list[int]:
    """Return the tasks that are done, as a reader sees them."""
    return [task for event in reader.read(path) if event["state"] == "done" for task in event["tasks"]]


def pack_now(path: Path) -> None:
    """Pack what is full, here."""
    for number in segments.numbers(path):
        if (plain := segments.full(path, number)).exists():
            segments.packed(path, number).write_bytes(packed_form(plain))
            plain.unlink()


def packed_form(plain: Path) -> bytes:
    """Return a plain segment, packed."""
    return pack(plain.read_text().splitlines(keepends=True))


def test_readers_see_one_log(tmp_path: Path, unpacked: None) -> None:
    """Of plain and packed segments and the tail; also of a run that was killed and of one that goes on with the log."""
    path = tmp_path / segments.NAME
    log = EventLog(path)
    evaluate(log, *range(1, 41))
    numbers = segments.numbers(path)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 3
    assert done(path) == list(range(1, 41))
    plain = summarise(reader.read(path))
    segments.packed(path, 2).write_bytes(packed_form(segments.full(path, 2)))  # both are there for a moment
    assert done(path) == list(range(1, 41))
    pack_now(path)
    assert summarise(reader.read(path)) == plain
    log.close()
    os.truncate(path, path.stat().st_size - 5)  # as a kill cuts the last line
    assert done(path) == list(range(1, 41))
    again = EventLog(path)
    evaluate(again, *range(1, 31))
    again.close()
    assert done(path) == [*range(1, 41), *range(1, 31)]
    assert summarise(reader.read(path)).functions["f"].done == 30
    assert segments.numbers(path) == list(range(1, len(segments.numbers(path)) + 1))


def test_a_reader_that_follows(tmp_path: Path, unpacked: None) -> None:
    """It gets each event once, whatever is put aside and packed between its looks."""
    path = tmp_path / segments.NAME
    log, follower = EventLog(path), Follower(path)
    found: list[Any] = []
    for number in range(1, 60):
        evaluate(log, number)
        if number % 7 == 0:
            found += follower.new()
        if number % 20 == 0:
            pack_now(path)
    log.close()
    found += follower.new()
    assert found == list(reader.read(path))
    assert list(follower.new()) == []


def test_what_is_missing_or_damaged(tmp_path: Path, unpacked: None) -> None:
    """A segment that is missing, garbled or foreign is told with its name."""
    path = tmp_path / segments.NAME
    log = EventLog(path)
    evaluate(log, *range(1, 41))
    log.close()
    second = segments.full(path, 2)
    data = second.read_bytes()
    second.unlink()
    with pytest.raises(hf.HyperflowError, match=r"segment 2 of the event log .* is missing"):
        done(path)
    segments.packed(path, 2).write_bytes(b"\x1f\x8b no segment")
    with pytest.raises(hf.HyperflowError, match=r"events.000002.packed of the event log is damaged: it is no packed"):
        done(path)
    segments.packed(path, 2).unlink()
    second.write_bytes(data[:100] + b"\0\0" + data[102:])
    with pytest.raises(hf.HyperflowError, match=r"is damaged in line 2"):
        done(path)
    second.write_bytes(data)
    path.unlink()
    assert len(done(path)) > 30


def test_the_limit(tmp_path: Path, unpacked: None) -> None:
    """It is told once; evaluations are counted from then on; nodes, failures and the end are kept."""
    path = tmp_path / segments.NAME
    log = EventLog(path, limit=5000)
    with pytest.warns(RuntimeWarning, match=r"has reached its limit of 0.005 MB: .* the run goes on") as told:
        evaluate(log, *range(1, 101))
    assert len(told) == 1
    log.note("lost", node="north", cause="it burns")
    log.failed(TaskNumber(7), "f(7)", ValueError("no"))
    log.close()
    events = list(reader.read(path))
    kept = len(done(path))
    counts = [event["counts"] for event in events if event["state"] == "dropped"]
    assert 10 < kept < 30
    assert kept + sum(count["done"] for count in counts) == 100
    assert [event["state"] for event in events][-3:] == ["lost", "failed", "closed"]
    assert len(counts) == 2  # one at once, one at the end
    assert segments.size(path) < 7000
    assert summarise(events).dropped == 100 - kept


def test_a_full_disk(tmp_path: Path, unpacked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room for another segment, the tail goes on; without room for lines, the log ends, told once."""
    path = tmp_path / segments.NAME
    log = EventLog(path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "rename", full)
    evaluate(log, *range(1, 41))
    assert done(path) == list(range(1, 41))
    monkeypatch.undo()
    log.close()
    with Path("/dev/full").open("ab") as device:
        log = EventLog(tmp_path / "other.jsonl")
        log._file, file = device, log._file  # pyright: ignore[reportPrivateUsage]
        assert file is not None
        file.close()
        with pytest.warns(RuntimeWarning, match=r"ends here: .*No space left on device; the run goes on") as told:
            evaluate(log, 1, 2, 3)
            log.close()
    assert len(told) == 1


def test_kept_ends(tmp_path: Path, unpacked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index keeps the beginning and the end of a log of several files, and how much is missing between."""
    log_dir, kept = tmp_path / "log", tmp_path / "state"
    log_dir.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(kept))
    monkeypatch.setattr(index, "HEAD", 1000)
    monkeypatch.setattr(index, "TAIL", 1000)
    path = log_dir / segments.NAME
    log = EventLog(path)
    evaluate(log, *range(1, 101))
    plain = sum(segments.plain_size(path, number) for number in segments.numbers(path)) + path.stat().st_size
    pack_now(path)
    log.close()
    index.keep("a-run", log_dir)
    ends = index.logs("a-run") / segments.NAME
    events = list(reader.read(ends))
    (missing,) = (event["bytes"] for event in events if event["state"] == "left out")
    assert [events[0]["state"], events[-1]["state"]] == ["opened", "closed"]
    assert 0 < ends.stat().st_size < 3000
    assert abs(missing + ends.stat().st_size - plain) < 500


@pytest.mark.process
async def test_packed_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full segments are packed by a process while lines come; what a killed run has left, by the next one."""
    monkeypatch.setattr(writer, "SEGMENT", 20_000)
    path = tmp_path / segments.NAME
    log = EventLog(path)
    evaluate(log, *range(1, 201))
    packed = segments.packed(path, 1)
    await wait_until(lambda: packed.exists() and not segments.full(path, 1).exists(), 30, "the first segment is packed")
    evaluate(log, *range(201, 401))
    log.close()  # at once: nothing is left behind, whatever was being packed
    assert not [thread for thread in threading.enumerate() if thread.name == "hyperflow-events"]
    assert not list(tmp_path.glob("*.new"))
    again = EventLog(path)
    full = [segments.full(path, number) for number in segments.numbers(path)]
    await wait_until(lambda: not any(one.exists() for one in full), 30, "all segments are packed")
    again.close()
    assert done(path) == list(range(1, 401))
    assert packed.stat().st_size < 20_000 / 8
