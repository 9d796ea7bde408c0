"""A real Jupyter kernel, as tests use one: cells are executed in it, and what they show comes back."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from tests import notebooks

READY_SECONDS = 60

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@attrs.define
class Shown:
    """What a cell has shown: texts, the result's HTML, the traceback."""

    out: str = ""
    err: str = ""
    result: str = ""
    html: str = ""
    error: str = ""
    """Class and text of the exception that ended the cell."""
    trace: str = ""

    def take(self, kind: str, content: dict[str, Any]) -> None:
        """Add what a message says."""
        if kind == "stream":
            setattr(self, "out" if content["name"] == "stdout" else "err", self._stream(content) + content["text"])
        elif kind in ("execute_result", "display_data"):
            self.result = content["data"].get("text/plain", "")
            self.html = content["data"].get("text/html", "")
        elif kind == "error":
            self.error = f"{content['ename']}: {content['evalue']}"
            self.trace = _COLOURS.sub("", "\n".join(content["traceback"]))

    def _stream(self, content: dict[str, Any]) -> str:
        return self.out if content["name"] == "stdout" else self.err


@attrs.define
class Kernel:
    """A kernel and a client of it."""

    manager: AsyncKernelManager
    client: AsyncKernelClient

    def begin(self, code: str) -> str:
        """Start a cell, and return the number of its message."""
        return self.client.execute(code)

    async def end(self, message: str) -> Shown:
        """Wait for the end of a cell."""
        shown = Shown()
        async with asyncio.timeout(50):
            while True:
                got = await self.client.get_iopub_msg(timeout=50)
                if got["parent_header"].get("msg_id") != message:
                    continue
                if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
                    return shown
                shown.take(got["msg_type"], got["content"])

    async def displayed(self, message: str, words: str) -> dict[str, Any]:
        """Wait until a cell shows an output with these words, maybe in the place of an earlier one."""
        async with asyncio.timeout(50):
            while True:
                got = await self.client.get_iopub_msg(timeout=50)
                ours = got["parent_header"].get("msg_id") == message
                if ours and got["msg_type"] in ("display_data", "update_display_data"):
                    data: dict[str, Any] = got["content"]["data"]
                    if words in data.get("text/html", ""):
                        return data

    async def run(self, code: str) -> Shown:
        """Execute a cell."""
        return await self.end(self.begin(code))

    async def works(self, code: str) -> Shown:
        """Execute a cell that does not fail."""
        shown = await self.run(code)
        assert not shown.error, shown.trace
        return shown


@asynccontextmanager
async def kernel(directory: Path) -> AsyncIterator[Kernel]:
    """Start a kernel whose files are all in a directory; it is killed at the end, if it is still there."""
    manager = AsyncKernelManager(kernel_name="python3", connection_file=str(directory / "connection.json"))
    await manager.start_kernel(cwd=str(directory), env=notebooks.environment(directory))
    try:
        client: Any = manager.client()
        client.start_channels(hb=False)
        try:
            await client.wait_for_ready(timeout=READY_SECONDS)
            yield Kernel(manager, client)
        finally:
            client.stop_channels()
    finally:
        await manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)
