"""Many processes, one artifact: one download, prompt waiters, and right bytes even where locks do nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanocache.cancel import Cancel
from nanocache.coordination import holder as records
from nanocache.coordination.waiting import WaitOptions, hold_lock
from tests.conftest import Processes
from tests.servers.misbehave import Misbehaving, html, in_turn, serve, silent, stalled, status
from tests.servers.origin import Origin, content, digest

Spawn = Callable[..., Processes]
MIB = 1 << 20

# Two independent checks of the one download, as a lock's own are: an occupancy marker fails the instant a second
# holder enters, and a counter that is read, changed and written fails afterwards if one increment vanished.
CHECKED = """
import hashlib, os, time
path = nanocache.fetch(url, sha256=sha256)
assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
print(path)
"""


def wait_until(condition: Callable[[], object], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def url_of(origin: Origin, size: int, query: str = "") -> tuple[str, str]:
    return origin.url(f"/bytes/{size}/7/weights.bin{query}"), digest(size, 7)


def test_eight_processes_make_one_get_and_all_have_the_right_file(base: Path, origin: Origin, spawn: Spawn) -> None:
    url, sha256 = url_of(origin, MIB)
    paths = spawn(CHECKED, 8, url=url, sha256=sha256).outputs()
    assert len(set(paths)) == 1
    assert origin.gets() == 1
    assert spawn(CHECKED, 8, url=url, sha256=sha256).outputs() == paths
    assert origin.gets() == 1


def test_eight_processes_without_a_digest_make_one_get(base: Path, origin: Origin, spawn: Spawn) -> None:
    url, _ = url_of(origin, MIB, "?delay=0.3")
    assert len(set(spawn("print(nanocache.fetch(url))", 8, url=url).outputs())) == 1
    assert origin.gets() == 1


LOCKS_THAT = {
    "let everybody in": "waiting.try_lock = partials.try_lock = lambda path, mode: locks.Lock()",
    "never say yes": "waiting.try_lock = lambda path, mode: None",
    **{
        f"fail with {name}": "import errno\ndef refuse(path, mode):\n"
        f"    raise OSError(errno.{name}, os.strerror(errno.{name}))\n"
        "waiting.try_lock = partials.try_lock = refuse"
        for name in ("ENOSYS", "EOPNOTSUPP", "ENOLCK", "EIO")
    },
}


@pytest.mark.parametrize("locks", LOCKS_THAT)
def test_a_lock_that_does_nothing_costs_bandwidth_and_never_a_wrong_byte(
    base: Path, origin: Origin, spawn: Spawn, locks: str
) -> None:
    url, sha256 = url_of(origin, MIB, "?delay=0.2")
    imports = "import os, nanocache\nfrom nanocache.coordination import waiting, lock as locks"
    setup = f"{imports}\nfrom nanocache.store import orphans, partials\nwaiting.DEAD = 0.5\n{LOCKS_THAT[locks]}"
    assert len(set(spawn(CHECKED, 8, setup=setup, url=url, sha256=sha256).outputs())) == 1
    assert 1 <= origin.gets() <= 8
    assert not list((base / "partials-v1").glob("[0-9a-f]*"))


def test_eacces_from_flock_is_no_hang(base: Path, origin: Origin, spawn: Spawn) -> None:
    # filelock takes EACCES for contention, and with no timeout would wait for ever.
    url, sha256 = url_of(origin, 1024)
    setup = """
import fcntl, errno, nanocache
from nanocache.coordination import waiting
waiting.DEAD = 0.5
def flock(fd, operation):
    raise OSError(errno.EACCES, "Permission denied")
fcntl.flock = flock
"""
    spawn(CHECKED, 2, setup=setup, url=url, sha256=sha256).outputs()


def test_readers_racing_a_publisher_never_see_a_partial_file(base: Path, origin: Origin, spawn: Spawn) -> None:
    url, sha256 = url_of(origin, 32 * MIB)
    path = base / "blobs-v1/sha256" / sha256[:2] / sha256 / "weights.bin"
    readers = spawn(
        """
import hashlib, os, time
while True:
    try:
        data = open(path, "rb").read()
        break
    except FileNotFoundError:
        time.sleep(0.0005)
assert hashlib.sha256(data).hexdigest() == sha256
""",
        3,
        path=str(path),
        sha256=sha256,
    )
    spawn(CHECKED, 2, url=url, sha256=sha256).outputs()
    readers.outputs()


def test_sigkilled_holder_is_followed_at_once_and_its_bytes_are_used(base: Path, origin: Origin, spawn: Spawn) -> None:
    size = 8 * MIB
    url, sha256 = url_of(origin, size, "?rate=4000000")
    holder = spawn(CHECKED, 1, url=url, sha256=sha256)
    deadline = time.monotonic() + 30
    while not list((base / "partials-v1").rglob("state.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)
    waiters = spawn(CHECKED, 3, url=url, sha256=sha256)
    time.sleep(0.3)
    os.kill(holder.processes[0].pid, signal.SIGKILL)
    waiters.outputs()
    _, second = origin.requests()
    assert second.headers["range"].startswith("bytes=")
    assert int(second.headers["range"].removeprefix("bytes=").split("-")[0]) > MIB


def test_a_failing_download_fails_all_who_asked_the_same_together(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn
) -> None:
    server = misbehaving()

    def slow_404(request: Any) -> Any:
        yield 2.0  # until all of them wait: one that comes after the failure makes a try of its own
        yield from status(404)(request)

    url = server.route("/x.bin", slow_404)
    good = server.route("/good.bin", serve(b"good"))
    sha256 = hashlib.sha256(b"good").hexdigest()
    code = """
try:
    nanocache.fetch(url, sha256=sha256, mirrors=[mirror] if INDEX == 3 else [])
except nanocache.DownloadFailed as e:
    print(e.status, e.url == url)
else:
    print("has it")
"""
    setup = f"import nanocache\nnanocache.fetch({server.route('/warm.bin', serve(b'warm'))!r})"  # with all its imports
    out = spawn(code, 6, setup=setup, url=url, sha256=sha256, mirror=good).outputs()
    assert out[3] == "has it"  # another source: its own try
    assert server.gets("/x.bin") <= 2
    assert {line for index, line in enumerate(out) if index != 3} <= {"404 True", "has it"}


def test_another_credential_is_another_try(base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn) -> None:
    server = misbehaving()

    def guarded(request: Any) -> Any:
        yield 0.3
        yield from (serve(b"secret") if request.headers.get("x-token") == "right" else status(401))(request)

    url = server.route("/x.bin", guarded)
    code = """
try:
    print(nanocache.fetch(url, headers={"X-Token": "right" if INDEX == 2 else "wrong"}).read_text())
except nanocache.DownloadFailed as e:
    print(e.status)
"""
    out = spawn(code, 3, url=url).outputs()
    assert out[2] == "secret"
    assert set(out[:2]) <= {"401", "secret"}
    assert "right" not in "".join(p.read_text() for p in base.rglob("*.json"))


def test_waiter_says_who_holds_the_lock_and_times_out_without_progress(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nanocache

    url = misbehaving().route("/x.bin", stalled(content(4 * MIB, 1), at=2 * MIB))
    holder = spawn("nanocache.fetch(url)", 1, url=url)
    deadline = time.monotonic() + 30
    while not [p for p in base.rglob("*.json") if b'"done":2097152' in p.read_bytes().replace(b" ", b"")]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.setenv("NANOCACHE_LOCK_TIMEOUT", "0.5")
    with pytest.raises(nanocache.LockTimeout) as failed:
        nanocache.fetch(url)
    assert failed.value.pid == holder.processes[0].pid
    assert failed.value.host
    assert (failed.value.done, failed.value.total) == (2 * MIB, 4 * MIB)


@pytest.mark.parametrize("boot", ["another boot", None])
def test_a_lock_that_nobody_alive_holds_is_waited_for_only_so_long(
    base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, boot: str | None
) -> None:
    # As on NFS after the client that held it died: the lock is never free again.
    import nanocache
    from nanocache.coordination import lock as locks
    from nanocache.coordination import waiting
    from nanocache.store.blobs import Store

    monkeypatch.setattr(waiting, "SILENT", 1.0)
    monkeypatch.setattr(waiting, "DEAD", 0.3)
    monkeypatch.setattr(waiting, "FAR", 0.05)
    url, sha256 = url_of(origin, 1024)
    store = Store(str(base))
    store.prepare()
    path = Path(store.lock_place(sha256).path)
    store.folder(str(path.parent))
    held = locks.try_lock(str(path), mode=0o644)
    assert held is not None
    if boot is not None:
        holder = {"pid": 1, "start": "1", "boot": boot, "space": "", "host": "elsewhere"}
        path.with_suffix(".json").write_text(json.dumps({"holder": holder, "done": 1, "total": 2, "rate": 1}))
    assert nanocache.fetch(url, sha256=sha256).stat().st_size == 1024
    assert [r for r in caplog.records if "no living process" in r.getMessage()]
    held.release()


@pytest.mark.alone
def test_waiters_burn_next_to_no_cpu(base: Path, origin: Origin, spawn: Spawn) -> None:
    url, sha256 = url_of(origin, 2 * MIB, "?rate=700000")  # three seconds
    code = """
import time
wall, cpu = time.monotonic(), time.process_time()
nanocache.fetch(url, sha256=sha256)
print(f"{(time.process_time() - cpu) / (time.monotonic() - wall):.3f}")
"""
    shares = sorted(float(out) for out in spawn(code, 8, url=url, sha256=sha256).outputs())
    assert origin.gets() == 1
    assert shares[3] < 0.10, shares  # 0.02 on an idle machine


def test_error_of_before_the_wait_binds_nobody(base: Path, misbehaving: Callable[..., Misbehaving]) -> None:
    import nanocache

    server = misbehaving()
    url = server.route("/x.bin", in_turn(status(404), serve(b"now it is there")))
    with pytest.raises(nanocache.DownloadFailed):
        nanocache.fetch(url)
    assert nanocache.fetch(url).read_bytes() == b"now it is there"


def test_record_of_a_failure_is_private_and_that_of_a_holder_names_no_url(base: Path) -> None:
    from nanocache.errors import DownloadFailed
    from nanocache.store.blobs import Store

    store = Store(str(base))
    store.prepare()
    wait = WaitOptions(lambda: False, ("http://h/?token=s3cret",), Cancel(), None, lambda *_: None)
    with pytest.raises(DownloadFailed), hold_lock(store.lock_place("ab" * 32), wait) as holding:
        assert holding is not None
        path = Path(store.lock_place("ab" * 32).path).with_suffix(".json")
        wait_until(path.exists)
        assert "s3cret" not in path.read_text()
        assert records.read(str(path)).holder.pid == os.getpid()  # type: ignore[union-attr]
        raise DownloadFailed(url="http://h/", causes=(("http://h/", "404"),))
    assert path.stat().st_mode & 0o077 == 0
    assert "s3cret" not in path.read_text()
    record = records.read(str(path))
    assert record is not None
    assert record.is_of(("http://h/?token=s3cret",))
    assert not record.is_of(("http://h/?token=other",))


def test_a_stopped_holder_is_given_up_on_after_a_while(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nanocache
    from nanocache.coordination import waiting

    body = content(MIB, 1)
    server = misbehaving()
    url = server.route("/x.bin", in_turn(stalled(body, at=1000), serve(body)))
    holder = spawn("nanocache.fetch(url)", 1, url=url)
    deadline = time.monotonic() + 30
    while not server.gets("/x.bin"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(holder.processes[0].pid, signal.SIGSTOP)
    monkeypatch.setattr(waiting, "SILENT", 1.0)
    assert nanocache.fetch(url).read_bytes() == body
    os.kill(holder.processes[0].pid, signal.SIGCONT)


REPORT = """
import time
try:
    time.sleep(wait)
    print(nanocache.fetch(url, filename=name, sha256=sha256, offline=offline).name)
except nanocache.NanocacheError as e:
    print(type(e).__name__)
"""


def test_a_page_that_is_refused_for_one_name_is_taken_for_another(
    base: Path, misbehaving: Callable[..., Misbehaving], spawn: Spawn
) -> None:
    page = b"<!DOCTYPE html><title>a page</title>"
    server = misbehaving()
    url = server.route("/page", silent(2.0, then=html(page)))
    refused = spawn(REPORT, 1, url=url, name="w.bin", wait=0, sha256=None, offline=False)
    wait_until(lambda: server.gets("/page"))  # it is the holder, on a busy machine as well
    taken = spawn(REPORT, 1, url=url, name="w.html", wait=0.1, sha256=None, offline=False)
    assert refused.outputs() == ["DownloadFailed"]
    assert taken.outputs() == ["w.html"]


def test_a_limit_of_one_process_is_no_other_ones(base: Path, origin: Origin, spawn: Spawn) -> None:
    url, _ = url_of(origin, 100_000, "?delay=2.0")
    options: dict[str, Any] = {"url": url, "name": None, "sha256": None, "offline": False}
    limited = spawn(REPORT, 1, env={"NANOCACHE_MAX_ARTIFACT": "1000"}, wait=0, **options)
    wait_until(origin.gets)
    free = spawn(REPORT, 1, wait=0.1, **options)
    assert limited.outputs() == ["NoSpace"]
    assert free.outputs() == ["weights.bin"]


def test_the_refusal_of_a_process_that_is_offline_binds_none_that_is_not(
    base: Path, origin: Origin, spawn: Spawn
) -> None:
    import nanocache

    url, sha256 = url_of(origin, 1024)
    path = nanocache.fetch(url, sha256=sha256)
    path.chmod(0o644)
    path.write_bytes(b"damage")
    slow = """
import time, nanocache
from nanocache.disk import hashing
real = hashing.hash_file
def hash_file(*args, **options):
    time.sleep(2.0)
    return real(*args, **options)
hashing.hash_file = hash_file
"""
    options: dict[str, Any] = {"url": url, "name": None, "sha256": sha256}
    refused = spawn(REPORT, 1, setup=slow, wait=0, offline=True, **options)
    wait_until(lambda: list(base.glob("locks-v1/*/*.json")))
    online = spawn(REPORT, 1, wait=0.1, offline=False, **options)
    assert refused.outputs() == ["NotCached"]
    assert online.outputs() == ["weights.bin"]
