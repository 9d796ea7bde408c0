"""`hyperflow dashboard`: a page for every run that can be seen here."""

from __future__ import annotations

import asyncio
import getpass
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter, validators

from hyperflow._job import run_in_new_loop
from hyperflow.cli.answers import BASE_DIR, BaseDir, answering

if TYPE_CHECKING:
    from hyperflow.viewing.page import Source

PORT = 8770


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(dashboard))


def dashboard(
    *,
    port: Annotated[
        int, Parameter(validator=validators.Number(gte=0, lte=65535), help="The port; 0 for a free one.")
    ] = PORT,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Serve a page in the browser with all runs: how they stand, what they did when, and what has failed.

    It shows the runs in the base directory and those that were given no place, live, ended, killed and old ones, and
    takes orders: retry, cancel and give up jobs, set variables. It is at 127.0.0.1 of this machine, for the one who has
    the printed URL; Ctrl-C ends it. From another machine: ssh -L, as it prints.

    It needs plotly and numpy: pip install "hyperflow[dashboard]".
    """
    from hyperflow.viewing import page  # noqa: PLC0415 (aiohttp takes longer to import than most commands to run)

    try:
        from hyperflow.cli.watched import Watched  # noqa: PLC0415 (numpy, an extra)
    except ImportError as error:
        raise page.missing(error) from error

    run_in_new_loop(_serve(Watched(base_dir.absolute()), port, base_dir.absolute()))
    return 0


async def _serve(source: Source, port: int, base_dir: Path) -> None:
    from hyperflow.viewing import page  # noqa: PLC0415 (see above)

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    async with page.serving(source, port) as served:
        print(served.url, flush=True)
        print(
            f"Runs of {base_dir}. From your own machine: ssh -L {served.port}:127.0.0.1:{served.port} "
            f"{getpass.getuser()}@{socket.gethostname()}, then open that URL there. Ctrl-C ends the page.",
            file=sys.stderr,
            flush=True,
        )
        await ended.wait()
