"""Work directories: the same one every time, wherever it was first made."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from hyperflow.concurrent import concurrently
from hyperflow.database import new_work_dir
from hyperflow.errors import ConfigurationError, SerializationError
from hyperflow.program import ProgramInfo
from tests.database.conftest import running


@attrs.frozen
class Model:
    """An object to have a directory."""

    name: str
    size: int


async def test_the_same_one_every_time(program: ProgramInfo) -> None:
    """Also side by side and in a later run of the program; another object has another one."""
    async with running(program):
        one, two = await concurrently(new_work_dir(Model("Ising", 3)), new_work_dir(Model("Ising", 3)))
        (one / "file").touch()
        other = await new_work_dir(Model("Ising", 4))
    async with running(program):
        again = await new_work_dir(Model("Ising", 3))

    assert one == two == again != other
    assert (again / "file").exists()
    assert one.stat().st_mode & 0o777 == 0o700
    assert one.parent == program.data_dir
    assert "ising" in one.name


async def test_a_program_that_goes_on_from_another(program: ProgramInfo, tmp_path: Path) -> None:
    """It gets the recorded directory, and makes new ones in its own place."""
    async with running(program):
        first = await new_work_dir("a")
    later = ProgramInfo.new(tmp_path / "base", start_from=program.database)
    async with running(later):
        assert await new_work_dir("a") == first
        assert (await new_work_dir("b")).parent == later.data_dir


async def test_a_directory_that_was_removed(program: ProgramInfo, tmp_path: Path) -> None:
    """It is replaced by one of the program that asks."""
    async with running(program):
        first = await new_work_dir("a")
    first.rmdir()
    later = ProgramInfo.new(tmp_path / "base", start_from=program.database)
    async with running(later):
        replaced = await new_work_dir("a")
        assert await new_work_dir("a") == replaced

    assert replaced.parent == later.data_dir
    assert replaced.is_dir()


@pytest.mark.parametrize(
    "obj",
    ["../../x", "/etc", "", ".", "..", "a" * 4096, "a\0b", "-rf", "x y;$(id)\n", "ü", ("..", ".."), b"/", {"a": [1.5]}],
)
async def test_names_never_become_paths(program: ProgramInfo, obj: Any) -> None:
    """Whatever the object says, the directory is right inside the program's own."""
    async with running(program):
        path = await new_work_dir(obj)

    assert path.parent == program.data_dir
    assert path.resolve() == path
    assert len(path.name) < 64
    assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert path.name[0] not in ".-"


async def test_names_that_differ_in_case(program: ProgramInfo) -> None:
    """They are different on file systems that do not care, too."""
    async with running(program):
        upper, lower = await new_work_dir("ABC"), await new_work_dir("abc")

    assert upper.name.lower() != lower.name.lower()


async def test_what_is_in_the_way(program: ProgramInfo, tmp_path: Path) -> None:
    """A link planted at the name is refused, and what it points to is not touched."""
    async with running(program):
        path = await new_work_dir("a")
    path.rmdir()
    (tmp_path / "victim").mkdir()
    path.symlink_to(tmp_path / "victim")
    other = ProgramInfo.new(tmp_path / "base2", database=tmp_path / "fresh.sqlite")
    other = attrs.evolve(other, data_dir=program.data_dir)
    async with running(other):
        with pytest.raises(ConfigurationError, match="in the way"):
            await new_work_dir("a")

    assert not list((tmp_path / "victim").iterdir())


async def test_objects_that_cannot_be_keys(program: ProgramInfo) -> None:
    """The error shows how to register the type."""
    async with running(program):
        with pytest.raises(SerializationError, match=r"new_work_dir.*register\(object"):
            await new_work_dir(object())
