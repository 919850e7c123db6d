"""az://, against Azurite where it is installed, and a stand-in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from nanocache import DownloadFailed
from nanocache.sources import az, by_obstore, registry
from tests.servers.objects import ObjectServer, Store, refusal, started
from tests.servers.origin import MIB, content

DATA = content(24 * MIB, "azure")
ACCOUNT, KEY = az.DEVELOPMENT["AccountName"], az.DEVELOPMENT["AccountKey"]

Fetch = Callable[..., Path]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    yield
    registry._installed.cache_clear()
    by_obstore._anonymous.clear()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A stand-in for the blobs of account a."""
    with ObjectServer() as server:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "a")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.url(""))
        yield server


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Azurite, with a private container `private`, a public one `public`, and a blob in each."""
    place = str(tmp_path_factory.mktemp("azurite"))
    arguments = ("--blobHost", "127.0.0.1", "--blobPort", "{port}", "--location", place, "--skipApiVersionCheck")
    with started("azurite-blob", *arguments, why="only a stand-in answers for Azure") as store:
        for container in ("private", "public"):
            public = {"x-ms-blob-public-access": "blob"} if container == "public" else {}
            put(store, container, b"", "restype=container", public)
            for key in ("dir/f.bin", "a b/f.bin"):
                put(store, f"{container}/{key}", DATA, "", {"x-ms-blob-type": "BlockBlob"})
        yield store


def put(store: Store, path: str, data: bytes, query: str, headers: dict[str, str]) -> None:
    """Shared Key, the signature of "Authorize with Shared Key"."""
    headers = headers | {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    named = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers) if name.startswith("x-ms-"))
    quoted = urllib.request.quote(path)  # type: ignore[attr-defined]
    resource = f"/{ACCOUNT}/{ACCOUNT}/{quoted}" + "".join(f"\n{q.replace('=', ':')}" for q in query.split("&") if q)
    length = str(len(data)) if data else ""
    text = f"PUT\n\n\n{length}\n\napplication/octet-stream\n\n\n\n\n\n\n{named}{resource}"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Type": "application/octet-stream"}
    url = f"{store.endpoint}/{ACCOUNT}/{quoted}" + (f"?{query}" if query else "")
    request = urllib.request.Request(url, data, headers, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def connection(store: Store, **more: str) -> str:
    said = {"AccountName": ACCOUNT, "BlobEndpoint": f"{store.endpoint}/{ACCOUNT}", **more}
    return ";".join(f"{name}={value}" for name, value in said.items())


def test_azurite_takes_what_obstore_signs(fetch: Fetch, azurite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection(azurite, AccountKey=KEY))
    assert fetch("az://private/dir/f.bin").read_bytes() == DATA
    with pytest.raises(DownloadFailed, match=r"space or a sign in it; set AZURE_STORAGE_SAS_TOKEN"):
        fetch("az://private/a%20b/f.bin")
    with pytest.raises(DownloadFailed, match=r"BlobNotFound\): there is no object none in private"):
        fetch("az://private/none")
    with pytest.raises(DownloadFailed, match=r"ContainerNotFound\): there is no container nowhere"):
        fetch("az://nowhere/none")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection(azurite, AccountKey="bm9ib2R5"))
    with pytest.raises(DownloadFailed, match="these credentials"):
        fetch("az://private/dir/g.bin")


def test_azurites_public_blob_is_asked_unsigned(fetch: Fetch, azurite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection(azurite))
    account = {"account_name": ACCOUNT, "endpoint": f"{azurite.endpoint}/{ACCOUNT}"}
    monkeypatch.setitem(by_obstore._anonymous, ("az", *sorted(account.items())), float("inf"))
    assert fetch("az://public/a%20b/f.bin").read_bytes() == DATA
    with pytest.raises(DownloadFailed, match="without credentials"):
        fetch("az://private/a%20b/f.bin")


@pytest.mark.parametrize("variable", ["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"])
def test_a_shared_access_signature_is_sent_as_it_is_and_shown_nowhere(
    fetch: Fetch, server: ObjectServer, base: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_obstore, "is_installed", lambda: False)
    sas = "sv=2023-11-03&sp=r&sig=hunter2%3D%3D"
    told = {"AZURE_STORAGE_SAS_TOKEN": f"?{sas}"}
    told["AZURE_STORAGE_CONNECTION_STRING"] = f"BlobEndpoint={server.url('')};SharedAccessSignature={sas}"
    monkeypatch.setenv(variable, told[variable])
    server.add("/box/f.bin", DATA)
    assert fetch("az://box/f.bin").read_bytes() == DATA
    assert fetch("az://box/f.bin?versionid=2020-01-01T00:00:00.0Z").read_bytes() == DATA
    queries = {request.query for request in server.requests() if not request.range}
    assert queries == {sas, f"{sas}&versionid=2020-01-01T00%3A00%3A00.0Z"}
    server.judge = lambda request: refusal(403, "AuthorizationPermissionMismatch")
    with pytest.raises(DownloadFailed, match="Storage Blob Data Reader") as raised:
        fetch("az://box/g.bin")
    assert "hunter2" not in str(raised.value)
    assert not [path for path in base.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_a_callers_own_token_needs_no_package(
    fetch: Fetch, server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_obstore, "is_installed", lambda: False)
    server.add("/box/f.bin", DATA)
    assert fetch("az://box/f.bin", headers={"Authorization": "Bearer hunter2"}).read_bytes() == DATA
    assert {request.headers["x-ms-version"] for request in server.requests()} == {az.VERSION[1]}


def test_no_account_and_no_package_are_errors(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadFailed, match="set AZURE_STORAGE_ACCOUNT_NAME"):
        fetch("az://box/f.bin")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "a")
    monkeypatch.setattr(by_obstore, "is_installed", lambda: False)
    with pytest.raises(DownloadFailed, match=r"pip install 'nanocache\[az\]'"):
        fetch("az://box/f.bin")


@pytest.mark.parametrize(
    ("variables", "begin"),
    [
        ({"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "bm9ib2R5"}, "https://acc.blob.core.windows.net/box/k?"),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acc;AccountKey=bm9ib2R5;EndpointSuffix=core.usgov.net"},
            "https://acc.blob.core.usgov.net/box/k?",
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"},
            "http://127.0.0.1:10000/devstoreaccount1/box/k?",
        ),
    ],
)
def test_the_variables_of_azures_own_command_are_read(
    variables: dict[str, Any], begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    resolved = az.source().resolve_with("az://box/k", ())
    assert resolved.url.startswith(begin)
    assert "sig=" in resolved.url
