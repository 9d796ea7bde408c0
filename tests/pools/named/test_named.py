"""Named pools as files: what is known of them, which one a name means, and what to type where it does not run."""

import time
from pathlib import Path

import attrs
import pytest

from hyperflow.errors import ConfigurationError
from hyperflow.pools.named import named
from hyperflow.pools.named.named import FORGOTTEN_AFTER, About, NoPool
from hyperflow.pools.nodepool import NodePool
from hyperflow.slurm.script import SbatchOptions

OPTIONS = NodePool(
    sbatch=[
        SbatchOptions(nodes=2, ntasks_per_node=64, time="8:00:00", extra={"nice": 5}),
        SbatchOptions(partition="gpu"),
    ],
    hosts={"box": 4},
    max_allocations=5,
    idle_timeout="30m",
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state directory, which is empty."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "hyperflow" / "pools"


def _make(name: str, **changes: object) -> None:
    about = About(OPTIONS, since=time.time(), manager=named.this_process(name))
    named.write(named.directory() / name, attrs.evolve(about, **changes))


def test_what_is_written_is_read() -> None:
    """All options come back as they were, and the process that manages it."""
    about = About(OPTIONS, 5.0, True, named.this_process("mine"))
    assert About.from_json(about.to_json()) == about


def test_states() -> None:
    """A pool runs, is another host's, was left by a killed manager, or has ended; each says what to type."""
    me = named.this_process("x")
    _make("mine")
    assert named.find("mine").state == "running"
    with pytest.raises(NoPool, match="starts just now, or ends"):
        named.find("mine").address()
    _make("mine", manager=attrs.evolve(me, started="1"))
    assert named.find("mine").state == "left"
    with pytest.raises(NoPool, match="was killed; `hyperflow pool start mine` goes on"):
        named.find("mine").address()
    _make("mine", manager=attrs.evolve(me, host="login7", machine="another"))
    assert named.find("mine").state == "elsewhere"
    with pytest.raises(NoPool, match=r"on login7, and lends its nodes to programs there only.*ssh login7"):
        named.find("mine").address()
    _make("mine", manager=None, ended=time.time(), cause="`hyperflow pool stop`")
    assert named.find("mine").state == "ended"
    with pytest.raises(
        NoPool, match=r"ended at .*: `hyperflow pool stop`; `hyperflow pool start mine` starts it again"
    ):
        named.find("mine").address()


def test_no_such_pool_says_which_there_are() -> None:
    """An unknown name is refused with the names that there are, and how to start one."""
    with pytest.raises(NoPool, match=r"no pool named 'mine'\. To start one, type: hyperflow pool start mine"):
        named.find("mine")
    _make("other")
    with pytest.raises(NoPool, match=r"there are: other \(running\)"):
        named.find("mine")


def test_the_newest_that_runs_is_meant() -> None:
    """Without a name, it is the newest pool that runs."""
    _make("old", since=1.0)
    _make("new", since=3.0)
    _make("gone", since=4.0, manager=None, ended=time.time())
    assert named.find(None).name == "new"
    assert [pool.name for pool in named.everyone()] == ["old", "new", "gone"]


def test_what_ended_long_ago_is_forgotten(state: Path) -> None:
    """A pool that ended more than a week ago leaves nothing."""
    _make("mine", manager=None, ended=time.time() - FORGOTTEN_AFTER - 1)
    assert named.everyone() == []
    assert not (state / "mine").exists()


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a b", "ü", "x" * 41, 5])
def test_names(name: object) -> None:
    """What could be no directory of its own is no name."""
    with pytest.raises(ConfigurationError, match="cannot be the name of a pool"):
        named.check_name(name)


def test_what_is_damaged_or_not_private(state: Path) -> None:
    """A file that was changed, or that others could have written, is not believed."""
    _make("mine")
    file = state / "mine" / named.FILE
    text = file.read_bytes()
    file.write_bytes(text.replace(b'"keeps": false', b'"keeps": truee'))
    with pytest.raises(ConfigurationError, match=r"damaged.*rm -r"):
        named.find("mine")
    file.write_bytes(text)
    (state / "mine").chmod(0o777)
    with pytest.raises(ConfigurationError, match="can be written by others"):
        named.find("mine")
