"""`fetch` and `afetch`, one body for both: hits, misses, mismatches, names, refs, freshness, offline, healing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact
from nanocache.store.layout import FOLDERS
from tests.servers.misbehave import Misbehaving, close_delimited, gzipped, in_turn, raw, serve, status, unreachable
from tests.servers.origin import Origin, content, digest

Fetch = Callable[..., Path]
Server = Callable[..., Misbehaving]
BODY = content(100_000, 1)
SHA256 = digest(100_000, 1)


def blobs(base: Path) -> list[Path]:
    return sorted(path for path in (base / "blobs-v1").rglob("*") if path.is_file() and len(path.parts[-2]) == 64)


def leftovers(base: Path) -> list[Path]:
    return list((base / "partials-v1").glob("*/*"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_artifact_is_downloaded_once_verified_and_then_a_hit(base: Path, origin: Origin, fetch: Fetch) -> None:
    url = origin.url("/bytes/100000/1/weights.safetensors")
    path = fetch(url, sha256=SHA256)
    assert path == base / "blobs-v1/sha256" / SHA256[:2] / SHA256 / "weights.safetensors"
    assert path.read_bytes() == BODY
    assert fetch(url, sha256=SHA256.upper()) == path
    assert fetch(Artifact(url, sha256=f"sha256:{SHA256}")) == path
    assert nanocache.lookup(url, sha256=SHA256) == path
    assert origin.gets() == 1
    assert not leftovers(base)


def test_empty_artifact_is_an_artifact(base: Path, origin: Origin, fetch: Fetch) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    assert fetch(origin.url("/bytes/0/1/empty"), sha256=empty).stat().st_size == 0


def test_checksum_mismatch_publishes_nothing_and_names_both_digests(base: Path, origin: Origin, fetch: Fetch) -> None:
    wrong = "0" * 64
    with pytest.raises(nanocache.ChecksumMismatch, match=f"expected {wrong[:12]}.*got {SHA256[:12]}.*100,000") as error:
        fetch(origin.url("/bytes/100000/1/x.bin?token=s3cret"), sha256=wrong)
    assert (error.value.expected, error.value.got) == (wrong, SHA256)
    assert isinstance(error.value, ValueError)
    assert "s3cret" not in str(error.value)
    assert not blobs(base)
    assert not leftovers(base)


def test_mismatch_names_the_encoding_that_came_in_spite_of_identity(
    base: Path, misbehaving: Server, fetch: Fetch
) -> None:
    url = misbehaving().route("/x.bin", gzipped(BODY))
    with pytest.raises(nanocache.ChecksumMismatch, match="gzip"):
        fetch(url, sha256=SHA256)


def test_wrong_bytes_from_the_first_url_are_made_good_by_a_mirror(
    base: Path, misbehaving: Server, fetch: Fetch
) -> None:
    server = misbehaving()
    wrong, right = server.route("/wrong.bin", serve(b"wrong")), server.route("/right.bin", serve(BODY))
    assert fetch(wrong, sha256=SHA256, mirrors=[right]).name == "wrong.bin"


def test_failed_download_has_one_cause_per_url_and_publishes_nothing(
    base: Path, misbehaving: Server, fetch: Fetch
) -> None:
    server = misbehaving()
    gone = [server.route(f"/{code}", status(code)) for code in (404, 410)]
    with pytest.raises(nanocache.DownloadFailed) as error:
        fetch(gone[0], mirrors=gone[1:])
    assert [cause[0] for cause in error.value.causes] == gone
    assert "404" in str(error.value)
    assert "410" in str(error.value)
    assert isinstance(error.value, OSError)
    assert not blobs(base)


def test_same_content_from_two_urls_is_stored_once(base: Path, origin: Origin, fetch: Fetch) -> None:
    one = fetch(origin.url("/bytes/100000/1/one.bin"))
    two = fetch(origin.url("/bytes/100000/1/two.bin"))
    assert one.samefile(two)
    assert (one.name, two.name) == ("one.bin", "two.bin")


def test_path_is_a_function_of_base_digest_and_filename(base: Path, origin: Origin, fetch: Fetch) -> None:
    url = origin.url("/bytes/100000/1/a%2Fb%20c.tar.gz?x=1")
    assert fetch(url, sha256=SHA256).name == "a_b_c.tar.gz"
    assert fetch(url, sha256=SHA256, filename="model.gguf").name == "model.gguf"
    assert origin.gets() == 1


def test_no_header_names_a_path(base: Path, misbehaving: Server, fetch: Fetch) -> None:
    server = misbehaving()
    head = b'HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename="../../evil"\r\nContent-Length: 4\r\n\r\n'
    url = server.route("/x.bin", raw(head + b"body"))
    assert fetch(url).name == "x.bin"
    assert not list(base.parent.rglob("*evil*"))


# refs


def test_without_a_digest_the_first_download_is_remembered(base: Path, misbehaving: Server, fetch: Fetch) -> None:
    server = misbehaving()
    url = server.route("/x.bin", in_turn(serve(b"first"), serve(b"second")))
    assert fetch(url).read_bytes() == b"first"
    assert fetch(url).read_bytes() == b"first"
    assert server.gets() == 1


def test_ref_is_shared_by_all_signatures_of_a_url_and_holds_none(base: Path, origin: Origin, fetch: Fetch) -> None:
    path = fetch(origin.url("/bytes/100000/1/x.bin?X-Amz-Signature=abc&part=1"))
    assert fetch(origin.url("/bytes/100000/1/x.bin?part=1&X-Amz-Signature=def")) == path
    assert origin.gets() == 1
    fetch(origin.url("/bytes/100000/1/x.bin?part=2"))
    assert origin.gets() == 2
    assert "abc" not in "".join(ref.read_text() for ref in (base / "refs-v1").rglob("*.json"))


def test_ref_whose_blob_is_gone_takes_what_the_url_gives_now(base: Path, misbehaving: Server, fetch: Fetch) -> None:
    server = misbehaving()
    url = server.route("/x.bin", in_turn(serve(b"first"), serve(b"second")))
    first = fetch(url)
    shutil.rmtree(first.parent)
    assert fetch(url).read_bytes() == b"second"
    assert fetch(url).read_bytes() == b"second"


def test_another_accept_header_is_another_artifact(base: Path, misbehaving: Server, fetch: Fetch) -> None:
    server = misbehaving()

    def asset(request: Any) -> Any:
        raw = request.headers.get("accept") == "application/octet-stream"
        yield from serve(b"bytes" if raw else b'{"json": 1}')(request)

    url = server.route("/asset", asset)
    assert fetch(url).read_bytes() == b'{"json": 1}'
    assert fetch(url, headers={"Accept": "application/octet-stream"}).read_bytes() == b"bytes"


def test_body_of_unknown_length_is_returned_and_not_remembered(
    base: Path, misbehaving: Server, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    server = misbehaving()
    url = server.route("/x.bin", close_delimited(BODY))
    assert fetch(url).read_bytes() == BODY
    assert len(warnings(caplog)) == 1
    fetch(url)
    assert server.gets() == 2
    assert fetch(url, sha256=SHA256).read_bytes() == BODY
    assert server.gets() == 2


def test_what_a_mirror_gave_is_remembered_for_the_url_without_the_mirrors_validators(
    base: Path, misbehaving: Server, fetch: Fetch
) -> None:
    server = misbehaving()
    url, mirror = server.route("/gone.bin", status(404)), server.route("/mirror.bin", serve(BODY))
    path = fetch(url, mirrors=[mirror])
    assert fetch(url) == path
    assert server.gets("/mirror.bin") == 1
    (ref,) = (base / "refs-v1").rglob("*.json")
    assert '"etag":null' in ref.read_text()


# freshness


def test_max_age_asks_again_and_keeps_what_did_not_change(base: Path, origin: Origin, fetch: Fetch) -> None:
    url = origin.url("/bytes/100000/1/x.bin")
    path = fetch(url, max_age=0)
    assert fetch(url, max_age=3600) == path
    assert origin.gets() == 1
    assert fetch(url, max_age=0) == path
    assert [request.status for request in origin.requests()] == [200, 304]


def test_a_ref_from_the_future_is_not_fresh(base: Path, origin: Origin, fetch: Fetch) -> None:
    url = origin.add("/x.bin", b"old", etag='"1"')
    fetch(url)
    (ref,) = (base / "refs-v1").rglob("*.json")
    ref.write_text(json.dumps(json.loads(ref.read_text()) | {"fetched_at": time.time() + 86_400}))
    origin.add("/x.bin", b"new", etag='"2"')
    assert fetch(url).read_bytes() == b"old"  # without `max_age` what was remembered is trusted for ever
    assert fetch(url, max_age=3600).read_bytes() == b"new"
    assert fetch(url, max_age=3600).read_bytes() == b"new"
    assert origin.gets() == 2


def test_new_content_moves_the_ref_and_the_old_path_stays_valid(base: Path, origin: Origin, fetch: Fetch) -> None:
    url = origin.add("/x.bin", b"old", etag='"1"')
    old = fetch(url)
    origin.add("/x.bin", b"new", etag='"2"')
    assert fetch(url) == old
    new = fetch(url, max_age=0)
    assert new.read_bytes() == b"new"
    assert fetch(url) == new
    assert old.read_bytes() == b"old"


@pytest.mark.parametrize("trouble", ["503", "no connection", "offline"])
def test_if_the_server_cannot_be_asked_the_cached_file_is_returned_with_a_warning(
    base: Path,
    misbehaving: Server,
    fetch: Fetch,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    monkeypatch.setenv("NANOCACHE_RETRIES", "0")
    server = misbehaving()
    url = server.route("/x.bin", in_turn(serve(BODY), status(503)))
    path = fetch(url)
    if trouble == "no connection":
        server.close()
    assert fetch(url, max_age=0, offline=trouble == "offline" or None) == path
    assert len(warnings(caplog)) == 1


def test_a_404_on_revalidation_is_news_and_an_error(base: Path, misbehaving: Server, fetch: Fetch) -> None:
    url = misbehaving().route("/x.bin", in_turn(serve(BODY), status(404)))
    path = fetch(url)
    with pytest.raises(nanocache.DownloadFailed):
        fetch(url, max_age=0)
    assert fetch(url) == path


def test_max_age_with_a_digest_is_a_value_error(base: Path, fetch: Fetch) -> None:
    with pytest.raises(ValueError, match="max_age"):
        fetch("http://127.0.0.1:1/x", sha256=SHA256, max_age=1)


# offline


def test_offline_serves_hits_makes_no_request_and_names_the_command(
    base: Path, origin: Origin, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = origin.url("/bytes/100000/1/x.bin")
    with pytest.raises(nanocache.NotCached, match=f"nanocache fetch '{url}' --sha256 {SHA256}") as error:
        fetch(url, sha256=SHA256, offline=True)
    assert isinstance(error.value, FileNotFoundError)
    assert origin.gets() == 0
    path = fetch(url, sha256=SHA256)
    monkeypatch.setenv("NANOCACHE_OFFLINE", "1")
    assert fetch(url, sha256=SHA256) == path
    assert fetch(url) == path
    with pytest.raises(nanocache.NotCached):
        fetch(origin.url("/bytes/100000/2/x.bin"))
    assert origin.gets() == 1


def test_offline_heals_a_blob_that_only_lost_its_seal(base: Path, origin: Origin, fetch: Fetch) -> None:
    url = origin.url("/bytes/100000/1/x.bin")
    path = fetch(url, sha256=SHA256)
    os.utime(path)
    assert fetch(url, sha256=SHA256, offline=True) == path


# tampering


@pytest.mark.parametrize("damage", ["in place", "same size", "cp", "mv", "deleted", "folder deleted"])
def test_damaged_blob_heals_with_one_warning(
    base: Path, origin: Origin, fetch: Fetch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    url = origin.url("/bytes/100000/1/x.bin")
    path, other = fetch(url, sha256=SHA256), fetch(origin.url("/bytes/100000/2/y.bin"))
    path.chmod(0o644)
    if damage == "in place":
        with path.open("r+b") as file:
            file.write(b"X" * 10)
    elif damage == "same size":
        path.write_bytes(bytes(len(BODY)))
    elif damage == "cp":
        shutil.copy2(other, path)
    elif damage == "mv":
        other.rename(path)
    elif damage == "deleted":
        path.unlink()
    else:
        shutil.rmtree(path.parent)
    assert fetch(url, sha256=SHA256) == path
    assert path.read_bytes() == BODY
    assert len(warnings(caplog)) == (0 if "deleted" in damage else 1)
    assert origin.gets() == 3


def test_touched_blob_is_sealed_again_without_a_download(
    base: Path, origin: Origin, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    url = origin.url("/bytes/100000/1/x.bin")
    path = fetch(url, sha256=SHA256)
    os.utime(path)
    assert fetch(url, sha256=SHA256) == path
    assert fetch(url, sha256=SHA256) == path
    assert origin.gets() == 1
    assert not warnings(caplog)


def test_rehash_finds_a_flipped_bit_behind_an_intact_seal(base: Path, origin: Origin, fetch: Fetch) -> None:
    url = origin.url("/bytes/100000/1/x.bin")
    path = fetch(url, sha256=SHA256)
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(bytes([BODY[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fetch(url, sha256=SHA256).read_bytes() != BODY
    assert fetch(url, sha256=SHA256, rehash=True).read_bytes() == BODY
    assert origin.gets() == 2
    assert fetch(url, sha256=SHA256, rehash=True).read_bytes() == BODY
    assert origin.gets() == 2


# file URLs


def test_file_url_is_copied_and_followed_when_the_file_changes(base: Path, tmp_path: Path, fetch: Fetch) -> None:
    source = tmp_path / "data set.bin"
    source.write_bytes(b"one")
    url = source.as_uri()
    path = fetch(url)
    assert (path.name, path.read_bytes()) == ("data_set.bin", b"one")
    assert fetch(url) == path
    source.write_bytes(b"two!")
    assert fetch(url).read_bytes() == b"two!"
    assert source.stat().st_nlink == 1


def test_missing_file_is_a_failed_download_and_a_mirror_helps(
    base: Path, tmp_path: Path, origin: Origin, fetch: Fetch
) -> None:
    url = (tmp_path / "none.bin").as_uri()
    with pytest.raises(nanocache.DownloadFailed, match="No such file"):
        fetch(url)
    assert fetch(url, sha256=SHA256, mirrors=[origin.url("/bytes/100000/1/x.bin")]).read_bytes() == BODY


# bad input


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("ftp://host/x", {}),
        ("no url", {}),
        ("http://", {}),
        ("http://..", {}),
        ("http://host:port/x", {}),
        ("file:relative", {}),
        ("file://elsewhere/x", {}),
        ("http://host/x", {"sha256": "abc"}),
        ("http://host/x", {"sha256": "md5:" + "a" * 32}),
        ("http://host/x", {"filename": "../x"}),
        ("http://host/x", {"mirrors": "http://mirror/x"}),
        ("http://host/x", {"max_age": -1}),
        ("http://host/x", {"headers": {"A": "b\r\nC: d"}}),
        (Artifact("http://host/x"), {"sha256": SHA256}),
    ],
)
def test_bad_input_is_a_value_error_before_any_io(base: Path, fetch: Fetch, url: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        fetch(url, **options)
    assert not list(base.iterdir())


def test_unreachable_host_is_a_failed_download_within_bounds(
    base: Path, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCACHE_RETRIES", "1")
    with pytest.raises(nanocache.DownloadFailed):
        fetch(unreachable())


def test_base_dir_argument_beats_the_environment(base: Path, origin: Origin, fetch: Fetch, tmp_path: Path) -> None:
    path = fetch(origin.url("/bytes/100000/1/x.bin"), base_dir=tmp_path / "other")
    assert path.is_relative_to(tmp_path / "other")
    assert not list(base.iterdir())


def test_environment_is_read_at_each_call(
    base: Path, origin: Origin, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = origin.url("/bytes/100000/1/x.bin")
    fetch(url)
    monkeypatch.setenv("NANOCACHE_DIR", str(tmp_path / "other"))
    assert fetch(url).is_relative_to(tmp_path / "other")
    monkeypatch.delenv("NANOCACHE_DIR")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "$HOME/chat")
    assert fetch(url).is_relative_to(tmp_path / "home/chat")


def test_fetch_many_keeps_order_and_makes_one_get_each(base: Path, origin: Origin) -> None:
    urls = [origin.url(f"/bytes/1000/{seed}/x.bin") for seed in range(30)]
    artifacts = [Artifact(url, sha256=digest(1000, seed)) for seed, url in enumerate(urls)]
    paths = nanocache.fetch_many(artifacts + artifacts[:5])
    assert [path.read_bytes() for path in paths[:30]] == [content(1000, seed) for seed in range(30)]
    assert paths[30:] == paths[:5]
    assert nanocache.fetch_many(urls) == paths[:30]
    assert origin.gets() == 30


def test_fetch_many_stops_at_the_first_error_or_returns_it_in_place(base: Path, misbehaving: Server) -> None:
    server = misbehaving()
    good, bad = server.route("/good", serve(BODY)), server.route("/bad", status(404))
    with pytest.raises(nanocache.DownloadFailed):
        nanocache.fetch_many([good, bad, *(server.url(f"/{n}") for n in range(100))], workers=2)
    assert len(server.requests()) < 50
    path, error = nanocache.fetch_many([good, bad], return_exceptions=True)
    assert path.read_bytes() == BODY
    assert isinstance(error, nanocache.DownloadFailed)
    with pytest.raises(ValueError, match="workers"):
        nanocache.fetch_many([good], workers=0)


def test_lookup_finds_what_is_right_and_asks_nobody(base: Path, origin: Origin) -> None:
    url = origin.url("/bytes/100000/1/x.bin")
    assert nanocache.lookup(url) is None
    assert not list(base.iterdir())
    path = nanocache.fetch(url)
    assert nanocache.lookup(url) == nanocache.lookup(url, sha256=SHA256) == path
    os.utime(path)
    assert nanocache.lookup(url) == path
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    assert nanocache.lookup(url) is None
    assert origin.gets() == 1


def test_recency_is_marked_by_a_hit(base: Path, origin: Origin) -> None:
    url = origin.url("/bytes/100000/1/x.bin")
    path = nanocache.fetch(url, sha256=SHA256)
    os.utime(path.parent, ns=(0, 0))
    nanocache.Cache().store.recency._marked.clear()
    nanocache.fetch(url, sha256=SHA256)
    assert path.parent.stat().st_mtime > time.time() - 60


@pytest.mark.parametrize("gone", [*FOLDERS, "blobs-v1/sha256", "locks-v1/*", "refs-v1/*", "*"])
def test_folders_that_are_deleted_by_hand_between_two_fetches_are_made_again(
    base: Path, origin: Origin, fetch: Fetch, gone: str
) -> None:
    for n in range(2):  # the second one finds what this process remembers of folders that are no longer there
        url = origin.add(f"/{n}/weights.bin", BODY)
        assert fetch(url, sha256=SHA256).read_bytes() == fetch(url).read_bytes() == BODY
        for folder in base.glob(gone):
            shutil.rmtree(folder, ignore_errors=True)
        nanocache.Cache().store.hits.forget()
    assert fetch(url).read_bytes() == BODY
    assert all((folder / "CACHEDIR.TAG").exists() for folder in base.iterdir())
