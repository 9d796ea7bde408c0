"""Packed segments: what comes out is what went in, in few bytes; what is no segment, or not all of it, is refused."""

import json
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperflow.events import packed
from hyperflow.events.packed import MAGIC, Segment, pack

NUMBERS = st.integers(0, 1 << 70)
TIMES = st.integers(0, 1 << 62).map(lambda it: f"{it / 1e6:.6f}")
NAMES = st.sampled_from(["worker-0@north", "worker-1@north", 'a "name"', "\\\n", '", "flow": 5', "]}", "ä\u2028"]).map(
    json.dumps
)
TASKS = st.lists(NUMBERS, min_size=1, max_size=4)
FLOWS = st.one_of(
    st.just(""), NUMBERS.map(', "flow": {}'.format), TASKS.map(', "flow": {}'.format), st.just(', "flow": [01]')
)
BEGUN = st.one_of(
    st.just(""),
    st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS).map(list), min_size=1, max_size=2).map(', "begun": {}'.format),
)
LINES = st.one_of(
    st.builds(
        '{{"t": {}, "state": "waiting", "tasks": {}, "function": {}, "cpus": 1{}{}{}}}\n'.format,
        *(TIMES, TASKS, NAMES, FLOWS, BEGUN, st.sampled_from(["", ', "map": true'])),
    ),
    st.builds('{{"t": {}, "state": "running", "tasks": {}, "worker": {}}}\n'.format, TIMES, TASKS, NAMES),
    st.builds(
        '{{"t": {}, "state": "done", "tasks": {}, "worker": {}, "seconds": [{}]}}\n'.format,
        *(TIMES, TASKS, NAMES, st.lists(TIMES, min_size=1, max_size=4).map(", ".join)),
    ),
    st.builds(
        '{{"t": {}, "state": "measured", "of": {}, "cpu": {}, "memory": {}}}\n'.format, TIMES, NUMBERS, TIMES, NUMBERS
    ),
    st.builds('{{"t": {}, "state": "cancelled", "tasks": {}}}\n'.format, TIMES, TASKS),
    st.builds('{{"t": {}, "state": "up", "node": {}}}\n'.format, TIMES, NAMES),
)


def read(line: str) -> object:
    """Return what a line says; None for one that is none."""
    try:
        return json.loads(line)
    except ValueError:
        return None


@given(st.lists(LINES))
def test_any_lines(lines: list[str]) -> None:
    """Lines of all forms come back as they are, with numbers of any size, in any order."""
    lines = [line for line in lines if read(line) is not None]

    assert list(Segment(pack(lines)).events()) == [json.loads(line) for line in lines]


def a_run(evaluations: int) -> Iterator[str]:
    """Yield the lines of evaluations of some 100 ms on 64 workers, one by one, in flows of their own."""
    dice, now, number, freed = random.Random(1), 1_763_600_000.0, 0, 0
    names = [f"worker-{n % 16}@node{n // 16}" for n in range(64)]
    ends: list[tuple[float, int, int, float]] = []
    while number < evaluations or ends:
        if number < 64 or (number < evaluations and len(ends) < 64):
            number += 1
            worker = number - 1 if number <= 64 else freed
            of = f'"function": "f", "cpus": 1, "flow": {worker}'
            yield f'{{"t": {now:.6f}, "state": "waiting", "tasks": [{number}], {of}}}\n'
            now += dice.uniform(1e-4, 2e-4)
            yield f'{{"t": {now:.6f}, "state": "running", "tasks": [{number}], "worker": "{names[worker]}"}}\n'
            took = dice.gammavariate(4, 0.025)
            ends.append((now + took + dice.uniform(2e-4, 4e-4), worker, number, took))
            continue
        ends.sort()
        now, freed, task, took = ends.pop(0)
        what = f'"of": {task}, "cpu": {took * 0.98:.6f}, "memory": 50000000'
        yield f'{{"t": {now:.6f}, "state": "measured", {what}}}\n'
        now += 5e-5
        what = f'"tasks": [{task}], "worker": "{names[freed]}", "seconds": [{took:.6f}]'
        yield f'{{"t": {now:.6f}, "state": "done", {what}}}\n'
        now += 1e-4


def test_ten_bytes() -> None:
    """An evaluation takes ten bytes at most, in a long segment."""
    lines = list(a_run(5000))
    data = pack(lines)

    assert len(data) < 10 * 5000, len(data) / 5000
    assert list(Segment(data).events()) == [json.loads(line) for line in lines]


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty", "a bomb", "longer"])
def test_what_is_no_segment(damage: str) -> None:
    """A segment that was cut, changed or made by somebody else is a ValueError."""
    data = pack(a_run(100))
    body = zlib.compress(
        json.dumps({"forms": [["x", "]", 0]], "workers": [], "others": [], "columns": []}).encode() + b"\n"
    )
    made = {
        "cut": data[:-10],
        "flipped": data[:300] + bytes([data[300] ^ 1]) + data[301:],
        "foreign": MAGIC + f"{len(body)} 5\n".encode() + body,
        "empty": b"",
        "a bomb": MAGIC + b"9999999999 5\n" + b"x" * 100,
        "longer": data + b"x",
    }[damage]
    with pytest.raises(ValueError):
        list(Segment(made).events())


@pytest.mark.process
def test_packing_a_file(tmp_path: Path) -> None:
    """The process replaces a segment whose lines come back; one with a line that is no event stays as it is."""
    plain, target = tmp_path / "events.000001.jsonl", tmp_path / "events.000001.packed"
    command = [sys.executable, "-I", "-S", packed.__file__, str(plain), str(target)]
    lines = list(a_run(50))
    plain.write_text("".join([*lines, '{"t": 1.5, "st\n', *lines]))
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == [plain.name]
    plain.write_text("".join(lines))
    subprocess.run(command, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert list(Segment(target.read_bytes()).events()) == [json.loads(line) for line in lines]
