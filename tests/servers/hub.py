"""A stand-in for a Hugging Face Hub: two origins, the Hub with its API and the CDN that serves large files.

    hub.commit("owner/name", {"config.json": b"...", "model.safetensors": b"..."})   -> the commit, now the head of main

As the real one answers: small files come from the Hub with git's SHA-1 as their ETag; large ones are a redirect to a
signed address of the CDN, with X-Linked-Etag (SHA-256) and X-Linked-Size. `test_hub.py` has the real client of the Hub
download from it. Not a Hub: nothing is uploaded, and there is no Xet.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote

from tests.servers.origin import Answer, Body, Origin, Request, head, respond
from tests.servers.signed import SignedOrigin

__all__ = ["HubServer", "git_sha1"]

LARGE = 1 << 20  # bytes from which a file is kept by LFS
TOKEN = "hf_hunter2"
PAGE = 50  # entries of a listing's page

RESOLVE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/(revision|tree|paths-info)/([^/]+)")


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def find(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


class HubServer(Origin):
    """The Hub's own origin; `cdn` is the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.cdn = SignedOrigin()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.wrong: dict[str, bytes] = {}  # path of a file -> what is served instead of it
        self.seconds = 3600.0  # that an address of the CDN is good for
        self.rate = 0.0  # bytes per second of each connection to the CDN, 0: as fast as it goes
        self.page = PAGE

    def __enter__(self) -> Self:
        self.cdn.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.cdn.__exit__(kind, error, trace)

    @property
    def endpoint(self) -> str:
        return self.url("")

    def commit(self, name: str, files: dict[str, bytes], *, kind: str = "models", branch: str = "main") -> str:
        repository = self.repositories.setdefault((kind, name), Repository())
        listing = [(path, git_sha1(data)) for path, data in sorted(files.items())]
        commit = hashlib.sha1(repr((name, listing)).encode(), usedforsecurity=False).hexdigest()
        repository.commits[commit] = dict(files)
        repository.branches[branch] = commit
        return commit

    def repository(self, name: str, kind: str = "models") -> Repository:
        return self.repositories[kind, name]

    # --- answers ------------------------------------------------------------------------------------------------------

    def _artifact(self, connection: socket.socket, request: Request) -> None:
        answer = self._answer_to(request)
        request.status = answer.status
        self.record(request)
        body = answer.body if request.method == "GET" else answer.body[:0]
        self._send(connection, request, head(answer), body, 0)

    def _answer_to(self, request: Request) -> Answer:
        path = unquote(request.path) if "%2F" not in request.path else request.path
        if match := API.fullmatch(path.rstrip("/")):
            kind, name, what, revision = match.groups()
            return self._allowed(request, kind, name) or self._api(request, kind, name, what, unquote(revision))
        if match := RESOLVE.fullmatch(path):
            kind, name, revision, file = match.groups()
            kind = kind or "models"
            return self._allowed(request, kind, name) or self._file(request, kind, name, unquote(revision), file)
        return Answer(404)

    def _allowed(self, request: Request, kind: str, name: str) -> Answer | None:
        repository = self.repositories.get((kind, name))
        known = request.headers.get("authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            return _refusal(404 if known else 401, "RepoNotFound")
        if repository.gated and not known:
            return _refusal(401, "GatedRepo")
        return None

    def _api(self, request: Request, kind: str, name: str, what: str, revision: str) -> Answer:
        repository = self.repositories[kind, name]
        commit = repository.find(revision)
        if commit is None:
            return _refusal(404, "RevisionNotFound")
        files = repository.commits[commit]
        if what == "revision":
            siblings = [{"rfilename": path} for path in sorted(files)]
            return _json({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "private": False})
        entries = [_entry(path, files[path]) for path in sorted(files)]
        folders = sorted({path.rpartition("/")[0] for path in files} - {""})
        entries = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders] + entries
        start = int(parse_qs(request.query).get("cursor", ["0"])[0])
        answer = _json(entries[start : start + self.page])
        if start + self.page < len(entries):
            following = self.url(f"{request.path}?recursive=true&expand=false&cursor={start + self.page}")
            answer.headers["Link"] = f'<{following}>; rel="next"'
        return answer

    def _file(self, request: Request, kind: str, name: str, revision: str, path: str) -> Answer:
        repository = self.repositories[kind, name]
        commit = repository.find(revision)
        if commit is None:
            return _refusal(404, "RevisionNotFound")
        data = repository.commits[commit].get(path)
        if data is None:
            return _refusal(404, "EntryNotFound")
        served = self.wrong.get(path, data)
        if len(data) < LARGE:
            body = Body(served, f'"{git_sha1(data)}"', "")
            answer = respond(request, body)
            answer.headers |= {"X-Repo-Commit": commit}
            return answer
        digest = hashlib.sha256(data).hexdigest()
        self.cdn.add(f"/{digest}", served, etag=f'"cdn-{digest[:8]}"', rate=self.rate)
        return Answer(
            302,
            {
                "Location": self.cdn.sign(f"/{digest}", self.seconds),
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(data)),
                "ETag": f'"{git_sha1(data)}"',
            },
        )


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": git_sha1(data), "size": len(data)}
    if len(data) >= LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _refusal(status: int, code: str) -> Answer:
    return Answer(status, {"X-Error-Code": code, "X-Error-Message": f"{code}, says the Hub"})


def _json(value: Any) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, memoryview(json.dumps(value).encode()))
