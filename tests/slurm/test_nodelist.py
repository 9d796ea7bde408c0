"""Lists of nodes: the grammar, Slurm's order, errors that show where; and Slurm's own opinion, where it is here."""

import itertools
import shutil
import subprocess
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from hyperflow.errors import SlurmError
from hyperflow.slurm.nodelist import MOST_NODES, expand


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("login", "login"),
        ("node[1-3]", "node1 node2 node3"),
        ("n[1-3,07-09],gpu[1-2]-ib[0-1],login", "n1 n2 n3 n07 n08 n09 gpu1-ib0 gpu1-ib1 gpu2-ib0 gpu2-ib1 login"),
        ("n[098-101]", "n098 n099 n100 n101"),
        ("n[8-11]", "n8 n9 n10 n11"),
        ("n[1-03]", "n1 n2 n3"),  # as wide as the first number
        ("n[2,1,1],n1", "n2 n1 n1 n1"),  # order and repetitions are kept
        ("[1-2]", "1 2"),
        ("3[1-2]", "31 32"),
        ("r[1-2]n[1-2]-ib", "r1n1-ib r1n2-ib r2n1-ib r2n2-ib"),
        ("a[1-2][3-4]", "a13 a14 a23 a24"),
        ("a[1-2]b[8-9]-[1-2]", "a1b8-1 a1b8-2 a2b8-1 a2b8-2 a1b9-1 a1b9-2 a2b9-1 a2b9-2"),  # Slurm's own order
        ("a[1-2]b[1-2]c[1-2]d[1]", "a1b1c1d1 a2b1c1d1 a1b2c1d1 a2b2c1d1 a1b1c2d1 a2b1c2d1 a1b2c2d1 a2b2c2d1"),
        ("a,,b,", "a b"),
        ("", ""),
        ("c-1.example_2", "c-1.example_2"),
    ],
)
def test_expand(text: str, names: str) -> None:
    """Names come out in Slurm's order, as wide as they were written."""
    assert expand(text) == tuple(names.split())


@pytest.mark.parametrize(
    ("text", "reason", "column"),
    [
        ("n[1-3", "never closed", 1),
        ("n[1-3,", "never closed", 1),
        ("n[", "never closed", 1),
        ("n1-3]", "never opened", 4),
        ("n[]", "a number", 2),
        ("n[a-b]", "a number", 2),
        ("n[1-]", "a number, `-`, `,` or `]`", 3),
        ("n[-3]", "a number", 2),
        ("n[1,,2]", "a number", 4),
        ("n[1-2-3]", "a number, `-`, `,` or `]`", 5),
        ("n[[1-2]]", "a number", 2),
        ("n[9-7]", "backwards", 2),
        ("n[1- 2]", "a number, `-`, `,` or `]`", 3),
        ("a b", "blank", 1),
        ("a\nb", "no part of a node's name", 1),
        ("a,n[1-65537]", "more than 65536", 4),
        ("a,n[1-300]m[1-300]", "more than 65536", 2),
        ("n[1-" + "9" * 5000 + "]", "more than 65536", None),
        ("n[" + "9" * 5000 + "]", "a number, `-`, `,` or `]`", None),
    ],
)
def test_errors_show_where(text: str, reason: str, column: int | None) -> None:
    """The error says what is wrong, and points at it."""
    with pytest.raises(SlurmError) as caught:
        expand(text)

    first, shown, caret = str(caught.value).splitlines()
    assert reason in first
    assert len(shown) < 120
    if column is not None:
        assert caret.index("^") - 2 == column
        assert shown[2:] == text.replace("\n", " ")


def test_a_long_list_is_shown_in_part() -> None:
    """The caret stands below the same place when only the part around it is shown."""
    text = ",".join(f"node{number}" for number in range(100)) + ",bad[," + "more," * 30

    with pytest.raises(SlurmError) as caught:
        expand(text)

    _, shown, caret = str(caught.value).splitlines()
    assert shown[: caret.index("^") + 1].endswith("bad[,")


def test_the_largest() -> None:
    """The limit itself is allowed."""
    assert len(expand(f"n[1-{MOST_NODES}]")) == MOST_NODES


# ------------------------------------------------------------------------------------------ properties

# Names end with the bracket: Slurm takes nothing after the last one.
words = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,3}", fullmatch=True)
ranges = st.builds(
    lambda low, length, width, single: (
        f"{low:0{width}}" if single else f"{low:0{width}}-{low + length:0{max(1, width)}}"
    ),
    st.integers(0, 120),
    st.integers(0, 5),
    st.integers(1, 4),
    st.booleans(),
)
brackets = st.lists(ranges, min_size=1, max_size=3).map(lambda parts: "[" + ",".join(parts) + "]")
bracketed = st.lists(st.tuples(words, brackets), min_size=1, max_size=4).map(
    lambda parts: "".join(itertools.chain.from_iterable(parts))
)
lists = st.lists(st.one_of(words, bracketed), min_size=1, max_size=4).map(",".join)


@hypothesis.given(st.lists(words, min_size=1, max_size=20))
def test_names_without_brackets_are_themselves(names: list[str]) -> None:
    """A list of plain names is those names."""
    assert expand(",".join(names)) == tuple(names)


@hypothesis.given(st.text("n1-,[] 09", max_size=30))
def test_anything_is_expanded_or_refused(text: str) -> None:
    """Whatever the text, the answer is names without brackets, or an error of ours."""
    try:
        names = expand(text)
    except SlurmError:
        return
    assert not any(set(name) & set("[], ") or not name for name in names)


@pytest.fixture(scope="module")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A configuration that is enough for `scontrol show hostnames`, which talks to nobody."""
    if shutil.which("scontrol") is None:
        pytest.skip("no scontrol here: apt-get install --no-install-recommends slurm-client")
    path: Path = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    path.write_text("ClusterName=x\nSlurmctldHost=x\nNodeName=x CPUs=1\nPartitionName=x Nodes=x\n")
    return str(path)


def _slurm(command: str, text: str, slurm_conf: str) -> str:
    done = subprocess.run(
        ["scontrol", "show", command, text], env={"SLURM_CONF": slurm_conf}, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout


@hypothesis.settings(max_examples=200)
@hypothesis.given(lists)
@hypothesis.example("a[1-2]b[2,1]c[08-10]-[1]")
def test_as_slurm_does(slurm_conf: str, text: str) -> None:
    """What is in a list, how wide, in which order: all as `scontrol show hostnames` has it."""
    hypothesis.assume(len(expand(text)) <= 2000)

    assert list(expand(text)) == _slurm("hostnames", text, slurm_conf).split()


@hypothesis.settings(max_examples=100)
@hypothesis.given(st.lists(st.builds("{}{:0{}}".format, words, st.integers(0, 30), st.integers(1, 3)), min_size=1))
def test_what_slurm_folds(slurm_conf: str, names: list[str]) -> None:
    """Names that `scontrol show hostlist` has folded into brackets unfold to the same names."""
    folded = _slurm("hostlist", ",".join(names), slurm_conf).strip()

    assert expand(folded) == tuple(names)
