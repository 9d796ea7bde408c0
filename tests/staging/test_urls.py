"""Files by URL: whole or not at all, once for a run, and nothing secret is told."""

import builtins
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.staging import http as by_http
from hyperflow.staging import urls
from hyperflow.testing import open_inline_job
from tests.support import local

CONTENT = os.urandom(3_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves one content, and does what the test wants with it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cut_off = 0
        """So many answers end half way."""
        self.changes = 0
        """So often, the content is another one afterwards."""
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        """Answer."""
        server = self.server
        part = "Range" in self.headers
        if not part:
            server.asked.append(self.path)
        if "missing" in self.path or "forbidden" in self.path:
            self.send_error(404 if "missing" in self.path else 403)
            return
        content = server.content
        self.send_response(206 if part else 200)
        self.send_header("ETag", f'"{hash(content)}"')
        self.send_header("Content-Length", "1" if part else str(len(content)))
        self.end_headers()
        if part:
            self.wfile.write(content[:1])
        elif server.cut_off:
            server.cut_off -= 1
            self.wfile.write(content[: len(content) // 2])
            self.connection.close()
        else:
            self.wfile.write(content)
            if server.changes:
                server.changes -= 1
                server.content = os.urandom(1000)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve until the test ends."""
    monkeypatch.setattr(urls, "PAUSE", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def read(file: hf.File) -> tuple[bytes, str]:
    """On a worker: read it."""
    return Path(file).read_bytes(), file.path().name


async def test_a_url_in_evaluations(server: Server) -> None:
    """It is downloaded once, by the program, whatever cuts it off first; evaluations have a copy with its name."""
    server.cut_off = 2
    file = hf.File(f"{server.url}/data/genome.fa.gz?x=1")
    async with local(2) as env:
        assert await hf.remote_eval(read, file) == (CONTENT, "genome.fa.gz")
        assert await hf.remote_eval(read, file) == (CONTENT, "genome.fa.gz")
        (there,) = (env.program.log_dir.parent / "files").iterdir()
        assert there.name == file.digest
    assert len(server.asked) == 3
    assert file.size == len(CONTENT)


async def test_what_changes(server: Server) -> None:
    """A content that changes while it comes is fetched again; in a later run, another content is another File."""
    server.changes = 1
    async with open_inline_job():
        file = hf.File(f"{server.url}/x")
        assert file.size == 1000
        assert len(server.asked) == 2
    async with open_inline_job():
        assert hf.File(f"{server.url}/x") == file
        server.content = b"new"
        assert hf.File(f"{server.url}/x") != file


async def test_what_does_not_come(server: Server) -> None:
    """After some tries, the error says what came; nothing half is left; no secret is told."""
    server.cut_off = 100
    secret = server.url.replace("//", "//me:hidden@") + "/x?X-Amz-Signature=private&part=2"
    async with open_inline_job() as env:
        with pytest.raises(
            hf.FileUnavailable, match=r"/x\?X-Amz-Signature=\.\.\.&part=2 did not come.*tried 4 times"
        ) as caught:
            _ = hf.File(secret).digest
        assert "hidden" not in str(caught.value)
        assert "private" not in str(caught.value)
        assert "hidden" not in repr(hf.File(secret))
        with pytest.raises(hf.FileMissing, match="nothing at"):
            _ = hf.File(f"{server.url}/missing").digest
        with pytest.raises(hf.FileUnavailable, match="403"):
            _ = hf.File(f"{server.url}/forbidden?token=private").digest
        server.cut_off, server.changes = 0, 100
        with pytest.raises(hf.FileUnavailable, match="changed while it came"):
            _ = hf.File(f"{server.url}/x").digest
        assert list((env.program.log_dir.parent / "files").iterdir()) == []
    with pytest.raises(hf.FileUnavailable, match="in a job"):
        _ = hf.File(f"{server.url}/x").digest


async def test_a_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing is given up."""
    import socket

    monkeypatch.setattr(by_http, "SILENCE", 0.2)
    monkeypatch.setattr(urls, "PAUSE", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_inline_job():
            with pytest.raises(hf.FileUnavailable, match=r"tried 4 times: .*imeout"):
                _ = hf.File(f"http://127.0.0.1:{silent.getsockname()[1]}/x").digest


def test_what_is_secret() -> None:
    """Passwords and signatures are not shown, the rest is."""
    url = "https://me:pw@h.org:8/a/b.gz?X-Amz-Signature=s1&X-Amz-Credential=c1&AccessKey=k&version=3#frag"
    assert urls.shown(url) == (
        "https://h.org:8/a/b.gz?X-Amz-Signature=...&X-Amz-Credential=...&AccessKey=...&version=3"
    )
    assert urls.last_part(url) == "b.gz"
    assert urls.shown("http://[bad") == "http://..."


def test_other_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed for a scheme is said when the File is made."""
    with pytest.raises(hf.FileUnavailable, match=r"nothing is known that reads htp://; is it misspelt\?"):
        hf.File("htp://h.org/x")
    with pytest.raises(hf.FileUnavailable, match=r"(?i)install"):
        hf.File("s3://bucket/x")
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "fsspec":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(hf.FileUnavailable, match=r"pip install 'hyperflow\[files\]'"):
        hf.File("s3://bucket/x")


async def test_by_fsspec() -> None:
    """Other schemes are read by fsspec."""
    import fsspec

    with fsspec.open("memory://place/x.txt", "wb") as file:
        file.write(CONTENT)
    async with open_inline_job():
        made = hf.File("memory://place/x.txt")
        assert (made.path().read_bytes(), made.name) == (CONTENT, "x.txt")
        with pytest.raises(hf.FileMissing, match="nothing at"):
            _ = hf.File("memory://place/y.txt").digest


def test_what_is_secret_where_it_leads() -> None:
    """A server has redirected to a URL with a signature, which the error of a library shows."""
    led = "https://u:pw@b.example/x?X-Amz-Signature=abc123&part=2"
    said = urls._told("https://a.example/x", OSError(f"403, message='Forbidden', url='{led}'"))
    assert "abc123" not in said
    assert "pw@" not in said
    assert "https://b.example/x?X-Amz-Signature=...&part=2" in said
    assert urls.shown("https://a.example/x?0123456789abcdef0123456789abcdef") == "https://a.example/x?..."
    assert urls.shown("https://a.example/x?v=2&session=12345") == "https://a.example/x?v=2&session=..."
