"""A user's script, run as one: what only `__main__` has gets to the workers, and the script needs no guard."""

import subprocess
import sys
from pathlib import Path

from tests.support import environment, run_script

SCRIPT = """
import asyncio, dataclasses, enum, functools, os, sys
import hyperflow as hf

print("top level runs once")
SCALE = 3

class Boom(Exception):
    def __init__(self, where, *, code):
        super().__init__(f"{where}: {code}")
        self.code = code

class Color(enum.Enum):
    RED = 1

@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    color: Color = Color.RED
    def scaled(self, by): return Point(self.x * by, self.color)
    def __call__(self, y): return self.x + y

class Child(Point):
    def scaled(self, by): return Child(super().scaled(by).x)

def helper(x): return x * SCALE
def even(n): return True if n == 0 else odd(n - 1)
def odd(n): return False if n == 0 else even(n - 1)
async def later(x):
    await asyncio.sleep(0)
    return helper(x)
def fails(): raise Boom("there", code=7)
def check(p): return isinstance(p, Point), p.color is Color.RED, type(p).__name__

@hf.job
async def main():
    assert await hf.remote_eval(helper, 2) == 6
    assert await hf.remote_eval(even, 10) is True
    assert await hf.remote_eval(later, 2) == 6
    assert await hf.remote_eval(functools.partial(helper, 3)) == 9
    assert await hf.remote_eval(Point(1), 2) == 3
    assert await hf.remote_eval(Point(1).scaled, 5) == Point(5)
    p, c = await hf.concurrently(hf.remote_eval(Point(1).scaled, 5), hf.remote_eval(Child(2).scaled, 2))
    assert type(p) is Point and p == Point(5) and p.color is Color.RED
    assert type(c) is Child and isinstance(c, Point) and c.x == 4
    assert await hf.remote_eval(check, p) == (True, True, "Point")
    assert await hf.remote_eval(check, c) == (True, True, "Child")
    assert await hf.remote_map(lambda x: x.x, [Point(n) for n in range(50)]) == list(range(50))
    try:
        await hf.remote_eval(fails)
    except Boom as error:
        assert error.code == 7 and error.args == ("there: 7",), error
        assert "in fails" in error.__notes__[0]
    else:
        raise AssertionError("no error")
    assert not await hf.remote_eval(lambda: hasattr(sys.modules["__main__"], "LAUNCHER"))
    return p

print(type(hf.run_job_local(main(), cpus=2)) is Point)
"""


def test_script_without_guard(tmp_path: Path) -> None:
    """Functions, classes, enums and exceptions of the script work on the workers and come back as themselves."""
    assert run_script(tmp_path, SCRIPT).split("\n") == ["top level runs once", "True", ""]


def test_script_named_like_a_module(tmp_path: Path) -> None:
    """A script directory with files named like modules of the standard library does not disturb the launcher."""
    (tmp_path / "selectors.py").write_text("raise RuntimeError('not me')")
    (tmp_path / "json.py").write_text("raise RuntimeError('nor me')")
    source = """
import sys; here = sys.path.pop(0)
import json, selectors  # the head has them
import hyperflow as hf
sys.path.insert(0, here)
print(hf.run_job_local(hf.remote_eval(lambda: 5), cpus=1))
"""
    assert run_script(tmp_path, source) == "5\n"


def test_modules_beside_the_script(tmp_path: Path) -> None:
    """Modules beside the script are found, also when its path has spaces and it is started from elsewhere."""
    place = tmp_path / 'my programs; it\'s "one"'
    place.mkdir()
    (place / "mine.py").write_text("def double(x): return 2 * x")
    source = "import hyperflow as hf, mine\nprint(hf.run_job_local(hf.remote_eval(mine.double, 4), cpus=1))"
    assert run_script(place, source) == "8\n"


def test_run_from_threads(tmp_path: Path) -> None:
    """A run belongs to no particular thread: two at once in threads, and one whose starter thread has ended."""
    source = """
import asyncio, os, threading
import hyperflow as hf

got = []
def whole(n):
    got.append(hf.run_job_local(hf.map_concurrently(lambda x: hf.remote_eval(lambda x: x * n, x), range(50)), cpus=1))
threads = [threading.Thread(target=whole, args=(n,)) for n in range(2)]
[t.start() for t in threads]; [t.join() for t in threads]
assert sorted(got) == [[0] * 50, list(range(50))], got

loop = asyncio.new_event_loop()
opened = hf.open_local_job(cpus=1, program=hf.ProgramInfo.new("runs"))
env = []
starter = threading.Thread(target=lambda: env.append(loop.run_until_complete(opened.__aenter__())))
starter.start(); starter.join()          # the thread that started all processes is no more
async def rest():
    first = await env[0].run(hf.remote_eval(os.getpid))
    second = await env[0].run(hf.remote_eval(os.getpid))
    return first == second
print(loop.run_until_complete(rest()))
loop.run_until_complete(opened.__aexit__(None, None, None))
print("closed")
"""
    assert run_script(tmp_path, source).split() == ["True", "closed"]


def run_module(place: Path, name: str, **more: str) -> str:
    """Run a module with -m, from the directory that has its package."""
    done = subprocess.run(
        [sys.executable, "-m", name], cwd=place, env=environment(**more), capture_output=True, text=True, timeout=50,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_relative_imports(tmp_path: Path) -> None:
    """Functions import from their own package, of a script under `python -m` and of an `__init__`."""
    package = tmp_path / "pkg"
    (package / "sub").mkdir(parents=True)
    (package / "sibling.py").write_text("VALUE = 5")
    (package / "sub" / "__init__.py").write_text(
        "VALUE = 7\ndef plus(n):\n    from ..sibling import VALUE\n    return VALUE + n"
    )
    (package / "__init__.py").write_text(
        "def maker(n):\n"
        "    def inner():\n"
        "        from . import sibling\n"
        "        from .sub import VALUE\n"
        "        return sibling.VALUE + VALUE + n\n"
        "    return inner\n"
    )
    script = """
import hyperflow as hf
from . import maker
from .sub import plus

def look(x):
    from . import sibling
    from .sub import VALUE
    from .sub import plus
    import importlib.resources
    return sibling.VALUE, VALUE, plus(x), __package__, __spec__.name, importlib.resources.files(__package__).name

class Thing:
    def look(self):
        from .sibling import VALUE
        return VALUE

@hf.job
async def main():
    print(await hf.remote_eval(look, 1))
    print(await hf.remote_eval(maker(2)), await hf.remote_eval(Thing().look), await hf.remote_eval(plus, 1))
    print(await hf.remote_eval(lambda t: t.look(), Thing()), await hf.remote_eval(lambda f: f(), maker(3)))

hf.run_job_local(main(), cpus=1)
"""
    (package / "script.py").write_text(script)
    (package / "__main__.py").write_text(script)
    rest = "14 5 6\n5 15\n"
    assert run_module(tmp_path, "pkg.script") == f"(5, 7, 6, 'pkg', 'pkg.script', 'pkg')\n{rest}"
    assert run_module(tmp_path, "pkg") == f"(5, 7, 6, 'pkg', 'pkg.__main__', 'pkg')\n{rest}"


def test_sys_path_changed_after_opening(tmp_path: Path) -> None:
    """What the program can import, workers can: those that run already, and those that start later."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"module_{name}.py").write_text(f"class Thing:\n    pass\ndef where(*_): return {name!r}")
    source = f"""
import os, sys
import hyperflow as hf

@hf.job
async def main():
    before = await hf.remote_eval(os.getpid)
    sys.path.insert(0, {str(tmp_path / "first")!r})
    import module_first
    print(await hf.remote_eval(module_first.where), await hf.remote_eval(lambda: __import__("module_first").where()))
    print(type(await hf.remote_eval(lambda x: x, module_first.Thing())) is module_first.Thing)
    assert await hf.remote_eval(os.getpid) == before
    sys.path.append({str(tmp_path / "second")!r})
    import module_second
    fresh = hf.remote_eval(module_second.where).using(fresh_process=True)
    print(await fresh, await hf.remote_eval(module_second.where))
    sys.path.remove({str(tmp_path / "second")!r})
    print(await hf.remote_eval(lambda: [p for p in sys.path if p.endswith("second")]))

hf.run_job_local(main(), cpus=1)
"""
    assert run_script(tmp_path, source) == "first first\nTrue\nsecond second\n[]\n"


LIBRARY = """
from __future__ import annotations
import dataclasses
from .shapes import Square

FACTOR = 10

@dataclasses.dataclass
class Point:
    x: int
    of: Square | None = None

class Broken(Exception):
    pass

def scaled(p):
    return Point(p.x * FACTOR, Square(2))

def fails():
    raise Broken("by value")
"""


def test_register_pickle_by_value(tmp_path: Path) -> None:
    """A registered package goes by value with its submodules: what is edited is seen at once."""
    package = tmp_path / "hidden" / "lib"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(LIBRARY)
    (package / "shapes.py").write_text(
        "class Square:\n    def __init__(self, n): self.n = n\n    def area(self): return self.n ** 2"
    )
    source = f"""
import operator, os, pickle, sys, typing
import hyperflow as hf
sys.path.insert(0, {str(tmp_path / "hidden")!r})
import lib, lib.shapes
lib.FACTOR = 15

@hf.job
async def main():
    print((await hf.remote_eval(lib.scaled, lib.Point(1))).x)
    hf.register_pickle_by_value(lib)
    found = await hf.remote_eval(lib.scaled, lib.Point(1))
    print(type(found) is lib.Point, found.x, type(found.of) is lib.shapes.Square, found.of.area())
    print(await hf.remote_eval(operator.attrgetter("x"), lib.Point(3)))
    print(await hf.remote_eval(lambda: lib.scaled(lib.Point(2)).x))
    print(await hf.remote_eval(lambda: lib.shapes.Square(3).area()))
    print(await hf.remote_eval(lambda m: m.FACTOR, lib))
    lib.FACTOR = 20
    print((await hf.remote_eval(lib.scaled, lib.Point(1))).x, await hf.remote_eval(lambda: lib.FACTOR))
    hints = await hf.remote_eval(typing.get_type_hints, lib.Point)
    print(hints == typing.get_type_hints(lib.Point))
    print(await hf.remote_eval(lambda p: pickle.loads(pickle.dumps(p)) == p, lib.Point(1)))
    def inside(x):
        from lib import scaled, Point
        import lib.shapes
        return scaled(Point(x)).x + lib.shapes.Square(1).area()
    print(await hf.remote_eval(inside, 5))
    try:
        await hf.remote_eval(lib.fails)
    except lib.Broken as error:
        print(error)
    hf.unregister_pickle_by_value(lib)
    print((await hf.remote_eval(lib.scaled, lib.Point(1)).using(fresh_process=True)).x)

hf.run_job_local(main(), cpus=1)
for call in (lambda: hf.unregister_pickle_by_value(lib), lambda: hf.register_pickle_by_value("lib"),
             lambda: hf.register_pickle_by_value(type(lib)("nowhere"))):
    try:
        call()
    except hf.MisuseError as error:
        print(str(error)[:40])
"""
    assert run_script(tmp_path, source).split("\n") == [
        "10", "True 15 True 4", "3", "30", "9", "15", "20 20", "True", "True", "101", "by value", "10",
        "unregister_pickle_by_value(lib): it is n", "register_pickle_by_value('lib'): give th",
        "register_pickle_by_value(nowhere): sys.m", "",
    ]  # fmt: skip


def test_modules_that_no_finder_finds(tmp_path: Path) -> None:
    """Modules of pytest's importlib mode and of `spec_from_file_location` go by value."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "loaded.py").write_text("N = 3\nclass A:\n    x = 5\ndef f(y): return A.x + N + y")
    source = f"""
import importlib.util, operator, sys
import hyperflow as hf
spec = importlib.util.spec_from_file_location("loaded", {str(tmp_path / "elsewhere" / "loaded.py")!r})
loaded = importlib.util.module_from_spec(spec)
sys.modules["loaded"] = loaded
spec.loader.exec_module(loaded)
@hf.job
async def main():
    print(await hf.remote_eval(loaded.f, 1), await hf.remote_eval(lambda: loaded.f(2)))
    print(type(await hf.remote_eval(lambda a: a, loaded.A())) is loaded.A)
hf.run_job_local(main(), cpus=1)
"""
    assert run_script(tmp_path, source) == "9 10\nTrue\n"
    tests = tmp_path / "project" / "checks"
    tests.mkdir(parents=True)
    (tests / "test_it.py").write_text("""
import dataclasses
import hyperflow as hf

@dataclasses.dataclass
class Point:
    x: int

def scaled(p): return Point(p.x * 3)

def test_by_value():
    assert hf.run_job_local(hf.remote_eval(scaled, Point(2)), cpus=1) == Point(6)
    assert hf.run_job_local(hf.remote_eval(lambda: scaled(Point(3))), cpus=1) == Point(9)
""")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(tests)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_folders_without_init_under_pytest(tmp_path: Path) -> None:
    """The importlib mode of pytest makes packages of folders without `__init__.py`: what is in them goes by value."""
    test = """
import multiprocessing, pickle
import hyperflow as hf

def double(x): return 2 * x

class Thing:
    def look(self):
        from . import helper
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return helper.VALUE, pool.map(double, [3]), pickle.loads(pickle.dumps(double))(1)

def test_it():
    assert hf.run_job_local(hf.remote_eval(double, 1), cpus=1) == 2
    assert hf.run_job_local(hf.remote_eval(Thing().look), cpus=1) == (5, [6], 2)
    assert type(hf.run_job_local(hf.remote_eval(Thing), cpus=1)) is Thing
"""
    project = tmp_path / "project"
    for folder in (project / "one", project / "one" / "two", project / "package"):
        folder.mkdir(parents=True)
        (folder / f"test_{folder.name}.py").write_text(test)
        (folder / "helper.py").write_text("VALUE = 5")
    (project / "package" / "__init__.py").touch()
    done = subprocess.run(
        [Path(sys.executable).with_name("pytest"), "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "."],
        cwd=project, env=environment(), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_modules_that_another_one_hides(tmp_path: Path) -> None:
    """A module that `sys.path` does not lead to any more goes by value, as does one that was made by hand."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(f"WHERE = {folder!r}\ndef where(): return WHERE")
    (tmp_path / "stub.py").write_text("def where(): return 'the real one'")
    source = f"""
import sys, types
import hyperflow as hf
sys.path.insert(0, {str(tmp_path / "first")!r})
import same
sys.path.insert(0, {str(tmp_path / "second")!r})

def by_hand(name):
    module = sys.modules[name] = types.ModuleType(name)
    exec("WHERE = 'by hand'\\ndef where(): return WHERE\\nclass A:\\n    def where(self): return where()", vars(module))
    return module
made, stub, above = by_hand("made"), by_hand("stub"), by_hand("above")
below, lonely = by_hand("above.below"), by_hand("nowhere.lonely")

@hf.job
async def main():
    for module in (same, made, stub, above, below, lonely):
        print(await hf.remote_eval(module.where), await hf.remote_eval(lambda: module.where()))
    for module in (made, below, lonely):
        print(await hf.remote_eval(lambda a: a.where(), module.A()), type(await hf.remote_eval(module.A)) is module.A)

hf.run_job_local(main(), cpus=1)
"""
    assert run_script(tmp_path, source).split("\n") == [
        "first first", *["by hand by hand"] * 5, *["by hand True"] * 3, "",
    ]  # fmt: skip


POOLS = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import hyperflow as hf

def square(x):
    return x * x

def in_pool(xs, how):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(how)) as pool:
        return list(pool.map(square, xs))

@hf.job
async def main():
    for how in ("fork", "spawn", "forkserver"):
        try:
            print(await hf.remote_eval(in_pool, [2], how))
        except BrokenProcessPool:
            print("broken")

if GUARD:
    hf.run_job_local(main(), cpus=1)
"""


def test_process_pools(tmp_path: Path) -> None:
    """Pools inside an evaluation work as in the script itself; a script without a guard is not run again."""
    guarded = POOLS.replace("GUARD", '__name__ == "__main__"')
    assert run_script(tmp_path, guarded) == "[4]\n[4]\n[4]\n"
    assert run_script(tmp_path, POOLS.replace("GUARD", "True")) == "[4]\nbroken\nbroken\n"


def test_main_in_the_jobs_of_a_cluster(tmp_path: Path) -> None:
    """In the process of a job and on its workers, `__main__` is the script's, as far as it has arrived."""
    source = """
from __future__ import annotations
import asyncio, dataclasses, multiprocessing, pickle, typing
import hyperflow as hf

@dataclasses.dataclass
class Point:
    x: int
    next: Point | None = None

def square(x):
    return x * x

def look(x):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.map(square, [x]), pickle.loads(pickle.dumps(Point(x))), typing.get_type_hints(Point)["x"]

@hf.job
async def look_twice(x):
    return look(x), await hf.remote_eval(look, x)

@hf.cluster
async def main():
    here, there = await hf.remote_eval_job(look_twice(4))
    print(here == there == look(4))

async def run():
    async with hf.open_cluster(local=True, base_dir="runs"):
        await main()
asyncio.run(run())
"""
    assert run_script(tmp_path, source) == "True\n"
