"""KeyValMap: named maps, typed or plain."""

import pickle
from typing import Any, TypeVar

import attrs
import pytest

from hyperflow import flow as flows
from hyperflow.concurrent import map_concurrently
from hyperflow.database import KeyValMap
from hyperflow.errors import DatabaseError, MisuseError, NotInFlow, SerializationError
from hyperflow.flow import Job
from hyperflow.program import ProgramInfo
from hyperflow.testing import open_inline_job
from tests.database.conftest import running


@attrs.frozen
class Energy:
    """A value, and a key, with a type."""

    value: float
    unit: str = "eV"


async def test_plain(program: ProgramInfo) -> None:
    """Values are plain data; what was never inserted is None or the default."""
    m: KeyValMap[Any, Any] = KeyValMap("m")
    async with running(program):
        assert await m.lookup("k") is None
        assert await m.lookup_default("k", 5) == 5
        await m.insert("k", [1, 2])
        await m.insert(("a", 1), {"x": (1, None)})
        assert await m.lookup("k") == [1, 2]
        assert await m.lookup_default(("a", 1), 5) == {"x": (1, None)}
        assert await m.lookup_all() == [("k", [1, 2]), (("a", 1), {"x": (1, None)})]
        assert await KeyValMap("other").lookup_all() == []


async def test_none_is_a_value(program: ProgramInfo) -> None:
    """`lookup_default` tells a recorded None from nothing."""
    m: KeyValMap[str, None] = KeyValMap("m", value=type(None))
    async with running(program):
        await m.insert("k", None)
        assert await m.lookup_default("k", "nothing") is None
        assert await m.lookup_default("other", "nothing") == "nothing"


async def test_typed(program: ProgramInfo) -> None:
    """Keys and values come back as what they were, in a later program, too."""
    m = KeyValMap("m", key=tuple[Energy, int], value=Energy)
    async with running(program):
        await m.insert((Energy(1), 2), Energy(3.0))
    async with running(program):
        assert await m.lookup((Energy(1.0), 2)) == Energy(3.0)
        assert await m.lookup_all() == [((Energy(1.0), 2), Energy(3.0))]


async def test_float_keys(program: ProgramInfo) -> None:
    """1 is 1.0 where keys are floats, and only there."""
    floats, plain = KeyValMap("floats", key=float), KeyValMap("plain")
    async with running(program):
        await floats.insert(1, "a")
        await plain.insert(1, "a")
        assert await floats.lookup(1.0) == "a"
        assert await plain.lookup(1.0) is None
        assert await plain.lookup(True) is None


async def test_newest_wins(program: ProgramInfo) -> None:
    """The order of `lookup_all` is that in which keys first came."""
    m = KeyValMap("m", key=int, value=int)
    async with running(program):
        for key, value in ((1, 1), (2, 2), (1, 3)):
            await m.insert(key, value)
        assert await m.lookup_all() == [(1, 3), (2, 2)]


async def test_refusals_name_the_map(program: ProgramInfo) -> None:
    """Keys and values that cannot be recorded, and values in the file that are of another type."""
    typed, plain = KeyValMap("energies", value=Energy), KeyValMap("energies")
    async with running(program) as store:
        with pytest.raises(SerializationError, match=r"value for key 'k' of KeyValMap\('energies', value=.*where the"):
            await typed.insert("k", 1.0)  # type: ignore[arg-type]
        with pytest.raises(SerializationError, match=r"KeyValMap\('energies'\).*value=Energy"):
            await plain.insert("k", Energy(1.0))
        with pytest.raises(SerializationError, match=r"key of KeyValMap.*register\(object"):
            await plain.insert(object(), 1)
        assert await store.lookup_all("energies") == []
        await plain.insert("k", 1)
        with pytest.raises(DatabaseError, match="energies"):
            await typed.lookup("k")
        await plain.insert(Energy(1.0), 1)
        with pytest.raises(SerializationError, match=r"KeyValMap\(..., key=Energy\)"):
            await plain.lookup_all()


@pytest.mark.parametrize("name", ["", None, 3, "\ud800"])
def test_names(name: Any) -> None:
    """A map needs a name."""
    with pytest.raises(MisuseError, match="name is needed"):
        KeyValMap(name)


async def test_outside_of_a_flow() -> None:
    """The error says what to do instead."""
    with pytest.raises(NotInFlow, match="run_job_local"):
        await KeyValMap("m").lookup("k")


async def test_flows_of_a_map(program: ProgramInfo) -> None:
    """They are flows like others: run again, chained, pickled with their map."""
    m = KeyValMap("m", key=int, value=float)
    async with running(program):
        insert = pickle.loads(pickle.dumps(m.insert(1, 2.0)))
        await insert
        assert await pickle.loads(pickle.dumps(m)).lookup(1).map(lambda value: value + 1) == 3.0
        await map_concurrently(lambda n: m.insert(n, n + 0.5), range(1000))
        assert len(await m.lookup_all()) == 1000


async def test_memoize(program: ProgramInfo) -> None:
    """The argument is the key: results are found by lookup, and what was inserted by hand is not computed."""
    m = KeyValMap("m", key=float, value=Energy)
    ran: list[float] = []

    @m.memoize
    def energy(x: float) -> Job[Energy]:
        ran.append(x)
        return flows.pure(Energy(x))

    async with running(program):
        assert await energy(1) == Energy(1.0)
        assert await energy(1.0) == Energy(1.0)
        assert await m.lookup(1.0) == Energy(1.0)
        await m.insert(2.0, Energy(7.0))
        assert await energy(2.0) == Energy(7.0)
    assert ran == [1]


def test_memoize_needs_one_argument() -> None:
    """Else the key would be something that `lookup` does not take."""

    def two(x: int, y: int) -> Job[int]:
        return flows.pure(x + y)

    with pytest.raises(MisuseError, match="take a tuple"):
        KeyValMap("m").memoize(two)  # type: ignore[arg-type]


K = TypeVar("K")
V = TypeVar("V")


class Energies(KeyValMap[Energy, float]):
    """A map with a name of its own."""


async def test_types_in_brackets() -> None:
    """`KeyValMap[K, V]("name")` is the map with these types, and so is an object of a subclass of it."""
    made = KeyValMap[Energy, float]("energies")
    assert repr(made) == repr(KeyValMap("energies", key=Energy, value=float))
    async with open_inline_job():
        await made.insert(Energy(1.0, "J"), 1)
        for same in (made, Energies("energies"), pickle.loads(pickle.dumps(made))):
            assert await same.lookup_all() == [(Energy(1.0, "J"), 1.0)]
    untyped = KeyValMap[K, V]("energies")  # type: ignore[valid-type]
    assert (untyped.key, untyped.value) == (Any, Any)
    assert KeyValMap[int, Any]("n", value=str).value is str
