"""`hyperflow gc`: what it shows, what it removes, and what it never touches."""

import asyncio
import json
import os
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow import flow as flows
from hyperflow.cli import space
from hyperflow.database.file import DatabaseFile
from hyperflow.database.ownership import Owner, Ownership
from hyperflow.database.shrink import without
from hyperflow.errors import DatabaseError
from hyperflow.master import rundir
from hyperflow.master.shared import Timeouts
from hyperflow.program import ProgramInfo
from hyperflow.staging import leftovers
from hyperflow.staging.parts import marker_name
from tests.cli.test_damage import hyperflow
from tests.database import damage
from tests.database.conftest import running
from tests.support import Gate, local, wait_at

LONG_AGO = time.time() - 90 * 86400

Files = dict[str, bytes | None]


def age(path: Path) -> None:
    """Make all in a directory look old."""
    for one in (path, *path.rglob("*")):
        os.utime(one, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def made(base: Path, use: Callable[[], Awaitable[None]] | None = None, **more: Path) -> ProgramInfo:
    """Make a run that was left long ago, of a job by itself."""
    program = ProgramInfo.new(base, **more)
    (program.log_dir / "events.jsonl").touch()

    async def run() -> None:
        async with running(program):
            if use is not None:
                await use()

    asyncio.run(run())
    age(home_of(program))
    return program


def home_of(program: ProgramInfo) -> Path:
    """Return a run's directory."""
    return program.log_dir.parent


def contents(place: Path) -> Files:
    """Return all that is in a directory."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in place.rglob("*")
    }


def kept(capsys: pytest.CaptureFixture[str], base: Path, *words: str) -> dict[str, str]:
    """Return why each run stays, "" if it can go."""
    told = json.loads(hyperflow(capsys, "gc", "--json", "--base-dir", str(base), *words)[1])
    return {Path(one["path"]).name: one["kept"] for one in told["found"] if one["kind"] == "run"}


def test_old_runs_go_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --delete nothing changes; with it the old ones go, and what that freed is told."""
    old = made(tmp_path)
    young = ProgramInfo.new(tmp_path)
    (young.log_dir / "events.jsonl").touch()
    (home_of(old) / "data" / "large").write_bytes(b"x" * 100_000)
    age(home_of(old))
    before = contents(tmp_path)
    code, told = hyperflow(capsys, "gc", "--base-dir", str(tmp_path))
    assert (code, contents(tmp_path)) == (0, before)
    assert "--delete" in told
    assert "not old enough" in told
    assert set(filter(None, kept(capsys, tmp_path, "--older-than", "200d").values())) == {
        "it is not old enough (--older-than)"
    }
    code, told = hyperflow(capsys, "gc", "--delete", "--base-dir", str(tmp_path))
    assert code == 0
    assert "freed 1" in told
    assert [path.name for path in tmp_path.iterdir()] == [young.program_id]
    assert "nothing can go" in hyperflow(capsys, "gc", "--base-dir", str(tmp_path))[1]


def test_what_runs_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A master, the owner of the results, a head, here or on another host, and a job that Slurm may know."""
    runs = [made(tmp_path) for _ in range(5)]
    homes = [home_of(run) for run in runs]
    locks = [Ownership.acquire(homes[0] / "master", "p"), Ownership.acquire(homes[1] / "results.sqlite", "p")]
    for home, host in ((homes[2], socket.gethostname()), (homes[3], "elsewhere")):
        (home / "control").mkdir(mode=0o700)
        address = {"host": host, "pid": os.getpid(), "path": "x"}
        (home / "control" / "master.json").write_text(json.dumps(address))
        (home / "control" / "master.json").chmod(0o600)
    (homes[4] / "jobs" / "1").mkdir(parents=True, mode=0o700)
    (homes[4] / "jobs").chmod(0o700)
    for home in homes:
        age(home)
    told = kept(capsys, tmp_path, "--delete")
    for home, words in zip(
        homes,
        (
            "its master runs",
            "its results are in use by",
            "runs it",
            "did not end well",
            "what its jobs do is not known",
        ),
        strict=True,
    ):
        assert words in told[home.name]
        assert home.exists()
    for lock in locks:
        lock.release()


def swept(capsys: pytest.CaptureFixture[str], base: Path, home: Path) -> str:
    """Make all look old, and remove all that can go; return why one run stayed."""
    age(base)
    return kept(capsys, base, "--delete", "--older-than", "0s")[home.name]


@pytest.mark.parametrize("database", ["its own", "beside", "elsewhere"])
async def test_a_plain_run_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str], database: str) -> None:
    """Nothing of it goes while it computes, and it goes on; then it goes, unless results elsewhere may need it."""
    base, gate = tmp_path / "base", Gate(tmp_path)
    base.mkdir()
    places = {"its own": None, "beside": base / "results.sqlite", "elsewhere": tmp_path / "results.sqlite"}

    @hf.memoize("waited")
    def waited(path: str) -> hf.Job[str]:
        return hf.remote_eval(wait_at, path)

    async with local(1, program=ProgramInfo.new(base, database=places[database])) as env:
        home = home_of(env.program)
        directory = await hf.new_work_dir("x")
        (directory / "file").write_text("precious")
        running = waited(gate.path).start()
        await gate.wait_inside()
        there = set(contents(home))
        why = await asyncio.to_thread(swept, capsys, base, home)
        assert "in use by" in why or "runs it" in why
        assert set(contents(home)) == there
        gate.open()
        assert await running == gate.path
        assert (directory / "file").read_text() == "precious"
        assert await hf.remote_eval(abs, -1) == 1
    db = hf.open_results(places[database] or home)
    assert db.map("waited").values() == [gate.path]
    results_go = database == "its own"
    assert ("may name its work directories" in swept(capsys, base, home)) is not results_go
    assert home.exists() is not results_go


async def test_a_cluster_program_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of it and of its jobs goes while one computes, and both go on; afterwards the run can go."""
    base, gate = tmp_path / "base", Gate(tmp_path)

    @hf.memoize("waited")
    def waited(path: str) -> hf.Job[str]:
        return hf.remote_eval(wait_at, path)

    async with hf.open_cluster(base_dir=base, local=True, timeouts=Timeouts(look=0.05)) as env:
        home = env.master.run.home
        running = hf.remote_eval_job(waited(gate.path)).start()
        await gate.wait_inside()
        assert "its master runs" in await asyncio.to_thread(swept, capsys, base, home)
        assert len(rundir.job_directories(home)) == 1
        gate.open()
        assert await running == gate.path
        assert await hf.remote_eval(abs, -1).using(sbatch=hf.SbatchOptions()) == 1
    assert hf.open_results(home).map("waited").values() == [gate.path]
    assert swept(capsys, base, home) == ""
    assert not home.exists()


def test_a_run_that_starts_meanwhile_stays(tmp_path: Path) -> None:
    """Locks are taken before anything goes."""
    home = home_of(made(tmp_path))
    found = space.find(tmp_path, time.time())
    assert [one.kept for one in found] == [""]
    lock = Ownership.acquire(home / "results.sqlite", "p")
    freed, (failure,) = space.remove(tmp_path, found)
    assert freed == 0
    assert "is in use by" in failure
    lock.release()
    assert (home / "results.sqlite").exists()
    freed, failures = space.remove(tmp_path, found)
    assert (freed > 0, failures, list(tmp_path.iterdir())) == (True, [], [])


def test_what_others_need_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Work directories that a later run knows, and a database that it uses; with the later run they go."""

    async def use() -> None:
        (await hf.new_work_dir("x") / "file").write_text("precious")

    first = made(tmp_path, use)
    assert isinstance(first.database, Path)
    later = made(tmp_path, start_from=first.database)
    user = made(tmp_path)
    (home_of(user) / "program.json").write_text(
        json.dumps({"program_id": user.program_id, "argv": ["x"], "database": str(later.database), "finished": 1})
    )
    (home_of(user) / "program.json").chmod(0o600)
    told = kept(capsys, tmp_path)
    assert told[user.program_id] == "it is not old enough (--older-than)"
    assert told[later.program_id] == f"{user.program_id} uses its results or work directories"
    assert "uses its results or work directories" in told[first.program_id]
    age(home_of(user))
    assert set(kept(capsys, tmp_path).values()) == {""}


def test_a_program_that_can_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes only by its name."""
    run = made(tmp_path)
    about = {"program_id": run.program_id, "argv": ["x"], "database": str(run.database)}
    (home_of(run) / "program.json").write_text(json.dumps(about))
    (home_of(run) / "program.json").chmod(0o600)
    age(home_of(run))
    assert "hyperflow resume" in kept(capsys, tmp_path, "--delete")[run.program_id]
    assert kept(capsys, tmp_path, run.program_id, "--delete") == {run.program_id: ""}
    assert not home_of(run).exists()


def test_links_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a link in a run leads to stays, and so does a run that is a link; the base directory may be one."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    base = tmp_path / "base"
    run = made(base)
    (home_of(run) / "data" / "link").symlink_to(outside)
    other = made(tmp_path / "elsewhere")
    (base / "linked").symlink_to(home_of(other))
    age(home_of(run))
    (tmp_path / "way").symlink_to(base)
    assert kept(capsys, tmp_path / "way", "--delete") == {run.program_id: ""}
    assert [path.name for path in base.iterdir()] == ["linked"]
    assert (outside / "precious").exists()
    assert home_of(other).exists()


def test_old_versions_and_leftovers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results of a version that another one has followed, and files that were kept; all else stays as it is."""

    def function(version: int) -> Callable[[int], hf.Job[str]]:
        return hf.memoize("f", version=version, on_change="ignore")(lambda x: flows.pure("x" * 50_000))

    async def use() -> None:
        for version in (1, 2):
            for number in range(5):
                await function(version)(number)
        await hf.KeyValMap("m").insert(1, 2)
        await hf.KeyValMap("m").insert(1, 3)
        await hf.new_work_dir("known")

    program = made(tmp_path, use)
    home, path = home_of(program), program.database
    assert isinstance(path, Path)
    for name in ("results.sqlite.damaged-1", "results.sqlite.saved-0123abcd", ".results.sqlite." + "0" * 16):
        (home / name).write_bytes(b"x" * 5000)
    (home / "data" / ("y-" + "0" * 20)).mkdir()
    (home / "data" / "mine").mkdir()
    saved = home / "data" / "checkpoints" / ("z-" + "0" * 20)
    saved.mkdir(parents=True)
    (saved / "state").write_bytes(b"x" * 5000)
    saved.with_name(f"{saved.name}.lock").touch()
    (home / "results.sqlite.notes").write_text("mine")
    age(home)
    (home / "log" / "new").touch()  # so the run itself stays
    told = json.loads(hyperflow(capsys, "gc", "--json", "--base-dir", str(tmp_path), "--older-than", "0s")[1])
    assert [one["kept"] for one in told["found"]] == [""]
    assert told["found"][0]["kind"] == "run"
    age_of_entries = time.time() + 100
    found = list(space._inside(home, age_of_entries, space._databases(tmp_path, [home]), {}))
    assert sorted({one.kind for one in found}) == ["checkpoint", "leftover", "results", "work directory"]
    size = path.stat().st_size
    freed, failures = space.remove(tmp_path, found)
    assert failures == []
    assert freed > 250_000 + 3 * 5000
    assert size - path.stat().st_size >= 250_000
    assert sorted(one.name for one in home.iterdir()) == ["data", "log", "results.sqlite", "results.sqlite.notes"]
    assert "mine" in {one.name for one in (home / "data").iterdir()}
    assert len(list((home / "data").iterdir())) == 3
    assert not list((home / "data" / "checkpoints").iterdir())
    db = hf.open_results(home)
    assert [(one.name, one.version, one.count) for one in db.maps()] == [
        ("f", "2", 5),
        ("m", "", 1),
        ("hyperflow:work_dirs", "", 1),
    ]
    assert db.map("m").items() == [(1, 3)]
    with closing(DatabaseFile.open(path, "p")) as file:
        assert file.counts.total.entries == 8


def test_a_damaged_file_is_not_rewritten(tmp_path: Path) -> None:
    """Nothing is lost that a repair could save."""

    async def use() -> None:
        for number in range(100):
            await hf.KeyValMap("m").insert(number, "x" * 1000)

    path = made(tmp_path, use).database
    assert isinstance(path, Path)
    damage.flip(path, path.stat().st_size - 500)
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="hyperflow repair"):
        without(path, {"other"})
    assert path.read_bytes()[100:] == before[100:]  # but for SQLite's count of changes
    assert [one.name for one in path.parent.iterdir() if one.is_file()] == [path.name]


def test_the_rest_of_a_removal_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A `hyperflow gc` that was killed."""
    (tmp_path / ".gc-x-1234" / "data").mkdir(parents=True, mode=0o700)
    assert hyperflow(capsys, "gc", "--delete", "--base-dir", str(tmp_path))[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--older-than", "soon"], "write 30d, 12h, 10m, or seconds"),
        (["--base-dir", "/nowhere"], "there is no directory /nowhere"),
        (["2026"], "no run"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], error: str) -> None:
    """Each says what is wrong."""
    at = [] if "--base-dir" in words else ["--base-dir", str(tmp_path)]
    code, told = hyperflow(capsys, "gc", *words, *at)
    assert code == 1
    assert error in told


def test_a_directory_that_others_can_write_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody else could put there what is to be removed."""
    made(tmp_path)
    tmp_path.chmod(0o777)
    code, told = hyperflow(capsys, "gc", "--delete", "--base-dir", str(tmp_path))
    assert code == 1
    assert "can be written by others" in told
    tmp_path.chmod(0o700)


def test_directories_that_are_nested_too_deeply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python's rmtree cannot remove stays, with what to type; all else goes."""
    deep, other = home_of(made(tmp_path)), home_of(made(tmp_path))
    remove = shutil.rmtree

    def rmtree(name: str, **more: Any) -> None:
        if deep.name in name:
            raise RecursionError
        remove(name, **more)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    code, _ = hyperflow(capsys, "gc", "--delete", "--base-dir", str(tmp_path))
    assert code == 1
    assert not other.exists()
    (rest,) = tmp_path.iterdir()
    assert rest.name.startswith(f".gc-{deep.name}")


def test_parts_of_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a killed head has left of outputs, beside their destinations, goes with --delete; nothing else there."""
    program = made(tmp_path / "runs")
    there = tmp_path / "results"
    there.mkdir()
    leftovers.visit(str(there), program)
    marker = marker_name("out.txt", f"{program.program_id}-0123456789")
    other = marker_name("out.txt", "20260131-120000-abcdef-0123456789")
    owner = json.dumps(attrs.asdict(Owner.this_process("another run")))
    for name in (marker, f"{marker}.0123456789ab", other, "out.txt"):
        (there / name).write_text(owner)
    age(there)
    age(home_of(program))
    _, shown = hyperflow(capsys, "gc", "--base-dir", str(tmp_path / "runs"), "--json")
    found = [Path(one["path"]).name for one in json.loads(shown)["found"] if one["kind"] == "output"]
    assert found == [marker, f"{marker}.0123456789ab"]
    hyperflow(capsys, "gc", "--base-dir", str(tmp_path / "runs"), "--delete")
    assert sorted(os.listdir(there)) == sorted([other, "out.txt"])
