r"""Allowed region: for which voltages does a ring of ions stay in its trap? A map of the boundary, by bisection.

What is wanted: the boundary of a region in a plane, where all one can do is to ask of a point whether it is allowed,
and asking is expensive. Where to ask next depends on the answers so far, twice over: a ray is bisected, and where
neighbouring rays have found the boundary to turn, or far apart, another one is sent out between them.

        Master                        this script, on the login node: what is wanted; picture and check at the end
        |
        +-- Job sector 0              one for each part of the full circle: a Slurm job; decides where to look
        |   |
        |   +-- ray                   side by side; each bisects, one probe after the other
        |   |   +-- probe (q, a)      one evaluation each, with several CPUs, recorded in the results database
        |   |   :
        |   +-- ray
        |   :   when all are there: more rays, where the outline is not good enough yet
        +-- Job sector 1
        |   :
        +-- Job sector 3

- The Master is `mapped`. It says which Jobs there are, and waits for them. Kill it at any moment, and start it again
  with `hyperflow resume`: it goes on where it was.
- A Job is `sector`. It sends three more rays than it needs, beyond its edges, to see how the outline goes on there.
  Those are the neighbouring sector's, too. So what a ray has found is left in a small file, which all Jobs see, and a
  lock makes whoever needs the same ray meanwhile wait for that. After each round a Job draws the picture of what all
  have left.
- An evaluation is `stable` (ring_of_ions.py has the physics): a plain function that runs in a worker process with CPUs
  of its own. It is memoized: what the database holds is not computed again. `--database` begins a new run with what an
  earlier one has found, for example to go on to a smaller tolerance.

How good it is. A ray is bisected until what is left is a quarter of the tolerance, so that its crossing is within an
eighth of it. Between crossings the outline is straight; rays are added until the boundary cannot be farther from it
than half of the tolerance (`overshoot` in outline.py: a bound for convex and for concave arcs, and for corners). In
the end all of it is compared with the exact boundary, which is known here and which the search knows nothing of; if it
is not as good as was wanted, the program ends with an error.

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
import cyclopts
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
    """The crossings of a sector, in the order of their turns, and how many evaluations they took."""

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
async def shared_ray(turn: float, survey: Survey, shared: Path) -> Crossing:
    """Give what a ray has found; if another sector needs the same one, one of them sends it, and the other waits."""
    file = shared / f"{round(turn % 1.0, 12)}.json"
    async with hf.with_lock(file):
        if not file.exists():
            leave(file, await ray(turn % 1.0, survey))
    return attrs.evolve(left_in(file), turn=turn)


@hf.job
async def sector(number: int, survey: Survey, picture: Path | None) -> Outcome:
    """Map one sector."""
    env = await hf.ask()
    shared, drawn = shared_by_all(env.program, survey), drawing(env.program, survey, picture)
    begin, end = (survey.rays * edge // survey.sectors for edge in (number, number + 1))
    turns = [place / survey.rays for place in range(begin - 1, end + 2)]
    found: list[Crossing] = []
    while turns:
        found += await hf.map_concurrently(lambda turn: shared_ray(turn, survey, shared), turns)
        found.sort(key=lambda one: one.turn)
        if drawn.due():
            drawn.draw(left_by_all(shared))
        turns = list(between(found, survey.tolerance / 2, survey.spacing))
    mine = [one for one in found if begin / survey.rays <= one.turn < end / survey.rays]
    return Outcome(mine, env.statistics().done)


def shared_by_all(program: hf.ProgramInfo, survey: Survey) -> Path:
    """Return the directory in which the sectors leave what they have found; another survey has another one."""
    shared = program.data_dir / "-".join(map(str, ("rays", *attrs.astuple(survey))))
    shared.mkdir(exist_ok=True)
    return shared


def leave(file: Path, crossing: Crossing) -> None:
    """Leave what a ray has found where all sectors see it."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(attrs.asdict(crossing)))
    os.replace(part, file)


def left_in(file: Path) -> Crossing:
    """Return what a ray has found."""
    found = json.loads(file.read_text())
    probes = [Probe(**probe) for probe in found.pop("probes")]
    return Crossing(**found, probes=probes)


def left_by_all(shared: Path) -> list[Crossing]:
    """Return what all sectors have found so far."""
    return sorted(map(left_in, shared.glob("*.json")), key=lambda one: one.turn)


def drawing(program: hf.ProgramInfo, survey: Survey, path: Path | None) -> Picture:
    """Return the picture, as it is before anything is found."""
    exact = exact_boundary(survey.ions, survey.coupling, points=101)
    title = f"Where a ring of {survey.ions} ions stays in a trap with a square wave"
    return Picture(path or program.data_dir / "allowed_region.svg", title, exact)


def parts(point: complex) -> tuple[float, float]:
    """Return q and a of a point."""
    return point.real, point.imag


# ---- the Master: runs on the login node, or here --------------------------------------------------------------------


@hf.cluster
async def mapped(survey: Survey, picture: Path | None) -> None:
    """Run the sectors side by side, each in an allocation of its own; draw and check what they have found."""
    began = time.monotonic()
    two_probes = hf.SbatchOptions(ntasks_per_node=2, cpus_per_task=survey.probe_cpus, time="10:00")
    with hf.using(sbatch=two_probes, cpus=survey.probe_cpus):
        found = await hf.map_concurrently(
            lambda number: hf.remote_eval_job(sector(number, survey, picture)), range(survey.sectors)
        )
    wall = time.monotonic() - began
    crossings = [one for outcome in found for one in outcome.crossings]
    drawn = drawing((await hf.ask()).program, survey, picture)
    drawn.draw(crossings)
    print(f"wall time      {wall:.2f} s\npicture        {drawn.path}")
    report(survey, crossings, sum(outcome.evaluations for outcome in found))


def report(survey: Survey, crossings: list[Crossing], computed: int) -> None:
    """Compare the outline with the exact boundary; raise an error if it is not as good as was wanted."""
    error = gap([one.point for one in crossings], exact_boundary(survey.ions, survey.coupling))
    right = error <= survey.tolerance
    probes = {complex(each.q, each.a): each.allowed for one in crossings for each in one.probes}
    print(
        f"boundary       {len(crossings)} points, on as many rays\n"
        f"error          {error:.2e} from the exact boundary, {survey.tolerance:g} was allowed: "
        f"{'right' if right else 'WRONG'}\n"
        f"probes         {len(probes)}, of which {sum(probes.values())} are allowed\n"
        f"evaluations    {computed}{'' if computed else ': nothing was left to compute'}\n"
        f"known before   {len(probes) - computed}"
    )
    if not right:
        raise ArithmeticError(f"the outline is up to {error:.2e} from the boundary, not {survey.tolerance:g}")


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
    if not stable(*parts(CENTRE), survey.ions, survey.coupling):  # a single evaluation, right here
        raise hf.ConfigurationError(f"--coupling {survey.coupling:g}: not even q = {CENTRE.real:g}, a = 0 is allowed")


def check_picture(path: Path | None) -> None:
    """Refuse a picture that cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise hf.ConfigurationError("the picture needs matplotlib: pip install 'hyperflow[plot]'")
    if path is not None and path.suffix not in KINDS:
        raise hf.ConfigurationError(f"--picture {path}: a name that ends in {', '.join(KINDS)} is needed")
    if path is not None and not path.absolute().parent.is_dir():
        raise hf.ConfigurationError(f"--picture {path}: there is no directory {path.absolute().parent}")


def allowed_region(
    *, survey: Annotated[Survey, cyclopts.Parameter(name="*")] = Survey(), picture: Path | None = None
) -> hf.Cluster[None]:
    """Map where in the plane of a trap's voltages a ring of ions is stable, and compare with the exact boundary.

    One Slurm job for each sector, with the CPUs for two probes at a time (--nodes 2 for twice as many); with --local,
    on this machine.

    Args:
        picture: Where the picture goes, which all nodes have to see, and by its suffix what it is (.svg, .png, .pdf).
            It is replaced as it gets better; by default data/allowed_region.svg in the run's directory.
    """
    check(survey)
    check_picture(picture)
    return mapped(survey, picture and picture.absolute())


if __name__ == "__main__":
    hf.main(allowed_region)
