"""A real nginx on loopback: for benchmarks, and for a second opinion in tests. It must be on the PATH."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

CONFIGURATION = """
worker_processes {workers}; daemon off; pid {folder}/pid; error_log {folder}/error.log; master_process on;
events {{ worker_connections 1024; }}
http {{
    log_format ranges '$status $http_range $connection'; access_log {folder}/access.log ranges;
    sendfile on; tcp_nopush on; keepalive_requests 100000; default_type application/octet-stream;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{
        listen 127.0.0.1:{port}; root {folder}/html;
        location /limited/ {{ alias {folder}/html/; limit_rate {rate}; }}
        location /dav/ {{ dav_methods PUT; create_full_put_path on; client_max_body_size 0; }}
    }}
}}
"""


class Nginx:
    """nginx while the `with` block runs, serving `folder/html`; below `/limited/` at `rate` bytes/s per request.

    Below `/dav/` it takes what is PUT.
    """

    def __init__(self, folder: Path, *, rate: int = 20_000_000, workers: int = 1) -> None:
        self.folder, self.html = folder, folder / "html"
        self.html.mkdir(parents=True)
        folder.chmod(0o755)
        self.html.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        user = "user root;" if os.geteuid() == 0 else ""
        text = CONFIGURATION.format(folder=folder, port=self.port, rate=rate, workers=workers)
        (folder / "nginx.conf").write_text(user + text)

    def __enter__(self) -> Self:
        command = ["nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.__exit__(None, None, None)
                    raise
                time.sleep(0.01)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def add(self, name: str, data: bytes, *, age: float = 0) -> str:
        """Serve `data` as `name`; the URL. `age`: seconds, since nginx makes ETags from mtime and size."""
        path = self.html / name
        path.write_bytes(data)
        path.chmod(0o644)
        os.utime(path, (time.time() - 1000 - age,) * 2)
        return self.url(name)

    def url(self, name: str, *, limited: bool = False) -> str:
        return f"http://127.0.0.1:{self.port}/{'limited/' if limited else ''}{name}"

    def _log(self) -> list[list[str]]:
        time.sleep(0.05)  # the line is written after the answer
        return [line.split(" ") for line in (self.folder / "access.log").read_text().splitlines()]

    def requests(self) -> list[tuple[int, str]]:
        """(status, Range header or "-") of each request so far."""
        return [(int(status), asked) for status, asked, _ in self._log()]

    def connections(self) -> int:
        """How many connections carried them."""
        return len({connection for _, _, connection in self._log()})
