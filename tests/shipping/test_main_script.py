"""A user's script, run as one: what only `__main__` has gets to the workers, and the script needs no guard."""

from pathlib import Path

from tests.support import run_script

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
