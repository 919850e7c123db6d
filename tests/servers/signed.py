"""A store whose addresses are signed, expire, and are refused afterwards, as S3's do; with the conditions of S3.

`sign` counts. `ignores_conditions` stands for the servers that pass over If-Match.
"""

from __future__ import annotations

import socket
import time
from urllib.parse import parse_qs

from tests.servers.origin import Answer, Origin, Request, head, respond

__all__ = ["SignedOrigin"]


class SignedOrigin(Origin):
    def __init__(self, *, ignores_conditions: bool = False, refusal: int = 403) -> None:
        super().__init__()
        self.signatures = 0
        self.refused = 0
        self._ignores_conditions = ignores_conditions
        self._refusal = refusal

    def sign(self, path: str, seconds: float = 3600) -> str:
        self.signatures += 1
        return self.url(f"{path}?until={time.time() + seconds}&signature=hunter2-{self.signatures}")

    def _artifact(self, connection: socket.socket, request: Request) -> None:
        until = float(parse_qs(request.query).get("until", ["0"])[0])
        body = self._find(request.path)
        if time.time() > until or body is None:
            self.refused += 1
            self._answer(connection, request, Answer(self._refusal if body is not None else 404), 0)
            return
        wanted = request.headers.get("if-match")
        if wanted not in (None, body.etag) and not self._ignores_conditions:
            self._answer(connection, request, Answer(412), 0)
            return
        self._answer(connection, request, respond(request, body), body.rate)

    def _answer(self, connection: socket.socket, request: Request, answer: Answer, rate: float) -> None:
        request.status = answer.status
        self.record(request)
        self._send(connection, request, head(answer), answer.body, rate)
