"""Bytes that come from a peer get in by the same door as a download, or not at all."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact
from nanocache.peers import BlobInfo, BlobRefused, describe_blob, receive_blob
from nanocache.store.refs import Ref
from tests.servers.origin import Origin, content, digest

SIZE = 3_000_000
BODY = content(SIZE, 1)
ARTIFACT = Artifact("https://host/f.bin", sha256=digest(SIZE, 1))
PROMISED = BlobInfo(digest(SIZE, 1), SIZE, None)


def put(base: Path, artifact: Artifact = ARTIFACT, promised: BlobInfo = PROMISED, body: bytes = BODY) -> None:
    with receive_blob(artifact, promised, base, progress=False) as place:
        for start in range(0, len(body), 1 << 20):
            place.write(memoryview(body)[start : start + (1 << 20)])
        place.publish()


def partials_left(base: Path) -> list[Path]:
    return [*(base / "partials-v1").rglob("data"), *(base / "partials-v1").glob("new-*")]


def test_what_is_deposited_is_a_hit_with_the_seal_and_the_mode_of_a_download(base: Path) -> None:
    put(base)
    path = nanocache.fetch(ARTIFACT, offline=True)
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o222 == 0
    assert not partials_left(base)


def test_parcel_of_a_peer_lets_another_cache_remember_what_the_url_gave(
    base: Path, origin: Origin, tmp_path: Path
) -> None:
    url = origin.url(f"/bytes/{SIZE}/1/f.bin")
    nanocache.fetch(url)
    found = describe_blob(Artifact(url), base)
    assert found is not None
    other = tmp_path / "other"
    put(other, Artifact(url), BlobInfo.from_json(found[1].to_json()))
    assert nanocache.fetch(url, base_dir=other, offline=True).read_bytes() == BODY
    assert origin.gets() == 1
    assert describe_blob(Artifact(origin.url("/other")), base) is None


@pytest.mark.parametrize(
    "body", [BODY[:-1] + b"?", BODY[:-1], BODY + b"?", b""], ids=["wrong", "short", "long", "none"]
)
def test_wrong_bytes_publish_nothing_and_leave_nothing(base: Path, body: bytes) -> None:
    with pytest.raises(BlobRefused):
        put(base, body=body)
    assert nanocache.lookup(ARTIFACT) is None
    assert not partials_left(base)


def test_other_digest_than_was_asked_for_is_refused_before_any_byte(base: Path) -> None:
    with pytest.raises(BlobRefused, match="was asked for"):
        put(base, promised=replace(PROMISED, digest="ab" * 32))
    assert not base.joinpath("partials-v1").exists()


def test_ref_of_another_digest_is_not_remembered(base: Path) -> None:
    artifact = Artifact("https://host/f.bin")
    lie = Ref("https://host/f.bin", "ab" * 32, SIZE, None, None, 0.0)
    put(base, artifact, replace(PROMISED, ref=lie))
    assert nanocache.lookup(artifact) is None


@pytest.mark.parametrize(
    "record",
    [
        *({}, [], None, "text", 3),
        {"digest": "ab", "size": "many", "ref": None},
        {"digest": 1, "size": 1, "ref": 3},
        {"digest": "../" * 21 + "x", "size": 1, "ref": None},
        {"digest": "ab" * 32, "size": float("inf"), "ref": None},
        {"digest": "ab" * 32, "size": -1, "ref": None},
        {"digest": "ab" * 32, "size": 1, "ref": []},
        {"digest": "ab" * 32, "size": 1, "ref": {"url": 1}},
    ],
)
def test_record_that_describes_no_blob_is_refused(record: Any) -> None:
    with pytest.raises(BlobRefused):
        BlobInfo.from_json(record)


def test_where_another_is_at_it_nobody_waits(base: Path) -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with receive_blob(ARTIFACT, PROMISED, base, progress=False):
            held.set()
            go_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(30)
        with pytest.raises(nanocache.LockTimeout):
            put(base)
    finally:
        go_on.set()
        thread.join()


def test_others_on_this_machine_wait_for_it_and_do_not_download(base: Path, origin: Origin) -> None:
    url, entered = origin.url(f"/bytes/{SIZE}/1/f.bin"), threading.Event()
    artifact, found = Artifact(url, sha256=digest(SIZE, 1)), []

    def wait() -> None:
        entered.set()
        found.append(nanocache.fetch(artifact))

    thread = threading.Thread(target=wait)
    with receive_blob(artifact, PROMISED, base, progress=False) as place:
        thread.start()
        entered.wait(30)
        place.write(memoryview(BODY))
        thread.join(0.3)
        assert not found
        place.publish()
    thread.join(30)
    assert found[0].read_bytes() == BODY
    assert origin.gets() == 0


def test_failure_of_a_peer_is_nobodys_result(base: Path, origin: Origin) -> None:
    artifact, found = Artifact(origin.url(f"/bytes/{SIZE}/1/f.bin"), sha256=digest(SIZE, 1)), []
    thread = threading.Thread(target=lambda: found.append(nanocache.fetch(artifact)))
    with pytest.raises(BlobRefused), receive_blob(artifact, PROMISED, base, progress=False) as place:
        thread.start()
        thread.join(0.3)
        place.publish()
    thread.join(30)
    assert found[0].read_bytes() == BODY


def test_no_room_is_said_before_the_first_byte(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCACHE_MAX_ARTIFACT", "1000")
    with pytest.raises(nanocache.NoSpace, match="NANOCACHE_MAX_ARTIFACT"):
        put(base)
    monkeypatch.delenv("NANOCACHE_MAX_ARTIFACT")
    with pytest.raises(nanocache.NoSpace):
        put(base, promised=replace(PROMISED, size=1 << 60))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_base_that_may_not_be_written_is_an_error(base: Path) -> None:
    base.chmod(0o555)
    with pytest.raises(PermissionError):
        put(base)
