"""A hostile or broken origin: the right bytes or a named error, and bounded requests, time and memory; no wrong byte,
no secret anywhere, nothing outside the base directory. The misbehaviours themselves are data, in `hostile.py`."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import pickle
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.cancel import Cancel
from nanocache.errors import NanocacheError
from tests.download.downloads import MIB
from tests.faults.checks import check_visible, nothing_leaks, orphans
from tests.faults.hostile import BODY, CASES, OURS, RETRIES, THEIRS, Case, Scene
from tests.servers import misbehave as m

LOGIN = f"me:{OURS}-userinfo"
HEADERS = {"X-Api-Key": f"{OURS}-header", "Cookie": f"session={OURS}-cookie", "Private-Token": f"{OURS}-token"}
QUERY = f"?token={OURS}-query&X-Amz-Signature={OURS}-signature"
NETRC = f"machine elsewhere.invalid login me password {OURS}-netrc\ndefault login me password {OURS}-default\n"
LONGEST_MESSAGE = 2000  # characters, whatever the server sends


def secrets() -> re.Pattern[str]:
    """Whatever must be seen by nobody, in every form in which it goes over the wire."""
    encoded = (base64.b64encode(f"{a}{OURS}".encode()).decode()[: 4 * (len(a + OURS) // 3)] for a in ("me:", "e:", ":"))
    return re.compile("|".join([OURS, THEIRS, *encoded]))


SECRETS = secrets()


def secret_url(url: str) -> str:
    return url.replace("://", f"://{LOGIN}@", 1) + QUERY


def snapshot(root: Path, base: Path) -> dict[str, tuple[int, int]]:
    """Everything below `root` but not below `base`."""
    stats = {str(path): path.lstat() for path in root.rglob("*") if base not in (path, *path.parents)}
    return {path: (st.st_mode, st.st_size) for path, st in stats.items()}


@pytest.fixture
def outside(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world of its own: home with a netrc, working and temporary directory; what is around `base`."""
    for name in ("cwd", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (netrc := tmp_path / "home" / ".netrc").write_text(NETRC)
    netrc.chmod(0o600)
    return tmp_path


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Callable[[Case], list[float]]:
    """The case's settings; the list gets the seconds that are not really waited for between attempts."""
    slept: list[float] = []

    def sleep(cancel: Cancel, seconds: float) -> None:
        cancel.check()
        slept.append(seconds)

    def apply(case: Case) -> list[float]:
        monkeypatch.setenv("NANOCACHE_RETRIES", str(RETRIES))
        monkeypatch.setenv("NANOCACHE_TIMEOUT", str(case.timeout))
        monkeypatch.setenv("NANOCACHE_CONNECTIONS", "4")
        if case.limit is not None:
            monkeypatch.setenv("NANOCACHE_MAX_ARTIFACT", str(case.limit))
        if case.window is not None:
            monkeypatch.setattr("nanocache.http.failure.SPEED_WINDOW", case.window)
        if not case.waits:
            monkeypatch.setattr(Cancel, "sleep", sleep)
        return slept

    return apply


# --- one fetch --------------------------------------------------------------------------------------------------------


def fetch(case: Case, url: str, mirrors: list[str]) -> Path:
    digest = None if case.digest is None else hashlib.sha256(case.digest).hexdigest()
    artifact = nanocache.Artifact(url, sha256=digest, size=case.size, mirrors=mirrors, headers=HEADERS | case.headers)
    return nanocache.fetch(artifact, max_age=0 if case.cached else None, progress=False)


def attempt(case: Case, url: str, mirrors: list[str]) -> Path | NanocacheError:
    """The path, or the error; within the case's time."""
    began = time.monotonic()
    try:
        return fetch(case, url, mirrors)
    except NanocacheError as e:
        return e
    finally:
        passed = time.monotonic() - began
        assert passed < case.seconds, f"took {passed:.1f} s"


def check_outcome(case: Case, got: Path | NanocacheError, base: Path) -> None:
    if isinstance(case.ends, bytes):
        if isinstance(got, NanocacheError):
            raise got
        assert got.read_bytes() == case.ends
        assert got.name == case.named
        assert base in got.parents
        return
    assert isinstance(got, case.ends), f"wanted {case.ends.__name__}, got {got!r}"
    check_error(got, case.says)


def check_error(error: NanocacheError, says: str) -> None:
    """It says what it should, on one line of a length that the server does not choose, and shows no secret."""
    text = str(error)
    assert re.search(says, text), text
    assert text.isprintable(), f"a terminal would obey it: {text!r}"
    assert len(text) < LONGEST_MESSAGE, f"{len(text):,} characters"
    shown = [*traceback.format_exception(error), repr(error), repr(vars(error)), json.dumps(error.to_json())]
    shown.append(repr(pickle.loads(pickle.dumps(error)).facts()))
    found = SECRETS.search("\n".join(line for line in shown if f"{OURS}-" not in line or line.lstrip()[0] != "^"))
    assert not found, f"a secret is in the error: {shown}"


def check_logs(caplog: pytest.LogCaptureFixture) -> None:
    shown = logging.Formatter("%(name)s %(levelname)s %(message)s")
    lines = [shown.format(record) + repr(record.__dict__) for record in caplog.records]
    leaks = [line[:500] for line in lines if SECRETS.search(line)]
    assert not leaks, f"a secret is in the log: {leaks}"
    assert all(record.getMessage().isprintable() for record in caplog.records if record.name == "nanocache")


def check_files(base: Path) -> None:
    check_visible(base)
    for path in base.rglob("*"):
        assert not SECRETS.search(str(path)), f"a secret is in the name {path}"
        if path.is_file() and "blobs-v1" not in path.parts and path.name != "data":
            assert not SECRETS.search(path.read_bytes().decode("latin-1")), f"a secret is in {path}"
    assert len(orphans(base)) <= 1
    assert not any(base.glob("trash-v1/*/*"))


def check_origins(scene: Scene) -> None:
    """No other origin was told a secret of the caller's."""
    for server in scene.others:
        for request in server.requests():
            told = "\n".join([request.path, request.query, *request.headers.values()])
            assert not SECRETS.search(told.replace(THEIRS, "")), f"a secret was told to another origin: {request}"


def check_next(case: Case, scene: Scene, url: str) -> None:
    """Once the origin behaves, the same call is right: nothing of what it did is left in a way that matters."""
    if case.heals is None:
        return
    paths = {path: m.serve(case.heals, etag='"healed"') for path in scene.here._handlers}
    scene.here._handlers |= paths
    path = nanocache.fetch(
        secret_url(url), sha256=hashlib.sha256(case.heals).hexdigest(), headers=HEADERS, progress=False
    )
    assert path.read_bytes() == case.heals


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace("/", "|"))
def test_a_hostile_origin_gets_the_right_bytes_or_a_named_error(
    case: Case,
    base: Path,
    outside: Path,
    settings: Callable[[Case], list[float]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    slept = settings(case)
    before = snapshot(outside, base)
    with nothing_leaks(), Scene(monkeypatch) as scene:
        if case.cached:
            url = scene.here.route("/f.bin", m.serve(BODY))
            nanocache.fetch(secret_url(url), headers=HEADERS, progress=False)
        stage = case.stage(scene)
        url = stage if isinstance(stage, str) else scene.here.route("/f.bin", stage)
        asked = scene.requests() if case.cached else 0
        with caplog.at_level(logging.DEBUG):
            got = attempt(case, secret_url(url), scene.mirrors)
        assert scene.requests() - asked <= case.requests, "more requests than its bound"
        assert sum(slept) <= 121.5 * max(1, case.requests)
        check_outcome(case, got, base)
        check_logs(caplog)
        check_files(base)
        check_origins(scene)
        check_next(case, scene, url)
    assert snapshot(outside, base) == before
    assert capfd.readouterr() == ("", "")


def test_at_least_a_hundred_misbehaviours_have_names_of_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 100, {name for name in names if names.count(name) > 1}


HUGE = [
    case
    for case in CASES
    if any(word in case.name for word in ("without end", "endless", "for ever", "bomb", "a MiB", "EiB", "60 KB"))
    and "proxy" not in case.name
]
FETCH_ALL = """
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

nanocache.fetch(healthy, progress=False)
before = peak()
for url, sha256, size in calls:
    try:
        nanocache.fetch(nanocache.Artifact(url, sha256=sha256, size=size), progress=False)
    except nanocache.NanocacheError:
        pass
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads VmHWM, which Linux keeps")
def test_what_never_ends_takes_no_memory(
    base: Path, spawn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scene(monkeypatch) as scene:
        healthy, calls = scene.here.route("/healthy", m.serve(BODY)), []
        for number, case in enumerate(HUGE):
            stage = case.stage(scene)
            url = stage if isinstance(stage, str) else scene.here.route(f"/{number}", stage)
            digest = None if case.digest is None else hashlib.sha256(case.digest).hexdigest()
            calls.append((url, digest, case.size))
        env = {"NANOCACHE_RETRIES": "0", "NANOCACHE_MAX_ARTIFACT": str(100 * MIB)}
        (grown,) = spawn(FETCH_ALL, env=env, healthy=healthy, calls=calls).outputs(timeout=100)
    assert len(HUGE) > 20
    assert float(grown) < 64, "MiB"
