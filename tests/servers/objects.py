"""Stores of objects on loopback: real ones that are installed as packages, and a stand-in for what none of them shows.

rclone(folder)     checks SigV4 signatures and their expiry, passes over If-Match, answers a range with 200
moto()             honours If-Match, has versions and uploads in parts, checks no signature
ObjectServer       S3, Google or Azure as far as a GET goes: conditions, refusals, what an answer says of an object
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from tests.servers.origin import Answer, Origin, Request, head, respond

__all__ = ["KEY", "SECRET", "ObjectServer", "Store", "moto", "rclone", "refusal", "started"]

KEY, SECRET = "AKIDEXAMPLE", "hunter2hunter2"


@dataclass
class Store:
    """A server in a process of its own."""

    endpoint: str
    process: subprocess.Popen[bytes]


@contextmanager
def started(program: str, *arguments: str, why: str) -> Iterator[Store]:
    """`program`, found beside the interpreter or on the PATH, once its port answers. `{port}` in arguments is that."""
    path = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if path is None:
        import pytest

        pytest.skip(f"no {program} is installed: {why}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [path, *(argument.format(port=port) for argument in arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(port, process)
            yield Store(f"http://127.0.0.1:{port}", process)
        finally:
            process.kill()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "it ended at once"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "it opened no port within a minute"
            time.sleep(0.05)


@contextmanager
def rclone(folder: Path, *flags: str) -> Iterator[Store]:
    """S3 whose buckets are the folders of `folder`."""
    why = "nothing checks signatures and their expiry"
    address = ("--addr", "127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}")
    with started("rclone", "serve", "s3", *address, *flags, str(folder), why=why) as store:
        yield store


@contextmanager
def moto() -> Iterator[Store]:
    why = "versions, conditions and uploads in parts are not tried"
    with started("moto_server", "-H", "127.0.0.1", "-p", "{port}", why=why) as store:
        yield store


def refusal(status: int, code: str, **elements: str) -> Answer:
    """As all three stores refuse."""
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in elements.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>{inner}</Error>'.encode()
    return Answer(status, {"Content-Type": "application/xml"}, memoryview(body))


@dataclass
class ObjectServer(Origin):
    """`judge` answers instead of the store where it gives an answer. `facts`: headers of each object's answers."""

    ignores_conditions: bool = False
    judge: Callable[[Request], Answer | None] = lambda request: None
    facts: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def _artifact(self, connection: socket.socket, request: Request) -> None:
        request.path = unquote(request.path)
        answer = self.judge(request) or self._object(request)
        answer.headers.update(self.facts.get(request.path, {}))
        request.status = answer.status
        self.record(request)
        body = self._find(request.path)
        self._send(connection, request, head(answer), answer.body, 0 if body is None else body.rate)

    def _object(self, request: Request) -> Answer:
        body = self._find(request.path)
        if body is None:
            return refusal(404, "NoSuchKey", Key="hunter2")
        if request.headers.get("if-match") not in (None, body.etag) and not self.ignores_conditions:
            return refusal(412, "PreconditionFailed")
        return respond(request, body)
