"""A store of digests on loopback, as NANOCACHE_REMOTE asks and fills one: GET, HEAD and PUT below /cas/, and faults.

server.objects[digest]                                what it holds, and what was sent to it
server.judge = lambda method, digest: 507             answers instead of it; None: as it would
server.pause["PUT"] = 1.0                             seconds before it answers
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CasServer

    def handle_any(self) -> None:
        cas, digest = self.server, self.path.rpartition("/")[2]
        with cas.lock:
            cas.log.append((self.command, self.path, dict(self.headers)))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(cas.pause.get(self.command, 0.0))
        status = cas.judge(self.command, digest)
        if status is None and self.command == "PUT":
            cas.objects[digest] = body
            status = 201
        found = cas.objects.get(digest)
        data = b"" if status or found is None else found
        self.send_response(status or (404 if found is None else 200))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: cas.cut])
            self.close_connection = cas.cut is not None

    do_GET = do_HEAD = do_PUT = do_MKCOL = handle_any

    def log_message(self, *args: Any) -> None:
        pass


class CasServer(ThreadingHTTPServer):
    """Serving while the `with` block runs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.objects: dict[str, bytes] = {}
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.judge: Callable[[str, str], int | None] = lambda method, digest: None
        self.pause: dict[str, float] = {}
        self.cut: int | None = None  # bytes after which a body breaks off
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, method: str) -> int:
        return sum(1 for name, _, _ in self.log if name == method)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that gives up is what some tests are about

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
