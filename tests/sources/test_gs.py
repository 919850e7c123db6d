"""gs://, against Google's emulators as far as they go, and a stand-in that unpacks on the way as Google does."""

from __future__ import annotations

import gzip
import json
import logging
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanocache import DownloadFailed
from nanocache.sources import by_google, by_obstore, gs, registry
from tests.servers.objects import ObjectServer, Store, refusal, started
from tests.servers.origin import MIB, Answer, Origin, Request, content

DATA = content(24 * MIB, "google")
STORED = gzip.compress(DATA, 0)

Fetch = Callable[..., Path]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "STORAGE_EMULATOR", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
    yield
    registry._installed.cache_clear()
    by_obstore._anonymous.clear()
    by_google._credentials.cache_clear()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A stand-in for Google's own endpoint."""
    with ObjectServer() as server:
        monkeypatch.setattr(gs, "ENDPOINT", server.url(""))
        yield server


@pytest.fixture(params=["google-auth", "obstore"])
def no_credentials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither package finds any."""
    pytest.importorskip("google.auth" if request.param == "google-auth" else "obstore")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setattr(by_google, "is_installed", lambda: request.param == "google-auth")
    monkeypatch.setitem(by_obstore._anonymous, ("gs",), float("inf"))  # asking the machine takes seconds


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_google, "is_installed", lambda: False)
    monkeypatch.setattr(by_obstore, "is_installed", lambda: False)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Store]:
    why = "only a stand-in answers for Google"
    arguments = ("start", "--host", "127.0.0.1", "--port", "{port}", "--in-memory", "--default-bucket", "bucket")
    with started("gcp-storage-emulator", *arguments, why=why) as store:
        yield store


def test_an_emulators_object_is_fetched_without_any_package(
    fetch: Fetch, emulator: Store, no_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{emulator.endpoint}/upload/storage/v1/b/bucket/o?uploadType=media&name=a%20b/f.bin"
    urllib.request.urlopen(urllib.request.Request(url, DATA, method="POST"), timeout=30).close()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator.endpoint)
    assert fetch("gs://bucket/a%20b/f.bin").read_bytes() == DATA
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator.endpoint.removeprefix("http://"))
    assert fetch("gs://bucket/a%20b/f.bin", max_age=0).read_bytes() == DATA
    with pytest.raises(DownloadFailed, match="404: there is no object none in bucket"):
        fetch("gs://bucket/none")


def test_a_public_object_is_asked_unsigned(fetch: Fetch, server: ObjectServer, no_credentials: None) -> None:
    server.add("/bucket/a b/f.bin", DATA)
    assert fetch("gs://bucket/a%20b/f.bin").read_bytes() == DATA
    assert not any("authorization" in request.headers or request.query for request in server.requests())
    server.judge = lambda request: refusal(403, "AccessDenied")
    with pytest.raises(DownloadFailed, match=r"without credentials.*gcloud auth application-default login"):
        fetch("gs://bucket/private.bin")


def test_a_generation_is_asked_for(fetch: Fetch, server: ObjectServer, no_credentials: None) -> None:
    server.add("/bucket/f.bin", b"old")
    fetch("gs://bucket/f.bin?generation=7")
    assert [request.query for request in server.requests()] == ["generation=7"]
    server.add("/bucket/f.bin", b"new")
    assert fetch("gs://bucket/f.bin").read_bytes() == b"new"


@pytest.mark.parametrize("size", [1000, len(STORED)])
def test_an_object_that_is_stored_compressed_comes_as_it_is_stored(
    fetch: Fetch, server: ObjectServer, no_credentials: None, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Google unpacks it for those who do not take gzip, and answers them without a length and from the first byte."""
    stored = gzip.compress(DATA[:1000], 0) if size == 1000 else STORED
    server.add("/bucket/f.gz", stored, rate=20 * MIB)
    server.facts["/bucket/f.gz"] = {"Content-Encoding": "gzip", "x-goog-stored-content-encoding": "gzip"}

    def judge(request: Request) -> Answer | None:
        takes = "gzip" in request.headers["accept-encoding"]
        return None if takes else Answer(200, {"ETag": '"unpacked"'}, memoryview(gzip.decompress(stored)))

    server.judge = judge
    with caplog.at_level(logging.WARNING):
        assert fetch("gs://bucket/f.gz").read_bytes() == stored
    assert not [record for record in caplog.records if record.name == "nanocache"]
    assert size == 1000 or any(request.status == 206 for request in server.requests())


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tokens]:
    """A service account, and the server that gives it tokens."""
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    with Tokens() as server:
        account = {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "1",
            "private_key": pem,
            "client_email": "robot@example.com",
            "client_id": "1",
            "token_uri": server.url("/token"),
        }
        (path := tmp_path / "robot.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        yield server


class Tokens(Origin):
    """Gives a token for each signed question."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0
        self.seconds = 3600

    def _artifact(self, connection: Any, request: Request) -> None:
        self.given += 1
        told = {"access_token": f"hunter2-{self.given}", "expires_in": self.seconds, "token_type": "Bearer"}
        from tests.servers.origin import head

        answer = Answer(200, {"Content-Type": "application/json"}, memoryview(json.dumps(told).encode()))
        connection.sendall(head(answer) + bytes(answer.body))


def test_google_auths_token_goes_to_the_store_and_is_kept(
    fetch: Fetch, server: ObjectServer, robot: Tokens, base: Path
) -> None:
    pytest.importorskip("google.auth")
    for letter in "ab":
        server.add(f"/bucket/{letter}.bin", DATA, rate=20 * MIB)
        assert fetch(f"gs://bucket/{letter}.bin").read_bytes() == DATA
    assert {request.headers["authorization"] for request in server.requests()} == {"Bearer hunter2-1"}
    assert robot.given == 1
    server.judge = lambda request: refusal(403, "AccessDenied")
    with pytest.raises(DownloadFailed, match=r"storage\.objects\.get") as raised:
        fetch("gs://bucket/c.bin")
    assert "hunter2" not in str(raised.value)
    assert not [path for path in base.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_a_token_that_expires_amid_a_download_is_replaced_before(
    fetch: Fetch, server: ObjectServer, robot: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("google.auth")
    monkeypatch.setenv("NANOCACHE_CONNECTIONS", "4")
    robot.seconds = 2
    data = content(48 * MIB, "pieces of 4 MiB")
    server.add("/bucket/f.bin", data, rate=3 * MIB)
    first: dict[str, float] = {}

    def judge(request: Request) -> Answer | None:
        given = first.setdefault(request.headers["authorization"], request.time)
        return refusal(401, "AuthenticationRequired") if request.time > given + 2 else None

    server.judge = judge
    began = time.monotonic()
    assert fetch("gs://bucket/f.bin").read_bytes() == data
    assert len(first) > 1
    assert robot.given <= 2 + (time.monotonic() - began) / 1.4
    assert {request.status for request in server.requests()} <= {200, 206}


def test_obstore_signs_for_a_service_account(robot: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setattr(by_google, "is_installed", lambda: False)
    resolved = gs.source().resolve_with("gs://bucket/a%20b", ())
    assert resolved.url.startswith("https://storage.googleapis.com/bucket/a%20b?")
    assert "X-Goog-Signature=" in resolved.url
    assert ("Accept-Encoding", "gzip") in resolved.headers


def test_what_obstore_cannot_sign_for_google_is_said(
    fetch: Fetch, robot: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setattr(by_google, "is_installed", lambda: False)
    with pytest.raises(DownloadFailed, match="pip install google-auth"):
        fetch("gs://bucket/f.bin?generation=1")


def test_credentials_that_are_none_are_an_error(
    fetch: Fetch, tmp_path: Path, server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / "broken.json").write_text('{"hunter2": 1}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    for name in ("google.auth", "obstore"):
        pytest.importorskip(name)
        monkeypatch.setattr(by_google, "is_installed", lambda name=name: name == "google.auth")
        with pytest.raises(DownloadFailed, match=r"credentials|service account file") as raised:
            fetch("gs://bucket/f.bin")
        assert "hunter2" not in str(raised.value)
    assert server.requests() == []


def test_a_missing_package_names_the_extra_of_google(fetch: Fetch, no_packages: None) -> None:
    with pytest.raises(DownloadFailed, match=r"pip install 'nanocache\[gs\]'"):
        fetch("gs://bucket/f.bin")
