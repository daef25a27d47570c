"""An HTTP server on this machine that serves bytes from memory, well or badly, and remembers what it was asked."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class FileServer:
    """Use as ``with FileServer({"a.bin": data}) as server: server.url("a.bin")``.

    Attributes:
        ranges: whether it continues where it is asked to.
        cut: it closes the connection after so many bytes of a body.
        stall: it stops sending after so many bytes until the server is closed.
        length: whether it says how long a body is.
        kind: the body's content type.
        shift: answers a range with one that starts so many bytes later than asked.
        asked: (path, Range header or "") of every request.
    """

    files: dict[str, bytes]
    ranges: bool = True
    cut: int | None = None
    stall: int | None = None
    length: bool = True
    kind: str = "application/octet-stream"
    shift: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __enter__(self) -> FileServer:
        self._closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name, wanted = handler.path.lstrip("/"), handler.headers.get("Range", "")
        self.asked.append((name, wanted))
        if name not in self.files:
            handler.send_error(404)
            return
        body = self.files[name]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if wanted and self.ranges and start >= len(body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.end_headers()
            return
        start += self.shift if start else 0
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Type", self.kind)
        if self.length:
            handler.send_header("Content-Length", str(len(body) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        end = next((start + n for n in (self.cut, self.stall) if n is not None), None)
        handler.wfile.write(body[start:end])
        handler.wfile.flush()
        if self.stall is not None:
            self._closing.wait()


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # the client was killed
                server.answer(self)

        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    return Handler
