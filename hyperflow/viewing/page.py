"""The page of `hyperflow dashboard`: HTTP on 127.0.0.1, for the one who knows the token in the printed URL.

What there is to show comes from a `Source`; this knows who may ask, and the files of the page.

Guarantees:
- Without the token nothing is answered but 403; that holds for other users of the machine, who reach the port, too. It
  comes once, in the URL, and is a cookie from then on, which scripts cannot read and other sites cannot send. It
  is in no argv, no file and no log.
- An order needs a second token beside the cookie, which stands in the page only: a cookie goes to other ports, too.
- The name in the request is looked at (Host), so that no other site's name leads here (DNS rebinding); what comes from
  another origin is refused.
- The page runs scripts of this server only, and sends nothing elsewhere (Content-Security-Policy). Styles may be
  inline, because plotly sets them so.
- A defect or a slow disk in one answer stops no other: each is made in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import hmac
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import attrs
from aiohttp import web

from hyperflow import files
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.plots import PNG

logger = logging.getLogger("hyperflow")

ADDRESS = "127.0.0.1"

NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""How this server may be called: here, and at the other end of an `ssh -L`."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

LARGEST_ORDER = 100_000
"""Bytes of the body of an order."""

GRACE = 1.0
"""Seconds in which answers under way may end."""

WORTH = 2000
"""Bytes from which an answer is compressed."""

Query = Mapping[str, str]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Source(Protocol):
    """What the page shows and does. All of it blocks, and is called in threads; it raises HyperflowError."""

    def runs(self, query: Query) -> dict[str, Any]: ...
    def run(self, query: Query) -> dict[str, Any]: ...
    def gantt(self, query: Query) -> dict[str, Any]: ...
    def evaluation(self, query: Query) -> dict[str, Any]: ...
    def why(self, query: Query) -> dict[str, Any]: ...
    def picture(self, query: Query) -> bytes: ...
    def order(self, order: Mapping[str, Any]) -> dict[str, Any]: ...


def plotly() -> bytes:
    """Return plotly's script, from its wheel.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    except (ImportError, OSError) as error:
        raise missing(error) from error


@functools.cache
def _plotly_for_browsers() -> bytes:
    return gzip.compress(plotly(), 6)


def missing(error: Exception) -> ConfigurationError:
    """Return the error that what charts need is not installed."""
    return ConfigurationError(f'charts need plotly and numpy ({error}); type: pip install "hyperflow[dashboard]"')


def asset(name: str) -> str:
    """Return one of our own files: "views.js", "style.css", ..."""
    return (resources.files("hyperflow.viewing") / "assets" / name).read_text(encoding="utf-8")


@attrs.frozen
class Secrets:
    """What is asked of those who come: `entry` in the URL and the cookie, `orders` from the page itself."""

    entry: str = attrs.field(factory=lambda: secrets.token_urlsafe(32), repr=False)
    orders: str = attrs.field(factory=lambda: secrets.token_urlsafe(32), repr=False)


@attrs.frozen
class Served:
    """A page that is served."""

    port: int
    secrets: Secrets

    @property
    def url(self) -> str:
        """What to open in a browser; it holds the token."""
        return f"http://{ADDRESS}:{self.port}/?token={self.secrets.entry}"


@asynccontextmanager
async def serving(source: Source, port: int) -> AsyncIterator[Served]:
    """Serve the page within a scope; port 0 takes a free one.

    Raises:
        ConfigurationError: The port is taken; plotly is missing.
    """
    held = Secrets()
    page = _Page(source, held)
    application = web.Application(middlewares=[page.guarded], client_max_size=LARGEST_ORDER)
    application.add_routes(page.routes())
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=GRACE)
    await runner.setup()
    try:
        site = web.TCPSite(runner, ADDRESS, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {ADDRESS}:{port}: {error.strerror or error}; --port names another one, 0 a free one"
            ) from error
        yield Served(int(runner.addresses[0][1]), held)
    finally:
        await runner.cleanup()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


class _Page:
    def __init__(self, source: Source, held: Secrets) -> None:
        self._source = source
        self._secrets = held
        self._cookie = f"hyperflow-{secrets.token_hex(4)}"  # cookies of several servers on one host are told apart
        self._plotly = _plotly_for_browsers()

    def routes(self) -> list[web.RouteDef]:
        source = self._source
        asked = {name: getattr(source, name) for name in ("runs", "run", "gantt", "evaluation", "why")}
        return [
            web.get("/", self._front),
            web.get("/assets/plotly.min.js", self._script),
            web.get("/assets/{name}", self._asset),
            *(web.get(f"/api/{name}", self._answering(ask)) for name, ask in asked.items()),
            web.get("/api/picture", self._picture),
            web.post("/api/order", self._order),
        ]

    # ---- who may ask ------------------------------------------------------------------------------------------------

    @property
    def guarded(self) -> Any:
        """The middleware that every request passes."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if (refusal := self._refusal(request)) is not None:
                response: web.StreamResponse = _text(refusal, 403)
            else:
                response = await self._answered(request, handler)
            response.headers.update({name: text for name, text in HEADERS.items() if name not in response.headers})
            return response

        return check

    def _refusal(self, request: web.Request) -> str | None:
        host = request.headers.get("Host", "")
        if host.rpartition(":")[0] not in NAMES and host not in NAMES:
            return "this page is at 127.0.0.1 and localhost only"
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return "this page takes nothing from other pages"
        entrance = request.path == "/" and request.method == "GET"  # a link to it may stand anywhere
        if not entrance and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return "this page takes nothing from other pages"
        if request.path == "/" and _same(request.query.get("token", ""), self._secrets.entry):
            return None
        if not _same(request.cookies.get(self._cookie, ""), self._secrets.entry):
            return "open the URL with the token that `hyperflow dashboard` has printed"
        if request.method != "GET" and not _same(request.headers.get("X-Hyperflow-Token", ""), self._secrets.orders):
            return "orders come from the page itself; load it again"
        return None

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _json({"error": f"{request.method} {request.path}: {error.reason}"}, error.status)
        except HyperflowError as error:  # an answer like others; a browser would note 400 as an error of the page
            return _json({"error": str(error)})
        except Exception as error:  # a defect in one answer
            logger.exception("%s %s of the page", request.method, request.path)
            return _json({"error": f"{type(error).__name__}: {error}; the terminal of the command has more"}, 500)

    # ---- what is answered -------------------------------------------------------------------------------------------

    async def _front(self, request: web.Request) -> web.StreamResponse:
        response = _text(asset("page.html").replace("@TOKEN@", self._secrets.orders), kind="text/html")
        if "token" in request.query:  # which the page takes out of the address bar; a redirect would lose the cookie
            response.set_cookie(self._cookie, self._secrets.entry, httponly=True, samesite="Strict", path="/")
        return response

    async def _script(self, _: web.Request) -> web.StreamResponse:
        headers = {"Content-Encoding": "gzip", "Cache-Control": "private, max-age=3600"}
        return web.Response(body=self._plotly, content_type="text/javascript", charset="utf-8", headers=headers)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        kind = KINDS.get(name.rpartition(".")[2])
        if kind is None or name not in {
            entry.name for entry in (resources.files("hyperflow.viewing") / "assets").iterdir()
        }:
            raise web.HTTPNotFound
        return _text(asset(name), kind=kind)

    def _answering(self, ask: Callable[[Query], dict[str, Any]]) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            return await asyncio.to_thread(lambda: _json(ask(request.query)))

        return answer

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        data = await asyncio.to_thread(self._source.picture, request.query)
        if not data.startswith(PNG):
            raise web.HTTPNotFound
        return web.Response(body=data, content_type="image/png")

    async def _order(self, request: web.Request) -> web.StreamResponse:
        try:
            order = files.from_json(await request.read())
        except ValueError as error:
            raise ConfigurationError(f"the order is no JSON: {error}") from None
        if not isinstance(order, dict):
            raise ConfigurationError("an order is an object of JSON")
        return _json(await asyncio.to_thread(self._source.order, cast("dict[str, Any]", order)))


def _text(text: str, status: int = 200, kind: str = "text/plain") -> web.Response:
    response = web.Response(text=text, status=status, content_type=kind, charset="utf-8")
    if len(text) >= WORTH:
        response.enable_compression()
    return response


def _json(answer: dict[str, Any], status: int = 200) -> web.Response:
    # What a program logged may hold halves of surrogates: they are escapes in this JSON, as all that is no ASCII.
    return _text(json.dumps(answer, separators=(",", ":")), status, "application/json")
