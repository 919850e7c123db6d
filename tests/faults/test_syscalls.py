"""Every file call of a fetch and of an unpack fails in turn: a named error or success, nothing wrong, nothing leaked.

Each scenario is run once to count its calls below the base directory, then once for each of them with an error in its
place. In CI each call gets one error, three of them in a fetch and two in an unpack; in the soak it gets all.
Then once more with no fault: it works.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import compat
from nanocache.archives.unpack import Unpack
from nanocache.disk import files
from tests.faults.calls import Call, Calls, fail
from tests.faults.checks import SOAK, check_visible, nothing_leaks, orphans, rounds, sweep_all
from tests.servers.origin import MIB, Origin, content, digest

CODES = [getattr(errno, name) for name in ("EIO", "ENOSPC", "EDQUOT", "EMFILE", "EACCES", "EROFS", "ESTALE", "EINTR")]
FULL = (errno.ENOSPC, errno.EDQUOT)
SMALL = b"weights" * 1000
SMALL_SHA256 = hashlib.sha256(SMALL).hexdigest()


@pytest.fixture(autouse=True)
def _one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCACHE_RETRIES", "0")  # what the origin says is not what is tested here


def archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name in ("a/b/c.txt", "a/d.txt", "e.txt"):
            (info := tarfile.TarInfo(name)).size = 5
            tar.addfile(info, io.BytesIO(b"hello"))
    return made.getvalue()


# --- what is done, and whether it was done right ----------------------------------------------------------------------

Do = Callable[[Path], Any]


class Scenario:
    """`prepare(base)`, then `call(base)`, whose result `right` judges. `spoilt`: what is wrong at first is prepared."""

    def __init__(
        self, call: Do, right: Callable[[Any], bool], prepare: Do = lambda base: None, *, spoilt: bool = False
    ) -> None:
        self.call, self.right, self.prepare, self.spoilt = call, right, prepare, spoilt


def fetch(url: str, **options: Any) -> Do:
    return lambda base: nanocache.fetch(url, base_dir=base, progress=False, **options)


def same(body: bytes) -> Callable[[Any], bool]:
    return lambda path: Path(path).read_bytes() == body


def opened(base: Path) -> None:
    """The folders are there already, and were swept today."""
    store = nanocache.Cache(base).store
    store.prepare()
    files.create(f"{base}/trash-v1/swept", b"", 0o644)


def and_then(*steps: Do) -> Do:
    return lambda base: [step(base) for step in steps]


def touch(base: Path) -> None:
    for path in base.glob("blobs-v1/sha256/*/*/*"):
        os.utime(path)


def damage(base: Path) -> None:
    for path in base.glob("blobs-v1/sha256/*/*/*"):
        path.chmod(0o644)
        path.write_bytes(b"damaged")


def orphan(base: Path) -> None:
    """What a kill left eight days ago, and trash."""
    (path := base / "partials-v1" / "k" / "0123456789abcdef").mkdir(parents=True)
    (path / "data").write_bytes(b"x")
    (base / "trash-v1" / "aside").mkdir()
    (base / "trash-v1" / "aside" / "x").write_text("x")
    (base / "trash-v1" / "swept").unlink()
    past = 1_700_000_000
    for one in (path / "data", path):
        os.utime(one, (past, past))


def placed(path: str) -> None:
    Path(path).read_bytes()


def place(url: str) -> Do:
    def call(base: Path) -> str:
        os.environ["NANOCACHE_DIR"] = str(base)
        try:
            return compat.download_file_with_lock(url, "data/words.txt", placed)
        finally:
            del os.environ["NANOCACHE_DIR"]

    return call


@pytest.fixture
def scenarios(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> dict[str, Scenario]:
    small, tgz = origin.add("/w.bin", SMALL), origin.add("/data.tgz", archive())
    large = origin.url(f"/bytes/{3 * MIB}/1/large.bin")
    pinned, second = fetch(small, sha256=SMALL_SHA256), fetch(small, sha256=SMALL_SHA256, filename="second.bin")

    def copied(base: Path) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", refuse)
            return second(base)

    return {
        "first fetch of all": Scenario(pinned, same(SMALL)),
        "fetch": Scenario(pinned, same(SMALL), opened),
        "fetch without a digest": Scenario(fetch(small), same(SMALL), opened),
        "revalidation": Scenario(fetch(small, max_age=0), same(SMALL), and_then(opened, fetch(small))),
        "fetch of three MiB": Scenario(fetch(large, sha256=digest(3 * MIB, 1)), same(content(3 * MIB, 1)), opened),
        "second name": Scenario(second, same(SMALL), and_then(opened, pinned)),
        "second name by copy": Scenario(copied, same(SMALL), and_then(opened, pinned)),
        "lost seal": Scenario(pinned, same(SMALL), and_then(opened, pinned, touch)),
        "damaged blob": Scenario(pinned, same(SMALL), and_then(opened, pinned, damage), spoilt=True),
        "rehash": Scenario(fetch(small, sha256=SMALL_SHA256, rehash=True), same(SMALL), and_then(opened, pinned)),
        "unpack": Scenario(
            fetch(tgz, postprocess=Unpack()),
            lambda path: (
                sorted(p.name for p in path.rglob("*.txt") if p.read_bytes() == b"hello") == ["c.txt", "d.txt", "e.txt"]
            ),
            and_then(opened, fetch(tgz)),
        ),
        "the seed's call": Scenario(place(small), same(SMALL), and_then(opened, fetch(small))),
        "sweep": Scenario(pinned, same(SMALL), and_then(opened, orphan), spoilt=True),
    }


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


NAMES = (
    *("first fetch of all", "fetch", "fetch without a digest", "revalidation", "fetch of three MiB"),
    *("second name", "second name by copy", "lost seal", "damaged blob", "rehash"),
    *("unpack", "the seed's call", "sweep"),
)


# --- faults -----------------------------------------------------------------------------------------------------------


def attempt(scenario: Scenario, base: Path, code: int, at: int, *, lasting: bool) -> bool:
    """The scenario with a fault: it succeeds, or says which error it met, and where. Whether that may leave traces."""
    failing, traces = fail(code, at=at, lasting=lasting), lasting

    def before(call: Call) -> None:
        nonlocal traces
        traces |= call.number == at and call.cleaning
        failing(call)

    try:
        with Calls(base, before=before):
            result = scenario.call(base)
    except OSError as e:
        if code in FULL and not isinstance(e, nanocache.NoSpace):
            raise AssertionError(f"a full disk is NoSpace, got {e!r}") from e
        if not isinstance(e, nanocache.NanocacheError) and (
            e.errno not in (code, errno.EEXIST, errno.ENOENT) or str(base) not in str(e)
        ):
            raise AssertionError(f"an error of the disk says which and where, got {e!r}") from e
    except nanocache.NanocacheError:
        pass
    else:
        assert scenario.right(result)
    return traces


def check_after(scenario: Scenario, base: Path, *, traces: bool) -> None:
    if not scenario.spoilt:
        check_visible(base, foreign="data")
        left = [path for path in orphans(base) if not (path / "state.json").exists()]  # that one will be resumed
        assert traces or not left, f"left: {left}"
    assert scenario.right(scenario.call(base))
    check_visible(base, foreign="data")
    sweep_all(base)
    assert not orphans(base)


def broken(scenario: Scenario, tmp_path: Path, at: int, code: int, *, lasting: bool) -> str | None:
    """What goes wrong if the call number `at` fails."""
    base = fresh(scenario, tmp_path / f"{at}-{code}")
    try:
        with nothing_leaks():
            traces = attempt(scenario, base, code, at, lasting=lasting)
        check_after(scenario, base, traces=traces)
    except Exception as e:
        return f"{errno.errorcode[code]} at call {at}: {type(e).__name__}: {e}"
    shutil.rmtree(base)
    return None


def fresh(scenario: Scenario, base: Path) -> Path:
    base.mkdir()
    scenario.prepare(base)
    return base


def faults(scenario: Scenario, tmp_path: Path, *, errors: int = 1) -> Iterator[tuple[int, int]]:
    base = fresh(scenario, tmp_path / "counted")
    with Calls(base) as calls:
        assert scenario.right(scenario.call(base))
    for at in range(1, len(calls.seen) + 1):
        for n in range(rounds(errors, len(CODES))):
            yield at, CODES[(at + n) % len(CODES)]


@pytest.mark.timeout(1800 if SOAK else 300)
@pytest.mark.parametrize("name", NAMES)
def test_every_call_that_fails_is_a_named_error_or_no_matter(
    name: str, scenarios: dict[str, Scenario], memory: Path
) -> None:
    scenario, errors = scenarios[name], {"fetch": 3, "unpack": 2}.get(name, 1)  # in the soak all for each
    tried = faults(scenario, memory, errors=errors)
    found = [broken(scenario, memory, at, code, lasting=False) for at, code in tried]
    assert not any(found), "\n".join(filter(None, found))


@pytest.mark.timeout(1800 if SOAK else 300)
@pytest.mark.parametrize("name", ["fetch", "fetch of three MiB", "damaged blob", "unpack", "the seed's call"])
def test_a_disk_that_stays_broken_is_a_named_error_and_no_hang(
    name: str, scenarios: dict[str, Scenario], memory: Path
) -> None:
    """From one call on nothing can be changed any more: full, read-only, gone."""
    scenario, every = scenarios[name], rounds(8, 1)
    tried = [(at, code) for at, code in faults(scenario, memory) if at % every == 0]
    found = [broken(scenario, memory, at, code, lasting=True) for at, code in tried]
    assert not any(found), "\n".join(filter(None, found))
