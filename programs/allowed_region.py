r"""Allowed region: for which voltages does a ring of ions stay in its trap? A map of the boundary, by bisection.

What is wanted: the boundary of a region in a plane, where all one can do is to ask of a point whether it is allowed,
and asking is expensive. Where to ask next depends on the answers so far, twice over: a ray is bisected, and where
neighbouring rays have found the boundary to turn, or far apart, another one is sent out between them.

        Master                        this script: what is wanted; the picture and the check at the end
        |
        +-- Job sector 0              one for each part of the full circle: holds CPUs, decides where to look
        |   |
        |   +-- ray                   side by side; each bisects, one probe after the other
        |   |   +-- probe (q, a)      one evaluation each, with several CPUs, recorded in the results database
        |   |   :
        |   +-- ray
        |   :   when all are there: more rays, where the outline is not good enough yet
        +-- Job sector 1
        |   :
        +-- Job sector 3

- The Master is `mapped`. It says which Jobs there are, and waits for them.
- A Job is `sector`. It depends on its arguments only, so that it could as well run elsewhere, in an allocation of its
  own. It sends two more rays than it needs, beyond its edges, to see how the outline goes on there. After each round
  it leaves what it has found in a file, and draws the picture of what all sectors have left.
- An evaluation is `stable` (ring_of_ions.py has the physics): a plain function that runs in a worker process with CPUs
  of its own. It is memoized: kill the program at any moment, run it again, and it goes on where it was.

How good it is. A ray is bisected until what is left is a quarter of the tolerance, so that its crossing is within an
eighth of it. Between crossings the outline is straight; rays are added until the boundary cannot be farther from it
than half of the tolerance (`overshoot` in outline.py: a bound for convex and for concave arcs, and for corners). In
the end all of it is compared with the exact boundary, which is known here and which the search knows nothing of.

Needs numpy and matplotlib: pip install 'hyperflow[plot]', or in a checkout: pip install -e '.[plot]'.
"""

import importlib.util
import json
import math
import os
import time
from pathlib import Path
from typing import Annotated

import attrs
import cattrs
import cyclopts
from commandline import Cpus, Slurm, run, run_job
from outline import Crossing, Probe, between, direction, gap
from region_picture import KINDS, Picture
from ring_of_ions import exact_boundary, stable

import hyperflow as hf

CENTRE = 0.5 + 0j
"""Where all rays begin. It is allowed, unless the ions repel each other so strongly that hardly anything is."""

REACH = 0.5 + 0.4j
"""How far from the centre the plane is searched, in both directions of each axis. Nothing is allowed at the edge."""


@attrs.frozen
class Survey:
    """What is to be mapped, and how well.

    Args:
        tolerance: How far the outline may be from the boundary.
        rays: How many rays there are at first.
        spacing: How far apart neighbours on the outline may be.
        sectors: Into how many Jobs the full circle is divided.
        ions: How many ions there are on the ring.
        coupling: How strongly neighbours repel each other, in units of the trap's (see ring_of_ions.py).
        probe_cpus: How many CPUs each probe gets, for the library that multiplies matrices. Whether several are
            faster depends on the number of ions, and on who else uses the CPUs: its threads wait for each other.
    """

    tolerance: float = 2e-4
    rays: int = 32
    spacing: float = 0.05
    sectors: int = 4
    ions: int = 24
    coupling: float = 0.003
    probe_cpus: int = 2


@attrs.frozen
class Outcome:
    """The crossings, once around, and how many evaluations they took."""

    crossings: list[Crossing]
    evaluations: int


# ---- the evaluation: runs on a worker -------------------------------------------------------------------------------


@hf.memoize("ring_of_ions", version=1)
def probe(q: float, a: float, ions: int, coupling: float) -> hf.Job[bool]:
    """Tell whether a point is allowed: from the results database, or by an evaluation on a worker."""
    return hf.remote_eval(stable, q, a, ions, coupling)


# ---- the Jobs: run on the head node of an allocation, or here -------------------------------------------------------


@hf.job
async def ray(turn: float, survey: Survey) -> Crossing:
    """Bisect one ray from the centre to the edge of the plane."""
    along = direction(turn)
    inside, outside = 0.0, min(REACH.real / max(abs(along.real), 1e-9), REACH.imag / max(abs(along.imag), 1e-9))
    probes: list[Probe] = []
    while outside - inside > survey.tolerance / 4:
        middle = (inside + outside) / 2
        q, a = parts(CENTRE + middle * along)
        allowed = await probe(q, a, survey.ions, survey.coupling)
        probes.append(Probe(q, a, allowed))
        inside, outside = (middle, outside) if allowed else (inside, middle)
    return Crossing(turn, *parts(CENTRE + (inside + outside) / 2 * along), probes)


@hf.job
async def sector(number: int, survey: Survey, picture: Picture, shared: Path) -> list[Crossing]:
    """Map one sector; give its crossings in the order of their turns."""
    begin, end = (survey.rays * edge // survey.sectors for edge in (number, number + 1))
    turns = [place / survey.rays for place in range(begin - 1, end + 2)]
    found: list[Crossing] = []
    with hf.using(cpus=survey.probe_cpus):
        if not await probe(*parts(CENTRE), survey.ions, survey.coupling):
            raise hf.ConfigurationError(
                f"--coupling {survey.coupling:g}: not even q = {CENTRE.real:g}, a = 0 is allowed"
            )
        while turns:
            found += await hf.map_concurrently(lambda turn: ray(turn, survey), turns)
            found.sort(key=lambda one: one.turn)
            leave(shared, number, within(found, begin / survey.rays, end / survey.rays))
            if picture.due():
                picture.draw(left_by_all(shared))
            turns = list(between(found, survey.tolerance / 2, survey.spacing))
    return within(found, begin / survey.rays, end / survey.rays)


def within(crossings: list[Crossing], begin: float, end: float) -> list[Crossing]:
    """Return the crossings of a sector, without the neighbours that it looked at."""
    return [one for one in crossings if begin <= one.turn < end]


def leave(shared: Path, number: int, crossings: list[Crossing]) -> None:
    """Leave what a sector has found so far where the other sectors see it."""
    part = shared / f"sector-{number:04}.part"
    part.write_text(json.dumps(cattrs.unstructure(crossings)))
    os.replace(part, part.with_suffix(".json"))


def left_by_all(shared: Path) -> list[Crossing]:
    """Collect what all sectors have found so far."""
    files = sorted(shared.glob("sector-*.json"))
    return [one for file in files for one in cattrs.structure(json.loads(file.read_text()), list[Crossing])]


def parts(point: complex) -> tuple[float, float]:
    """Return q and a of a point."""
    return point.real, point.imag


# ---- the Master -----------------------------------------------------------------------------------------------------


@hf.job
async def mapped(survey: Survey, picture: Picture, shared: Path) -> Outcome:
    """Run the sectors side by side."""
    found = await hf.map_concurrently(lambda number: sector(number, survey, picture, shared), range(survey.sectors))
    crossings = [one for crossings in found for one in crossings]
    picture.draw(crossings)
    statistics = (await hf.ask()).statistics()
    return Outcome(crossings, statistics.done)


def check(survey: Survey) -> None:
    """Refuse what makes no sense before any work is done."""
    for name in ("tolerance", "spacing"):
        if not 1e-9 <= (value := getattr(survey, name)) < math.inf:
            raise hf.ConfigurationError(f"--{name} {value:g}: a number of at least 1e-9 is needed")
    for name, least in (("rays", 4), ("sectors", 1), ("ions", 2), ("probe_cpus", 1)):
        if (count := getattr(survey, name)) < least:
            raise hf.ConfigurationError(f"--{name.replace('_', '-')} {count}: at least {least} is needed")
    if survey.sectors > survey.rays:
        raise hf.ConfigurationError(f"--sectors {survey.sectors}: at most as many as --rays, {survey.rays}")
    if not 0 <= survey.coupling < math.inf:
        raise hf.ConfigurationError(f"--coupling {survey.coupling:g}: a number of at least 0 is needed")


def check_picture(path: Path | None) -> None:
    """Refuse a picture that cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise hf.ConfigurationError("the picture needs matplotlib: pip install 'hyperflow[plot]'")
    if path is not None and path.suffix not in KINDS:
        raise hf.ConfigurationError(f"--picture {path}: a name that ends in {', '.join(KINDS)} is needed")
    if path is not None and not path.absolute().parent.is_dir():
        raise hf.ConfigurationError(f"--picture {path}: there is no directory {path.absolute().parent}")


def report(survey: Survey, outcome: Outcome) -> bool:
    """Compare the outline with the exact boundary; tell whether it is as good as was wanted."""
    exact = exact_boundary(survey.ions, survey.coupling)
    error = gap([one.point for one in outcome.crossings], exact)
    right = error <= survey.tolerance
    probes = {CENTRE: True}
    probes |= {complex(each.q, each.a): each.allowed for one in outcome.crossings for each in one.probes}
    computed = outcome.evaluations
    print(
        f"boundary       {len(outcome.crossings)} points, on as many rays\n"
        f"error          {error:.2e} from the exact boundary, {survey.tolerance:g} was allowed: "
        f"{'right' if right else 'WRONG'}\n"
        f"probes         {len(probes)}, of which {sum(probes.values())} are allowed\n"
        f"evaluations    {computed} in this run{'' if computed else ': nothing was left to compute'}\n"
        f"from database  {len(probes) - computed}"
    )
    return right


def main(
    *,
    survey: Annotated[Survey, cyclopts.Parameter(name="*")] = Survey(),
    cpus: Cpus = None,
    slurm: Slurm = False,
    picture: Path | None = None,
    base_dir: Path = Path("allowed_region"),
) -> int:
    """Map where in the plane of a trap's voltages a ring of ions is stable, and compare with the exact boundary.

    Results are recorded in a database in the base directory: run it again, and only what is new is computed.

    Args:
        picture: Where the picture goes, and by its suffix what it is (.svg, .png, .pdf). It is replaced as it gets
            better; by default allowed_region.svg in the base directory.
        base_dir: Where the database and each run's logs are; made if it is not there.
    """
    check(survey)
    check_picture(picture)
    program = hf.ProgramInfo.new(base_dir, database=base_dir / "allowed_region.sqlite")
    line = exact_boundary(survey.ions, survey.coupling, points=101)
    path = (picture or base_dir / "allowed_region.svg").absolute()
    drawn = Picture(path, f"Where a ring of {survey.ions} ions stays in a trap with a square wave", line)
    began = time.monotonic()
    outcome = run_job(mapped(survey, drawn, program.data_dir), cpus, program, slurm)
    wall = time.monotonic() - began
    right = report(survey, outcome)
    print(
        f"wall time      {wall:.2f} s\n"
        f"picture        {drawn.path}\n"
        f"database       {program.database}\n"
        f"logs           {program.log_dir}"
    )
    return 0 if right else 1


if __name__ == "__main__":
    run(main)
