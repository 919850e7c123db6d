"""What the tests share: servers on loopback, a base directory for each test, real processes, and a clean slate.

Every test runs without the variables of launchers, proxies and this project that pytest was started with, and with a
home of its own. It must leave no thread behind that keeps a process alive.

`pytest -n 2` runs two tests at a time, but one that is marked `alone` runs while no other does.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.forked import RUNNER, Forked, Nursery
from tests.servers.hub import HubServer
from tests.servers.misbehave import Misbehaving
from tests.servers.origin import Origin

ROOT = Path(__file__).parent.parent
FOREIGN = (
    *("NANOCACHE_", "NANOCHAT_", "NANODIST_", "TQDM_", "XDG_", "SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_"),
    *("HOROVOD_", "MV2_", "MPI_LOCAL"),
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "NODE_RANK"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "NO_COLOR", "NETRC", "SSL_CERT_"),
    "PYTHONUNBUFFERED",  # a line in two writes: two ranks that print to one pipe at once gave "10\n\n" for "1\n0\n"
)

SHM = "/dev/shm"
DOOR, ROOM = ROOT / "pyproject.toml", Path(__file__)  # any two files would do: pytest's workers lock them, see _machine

# What tests use as passwords and tokens, as it is and as Basic credentials; and the signatures of signed addresses.
SECRETS = ("hunter2", "s3cret", "swordfish", "aHVudGVyM", "h1bnRlcj", "odW50ZXIy", r"[Ss]ignature=\w", r"[?&]sig=\w")
SECRET = re.compile("|".join(SECRETS).encode())

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # `make test &` in a script ignores Ctrl-C, children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


# --- who runs beside whom ---------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_is_alone)  # last, so that the workers wait for one another once and not at each of them


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest-timeout: a test's time begins when it has the machine
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with _machine(alone=_is_alone(item)):
        return (yield)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@contextmanager
def _machine(*, alone: bool) -> Iterator[None]:
    """Hold the machine: one test that is alone, or any number of others. The queue is at the door, and fair."""
    with DOOR.open() as door, ROOM.open() as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # not by closing alone: a forked child may have the descriptor, too


# --- a clean slate ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith(FOREIGN):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))  # no ~/.netrc, no user cache
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that tests start, wherever they run


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 2
    while left := [t for t in threading.enumerate() if t not in before and not t.daemon]:
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.01)


@pytest.fixture(scope="session", autouse=True)
def _no_secret_in_any_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """When all tests of this worker have run: no file of any cache that they left holds what a test calls a secret."""
    yield
    check_no_secret(tmp_path_factory.getbasetemp())


def check_no_secret(folder: Path) -> None:
    caches = [path for path in records(folder) if SECRET.search(os.fsencode(path)) or SECRET.search(_beginning(path))]
    assert not caches, f"a secret is in {[str(path) for path in caches]}"


def records(folder: Path) -> Iterator[Path]:
    """What the library wrote itself below `folder`: all of its folders' files but artifacts and what hooks built."""
    for top, folders, names in os.walk(folder):
        parts = Path(top).relative_to(folder).parts
        tops = [part for part in parts if part.endswith("-v1")]
        if "blobs-v1" in tops or ("products-v1" in tops and len(parts) - parts.index("products-v1") > 2):
            folders.clear()
            continue
        if tops:
            yield from (path for name in names if (path := Path(top, name)).is_file() and not path.is_symlink())


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return b"" if path.name == "data" or path.name.startswith("new-") else file.read(1 << 20)
    except OSError:  # left by a test that takes modes away
        return b""


# --- what tests ask for -----------------------------------------------------------------------------------------------


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The base directory: it exists, it is empty, and NANOCACHE_DIR names it."""
    path = tmp_path / "base"
    path.mkdir()
    monkeypatch.setenv("NANOCACHE_DIR", str(path))
    return path


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder where removing and fsync cost nothing, if there is one with room."""
    if not os.access(SHM, os.W_OK) or shutil.disk_usage(SHM).free < 1 << 30:  # a container has 64 MiB unless told
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder)
        check_no_secret(Path(folder))


@pytest.fixture
def origin() -> Iterator[Origin]:
    """The origin that behaves, with fresh counters."""
    with Origin() as server:
        yield server


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """The Hub that hf:// URLs ask, with nothing in it."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


@pytest.fixture
def misbehaving() -> Iterator[Callable[..., Misbehaving]]:
    """Starts a server of handlers at each call; two servers are two origins."""
    with ExitStack() as servers:
        yield lambda **options: servers.enter_context(Misbehaving(**options))


@pytest.fixture(params=["fetch", "afetch"])
def fetch(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """`nanocache.fetch`, then `nanocache.afetch` in a loop of its own: one test body for both."""
    import nanocache

    if request.param == "fetch":
        return nanocache.fetch
    return lambda *args, **options: asyncio.run(nanocache.afetch(*args, **options))


@dataclass(frozen=True)
class Ended:
    """How a process of `spawn` ended: exit code (negative: the signal), stdout and stderr without outer blanks."""

    code: int
    out: str
    err: str


class Processes:
    """Processes that run one snippet, started at the same moment."""

    def __init__(self, folder: Path, code: str, setup: str, variables: dict[str, Any]):
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] | list[Forked] = []
        given = "".join(f"{name} = {value!r}\n" for name, value in variables.items())
        (folder / "code.py").write_text(code)
        (folder / "setup.py").write_text(setup + "\n" + given)

    def begin(self, n: int, env: dict[str, str], nursery: Nursery | None) -> None:
        """Forked in the nursery, or as fresh interpreters."""
        if nursery is not None and nursery.fits(env):
            self.processes = nursery.fork(self.folder, n, env)
        else:
            self.processes = [self._popen(index, env) for index in range(n)]

    def _popen(self, index: int, env: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"out{index}").open("wb") as out, (self.folder / f"err{index}").open("wb") as err:
            command = [sys.executable, "-W", "error", "-c", FRESH, str(self.folder), str(index)]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env)

    def start(self, timeout: float = 60) -> None:
        """Let them go once each has imported what it needs."""
        deadline = time.monotonic() + timeout
        for index, process in enumerate(self.processes):
            while not (self.folder / f"ready{index}").exists():
                assert process.poll() is None, self._ended(index)
                assert time.monotonic() < deadline, f"process {index} was not ready within {timeout} s"
                time.sleep(0.005)
        (self.folder / "start").touch()

    def finish(self, timeout: float = 60) -> list[Ended]:
        """Wait for all, `timeout` seconds at most, and tell how each ended."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.wait(max(0.01, deadline - time.monotonic()))
        return [self._ended(index) for index in range(len(self.processes))]

    def outputs(self, timeout: float = 60) -> list[str]:
        """What each printed; a process that failed fails the test with its stderr."""
        ended = self.finish(timeout)
        for one in ended:
            assert one.code == 0, one.err
        return [one.out for one in ended]

    def _ended(self, index: int) -> Ended:
        out, err = ((self.folder / f"{name}{index}").read_text().strip() for name in ("out", "err"))
        return Ended(self.processes[index].poll() or 0, out, err)

    def reap(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


FRESH = f"import pathlib, sys\nfolder, INDEX = pathlib.Path(sys.argv[1]), int(sys.argv[2])\n{RUNNER}"


@pytest.fixture(scope="session")
def _nursery() -> Iterator[Nursery]:
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN)}
    with Nursery.open(env | {"PYTHONPATH": str(ROOT)}) as nursery:
        yield nursery


@pytest.fixture
def spawn(tmp_path: Path, _nursery: Nursery) -> Iterator[Callable[..., Processes]]:
    """`spawn(code, n, **variables)` runs a snippet in n real processes at the same moment.

    The snippet knows INDEX, `variables` (anything whose repr is its value) and what `setup` (default: import
    nanocache) made; its prints are its result: `spawn("print(nanocache.fetch(url))", 8, url=url).outputs()`. With
    `start=False` they wait for `.start()`. With `fresh=True` each has an interpreter that has imported nothing; else
    they are forked from one that knows httpx (`tests/forked.py`). Whatever happens, none outlives the test.
    """
    groups: list[Processes] = []

    def start_processes(
        code: str,
        n: int = 1,
        *,
        setup: str = "import nanocache",
        env: dict[str, str] | None = None,
        start: bool = True,
        fresh: bool = False,
        **variables: Any,
    ) -> Processes:
        folder = tmp_path / f"spawn{len(groups)}"
        folder.mkdir()
        groups.append(Processes(folder, code, setup, variables))
        groups[-1].begin(n, os.environ | (env or {}), None if fresh else _nursery)
        if start:
            groups[-1].start()
        return groups[-1]

    try:
        yield start_processes
    finally:
        for group in groups:
            group.reap()


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[list[str]]:
    """One folder, mounted several times so that each mount remembers for half a minute what was absent."""
    if os.geteuid() or not shutil.which("bindfs") or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and bindfs")
    (source := tmp_path / "source").mkdir()
    places = [tmp_path / f"node{n}" for n in range(3)]
    timeouts = "attr_timeout=30,entry_timeout=30,negative_timeout=30"
    try:
        for place in places:
            place.mkdir()
            command = ["bindfs", "--multithreaded", "--enable-lock-forwarding", "-o", timeouts, source, place]
            if subprocess.run(command, capture_output=True).returncode:
                pytest.skip("FUSE can't be mounted here")
        yield [str(place) for place in places]
    finally:
        for place in places:
            subprocess.run(["fusermount", "-uz", place], capture_output=True)
