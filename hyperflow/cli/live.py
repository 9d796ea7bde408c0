"""`hyperflow show --live`: how a run stands, as its own terminal shows it, until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hyperflow.cli import elsewhere
from hyperflow.cli.records import Run
from hyperflow.control.client import HeadElsewhere, MasterElsewhere, NoMaster, Refused, Silent, contact, head
from hyperflow.errors import HyperflowError
from hyperflow.master.view import job_from_json, stands
from hyperflow.progress.display import PAUSE, screen_here
from hyperflow.progress.tally import Snapshot
from hyperflow.progress.view import View

JOBS_PAUSE = 1.0
"""Seconds between two questions to a master, which looks into files of its jobs."""


def follow(run: Run) -> bool:
    """Show how a run stands until it ends, or until Ctrl-C; return whether it has ended.

    Raises:
        HyperflowError: It does not run, or on another machine.
    """
    try:
        look, pause = (_of_jobs(run), JOBS_PAUSE) if run.cluster is not None else (_of_head(run), PAUSE)
        stands_now = look()
    except NoMaster:
        return True  # meanwhile
    except (HeadElsewhere, MasterElsewhere) as error:
        there = elsewhere.typed(error.host, ["show", "--live", str(run.home)], "-t")
        raise Refused(f"{error}; type: {there}") from None
    now = time.monotonic()
    began = now if run.record is None else now - max(time.time() - run.record.began, 0.0)
    view, screen = View(began), screen_here()
    view.join(now, stands_now)
    if screen is None:
        raise HyperflowError("something else is drawn on this terminal")
    end = "you look at it no more"
    try:
        while True:
            screen.draw(view)
            time.sleep(pause)
            try:
                stands_now = look()
            except Silent:
                continue  # its event loop is busy, or it is stopped
            except NoMaster:
                end = "it has ended"
                return True
            view.see(time.monotonic(), stands_now)
    except KeyboardInterrupt:
        return False
    finally:
        screen.close(f"run {run.name}: {view.last_line()}; {end}")


def _of_head(run: Run) -> Callable[[], Snapshot]:
    """Return what asks the head of a job."""
    asked = head(run.home)
    return lambda: _made(asked.get("/progress"))


def _of_jobs(run: Run) -> Callable[[], Snapshot]:
    """Return what asks the master of a Cluster computation."""
    asked = contact(run.home)
    return lambda: stands([job_from_json(job) for job in asked.get("/jobs")["jobs"]])


def _made(answer: dict[str, Any]) -> Snapshot:
    try:
        return Snapshot.from_json(answer)
    except (KeyError, TypeError, ValueError) as error:
        raise HyperflowError(f"the run answers what makes no sense: {error!r}") from error
