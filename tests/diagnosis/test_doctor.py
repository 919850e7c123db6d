"""`nanocache.doctor` on real mounts, real processes and real preloads: each kind diagnosed right, and left clean."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Finding
from nanocache.cli.main import main
from nanocache.diagnosis import base as base_directory
from nanocache.diagnosis import doctor as examination
from nanocache.diagnosis import keeping, known, locks, names, settings, space
from nanocache.diagnosis.findings import FINE, FROM_GOOD_TO_BAD, LOSSES, UNUSABLE, worst
from nanocache.diagnosis.mounts import Mount
from nanocache.diagnosis.site import Site, bench
from nanocache.store import sweep
from nanocache.store.layout import BaseDirectory
from tests.servers.mounts import Unavailable, mounted
from tests.servers.origin import Origin


def troubles(found: list[Finding]) -> dict[str, str]:
    """probe -> level, of all that is not fine."""
    return {finding.probe: finding.level for finding in found if finding.level != FINE}


def of(found: list[Finding], probe: str) -> Finding:
    return next(finding for finding in found if finding.probe == probe)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    from contextlib import ExitStack

    with ExitStack() as undo:

        def mount_one(kind: str) -> Path:
            try:
                return undo.enter_context(mounted(kind, tmp_path))
            except Unavailable as e:
                pytest.skip(str(e))

        yield mount_one


# What is not fine on a mount of each kind.
EXPECTED: dict[str, dict[str, str]] = {
    "ext4": {},
    "tmpfs": {},
    "xfs": {},
    "btrfs": {},
    "overlay": {known.PROBE: LOSSES},
    "FUSE (bindfs)": {},
    "FUSE (rclone)": {
        known.PROBE: LOSSES,
        names.RENAMES: LOSSES,
        names.LINKS: LOSSES,
        keeping.MODES: LOSSES,
    },
    "exfat": {names.LINKS: LOSSES, names.NAMES: LOSSES, keeping.MODES: LOSSES, base_directory.PERMISSIONS: LOSSES},
    "read-only": {examination.WRITING: LOSSES},
    "no inodes left": {examination.WRITING: UNUSABLE, space.SPACE: UNUSABLE},
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_mount_of_each_kind_is_diagnosed_right_and_left_clean(kind: str, mount: Callable[[str], Path]) -> None:
    base = mount(kind)
    started = time.monotonic()
    found = nanocache.doctor(base)
    assert time.monotonic() - started < 10
    assert troubles(found) == EXPECTED[kind]
    assert all(finding.degrades and finding.remedy for finding in found if finding.level != FINE)
    left = [path for path in base.rglob("*") if path.is_file() and path.parent != base]
    assert {path.name for path in left} <= {"CACHEDIR.TAG", ".gitignore"}


def test_blocks_are_shared_where_they_can_be(mount: Callable[[str], Path]) -> None:
    assert "takes no room" in of(nanocache.doctor(mount("xfs")), names.REFLINKS).seen


def test_a_cache_in_an_image_layer_serves_its_files_and_is_told_from_one_of_its_own(
    tmp_path: Path, origin: Origin, mount: Callable[[str], Path]
) -> None:
    url = origin.add("/a.bin", b"test")
    nanocache.fetch(url, base_dir=tmp_path / "overlay" / "lower")
    base = mount("overlay")
    found = nanocache.doctor(base)
    assert troubles(found) == {known.PROBE: LOSSES}
    assert "image" in of(found, known.PROBE).degrades
    assert nanocache.lookup(url, base_dir=base) is not None


def test_a_base_that_is_not_there_yet_is_made_as_a_fetch_would(tmp_path: Path) -> None:
    found = nanocache.doctor(tmp_path / "a" / "b")
    assert troubles(found) == {}
    assert "not there yet" in of(found, base_directory.PLACE).seen


def test_without_an_argument_it_is_the_environments_base(base: Path) -> None:
    assert str(base) in of(nanocache.doctor(), base_directory.PLACE).seen


def test_a_base_that_is_no_folder_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert worst(nanocache.doctor(path)) == UNUSABLE


def test_a_base_behind_a_symlink_is_fine(base: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(base)
    found = nanocache.doctor(tmp_path / "link")
    assert worst(found) == FINE
    assert str(base) in of(found, base_directory.PLACE).seen


def test_a_symlink_where_a_folder_of_ours_should_be_is_unusable(base: Path, tmp_path: Path) -> None:
    (base / "blobs-v1").symlink_to(tmp_path)
    finding = of(nanocache.doctor(base), base_directory.PLACE)
    assert finding.level == UNUSABLE
    assert str(base / "blobs-v1") in finding.remedy


def test_a_base_of_two_file_systems_is_unusable(tmp_path: Path, mount: Callable[[str], Path]) -> None:
    inner = mount("tmpfs")
    assert troubles(nanocache.doctor(inner.parent)) == {base_directory.PLACE: UNUSABLE}


@pytest.mark.parametrize(("mode", "level"), [(0o755, FINE), (0o777, LOSSES), (0o1777, FINE), (0o2775, FINE)])
def test_who_may_write_is_said(base: Path, mode: int, level: str) -> None:
    base.chmod(mode)
    assert of(nanocache.doctor(base), base_directory.PERMISSIONS).level == level


def test_files_of_a_stranger_are_named(base: Path, origin: Origin) -> None:
    path = nanocache.fetch(origin.add("/a.bin", b"test"))
    assert worst(nanocache.doctor(base)) == FINE
    if os.geteuid():
        pytest.skip("needs root")
    os.chown(path, 12345, 12345)
    finding = of(nanocache.doctor(base), base_directory.OWNERS)
    assert (finding.level, "12345" in finding.degrades) == (LOSSES, True)
    base.chmod(0o2775)
    assert of(nanocache.doctor(base), base_directory.OWNERS).level == FINE


# --- what a process meets that is not of this machine -----------------------------------------------------------------

NO_LOCKS = "int flock(int fd, int operation) { return 0; }"
# What Python's time.time asks; CLOCK_REALTIME is 0.
HOUR_AHEAD = """
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *t) {
    int failed = syscall(SYS_clock_gettime, clock, t);
    if (clock == 0) t->tv_sec += 3600;
    return failed;
}
"""


@pytest.fixture
def preload(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    def build(code: str) -> dict[str, str]:
        if sys.platform != "linux" or not (compiler := shutil.which("cc") or shutil.which("gcc")):
            pytest.skip("needs Linux and a C compiler")
        (source := tmp_path / "preload.c").write_text(code)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "preload.so", source], check=True)
        return {"LD_PRELOAD": str(tmp_path / "preload.so")}

    return build


def run(*arguments: object, **env: str) -> tuple[int, Any]:
    """`nanocache doctor --json`, in a process of its own."""
    command = [sys.executable, "-m", "nanocache", "doctor", "--json", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | env)
    assert ended.stderr == ""
    return ended.returncode, json.loads(ended.stdout)


def test_locks_that_let_every_process_in_are_found_out(base: Path, preload: Callable[[str], dict[str, str]]) -> None:
    code, told = run(**preload(NO_LOCKS))
    assert (code, told["level"]) == (1, LOSSES)
    bad = [finding for finding in told["findings"] if finding["level"] != FINE]
    assert [finding["probe"] for finding in bad] == [locks.BETWEEN]
    assert "every process in" in bad[0]["seen"]


def test_a_clock_that_is_an_hour_off_is_found_out(base: Path, preload: Callable[[str], dict[str, str]]) -> None:
    code, told = run(**preload(HOUR_AHEAD))
    bad = [finding for finding in told["findings"] if finding["level"] != FINE]
    assert (code, [finding["probe"] for finding in bad]) == (1, [keeping.CLOCK])
    assert "60 min behind" in bad[0]["seen"]
    assert "another host" in bad[0]["degrades"]


@pytest.mark.parametrize(
    ("kind", "options", "level", "word"),
    [
        ("lustre", "rw,localflock", LOSSES, "-o flock"),
        ("lustre", "rw,flock", FINE, ""),
        ("nfs4", "rw,hard,local_lock=none", FINE, ""),
        ("nfs", "rw,nolock,hard", LOSSES, "nolock"),
        ("nfs4", "rw,local_lock=all", LOSSES, "local_lock"),
        ("nfs4", "rw,soft", LOSSES, "hard"),
        ("cifs", "rw,nobrl", LOSSES, "nobrl"),
        ("fuse.sshfs", "rw", LOSSES, "local disk"),
        ("xyzfs", "rw", FINE, ""),
    ],
)
def test_what_only_the_mounts_name_tells_is_said(base: Path, kind: str, options: str, level: str, word: str) -> None:
    mount = Mount("/data", kind, "server:/data", tuple(options.split(",")))
    [finding] = known.probe(Site(BaseDirectory(str(base)), mount))
    assert finding.level == level
    assert word in finding.remedy
    assert kind in finding.seen


# --- the environment --------------------------------------------------------------------------------------------------


def test_a_variable_that_nothing_reads_is_named_with_the_one_that_is_meant(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCACHE_OFLINE", "1")
    finding = of(nanocache.doctor(), settings.SETTINGS)
    assert (finding.level, finding.remedy) == (LOSSES, "NANOCACHE_OFFLINE is meant?")


def test_a_read_only_cache_that_is_not_there_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("NANOCACHE_READONLY_DIRS", f"{tmp_path / 'site'}:{tmp_path / 'gone'}")
    finding = of(nanocache.doctor(), settings.SETTINGS)
    assert finding.level == LOSSES
    assert str(tmp_path / "gone") in finding.seen


@pytest.mark.parametrize(("name", "value"), [("NANOCACHE_RETRIES", "many"), ("NANOCACHE_DIR", "$UNKNOWN/cache")])
def test_a_value_that_cannot_be_read_is_unusable(
    base: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    found = nanocache.doctor()
    assert worst(found) == UNUSABLE
    assert any(name in finding.seen for finding in found)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("https_proxy", "http://me:hush@", "no host"),
        ("HTTPS_PROXY", "gopher://me:hush@proxy:1", "gopher"),
        ("SSL_CERT_FILE", "/not/there.pem", "/not/there.pem"),
    ],
)
def test_a_proxy_and_certificates_that_cannot_be_used_are_said_without_a_secret(
    base: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    finding = of(nanocache.doctor(), settings.SERVERS)
    assert finding.level == UNUSABLE
    assert said in finding.seen
    assert "hush" not in str(finding)


def test_a_base_dir_that_can_be_no_path_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="base_dir"):
        nanocache.doctor("")


# --- harmless ---------------------------------------------------------------------------------------------------------


def test_a_sweep_takes_the_probes_folder_only_after_a_kill(base: Path, spawn: Callable[..., Any]) -> None:
    directory = BaseDirectory(str(base))
    directory.prepare()
    with bench(directory) as folder:
        sweep.daily(directory)
        assert os.path.exists(f"{folder}/room")
    code = f"""
import os, signal
from nanocache.diagnosis.site import bench
from nanocache.store.layout import BaseDirectory
with bench(BaseDirectory({str(base)!r})) as folder:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert spawn(code).finish()[0].code == -signal.SIGKILL
    [left] = (base / "trash-v1").glob("new-*")
    os.utime(left, (time.time() - 2 * sweep.DAY,) * 2)
    os.unlink(directory.mark)
    sweep.daily(BaseDirectory(str(base)))
    assert not left.exists()


def test_a_fetch_beside_it_is_not_disturbed(base: Path, origin: Origin) -> None:
    import threading

    found: list[list[Finding]] = []
    thread = threading.Thread(target=lambda: found.extend(nanocache.doctor(base) for _ in range(4)))
    thread.start()
    for n in range(50):
        assert nanocache.fetch(origin.add(f"/{n}.bin", b"%d" % n)).read_bytes() == b"%d" % n
    thread.join()
    assert [worst(one) for one in found] == [FINE] * 4


def test_without_a_python_to_run_all_else_is_probed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for executable in ("", "/not/there", "/bin/false"):
        monkeypatch.setattr(sys, "executable", executable)
        found = nanocache.doctor(base)
        assert worst(found) == FINE
        assert "not probed" in of(found, locks.BETWEEN).seen


def test_a_disk_that_takes_too_long_is_said(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "PROBING", -1)
    assert set(examination.TRIALS) <= set(troubles(nanocache.doctor(base)))


def test_an_error_of_the_disk_is_a_finding_and_stops_no_other_probe(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    found = nanocache.doctor(base)
    assert troubles(found) == {keeping.SYNC: UNUSABLE}
    assert of(found, keeping.CLOCK).level == FINE


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 100])
def test_the_report_fits_the_terminal_and_its_exit_code_is_the_level(
    base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NANOCACHE_OFLINE", "1")
    base.chmod(0o777)
    assert main(["doctor"]) == FROM_GOOD_TO_BAD.index(LOSSES)
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert out.splitlines()[-1].startswith("works with losses: 2 of ")
    monkeypatch.setenv("NANOCACHE_RETRIES", "many")
    assert main(["doctor"]) == FROM_GOOD_TO_BAD.index(UNUSABLE)


def test_json_is_one_object_with_a_schema(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert next(iter(told)) == "schema"
    assert told["base_dir"] == str(base)
    assert told["level"] == FINE
    assert set(told["findings"][0]) == {"probe", "level", "seen", "degrades", "remedy"}
