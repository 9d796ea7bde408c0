"""Contents of URLs: downloaded once into the run's directory, whole or not at all.

Guarantees: what has another size, or other marks of its version (ETag, Last-Modified), after it came than before is
tried again, and so is what fails half way; after TRIES the error says what came. What is secret in a URL (a password, a
signature) is in no message.

http and https go through aiohttp, and other schemes through fsspec, which knows them, and what each of them needs.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from hyperflow.errors import FileMissing, FileUnavailable, HyperflowError
from hyperflow.staging import listings
from hyperflow.wire import scratch

TRIES = 4
PAUSE = 0.5
"""Seconds before the second try; twice as many before each one after it."""

CHUNK = 1 << 20

SECRET = re.compile(
    r"sign|token|secret|pass|pwd|credential|key|auth|jwt|session|ticket|^code$|^sig$|^se$|^sp$", re.IGNORECASE
)
"""Names of parameters whose values are nobody's business."""

LONGEST = 20
"""Letters of a parameter without a value that is shown."""

_ANY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")

_MARKS = ("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "updated", "generation", "size")


def shown(url: str) -> str:
    """Return a URL without what is secret in it."""
    try:
        parts = urlsplit(url)
        parameters = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return f"{url.partition('://')[0]}://..."
    place = parts.netloc.rpartition("@")[2]
    told = [_parameter(name, value) for name, value in parameters]
    return urlunsplit((parts.scheme, place, parts.path, "&".join(told), ""))


def _parameter(name: str, value: str) -> str:
    if not value and len(name) > LONGEST:  # all of the query may be a token
        return "..."
    return f"{name}={'...' if SECRET.search(name) else quote(value)}"


def last_part(url: str) -> str:
    """Return the last part of the path of a URL."""
    return os.path.basename(unquote(urlsplit(url).path).rstrip("/")).replace("\0", "") or "content"


def check(url: str) -> None:
    """Raise FileUnavailable if a URL cannot be one, or what is needed for it is not installed."""
    try:
        if not urlsplit(url).netloc and not urlsplit(url).path:
            raise ValueError("it names no host")
    except ValueError as error:
        raise FileUnavailable(f"{shown(url)} is no URL: {error}") from None
    if not _is_http(url):
        _check_scheme(url)


def _check_scheme(url: str) -> None:
    scheme = url.partition("://")[0].lower()
    try:
        import fsspec  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 (few programs need it)
    except ImportError:
        raise FileUnavailable(f"{shown(url)}: such URLs need fsspec; type: pip install 'hyperflow[files]'") from None
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise FileUnavailable(f"{shown(url)}: {error}. Install it where the program starts") from None
    except ValueError:
        raise FileUnavailable(f"{shown(url)}: nothing is known that reads {scheme}://; is it misspelt?") from None


def download(url: str) -> tuple[str, str, int]:
    """Download a content; return where it is, its digest and its size.

    Raises:
        FileMissing: There is nothing.
        FileUnavailable: It does not come, or not whole, or changes.
    """
    failures: list[str] = []
    place = _place()
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        number, draft = tempfile.mkstemp(dir=place, prefix=".coming-")
        try:
            with os.fdopen(number, "wb") as file:
                digest, size = _transfer(url, file)
            path = place / digest
            os.chmod(draft, 0o400)
            os.replace(draft, path)
        except FileNotFoundError:
            raise FileMissing(f"there is nothing at {shown(url)}") from None
        except HyperflowError:
            raise
        except Exception as error:  # noqa: BLE001 (of whichever library)
            failures.append(_told(url, error))
        else:
            return str(path), digest, size
        finally:
            with suppress(OSError):
                os.unlink(draft)
    tries = "; ".join(dict.fromkeys(failures))
    raise FileUnavailable(f"{shown(url)} did not come, although it was tried {TRIES} times: {tries}")


def _place() -> Path:
    if (made := listings.place()) is not None:
        return made
    if scratch.worker is not None and (own := scratch.directory_of(scratch.worker)) is not None:
        own.mkdir(mode=0o700, exist_ok=True)
        return own
    raise FileUnavailable(
        "a URL is downloaded into the directory of a run: ask for its content in a job, or give the File to an "
        "evaluation"
    )


def _transfer(url: str, file: IO[bytes]) -> tuple[str, int]:
    """Write a content to a file; raise unless all of it has come, and nothing else."""
    digest, size = hashlib.sha256(), 0

    def take(data: bytes) -> None:
        nonlocal size
        file.write(data)
        digest.update(data)
        size += len(data)

    if _is_http(url):
        from hyperflow.staging import http  # noqa: PLC0415 (few programs need it)

        before, after = http.transfer(url, take)
    else:
        before, after = _by_fsspec(url, take)
    file.flush()
    expected = after.get("size", before.get("size"))
    if expected is not None and expected != size:
        raise OSError(f"{size} bytes came, and {expected} are there")
    if _marks(before) != _marks(after):
        raise OSError("it was changed while it came")
    return digest.hexdigest(), size


def _is_http(url: str) -> bool:
    return url.partition("://")[0].lower() in ("http", "https")


def _by_fsspec(url: str, take: Callable[[bytes], None]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Read a content; return what was known of it before and after."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 (as above)

    system, path = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    before = system.info(path)
    with system.open(path, "rb", cache_type="readahead") as source:
        while data := source.read(CHUNK):
            take(data)
    system.invalidate_cache()
    return before, system.info(path)


def _marks(info: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(info[name]) for name in _MARKS if info.get(name) is not None}


def _told(url: str, error: Exception) -> str:
    """Return what has failed, without what is secret."""
    text = f"{type(error).__name__}: {error}".replace(url, shown(url))
    text = _ANY.sub(lambda found: shown(found[0]), text)  # a server may have redirected to one with a signature
    parts = urlsplit(url)
    secrets = [value for name, value in parse_qsl(parts.query) if SECRET.search(name)]
    for secret in (*secrets, *map(quote, secrets), parts.password or "", parts.netloc.rpartition("@")[0]):
        if len(secret) > 2:
            text = text.replace(secret, "...")
    return text[:300]
