"""s3://, against servers that check signatures, that have conditions and versions, and one that refuses as told."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import nanocache
from nanocache import ChecksumMismatch, DownloadFailed, NotCached
from nanocache.http.validation import part_headers
from nanocache.sources import by_botocore, by_obstore, registry, signed
from tests.servers.objects import KEY, SECRET, ObjectServer, Store, moto, rclone, refusal
from tests.servers.origin import LAST_MODIFIED, MIB, Answer, Origin, Request, content

DATA = content(24 * MIB, "objects")
OTHER = content(24 * MIB, "others")
SHORT, SHORT2 = content(100_000, "short"), content(100_000, "another")  # where no range is wanted
SHA256 = hashlib.sha256(DATA).hexdigest()
UNUSUAL = "#?%+&=;:@$!*'()[]{}<>|^`~,\\\" ü漢"
NAME = "dir with space/f+1.bin"
URL = "s3://bucket/dir%20with%20space/f+1.bin"

Fetch = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _descriptions_are_read_once() -> Iterator[None]:
    """Each session of botocore reads megabytes of JSON by itself, which takes 0.5 s: here they share them."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("botocore"):
            session = importlib.import_module("botocore.session")
            patch.setattr(session, "create_loader", functools.cache(session.create_loader))
        yield


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    registry._installed.cache_clear()
    by_obstore._anonymous.clear()


@pytest.fixture(params=["botocore", "obstore"])
def signer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the packages that can sign."""
    return use(request.param, monkeypatch)


def use(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip(name, reason=f"{name} is not installed: its signatures are not tried")
    if name == "obstore":
        monkeypatch.setattr(by_botocore, "is_installed", lambda: False)
    return name


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def no_credentials(credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buckets")
    (folder / "bucket/dir with space").mkdir(parents=True)
    (folder / "bucket" / NAME).write_bytes(DATA)
    for character in UNUSUAL:
        (folder / "bucket" / f"a{character}b.bin").write_text(character)
    return folder


@pytest.fixture(scope="module")
def checking(buckets: Path) -> Iterator[Store]:
    """A server that checks signatures."""
    with rclone(buckets) as store:
        yield store


@pytest.fixture(scope="module")
def conditional() -> Iterator[Store]:
    """A server that knows conditions and versions."""
    with moto() as store:
        yield store


@pytest.fixture
def server(credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A stand-in at which S3 is looked for."""
    pytest.importorskip("botocore")
    with ObjectServer() as server:
        point_at(monkeypatch, server.url(""))
        yield server


def admin(store: Store) -> Any:
    session = importlib.import_module("botocore.session").Session()
    return session.create_client(
        "s3", "us-east-1", endpoint_url=store.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )


def sent(server: Origin) -> int:
    return sum(request.sent for request in server.requests())


# --- signed -----------------------------------------------------------------------------------------------------------


def test_a_server_that_checks_signatures_gives_the_object_in_parallel_ranges(
    fetch: Fetch, signer: str, credentials: None, checking: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, checking.endpoint)
    path = fetch(URL)
    assert (path.name, path.read_bytes()) == ("f+1.bin", DATA)


def test_a_key_may_hold_any_character(
    signer: str, base: Path, credentials: None, checking: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, checking.endpoint)
    for character in UNUSUAL:
        assert nanocache.fetch(f"s3://bucket/a{quote(character)}b.bin").read_text() == character


@pytest.mark.parametrize("key", ["a/../b", "a/%2E%2e/b", "./b", "a/."])
def test_a_key_that_becomes_another_one_on_the_way_is_refused(key: str, base: Path) -> None:
    with pytest.raises(ValueError, match="becomes another key"):
        nanocache.fetch(f"s3://bucket/{key}")


def test_a_wrong_secret_is_said(
    fetch: Fetch, signer: str, credentials: None, checking: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, checking.endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(DownloadFailed, match="does not take these credentials") as raised:
        fetch(URL)
    assert "Signature=" not in str(raised.value)


def test_a_hit_asks_nobody_and_imports_nothing(
    spawn: Callable[..., Any], base: Path, credentials: None, checking: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("botocore", monkeypatch)
    point_at(monkeypatch, checking.endpoint)
    nanocache.fetch(URL)
    code = """
import sys
path = nanocache.fetch(URL, offline=True)
print(path.stat().st_size, sorted({"botocore", "obstore", "httpx", "nanocache.sources.s3"} & set(sys.modules)))
"""
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    assert spawn(code, URL=URL, env=env, fresh=True).outputs() == [f"{len(DATA)} []"]


def test_offline_a_miss_signs_nothing(fetch: Fetch, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_botocore, "sign", None)
    with pytest.raises(NotCached):
        fetch(URL, offline=True)


def test_an_endpoint_of_the_config_file_is_used(
    fetch: Fetch, credentials: None, checking: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use("botocore", monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config, secrets = tmp_path / "config", tmp_path / "credentials"
    config.write_text(f"[profile lab]\nendpoint_url = {checking.endpoint}\ns3 =\n  addressing_style = path\n")
    secrets.write_text(f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = wrong\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(DownloadFailed):
        fetch(URL)
    secrets.write_text(f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    assert fetch(URL).read_bytes() == DATA  # a file that changed is read again


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_the_addressing_style_of_the_config_file_is_used(
    credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, style: str
) -> None:
    use("botocore", monkeypatch)
    (config := tmp_path / "config").write_text(f"[default]\nregion = eu-west-1\ns3 =\n  addressing_style = {style}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://store.example:9000")
    resolved = registry.find("s3://bucket/key").resolve_with("s3://bucket/key", ())
    begin = {"path": "http://store.example:9000/bucket/key?", "virtual": "http://bucket.store.example:9000/key?"}
    assert resolved.url.startswith(begin[style])


def test_an_expired_address_is_signed_anew_once_for_all_connections(
    fetch: Fetch, signer: str, credentials: None, buckets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed, "LIFE", 2)
    signatures = []
    module = by_botocore if signer == "botocore" else by_obstore
    sign = module.sign
    monkeypatch.setattr(module, "sign", lambda *given: signatures.append(time.monotonic()) or sign(*given))
    with rclone(buckets, "--bwlimit", "8M") as store:
        point_at(monkeypatch, store.endpoint)
        began = time.monotonic()
        assert fetch(URL, sha256=SHA256).read_bytes() == DATA
        assert len(signatures) <= 2 + (time.monotonic() - began) / 1.5


def test_an_address_that_is_refused_amid_sixteen_ranges_costs_one_signature(
    fetch: Fetch, server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(128 * MIB, "pieces of 4 MiB")
    server.add("/bucket/f.bin", data, rate=3 * MIB)
    dead: set[str] = set()

    def judge(request: Request) -> Answer | None:
        seen = server.requests()
        if not dead and seen and time.time() > seen[0].time + 1.2:
            dead.add(seen[0].query)
        return refusal(403, "AccessDenied") if request.query in dead else None

    server.judge = judge
    monkeypatch.setenv("NANOCACHE_CONNECTIONS", "16")
    assert fetch("s3://bucket/f.bin").read_bytes() == data
    assert len({request.query for request in server.requests()}) == 2
    assert sum(request.status == 403 for request in server.requests()) >= 1
    assert sent(server) <= 1.1 * len(data)


# --- what the object is -----------------------------------------------------------------------------------------------


def test_each_part_is_asked_for_with_if_match(fetch: Fetch, server: ObjectServer) -> None:
    server.add("/bucket/f.bin", DATA, rate=20 * MIB)
    assert fetch("s3://bucket/f.bin").read_bytes() == DATA
    parts = [request for request in server.requests() if request.range]
    assert parts
    assert all("if-match" in request.headers and "if-range" not in request.headers for request in parts)


def test_a_part_of_an_object_without_an_etag_has_a_condition_that_takes_a_date() -> None:
    asked = part_headers(0, 5, LAST_MODIFIED, "If-Match")
    assert asked == [("Range", "bytes=0-4"), ("If-Unmodified-Since", LAST_MODIFIED)]
    assert part_headers(0, 5, '"1"', "If-Match")[1] == ("If-Match", '"1"')


def test_versions_conditions_and_a_digest_of_digests(
    fetch: Fetch, credentials: None, conditional: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("botocore", monkeypatch)
    point_at(monkeypatch, conditional.endpoint)
    client = admin(conditional)
    client.create_bucket(Bucket="versions")
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    first = client.put_object(Bucket="versions", Key="f.bin", Body=DATA)["VersionId"]
    second = client.put_object(Bucket="versions", Key="f.bin", Body=OTHER)["VersionId"]
    assert fetch("s3://versions/f.bin").read_bytes() == OTHER
    assert fetch(f"s3://versions/f.bin?versionId={first}").read_bytes() == DATA
    path = fetch("s3://versions/f.bin")
    assert path.read_bytes() == OTHER
    client.put_object(Bucket="versions", Key="f.bin", Body=b"third")
    path.unlink()
    assert fetch("s3://versions/f.bin").read_bytes() == OTHER, "the version that was remembered"
    client.delete_object(Bucket="versions", Key="f.bin", VersionId=second)
    path.unlink()
    assert fetch("s3://versions/f.bin").read_bytes() == b"third", "which is gone"
    upload = client.create_multipart_upload(Bucket="versions", Key="p.bin", ChecksumAlgorithm="SHA256")["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(DATA), 8 * MIB), 1):
        of = {"Bucket": "versions", "Key": "p.bin", "UploadId": upload, "PartNumber": number}
        part = client.upload_part(**of, Body=DATA[start : start + 8 * MIB], ChecksumAlgorithm="SHA256")
        parts.append({"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]})
    client.complete_multipart_upload(Bucket="versions", Key="p.bin", UploadId=upload, MultipartUpload={"Parts": parts})
    assert fetch("s3://versions/p.bin").read_bytes() == DATA
    with pytest.raises(DownloadFailed, match=r"404 \(NoSuchKey\): there is no object none in versions"):
        fetch("s3://versions/none")
    with pytest.raises(DownloadFailed, match=r"404 \(NoSuchBucket\): there is no bucket nowhere"):
        fetch("s3://nowhere/none")


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def test_the_digest_that_s3_vouches_for_is_enforced_without_a_second_request(
    fetch: Fetch, server: ObjectServer, base: Path
) -> None:
    server.add("/bucket/f.bin", b"right")
    server.facts["/bucket/f.bin"] = {"x-amz-checksum-sha256": checksum(b"wrong"), "x-amz-checksum-type": "FULL_OBJECT"}
    with pytest.raises(ChecksumMismatch) as raised:
        fetch("s3://bucket/f.bin")
    assert raised.value.expected == hashlib.sha256(b"wrong").hexdigest()
    assert {request.headers["x-amz-checksum-mode"] for request in server.requests()} == {"ENABLED"}
    server.reset()
    server.facts["/bucket/f.bin"]["x-amz-checksum-sha256"] = checksum(b"right")
    assert fetch("s3://bucket/f.bin").read_bytes() == b"right"
    assert len(server.requests()) == 1


@pytest.mark.parametrize(
    ("kind", "value", "etag"),
    [
        ("COMPOSITE", checksum(b"wrong"), '"1"'),
        ("FULL_OBJECT", checksum(b"wrong") + "-3", '"1"'),
        ("FULL_OBJECT", checksum(b"wrong"), '"0123-3"'),
        ("", checksum(b"wrong"), '"1"'),
        ("FULL_OBJECT", "hunter2", '"1"'),
        ("FULL_OBJECT", "", '"1"'),
    ],
)
def test_what_is_no_digest_of_the_whole_is_none(
    fetch: Fetch, server: ObjectServer, base: Path, kind: str, value: str, etag: str
) -> None:
    server.add("/bucket/f.bin", b"right", etag=etag)
    server.facts["/bucket/f.bin"] = {"x-amz-checksum-sha256": value, "x-amz-checksum-type": kind}
    assert fetch("s3://bucket/f.bin").read_bytes() == b"right"


def test_a_digest_that_the_store_vouched_for_survives_the_process(
    spawn: Callable[..., Any], server: ObjectServer, base: Path
) -> None:
    """Only the answer to a plain GET has it, and the next process asks for the rest."""
    server.add("/bucket/f.bin", DATA, rate=4 * MIB)
    server.facts["/bucket/f.bin"] = {"x-amz-checksum-sha256": checksum(OTHER), "x-amz-checksum-type": "FULL_OBJECT"}
    killed_at(spawn, server, base, 8 * MIB)
    server.facts.clear()
    server.add("/bucket/f.bin", DATA)
    server.reset()
    assert nanocache.fetch("s3://bucket/f.bin").read_bytes() == DATA
    assert server.requests()[0].range is not None
    assert server.downloads() == 1  # what the first answer said did not hold, and the second one says nothing


def killed_at(spawn: Callable[..., Any], server: ObjectServer, base: Path, received: int) -> int:
    """Kill a process that has received so much; how many bytes its record says that it has."""
    (process,) = (group := spawn("nanocache.fetch('s3://bucket/f.bin')")).processes
    deadline = time.monotonic() + 30
    while sent(server) < received or not recorded(base):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    group.reap()
    return recorded(base)


def recorded(base: Path) -> int:
    states = [json.loads(path.read_bytes())["state"] for path in base.glob("partials-v1/*/*/state.json")]
    return sum(end - start for state in states for start, end in state["done"])


def test_after_a_sigkill_the_rest_is_fetched_at_a_new_address(
    spawn: Callable[..., Any], server: ObjectServer, base: Path
) -> None:
    server.add("/bucket/f.bin", DATA, rate=4 * MIB)
    there = killed_at(spawn, server, base, 12 * MIB)
    server.add("/bucket/f.bin", DATA)
    server.reset()
    assert nanocache.fetch("s3://bucket/f.bin").read_bytes() == DATA
    assert sent(server) <= len(DATA) - there + MIB


def test_after_a_sigkill_an_object_that_was_overwritten_is_fetched_whole(
    spawn: Callable[..., Any], server: ObjectServer, base: Path
) -> None:
    server.add("/bucket/f.bin", DATA, rate=4 * MIB)
    killed_at(spawn, server, base, 12 * MIB)
    server.add("/bucket/f.bin", OTHER)
    assert nanocache.fetch("s3://bucket/f.bin").read_bytes() == OTHER


@pytest.mark.parametrize("ignores_conditions", [False, True])
def test_an_object_that_is_overwritten_meanwhile_is_never_mixed(
    fetch: Fetch, server: ObjectServer, ignores_conditions: bool
) -> None:
    server.ignores_conditions = ignores_conditions
    server.add("/bucket/f.bin", DATA, rate=4 * MIB)

    def progress(seen: nanocache.Progress) -> None:
        if seen.done > 6 * MIB:
            server.add("/bucket/f.bin", OTHER)

    assert fetch("s3://bucket/f.bin", progress=progress).read_bytes() in (DATA, OTHER)
    assert "412" not in {request.status for request in server.requests()} or not ignores_conditions


def test_an_object_that_was_stored_encoded_comes_as_it_is_stored(
    fetch: Fetch, server: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.add("/bucket/f.bin", DATA, rate=20 * MIB)
    server.facts["/bucket/f.bin"] = {"Content-Encoding": "gzip"}
    assert fetch("s3://bucket/f.bin").read_bytes() == DATA
    assert any(request.range for request in server.requests())
    assert not caplog.records


# --- the caller's headers, and secrets --------------------------------------------------------------------------------

CUSTOMER_KEY = base64.b64encode(bytes(range(224, 256))).decode()
CUSTOMER = {
    "x-amz-server-side-encryption-customer-algorithm": "AES256",
    "X-Amz-Server-Side-Encryption-Customer-Key": CUSTOMER_KEY,
    "x-amz-server-side-encryption-customer-key-MD5": base64.b64encode(
        hashlib.md5(bytes(range(224, 256)), usedforsecurity=False).digest()
    ).decode(),
}


def test_the_callers_headers_are_signed_and_sent(
    fetch: Fetch, server: ObjectServer, checking: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/bucket/f.bin", SHORT)
    fetch("s3://bucket/f.bin", headers={"x-amz-request-payer": "requester", **CUSTOMER})
    for request in server.requests():
        assert request.headers["x-amz-request-payer"] == "requester"
        assert request.headers["x-amz-server-side-encryption-customer-key"] == CUSTOMER_KEY
        assert "x-amz-request-payer" in request.query
        assert "customer-key-md5" in request.query
    point_at(monkeypatch, checking.endpoint)
    assert fetch(URL, headers={"x-amz-request-payer": "requester", **CUSTOMER}).read_bytes() == DATA


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Authorization": "hunter2"}, "leave it off"),
        ({"x-amz-acl": "hunter2"}, "leave it off"),
        (dict(list(CUSTOMER.items())[:2]), "three headers"),
    ],
)
def test_headers_that_cannot_go_with_a_signature_are_refused_unsent(
    fetch: Fetch, server: ObjectServer, headers: dict[str, str], reason: str
) -> None:
    with pytest.raises(DownloadFailed, match=reason) as raised:
        fetch("s3://bucket/f.bin", headers=headers)
    assert "hunter2" not in str(raised.value)
    assert server.requests() == []


def test_no_secret_reaches_the_disk_a_log_or_an_error(
    fetch: Fetch, server: ObjectServer, base: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hunter2token")
    server.add("/bucket/f.bin", DATA, rate=8 * MIB)
    server.judge = lambda request: refusal(400, "ExpiredToken", Token="hunter2") if "g.bin" in request.path else None
    with caplog.at_level(logging.DEBUG):
        fetch("s3://bucket/f.bin", headers=CUSTOMER)
        with pytest.raises(DownloadFailed, match="token has expired") as raised:
            fetch("s3://bucket/g.bin", headers=CUSTOMER)
    written = [path.read_bytes() for path in base.rglob("*") if path.is_file() and path.stat().st_size < MIB]
    for text in (str(raised.value), caplog.text, *map(bytes.decode, written)):
        assert not [secret for secret in ("hunter2", CUSTOMER_KEY, "Signature=", SECRET, KEY) if secret in text]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "NoSuchBucket", "there is no bucket bucket"),
        (404, "NoSuchKey", "there is no object f.bin in bucket"),
        (403, "AccessDenied", "s3:GetObject"),
        (400, "ExpiredToken", "the session's token has expired.*log in again"),
        (403, "InvalidAccessKeyId", "look at the key and its secret"),
        (403, "SignatureDoesNotMatch", "look at the key and its secret"),
        (403, "InvalidObjectState", "archived.*restore it first"),
        (400, "InvalidRequest", "customer-algorithm"),
        (418, "<b>hunter2", "418: the store refuses it"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(
    fetch: Fetch, server: ObjectServer, status: int, code: str, says: str
) -> None:
    server.judge = lambda request: refusal(status, code, Message="hunter2", AWSAccessKeyId="hunter2")
    with pytest.raises(DownloadFailed, match=says) as raised:
        fetch("s3://bucket/f.bin")
    assert raised.value.status == status
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(server.requests()) == 2  # the second one is for the reason


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_wrong_is_named(fetch: Fetch, server: ObjectServer, hours: int) -> None:
    from email.utils import formatdate

    def judge(request: Request) -> Answer:
        answer = refusal(403, "RequestTimeTooSkewed")
        answer.headers["Date"] = formatdate(time.time() + 3600 * hours, usegmt=True)
        return answer

    server.judge = judge
    with pytest.raises(DownloadFailed, match=r"clock is 3,(5|6)\d\d s " + ("behind" if hours > 0 else "ahead of")):
        fetch("s3://bucket/f.bin")


@pytest.mark.parametrize(("status", "in_header"), [(400, False), (301, True), (307, True), (400, True)])
def test_a_bucket_of_another_region_is_asked_there(
    fetch: Fetch, server: ObjectServer, status: int, in_header: bool
) -> None:
    server.add("/bucket/f.bin", SHORT)
    server.add("/bucket/g.bin", SHORT2)

    def judge(request: Request) -> Answer | None:
        if "%2Feu-north-1%2Fs3" in request.query:
            return None
        answer = refusal(status, "AuthorizationHeaderMalformed", **({} if in_header else {"Region": "eu-north-1"}))
        if in_header:
            answer.headers["x-amz-bucket-region"] = "eu-north-1"
        return answer

    server.judge = judge
    assert fetch("s3://bucket/f.bin").read_bytes() == SHORT
    server.reset()
    assert fetch("s3://bucket/g.bin").read_bytes() == SHORT2  # and it is remembered
    assert {request.status for request in server.requests()} <= {200, 206}


def test_many_objects_of_another_region_are_asked_there_at_once(server: ObjectServer, base: Path) -> None:
    """Each learns it for itself, whoever was first."""

    def judge(request: Request) -> Answer | None:
        if "%2Feu-north-1%2Fs3" in request.query:
            return None
        time.sleep(0.2)
        return refusal(400, "AuthorizationHeaderMalformed", Region="eu-north-1")

    server.judge = judge
    for number in range(4):
        server.add(f"/bucket/{number}.bin", SHORT + bytes([number]))
    paths = nanocache.fetch_many([nanocache.Artifact(f"s3://bucket/{number}.bin") for number in range(4)])
    assert [path.read_bytes()[-1] for path in paths] == list(range(4))


def test_a_server_that_knows_no_checksums_is_asked_without(fetch: Fetch, server: ObjectServer) -> None:
    """Backblaze B2 refuses the question."""
    server.add("/bucket/f.bin", SHORT)
    server.add("/bucket/g.bin", SHORT2)
    asks = "x-amz-checksum-mode"
    server.judge = lambda request: refusal(400, "InvalidArgument") if asks in request.headers else None
    assert fetch("s3://bucket/f.bin").read_bytes() == SHORT
    server.reset()
    assert fetch("s3://bucket/g.bin").read_bytes() == SHORT2
    assert not any(asks in request.headers for request in server.requests())
    server.judge = lambda request: refusal(400, "InvalidArgument")
    with pytest.raises(DownloadFailed, match="400"):
        fetch("s3://bucket/h.bin")


def test_an_object_that_did_not_change_is_not_sent_again(fetch: Fetch, server: ObjectServer) -> None:
    server.add("/bucket/f.bin", SHORT)
    path = fetch("s3://bucket/f.bin")
    server.reset()
    assert fetch("s3://bucket/f.bin", max_age=0) == path
    assert [request.status for request in server.requests()] == [304]
    server.add("/bucket/f.bin", SHORT2)
    assert fetch("s3://bucket/f.bin", max_age=0).read_bytes() == SHORT2


def test_a_call_that_is_cancelled_does_not_wait_for_obstore(
    no_credentials: None, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("obstore", monkeypatch)
    (child := tmp_path / "child.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(by_obstore, "CHILD", child)

    async def impatient() -> None:
        await asyncio.wait_for(nanocache.afetch("s3://bucket/f.bin"), 0.5)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert time.monotonic() - began < 10


def test_a_call_that_is_cancelled_does_not_wait_for_credentials(
    no_credentials: None, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("botocore", monkeypatch)
    over = tmp_path / "over"
    (config := tmp_path / "config").write_text(
        f"[default]\ncredential_process = sh -c 'until [ -e {over} ]; do sleep 0.05; done'\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

    async def impatient() -> None:
        await asyncio.wait_for(nanocache.afetch("s3://bucket/f.bin"), 0.5)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert time.monotonic() - began < 10
    over.touch()
    for thread in threading.enumerate():
        if thread.name == "nanocache-reader":
            thread.join(30)


def test_a_region_that_is_wrong_again_is_named_and_not_followed_for_ever(fetch: Fetch, server: ObjectServer) -> None:
    regions = iter(f"eu-north-{n}" for n in range(100))

    def judge(request: Request) -> Answer:
        return refusal(400, "AuthorizationHeaderMalformed", Region=next(regions))

    server.judge = judge
    with pytest.raises(DownloadFailed):
        fetch("s3://bucket/f.bin")
    assert len(server.requests()) < 12


# --- without credentials, without packages ----------------------------------------------------------------------------


def test_a_public_bucket_is_asked_unsigned_where_there_are_no_credentials(
    fetch: Fetch, signer: str, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ObjectServer() as server:
        point_at(monkeypatch, server.url(""))
        server.add("/bucket/dir/f.bin", SHORT)
        assert fetch("s3://bucket/dir/f.bin").read_bytes() == SHORT
        assert {request.query for request in server.requests()} == {""}
        server.judge = lambda request: refusal(403, "AccessDenied")
        with pytest.raises(DownloadFailed, match=r"without credentials.*AWS_ACCESS_KEY_ID"):
            fetch("s3://bucket/private.bin")


def test_obstore_says_what_it_cannot_sign(fetch: Fetch, credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    use("obstore", monkeypatch)
    for url, headers in (("s3://b/k?versionId=1", None), ("s3://b/k", {"x-amz-request-payer": "requester"})):
        with pytest.raises(DownloadFailed, match="pip install botocore"):
            fetch(url, headers=headers)
    with pytest.raises(DownloadFailed, match="empty segment"):
        fetch("s3://b/a//k")


def test_a_missing_package_is_an_error_that_names_the_extra(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_botocore, "is_installed", lambda: False)
    monkeypatch.setattr(by_obstore, "is_installed", lambda: False)
    with pytest.raises(DownloadFailed, match=r"pip install 'nanocache\[s3\]'"):
        fetch(URL)


def test_a_profile_that_is_not_there_is_named(fetch: Fetch, credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    use("botocore", monkeypatch)
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(DownloadFailed, match=r"ProfileNotFound.*nowhere.*~/.aws/config"):
        fetch(URL)


def test_a_role_is_taken_and_a_refusal_of_it_named(
    fetch: Fetch,
    conditional: Store,
    no_credentials: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    use("botocore", monkeypatch)
    client = admin(conditional)
    client.create_bucket(Bucket="roles")
    client.put_object(Bucket="roles", Key="f.bin", Body=b"taken")
    (config := tmp_path / "config").write_text(
        f"[profile lab]\nrole_arn = arn:aws:iam::123456789012:role/lab\nsource_profile = base\n"
        f"[profile base]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    point_at(monkeypatch, conditional.endpoint)
    with caplog.at_level(logging.DEBUG):
        assert fetch("s3://roles/f.bin").read_bytes() == b"taken"
    assert not [word for word in ("SecretAccessKey", "SessionToken", "Signature=") if word in caplog.text]
    with ObjectServer() as server:
        server.judge = lambda request: refusal(403, "AccessDenied", Message="hunter2")
        point_at(monkeypatch, server.url(""))
        with pytest.raises(DownloadFailed, match="AssumeRole: ") as raised:
            fetch("s3://roles/g.bin")
    assert "hunter2" not in str(raised.value)


# --- many processes, many places --------------------------------------------------------------------------------------


def test_mirrors_cross_schemes(fetch: Fetch, server: ObjectServer, origin: Origin) -> None:
    server.add("/bucket/f.bin", SHORT)
    assert fetch(origin.url("/none"), mirrors=["s3://bucket/f.bin"]).read_bytes() == SHORT
    url = origin.add("/g.bin", SHORT2)
    assert fetch("s3://bucket/none", mirrors=[url]).read_bytes() == SHORT2


FORKING = """
import os, sys, warnings
import nanocache
def child(url):
    pid = os.fork()
    if pid == 0:
        try:
            print("child", nanocache.fetch(url).stat().st_size, flush=True)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("name", ["botocore", "obstore"])
def test_a_forked_child_fetches_after_its_parent_and_nothing_warns(
    spawn: Callable[..., Any], base: Path, server: ObjectServer, name: str
) -> None:
    pytest.importorskip(name)
    for letter in "ab":
        server.add(f"/bucket/{letter}.bin", SHORT)
    code = """
if name == "obstore":
    from nanocache.sources import by_botocore
    by_botocore.is_installed = lambda: False
print("parent", nanocache.fetch("s3://bucket/a.bin").stat().st_size, flush=True)
if sys.platform == "linux":
    import time
    time.sleep(1.2)
    assert len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
child("s3://bucket/b.bin")
print("obstore" in sys.modules)
"""
    told = spawn(code, setup=FORKING, name=name).outputs()
    assert told == [f"parent {len(SHORT)}\nchild {len(SHORT)}\nFalse"]


def test_spawned_workers_share_one_download(spawn: Callable[..., Any], base: Path, server: ObjectServer) -> None:
    server.add("/bucket/f.bin", SHORT)
    told = spawn("print(nanocache.fetch('s3://bucket/f.bin').stat().st_size)", 4).outputs()
    assert told == [str(len(SHORT))] * 4
    assert server.downloads() == 1


def test_the_version_of_nanocache_is_told_without_any_of_it(tmp_path: Path) -> None:
    code = "import sys; from nanocache.cli.main import main\ntry: main(['--version'])\nexcept SystemExit: pass\n"
    code += "print(*{'botocore', 'obstore', 'google', 'nanocache.sources.s3'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[1:] == [""]
