"""Where does the CPU of a small artifact go, and how many file calls does it make?

    python benchmarks/small.py [--repeat 5] [--dir PATH]

500 pinned artifacts of 1 KiB by one thread, from an nginx (without one, a server in Python) in a process of its own.
The interpreter's stack is looked at once for each millisecond of CPU. A look counts for the innermost room on the stack
that the table names, so what the standard library does counts for its caller. Wall time is shown, and means little on a
busy machine. File calls are those below the base directory; a path named is a question to the server of a shared disk.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script, it finds its own folder only

import nanocache
from tests.faults.calls import Call, Calls
from tests.servers.nginx import Nginx
from tests.servers.origin import OriginProcess, content, digest

COUNT, SIZE = 500, 1024
LOOK = 0.001  # seconds of CPU between two looks

# A part of a file's path -> what its time is spent on. The first that fits a frame; "" and no fit are the caller's.
ROOMS = {
    "nanocache/disk/durable.py": "fsync of the file and its folders",
    "nanocache/disk/hashing.py": "download: attempts, ledger, hash",
    "nanocache/disk/": "",
    "nanocache/http/socket.py": "socket calls",
    "/httpcore/": "httpcore and h11",
    "/h11/": "httpcore and h11",
    "nanocache/http/": "http: headers, redirects, kept connections",
    "nanocache/store/layout.py": "making and checking folders",
    "nanocache/store/refs.py": "the ref",
    "nanocache/engine/remembered.py": "the ref",
    "nanocache/coordination/flights.py": "single flight",
    "nanocache/coordination/": "lock and holder's record",
    "nanocache/store/": "partial, publishing, hits",
    "nanocache/sources/": "download: attempts, ledger, hash",
    "nanocache/download/": "download: attempts, ledger, hash",
    "nanocache/artifact/": "the call: URL, digest, settings",
    "nanocache/config.py": "the call: URL, digest, settings",
    **dict.fromkeys(("nanocache/cache.py", "nanocache/asked.py"), "the call: URL, digest, settings"),
    "nanocache/": "the steps themselves",
}


class Looks:
    """What the main thread was at, each time it had used `LOOK` seconds of CPU."""

    def __init__(self) -> None:
        self.rooms: Counter[str] = Counter()

    def __enter__(self) -> Looks:
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, LOOK, LOOK)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, _: int, frame: FrameType | None) -> None:
        while frame is not None:
            file = frame.f_code.co_filename
            if room := next((room for part, room in ROOMS.items() if part in file), ""):
                self.rooms[room] += 1
                return
            frame = frame.f_back


@contextlib.contextmanager
def served(folder: Path) -> Iterator[list[tuple[str, str]]]:
    """(URL, digest) of each artifact, and of one more."""
    digests = [digest(SIZE, n) for n in range(COUNT + 1)]
    if shutil.which("nginx") is None:
        with OriginProcess() as origin:
            yield [(origin.url(f"/bytes/{SIZE}/{n}/f.bin"), sha256) for n, sha256 in enumerate(digests)]
        return
    with Nginx(folder) as nginx:
        yield [(nginx.add(f"{n}.bin", content(SIZE, n)), sha256) for n, sha256 in enumerate(digests)]


def fetch(artifact: tuple[str, str], base: Path) -> None:
    nanocache.fetch(artifact[0], sha256=artifact[1], base_dir=base, progress=False)


def file_calls(artifact: tuple[str, str], base: Path) -> list[Call]:
    seen: list[Call] = []
    with Calls(base, before=seen.append):
        fetch(artifact, base)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds, each in a cache of its own")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="disk to work on")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="small-", dir=options.dir))
    looks = Looks()
    try:
        with served(folder / "server") as artifacts:
            fetch(artifacts[-1], folder / "0")  # imports
            used, began = time.process_time(), time.monotonic()
            with looks:
                for n in range(options.repeat):
                    for artifact in artifacts[:COUNT]:
                        fetch(artifact, folder / str(n))
            each = (time.process_time() - used) / (options.repeat * COUNT)
            wall = (time.monotonic() - began) / (options.repeat * COUNT)
            calls = file_calls(artifacts[-1], folder / "1")
    finally:
        shutil.rmtree(folder)
    print(f"{each * 1e3:.2f} ms of CPU and {wall * 1e3:.2f} ms in all for each artifact")
    total = looks.rooms.total()
    for room, count in looks.rooms.most_common():
        print(f"{count / total * each * 1e6:7.0f} us {count / total:5.0%}   {room}")
    print(f"{len(calls)} file calls, {sum(bool(call.paths) for call in calls)} of them by a path:")
    print("  " + ", ".join(f"{count} {name}" for name, count in Counter(call.name for call in calls).most_common()))


if __name__ == "__main__":
    main()
