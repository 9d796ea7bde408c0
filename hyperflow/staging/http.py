"""One content by http, through aiohttp: read to its end, in a loop and a thread of its own.

Guarantees: what is cut off is an error. What is read is what is stored there: nothing is unpacked on the way. A server
that says nothing for a minute is given up.

The caller may be in an event loop, and a File has a plain interface: hence the thread. (Rejected: fsspec for this, too;
it leaves a thread behind, and asks with HEAD first, which signed URLs refuse.)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

SILENCE = 60.0
"""Seconds without a byte."""

CHUNK = 1 << 20


def transfer(url: str, take: Callable[[bytes], None]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Read a content; return what the server said of it before and after.

    Raises:
        FileNotFoundError: There is none.
        OSError, aiohttp.ClientError: It does not come, or not whole.
    """
    found: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(_transfer(url, take)))
        except BaseException as error:  # noqa: BLE001 (it is raised below)
            failure.append(error)

    thread = threading.Thread(target=run, name="hyperflow-download", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return found[0]


async def _transfer(url: str, take: Callable[[bytes], None]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    import aiohttp  # noqa: PLC0415 (few programs need it)

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
    headers = {"Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(
        timeout=timeout, headers=headers, auto_decompress=False, trust_env=True
    ) as session:
        async with session.get(url) as response:
            if response.status in (404, 410):
                raise FileNotFoundError(url)
            response.raise_for_status()
            before = _said(response)
            async for data in response.content.iter_chunked(CHUNK):
                take(data)
        try:  # one byte of it, because signed URLs are for GET alone
            async with session.get(url, headers={"Range": "bytes=0-0"}) as response:
                after = _said(response) if response.ok else before
        except aiohttp.ClientError:
            after = before
    whole = {"size": before["size"]} if "size" in before else {}
    return before, {**{name: after[name] for name in after if name != "size"}, **whole}


def _said(response: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        name: response.headers[name] for name in ("ETag", "Last-Modified") if name in response.headers
    }
    if response.status != 206 and response.content_length is not None:
        told["size"] = response.content_length
    return told
