"""programs/allowed_region.py: the outline is as good as it says, nothing is computed twice, the picture is right."""

import cmath
import importlib
import math
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import attrs
import pytest

from tests.helpers import block_until
from tests.programs.runs import TOP, Word, command, figures, run, surroundings

LOCAL = ("--local", "--ions", "6")
COARSE = ("--tolerance", "1e-3")
QUICK = (*LOCAL, *COARSE, "--sectors", "2")
NUMBERS = ("probes", "evaluations", "known before")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let modules be imported as the programs import them, from their own directory."""
    monkeypatch.syspath_prepend(TOP / "programs")


@pytest.fixture
def ring(programs: None) -> ModuleType:
    """Import the physics."""
    return importlib.import_module("ring_of_ions")


@pytest.fixture
def outline(programs: None) -> ModuleType:
    """Import the geometry."""
    return importlib.import_module("outline")


@attrs.frozen
class Done:
    """A run that has ended, in a directory of its own."""

    output: str
    home: Path

    @property
    def database(self) -> Path:
        """What a later run may begin with."""
        return self.home / "results.sqlite"

    @property
    def picture(self) -> Path:
        """Where it is if nothing else is said."""
        return self.home / "data" / "allowed_region.svg"


def mapped(directory: Path, *words: Word) -> Done:
    """Run the program in a directory."""
    output = run("allowed_region.py", *words, cwd=directory).stdout
    return Done(output, newest_run(directory))


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Give one run for all tests that only look at what it leaves."""
    return mapped(tmp_path_factory.mktemp("coarse"), *QUICK)


def counts(output: str) -> tuple[int, int, int]:
    """Return how many probes and evaluations there were, and how many probes were known before."""
    numbers = figures(output)
    probes, computed, found = (re.split("[,:]", numbers[name])[0] for name in NUMBERS)
    return int(probes), int(computed), int(found)


def error(output: str) -> float:
    """Return how far from the exact boundary the outline is."""
    return float(figures(output)["error"].split()[0])


def newest_run(directory: Path) -> Path:
    """Return the directory of the newest run."""
    return max((directory / "hyperflow-runs").iterdir())


def drawn(picture: Path) -> dict[str, list[complex]]:
    """Return the lines of a picture by their names, and where the points of each kind are."""
    groups = {group.get("id"): group for group in ElementTree.parse(picture).iter(f"{SVG}g")}
    found: dict[str, list[complex]] = {}
    for name in ("boundary", "exact"):
        numbers = re.findall(r"[ML] (\S+) (\S+)", groups[name].find(f"{SVG}path").get("d"))
        found[name] = [complex(float(x), float(y)) for x, y in numbers]
    for name in ("allowed", "forbidden"):
        found[name] = [complex(float(use.get("x")), float(use.get("y"))) for use in groups[name].iter(f"{SVG}use")]
    return found


# ---- the program ----------------------------------------------------------------------------------------------------


def test_outline_is_right_and_second_run_computes_nothing(tmp_path: Path, coarse: Done) -> None:
    """The outline is within the tolerance of the exact boundary; with its database, it is the same without work."""
    again = mapped(tmp_path, *QUICK, "--database", coarse.database)

    probes, computed, found = counts(coarse.output)
    assert (computed, found) == (probes, 0)
    assert counts(again.output) == (probes, 0, probes)
    assert "nothing was left to compute" in again.output
    for name in ("boundary", "error", "probes"):
        assert figures(coarse.output)[name] == figures(again.output)[name]
    assert 0 < error(coarse.output) <= 1e-3
    assert figures(coarse.output)["picture"].strip() == str(coarse.picture)
    assert again.picture.read_bytes() == coarse.picture.read_bytes()


def test_smaller_tolerance_is_kept_and_uses_what_is_known(tmp_path: Path, coarse: Done) -> None:
    """A finer map has a smaller error, and the probes of the coarse one are among its own."""
    words = (*LOCAL, "--tolerance", "1e-4", "--sectors", "1", "--database", coarse.database)
    fine = mapped(tmp_path, *words)

    assert error(fine.output) <= 1e-4 < error(coarse.output)
    assert counts(fine.output)[2] == counts(coarse.output)[0]


def test_wrong_outline_is_an_error(programs: None, capsys: pytest.CaptureFixture[str]) -> None:
    """An outline is right for its own ring of ions, and for another one the report says how wrong, and raises."""
    program = importlib.import_module("allowed_region")
    exact = program.exact_boundary(6, 0.003, points=101)
    found = [program.Crossing(0.0, point.real, point.imag, []) for point in exact]

    program.report(program.Survey(ions=6), found, 0)
    assert "right" in capsys.readouterr().out
    with pytest.raises(ArithmeticError, match=r"from the boundary, not 0\.0002"):
        program.report(program.Survey(ions=6, coupling=0.004), found, 0)
    assert error(capsys.readouterr().out) > 2e-4


@pytest.mark.parametrize(
    "words",
    [
        ("--rays", "7", "--sectors", "3", "--spacing", "0.5", "--coupling", "0.04", "--probe-cpus", "1"),
        ("--coupling", "0", "--sectors", "1"),
    ],
)
def test_other_divisions_and_other_regions(tmp_path: Path, words: tuple[str, ...]) -> None:
    """However the circle is divided, no probe is evaluated twice; a region with a cusp or a thin one is right, too."""
    output = run("allowed_region.py", *LOCAL, *COARSE, *words, cwd=tmp_path).stdout

    probes, computed, found = counts(output)
    assert (computed, found) == (probes, 0)
    assert error(output) <= 1e-3


def test_killed_run_goes_on(tmp_path: Path) -> None:
    """What was recorded at the kill is not computed again, and the picture that it left is a whole one."""
    words = (*LOCAL, "--tolerance", "1e-4", "--sectors", "2", "--picture", tmp_path / "growing.svg")
    with subprocess.Popen(
        command("allowed_region.py", *words),
        cwd=tmp_path,
        env=surroundings(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        block_until((tmp_path / "growing.svg").exists, 30, "the first picture")
        process.kill()
    left = drawn(tmp_path / "growing.svg")
    ended = run("allowed_region.py", *words, "--resume", newest_run(tmp_path).name, cwd=tmp_path)
    output = ended.stdout

    assert "NeverAwaited" not in ended.stderr
    probes, computed, found = counts(output)
    assert computed + found == probes
    assert 0 < found < probes
    assert error(output) <= 1e-4
    assert len(left["boundary"]) < len(drawn(tmp_path / "growing.svg")["boundary"])


def test_picture_shows_the_boundary(coarse: Done, outline: ModuleType) -> None:
    """The picture has every point of the outline, where the exact boundary is, and the probes on their sides of it."""
    shown = drawn(coarse.picture)

    points = int(figures(coarse.output)["boundary"].split()[0])
    assert len(shown["boundary"]) == points + 1  # it is closed
    assert shown["boundary"][0] == shown["boundary"][-1]
    width = max(point.real for point in shown["exact"]) - min(point.real for point in shown["exact"])
    assert width > 100
    assert outline.gap(shown["boundary"], shown["exact"]) < width / 200
    assert len(shown["allowed"]) + len(shown["forbidden"]) == counts(coarse.output)[0]
    assert all(inside(point, shown["exact"]) for point in shown["allowed"])
    assert not any(inside(point, shown["exact"]) for point in shown["forbidden"])
    assert list(coarse.picture.parent.glob(".*")) == []


def inside(point: complex, line: list[complex]) -> bool:
    """Tell whether a closed line goes around a point."""
    angles = (cmath.phase((end - point) / (start - point)) for start, end in pairwise(line))
    return abs(sum(angles)) > math.pi


@pytest.mark.process
@pytest.mark.leaks("matplotlib keeps its fonts open")
def test_picture_may_be_a_png(tmp_path: Path, programs: None) -> None:
    """The suffix says what the picture is; nothing else is left beside it."""
    picture = importlib.import_module("region_picture").Picture(tmp_path / "region.png", "a ring", [0.5 + 0.1j])
    picture.draw([])

    assert picture.path.read_bytes().startswith(b"\x89PNG\r\n")
    assert list(tmp_path.iterdir()) == [picture.path]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--tolerance", "0"), "--tolerance 0: a number of at least 1e-9"),
        (("--tolerance", "nan"), "--tolerance nan"),
        (("--spacing", "-1"), "--spacing -1"),
        (("--rays", "3"), "--rays 3: at least 4"),
        (("--sectors", "0"), "--sectors 0: at least 1"),
        (("--sectors", "33"), "--sectors 33: at most as many as --rays, 32"),
        (("--ions", "1"), "--ions 1: at least 2"),
        (("--coupling", "inf"), "--coupling inf"),
        (("--probe-cpus", "0"), "--probe-cpus 0: at least 1"),
        (("--picture", "region.doc"), "--picture region.doc: a name that ends in .svg"),
        (("--picture", "nowhere/region.svg"), "--picture nowhere/region.svg: there is no directory"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    """What makes no sense is told in one line, with exit code 2, and nothing is made."""
    ended = run("allowed_region.py", "--local", *words, cwd=tmp_path, code=2)

    assert complaint in ended.stderr
    assert ended.stderr.startswith("allowed_region.py: ")
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout
    assert not list(tmp_path.iterdir())


def test_region_without_its_centre_is_refused(tmp_path: Path) -> None:
    """Where the rays would have to begin outside of the region, one line says why."""
    ended = run("allowed_region.py", *QUICK, "--coupling", "0.2", cwd=tmp_path, code=2)

    assert "--coupling 0.2: not even q = 0.5, a = 0 is allowed" in ended.stderr
    assert ended.stderr.count("\n") == 1


# ---- the physics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ions", "coupling"), [(2, 0.0), (5, 0.03), (24, 0.01)])
def test_numerics_and_exact_boundary_agree(ring: ModuleType, ions: int, coupling: float) -> None:
    """A millionth of a unit inside of the exact boundary the numerics say stable, as much outside they say not."""
    centre = 0.5 + 0j
    line = ring.exact_boundary(ions, coupling, points=12)
    assert len(line) == 44
    for point in line[1:]:
        step = 1e-6 * (point - centre) / abs(point - centre)
        for place, expected in ((point - step, True), (point + step, False)):
            assert ring.stable(place.real, place.imag, ions, coupling) is expected, (place, expected)


def test_single_ion_has_the_known_limit(ring: ModuleType) -> None:
    """At a = 0 the map's trace is 2 cos(x) cosh(x), so that the limit has the first root of cos(x) cosh(x) = -1."""
    x = math.sqrt(2 * ring.single_limit()) * math.pi / 2

    assert math.isclose(math.cos(x) * math.cosh(x), -1, abs_tol=1e-12)
    assert math.isclose(x, 1.8751040687119611, abs_tol=1e-12)  # the first root; q = 0.7125
    assert ring.zigzag_limit(24, 0.0) == 0


# ---- the geometry ---------------------------------------------------------------------------------------------------


def test_overshoot_bounds_circles_and_corners(outline: ModuleType) -> None:
    """An arc of a circle is not farther from its chord than the bound, and a corner lies just on it."""
    for step in (0.5, 0.1, 0.01):
        circle = [cmath.exp(1j * step * place) for place in range(4)]
        assert 1 - math.cos(step / 2) < outline.overshoot(*circle) < 6 * (1 - math.cos(step / 2))
    assert math.isclose(outline.overshoot(-2 + 0j, -1 + 0j, 1j, 2j), math.sqrt(0.5))  # the corner is at 0
    assert outline.overshoot(0j, 1 + 0j, 2 + 0j, 3 + 0j) == 0


def crossings(outline: ModuleType, turns: list[float], radius: dict[bool, float]) -> Iterator[object]:
    """Make the crossings with a circle that has a step at half a turn."""
    for turn in turns:
        place = radius[turn < 0.5] * outline.direction(turn)
        yield outline.Crossing(turn, place.real, place.imag, [])


def test_refining_ends_also_at_a_step(outline: ModuleType) -> None:
    """Where the region is not star-shaped, neighbours stay far apart; rays there end when they are all but the same."""
    turns = [place / 16 for place in range(16)]
    for _ in range(60):
        more = list(outline.between(list(crossings(outline, turns, {True: 1.0, False: 0.5})), 1e-2, 0.2))
        if not more:
            break
        turns = sorted(turns + more)
    assert not more
    assert min(end - start for start, end in pairwise(turns)) < 1e-4
    assert len(turns) < 200


def test_gap_sees_what_either_outline_misses(outline: ModuleType) -> None:
    """A cut corner is as far away as its tip is, whichever of the two outlines has it."""
    square = [0j, 1 + 0j, 1 + 1j, 1j]
    cut = [0j, 1 + 0j, 1 + 0.8j, 0.8 + 1j, 1j]

    assert math.isclose(outline.gap(square, cut), 0.2 * math.sqrt(0.5))
    assert outline.gap(square, cut) == outline.gap(cut, square)
    assert outline.gap(square, square) == 0
