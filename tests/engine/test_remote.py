"""NANOCACHE_REMOTE: a store of digests that is asked first, filled by whoever downloaded, and never believed."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import logging
import os
import shutil
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Cache, ChecksumMismatch, DownloadFailed, NotCached
from nanocache.config import REMOTE
from nanocache.download import remote as remotes
from nanocache.sources import by_botocore, by_obstore, registry
from tests.servers.cas import CasServer
from tests.servers.hub import LARGE, HubServer
from tests.servers.misbehave import in_turn, serve, status, truncated, unreachable
from tests.servers.nginx import Nginx
from tests.servers.objects import KEY, SECRET, moto, rclone, started
from tests.servers.origin import MIB, Origin, content

Fetch = Callable[..., Path]
DATA = content(300_000, "remote")
DIGEST = hashlib.sha256(DATA).hexdigest()
BIG = content(24 * MIB, "big")
BIG_DIGEST = hashlib.sha256(BIG).hexdigest()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    remotes.opened.cache_clear()


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.add("/weights.bin", DATA)


@pytest.fixture
def cas(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CasServer]:
    with CasServer() as server:
        monkeypatch.setenv(REMOTE, server.url)
        yield server


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- real stores ------------------------------------------------------------------------------------------------------


@contextmanager
def nginx_dav(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if not shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        pytest.skip("needs nginx")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    with Nginx(folder / "nginx") as server:
        yield server.url("dav")


@contextmanager
def rclone_webdav(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (folder / "webdav").mkdir()
    options = ("--user", "ann", "--pass", "hunter2", "--addr", "127.0.0.1:{port}", str(folder / "webdav"))
    with started("rclone", "serve", "webdav", *options, why="no WebDAV with folders and logins is tried") as server:
        yield server.endpoint.replace("://", "://ann:hunter2@")


@contextmanager
def s3_of_moto(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("botocore")
    with moto() as store:
        _credentials(monkeypatch, store.endpoint)
        session = importlib.import_module("botocore.session").Session()
        client = session.create_client(
            "s3", "us-east-1", endpoint_url=store.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET
        )
        client.create_bucket(Bucket="bucket")
        yield "s3://bucket/cache"


@contextmanager
def s3_of_rclone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("obstore")
    monkeypatch.setattr(by_botocore, "is_installed", lambda: False)
    (folder / "buckets/bucket").mkdir(parents=True)
    with rclone(folder / "buckets") as store:
        _credentials(monkeypatch, store.endpoint)
        yield "s3://bucket"


def _credentials(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    variables = {"ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "ENDPOINT_URL": endpoint, "REGION": "us-east-1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    registry._installed.cache_clear()
    by_obstore._anonymous.clear()


@contextmanager
def a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield (folder / "shared").as_uri()


@pytest.mark.parametrize("start", [nginx_dav, rclone_webdav, s3_of_moto, s3_of_rclone, a_folder])
def test_what_one_machine_downloads_the_next_has_from_the_remote(
    start: Any, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    urls = {origin.add("/weights.bin", DATA): DIGEST, origin.add("/big.bin", BIG): BIG_DIGEST}
    empty = origin.add("/empty.bin", b"")
    with start(tmp_path, monkeypatch) as remote:
        monkeypatch.setenv(REMOTE, remote)
        first, second = Cache(tmp_path / "first"), Cache(tmp_path / "second")
        first.fetch_many(urls)
        first.fetch(empty)  # without a digest it is filled as well
        origin.reset()
        assert [path.read_bytes() for path in second.fetch_many(urls)] == [DATA, BIG]
        assert second.fetch(empty, sha256=hashlib.sha256(b"").hexdigest()).read_bytes() == b""
        assert not origin.requests()
        assert second.fetch(empty).is_relative_to(tmp_path / "second")
    assert not warnings(caplog)
    assert "hunter2" not in caplog.text


# --- what is asked, and what is sent ----------------------------------------------------------------------------------


def test_the_remote_is_asked_first_and_filled_once(fetch: Fetch, cas: CasServer, origin: Origin, url: str) -> None:
    assert fetch(url, sha256=DIGEST).read_bytes() == DATA
    assert [name for name, _, _ in cas.log] == ["GET", "HEAD", "PUT"]
    assert cas.objects == {DIGEST: DATA}
    assert {path for _, path, _ in cas.log} == {f"/cas/{DIGEST}"}
    cas.log.clear()
    origin.reset()
    assert Cache(Path(os.environ["NANOCACHE_DIR"]).parent / "second").fetch(url, sha256=DIGEST).read_bytes() == DATA
    assert [name for name, _, _ in cas.log] == ["GET"]  # nothing is sent back
    assert not origin.requests()


def test_without_a_digest_the_origin_is_asked_and_the_remote_filled(
    fetch: Fetch, cas: CasServer, origin: Origin, url: str
) -> None:
    fetch(url)
    assert [name for name, _, _ in cas.log] == ["HEAD", "PUT"]
    assert origin.gets() == 1


def test_what_the_remote_has_is_not_sent_and_a_cut_object_is_replaced(fetch: Fetch, cas: CasServer, url: str) -> None:
    cas.objects[DIGEST] = DATA
    fetch(url)
    assert cas.asked("PUT") == 0
    cas.objects[DIGEST] = DATA[:-1]
    shutil.rmtree(os.environ["NANOCACHE_DIR"])
    fetch(url)
    assert cas.objects[DIGEST] == DATA


def test_of_eight_processes_one_fills_and_the_others_do_not_wait_for_it(
    cas: CasServer, origin: Origin, url: str, spawn: Any
) -> None:
    cas.pause["PUT"] = 3.0
    code = """
        import time
        began = time.monotonic()
        nanocache.fetch(url, sha256=digest)
        print(time.monotonic() - began)
    """
    seconds = sorted(map(float, spawn(textwrap.dedent(code), 8, url=url, digest=DIGEST).outputs()))
    assert (origin.gets(), cas.asked("PUT")) == (1, 1)
    assert seconds[-1] - seconds[-2] > 1


def test_threads_of_one_process_do_not_wait_for_the_one_that_fills(cas: CasServer, url: str) -> None:
    cas.pause["PUT"] = 3.0

    async def seconds() -> float:
        began = time.monotonic()
        await nanocache.afetch(url, sha256=DIGEST)
        return time.monotonic() - began

    async def both() -> list[float]:
        first = asyncio.create_task(seconds())
        await asyncio.sleep(0.5)
        return [await seconds(), await first]

    waited, filled = asyncio.run(both())
    assert filled - waited > 1


def test_a_caller_that_leaves_while_it_is_sent_waits_for_nothing(cas: CasServer, url: str) -> None:
    cas.pause["PUT"] = 20.0

    async def leave() -> float:
        task = asyncio.create_task(nanocache.afetch(url))
        while not cas.asked("PUT"):
            await asyncio.sleep(0.01)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(leave()) < 3
    assert nanocache.lookup(url) is not None


def test_a_loader_has_its_shards_before_they_are_sent(cas: CasServer, origin: Origin, url: str) -> None:
    cas.pause["PUT"] = 2.0
    shards = nanocache.prefetch([url, origin.add("/next.bin", b"next")])
    assert [next(shards).read_bytes() for _ in range(2)] == [DATA, b"next"]
    assert len(cas.objects) < 2
    assert list(shards) == []
    assert len(cas.objects) == 2


def test_a_digest_that_the_hub_says_is_enough(
    fetch: Fetch, cas: CasServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    large = content(LARGE + 1, "large")
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        hub.commit("owner/name", {"large.bin": large, "small.txt": b"small"})
        cas.objects[hashlib.sha256(large).hexdigest()] = large
        for _ in range(2):
            assert fetch("hf://owner/name/large.bin").read_bytes() == large
        assert fetch("hf://owner/name/large.bin", offline=True).read_bytes() == large
        assert not hub.cdn.requests()
        assert cas.asked("PUT") == 0
        nanocache.snapshot("hf://owner/name")
        assert set(cas.objects.values()) == {large, b"small"}  # and no listing


def test_a_url_that_is_remembered_is_asked_for_by_its_digest(
    fetch: Fetch, cas: CasServer, origin: Origin, url: str, base: Path
) -> None:
    fetch(url)
    shutil.rmtree(base / "blobs-v1")
    origin.reset()
    ref = next((base / "refs-v1").glob("*/*.json"))
    before = ref.read_bytes()
    assert fetch(url).read_bytes() == DATA
    assert not origin.requests()
    assert ref.read_bytes() == before  # the URL itself said nothing
    shutil.rmtree(base / "blobs-v1")
    del cas.objects[DIGEST]
    assert fetch(url).read_bytes() == DATA
    assert origin.gets() == 1


def test_offline_and_files_of_this_machine_have_nothing_to_do_with_it(
    fetch: Fetch, cas: CasServer, url: str, tmp_path: Path
) -> None:
    with pytest.raises(NotCached):
        fetch(url, sha256=DIGEST, offline=True)
    (tmp_path / "here.bin").write_bytes(DATA)
    fetch((tmp_path / "here.bin").as_uri(), sha256=DIGEST)
    assert not cas.log


def test_the_artifact_is_sent_and_not_what_a_hook_made(fetch: Fetch, cas: CasServer, url: str) -> None:
    def shout(src: Path, dst: Path) -> None:
        dst.write_bytes(src.read_bytes() + b"!")

    shout.key = "shout"  # type: ignore[attr-defined]
    fetch(url, postprocess=shout)
    assert cas.objects == {DIGEST: DATA}


# --- whose credentials ------------------------------------------------------------------------------------------------


def test_each_server_gets_its_own_credentials_alone_and_no_log_shows_them(
    fetch: Fetch,
    cas: CasServer,
    origin: Origin,
    url: str,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(REMOTE, cas.url.replace("://", "://ann:hunter2@"))
    fetch(url, sha256=DIGEST, headers={"Authorization": "Bearer hunter3", "X-Own": "mine"})
    assert len(cas.log) == 3
    for _, _, headers in cas.log:
        assert headers["Authorization"].startswith("Basic ")
        assert "X-Own" not in headers
    assert {request.headers["authorization"] for request in origin.requests()} == {"Bearer hunter3"}
    cas.judge = lambda method, digest: 500
    shutil.rmtree(base)
    fetch(url, sha256=DIGEST)
    assert "hunter" not in caplog.text


def test_env_shows_where_it_is_and_no_login(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanocache.cli.main import main

    monkeypatch.setenv(REMOTE, "https://ann:hunter2@cache.lab/dir")
    assert main(["env"]) == 0
    said = capsys.readouterr().out
    assert "https://cache.lab/dir" in said
    assert "hunter2" not in said


def test_netrc_has_the_remotes_login(fetch: Fetch, cas: CasServer, url: str, tmp_path: Path) -> None:
    netrc = tmp_path / "home/.netrc"
    netrc.write_text("machine 127.0.0.1 login ann password hunter2")
    netrc.chmod(0o600)
    fetch(url, sha256=DIGEST)
    assert {headers["Authorization"] for _, _, headers in cas.log} == {"Basic YW5uOmh1bnRlcjI="}


# --- what goes wrong --------------------------------------------------------------------------------------------------


def look(fetch: Fetch, url: str, caplog: pytest.LogCaptureFixture, base: Path) -> float:
    """Fetch twice, the second time from the origin again; the seconds of the first one."""
    began = time.monotonic()
    assert fetch(url, sha256=DIGEST).read_bytes() == DATA
    passed = time.monotonic() - began
    shutil.rmtree(base)
    assert fetch(url, sha256=DIGEST).read_bytes() == DATA
    assert len(warnings(caplog)) == 1, warnings(caplog)
    assert "remote" in caplog.text
    return passed


@pytest.fixture
def silent() -> Iterator[str]:
    """It takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("what", ["down", "silent", "no such host"])
def test_a_remote_that_is_not_there_costs_a_second_once_and_one_warning(
    what: str,
    fetch: Fetch,
    base: Path,
    url: str,
    silent: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    places = {"down": unreachable(), "silent": silent, "no such host": "http://nowhere.invalid"}
    monkeypatch.setenv(REMOTE, places[what])
    assert look(fetch, url, caplog, base) < (20 if what == "no such host" else 3)
    began = time.monotonic()
    assert nanocache.fetch(f"{url}?2", sha256=DIGEST, filename="other").read_bytes() == DATA
    assert time.monotonic() - began < 0.9  # it is left alone for a while


@pytest.mark.parametrize("code", [500, 503, 429, 400])
def test_a_remote_that_fails_is_gone_past(
    code: int, fetch: Fetch, cas: CasServer, base: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    cas.judge = lambda method, digest: code
    look(fetch, url, caplog, base)
    assert cas.asked("PUT") <= 1


@pytest.mark.parametrize("wrong", [DATA[:-1] + b"?", DATA[:1000], DATA + b"?", b"<html>Sign in</html>", b""])
def test_a_remote_that_lies_is_found_out_and_mended(
    wrong: bytes, fetch: Fetch, cas: CasServer, base: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    cas.objects[DIGEST] = wrong
    look(fetch, url, caplog, base)
    assert cas.objects[DIGEST] == DATA


def test_what_breaks_off_is_gone_on_with_at_the_origin(
    fetch: Fetch, cas: CasServer, base: Path, origin: Origin
) -> None:
    big = origin.add("/big.bin", BIG)
    cas.objects[BIG_DIGEST] = BIG
    cas.cut = 20 * MIB
    assert fetch(big, sha256=BIG_DIGEST).read_bytes() == BIG
    assert sum(request.sent for request in origin.requests()) <= 5 * MIB


def test_a_remote_without_the_object_leaves_what_is_known_of_the_origins_bytes(
    fetch: Fetch, cas: CasServer, misbehaving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCACHE_CONNECTIONS", "1")
    server = misbehaving()
    url = server.route("/f", in_turn(truncated(BIG, 8 * MIB), status(404), serve(BIG)))
    with pytest.raises(DownloadFailed):
        fetch(url, sha256=BIG_DIGEST)
    assert fetch(url, sha256=BIG_DIGEST).read_bytes() == BIG
    asked = [request.headers.get("if-range") for request in server.requests()]
    assert asked[:2] == [None, '"v1"']
    assert set(asked[2:]) == {'"v1"'}


@pytest.mark.parametrize("code", [413, 500, 507])
def test_a_remote_that_is_full_is_one_warning_and_still_asked(
    code: int, fetch: Fetch, cas: CasServer, base: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    cas.judge = lambda method, digest: code if method == "PUT" else None
    look(fetch, url, caplog, base)
    assert str(code) in caplog.text
    assert (cas.asked("GET"), cas.asked("PUT")) == (2, 1)


@pytest.mark.parametrize("code", [401, 403, 405, 501])
def test_a_read_only_remote_is_not_worth_a_word_and_tried_once(
    code: int, fetch: Fetch, cas: CasServer, base: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cas.judge = lambda method, digest: code if method == "PUT" else None
    for _ in range(2):
        fetch(url, sha256=DIGEST)
        shutil.rmtree(base)
    assert cas.asked("PUT") == 1
    assert not warnings(caplog)
    assert "is read-only" in caplog.text


def test_a_place_that_is_not_there_is_one_warning_and_tried_once(
    fetch: Fetch, cas: CasServer, base: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    cas.judge = lambda method, digest: {"PUT": 404, "MKCOL": 403}.get(method)
    look(fetch, url, caplog, base)
    assert cas.asked("PUT") == 1


def test_a_store_that_answers_no_head_is_filled_all_the_same(fetch: Fetch, cas: CasServer, url: str) -> None:
    cas.judge = lambda method, digest: 501 if method == "HEAD" else None
    fetch(url)
    assert cas.objects == {DIGEST: DATA}


def test_the_origins_errors_are_what_they_were(fetch: Fetch, cas: CasServer, origin: Origin) -> None:
    with pytest.raises(DownloadFailed) as failed:
        fetch(origin.url("/missing"), sha256=DIGEST)
    assert failed.value.status == 404
    assert [where for where, _ in failed.value.causes] == [origin.url("/missing")]
    with pytest.raises(ChecksumMismatch) as mismatch:
        fetch(origin.add("/other", b"other"), sha256=DIGEST)
    assert mismatch.value.url == origin.url("/other")
    assert not cas.asked("PUT")


@pytest.mark.parametrize("value", ["/mnt/shared", "ftp://host", "http://host/?a=b", "http://", "https://ann:hunter2@/"])
def test_what_is_no_remote_is_a_value_error(
    value: str, fetch: Fetch, base: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REMOTE, value)
    with pytest.raises(ValueError, match=REMOTE) as error:
        fetch(url)
    assert "hunter2" not in str(error.value)


def test_a_folder_that_may_not_be_written_is_read_only(
    base: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cas").touch()
    monkeypatch.setenv(REMOTE, tmp_path.as_uri())
    assert nanocache.fetch(url, sha256=DIGEST).read_bytes() == DATA
    assert len(warnings(caplog)) <= 1
