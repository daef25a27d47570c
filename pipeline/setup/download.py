"""Downloading one file over HTTP, resumed where an earlier attempt ended. ``glimpse fetch`` alone uses this."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from store.errors import GlimpseError
from store.publish import writing

TIMEOUT = 60
"""Seconds without an answer after which a connection is given up."""
_BLOCK = 1 << 20


class FetchError(GlimpseError):
    """A file could not be fetched, or is not the one it should be."""


def download(url: str, part: Path, size: int, advance: Callable[[int], None]) -> None:
    """Fetch ``url`` into ``part``, after the bytes that ``part`` has already.

    A server that does not continue (no ``Range``) sends the file from its start, and ``part`` is written anew.

    Args:
        size: bytes of the whole file, where the server does not say; 0 for unknown.
        advance: called with the number of bytes that came to be in ``part``.

    Raises:
        FetchError: no connection, a refusal, a web page in place of the file, or an end before the last byte (``part``
            stays). The message is one line and says nothing of the file: the caller knows what it is.
    """
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    try:
        reply, start = _open(url, part.stat().st_size if part.is_file() else 0)
        advance(start)
        if reply is None:
            return
        with reply, part.open("ab" if start else "wb") as file:
            if reply.headers.get_content_type() == "text/html":
                raise FetchError("a web page came in place of the file: it moved, or must be requested in a browser")
            length = reply.headers.get("Content-Length")
            total = start + int(length) if length else size
            while block := reply.read(_BLOCK):
                with writing(part):
                    file.write(block)
                advance(len(block))
            got = file.tell()
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"it answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchError(" ".join(f"{reason}".split()) or type(error).__name__) from error
    if got < total:
        raise FetchError(f"the connection ended after {got:,} of {total:,} bytes (the same command goes on from there)")


def _open(url: str, start: int) -> tuple[http.client.HTTPResponse | None, int]:
    """The reply and the byte at which its body starts; (None, start) when nothing is left to send."""
    request = urllib.request.Request(url, headers={"User-Agent": "glimpse"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        reply: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        if error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return None, start
        return _open(url, 0)
    if reply.status != 206:
        return reply, 0
    if re.match(rf"bytes {start}-", reply.headers.get("Content-Range", "")):
        return reply, start
    reply.close()
    return _open(url, 0)
