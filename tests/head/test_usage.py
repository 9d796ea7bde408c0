"""What functions use: measured one by one where they take a while, in sums where they are short."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.cli.show import show
from hyperflow.events import reader
from hyperflow.events.summary import summarise
from hyperflow.head.usage import Usage
from hyperflow.progress.tally import Tally
from hyperflow.wire.frames import ProtocolError
from tests.support import local


def writes(path: Path) -> int:
    """Write and read a file, and take a while."""
    path.write_bytes(b"x" * 300_000)
    began = time.process_time()
    while time.process_time() < began + 0.02:
        pass
    return len(path.read_bytes())


async def test_what_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Statistics tell of it while the run goes on, its log and `show --functions` afterwards."""
    program = hf.ProgramInfo.new(tmp_path)
    async with local(cpus=1, program=program) as env, asyncio.timeout(40):
        for number in range(50):
            await hf.remote_eval(abs, number)
        await hf.remote_map(len, ["abc"] * 100, chunk_size=1)
        assert await hf.remote_eval(writes, tmp_path / "file") == 300_000
        found = env.statistics().functions
        assert found["abs"].done == 50
        assert 0 < found["abs"].median <= found["abs"].quantile(1.0) <= found["abs"].seconds
        one = found["writes"]
        assert (one.done, one.measured, one.failed) == (1, 1, 0)
        assert min(one.read, one.written) >= 300_000
        assert one.cpu >= 0.02
        assert one.memory > 1 << 20
    summary = summarise(reader.read(program.log_dir / "events.jsonl"))
    assert summary.functions["abs"].short > 0
    assert summary.functions["writes"].written >= 300_000
    assert show(str(program.log_dir.parent), functions=True, as_json=True) == 0
    told = {one["function"]: one for one in json.loads(capsys.readouterr().out)["functions"]}
    assert told["writes"]["read"] >= 300_000
    assert told["abs"]["short"] == summary.functions["abs"].short


class Log:
    """Keeps what would be in the event log."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def note(self, _: str, functions: Any) -> None:
        """Note something."""
        self.notes.append(functions)


def test_sums_are_told_where_they_have_changed() -> None:
    """And names of groups that were joined with others, or nonsense, harm nobody."""
    tally, log = Tally(), Log()
    usage = Usage(tally, log, {})  # type: ignore[arg-type]
    tally.submitted("f", 1)
    tally.submitted("g", 1)
    for _ in range(2):
        usage.on_used(memoryview(b'{"sums": [[1, "", "f", 0.25], [2, "gone", "h", 1.0]]}'))
    for wrong in (b"x", b"{}", b'{"sums": 1}', b'{"sums": [[1, "f", 0.1]]}', b'{"sums": [[1, [], "f", "a"]]}'):
        with pytest.raises(ProtocolError):
            usage.on_used(memoryview(wrong))
    usage.write()
    assert log.notes == [], "not yet"
    usage.write(last=True)
    usage.write(last=True)
    assert log.notes == [{"f": {"short": 0.5, "read": 0, "written": 0}}]
