"""SIGKILL at random moments of a download, a hook and an unpacking, half of them around the publish step.

After each: nothing wrong is visible, the next call is right and goes on from the bytes that were there, and what is
left behind is bounded and goes with the next sweep. The killed run into the same base directory again and again.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.archives.unpack import Unpack
from tests.conftest import Processes
from tests.faults import in_memory
from tests.faults.calls import Call, Calls
from tests.faults.checks import SOAK, check_visible, orphans, rounds, sweep_all
from tests.servers.origin import MIB, Origin, content, digest

base = in_memory.base

SIZE = 2 * MIB
BODY, SHA256 = content(SIZE, "kills"), digest(SIZE, "kills")
MEMBERS = {f"{name}.bin": content(50_000, name) for name in ("a", "b/c", "b/d", "e")}
NEAR = 15  # calls before and after the publication that are near it


def archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        for name, data in MEMBERS.items():
            (info := tarfile.TarInfo(name)).size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def slow_copy(src: Path, dst: Path) -> None:
    """In ten steps, of a hundredth of a second each."""
    data = src.read_bytes()
    with dst.open("wb") as file:
        for start in range(0, len(data), step := len(data) // 10 + 1):
            file.write(data[start : start + step][::-1])
            file.flush()
            time.sleep(0.01)


slow_copy.key = "slow-copy"  # type: ignore[attr-defined]
SETUP = """
import nanocache
from nanocache.http import exchange as http
import nanocache.download.download
from nanocache.archives.unpack import Unpack
from tests.faults.calls import Calls, die
from tests.faults.test_kills import slow_copy
import httpcore, httpx
"""


def slow_copied() -> bytes:
    step = len(BODY) // 10 + 1
    return b"".join(BODY[start : start + step][::-1] for start in range(0, len(BODY), step))


@dataclass
class Victim:
    """`call` is evaluated in the process that is killed, and then here; `seconds` is about how long it takes."""

    call: str
    right: Callable[[Any], bool]
    seconds: float
    resumes: bool = False


def slowly(origin: Origin) -> str:
    return origin.add("/w.bin", BODY, rate=SIZE / 0.5)


@pytest.fixture
def victims(origin: Origin) -> dict[str, Victim]:
    whole = slowly(origin)
    fast, packed = origin.add("/f.bin", BODY), origin.add("/p.tgz", archive())

    def same(body: bytes) -> Callable[[Any], bool]:
        return lambda path: Path(path).read_bytes() == body

    def unpacked(path: Path) -> bool:
        return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()} == MEMBERS

    return {
        "download": Victim(f"nanocache.fetch({whole!r}, sha256={SHA256!r})", same(BODY), 0.7, True),
        "download without a digest": Victim(f"nanocache.fetch({whole!r})", same(BODY), 0.7, True),
        "hook": Victim(f"nanocache.fetch({fast!r}, postprocess=slow_copy)", same(slow_copied()), 0.3),
        "unpacking": Victim(f"nanocache.fetch({packed!r}, postprocess=Unpack())", unpacked, 0.1),
        "the seed's call": Victim(f"nanocache.download_file_with_lock({fast!r}, 'data/w.bin')", same(BODY), 0.05),
    }


NAMES = ("download", "download without a digest", "hook", "unpacking", "the seed's call")


def run(victim: Victim) -> Any:
    return eval(victim.call, {"nanocache": nanocache, "Unpack": Unpack, "slow_copy": slow_copy})


def clear(base: Path) -> None:
    """Everything that was published is gone, and what kills left is not."""
    for name in ("blobs-v1/sha256", "refs-v1", "products-v1", "data"):
        shutil.rmtree(base / name, ignore_errors=True)


def count(victim: Victim, base: Path) -> tuple[int, int]:
    """How many file calls an undisturbed run makes, and which of them publishes last."""
    published = [0]

    def before(call: Call) -> None:
        if call.name == "rename" and not {"trash-v1", "partials-v1"} & set(call.paths[-1].split("/")):
            published.append(call.number)

    with Calls(base, before=before) as calls:
        assert victim.right(run(victim))
    clear(base)
    return len(calls.seen), published[-1]


def killed(process: Processes, victim: Victim, at: int | None, chance: random.Random) -> bool:
    """Let it run, and kill it: at a call, by its own hand, or at a moment."""
    process.start()
    if at is None:
        time.sleep(chance.uniform(0, victim.seconds))
        process.processes[0].kill()
    (ended,) = process.finish()
    assert ended.code in (0, -signal.SIGKILL), ended.err
    return ended.code != 0


def there(base: Path) -> int:
    """Bytes that a killed download has left and recorded, from the first on."""
    most = 0
    for path in (base / "partials-v1").glob("*/*/state.json"):
        data = path.with_name("data")
        if not data.exists() or data.stat().st_nlink > 1:  # it was published in the call that was killed
            continue
        done = json.loads(path.read_bytes())["state"]["done"]
        most = max(most, done[0][1] if done and done[0][0] == 0 else 0)
    return most


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("name", NAMES)
def test_after_a_kill_nothing_is_wrong_and_the_next_call_is_right(
    name: str, victims: dict[str, Victim], base: Path, origin: Origin, spawn: Callable[..., Processes]
) -> None:
    victim, chance = victims[name], random.Random(f"{name} {SOAK and time.time_ns()}")
    total, published = count(victim, base)
    kills = resumed = turn = 0
    while kills < (wanted := rounds(6, 200)) or resumed < victim.resumes:  # some are over before their moment comes
        turn += 1
        assert turn < 5 * wanted
        at = chance.randint(max(1, published - NEAR), min(total, published + NEAR)) if turn % 2 else None
        code = f"with Calls({str(base)!r}, before=die(at={at or 1 << 60})): {victim.call}"
        slowly(origin)
        kills += killed(spawn(code, setup=SETUP, start=False), victim, at, chance)
        origin.add("/w.bin", BODY)  # nobody kills the next call: it need not last
        check_visible(base, foreign="data")
        before, wrote = there(base), origin.gets()
        assert victim.right(run(victim)), f"after a kill at call {at} of {total}"
        if victim.resumes and before and origin.gets() > wrote:
            first = origin.requests(method="GET")[wrote]
            assert first.range is not None, "it began again, with bytes there"
            assert int(first.range.removeprefix("bytes=").split("-")[0]) > 0
            resumed += 1
        check_visible(base, foreign="data")
        assert len(orphans(base)) <= kills
        clear(base)
    assert resumed or not victim.resumes
    sweep_all(base)
    assert not orphans(base)
    assert victim.right(run(victim))


def test_who_waits_takes_over_from_a_killed_publisher_at_every_call_of_the_publication(
    victims: dict[str, Victim], base: Path, spawn: Callable[..., Processes]
) -> None:
    """One publisher is killed, three others wait for it: none of them fails, whatever the moment."""
    victim = victims["unpacking"]
    total, published = count(victim, base)
    for at in range(published - NEAR, min(total, published + NEAR), rounds(10, 1)):
        code = f"""
before = die(at={at}) if INDEX == 0 else None
with Calls({str(base)!r}, before=before):
    print(sorted(path.stat().st_size for path in {victim.call}.rglob("*") if path.is_file()))
"""
        ended = spawn(code, 4, setup=SETUP).finish()
        assert [one.code for one in ended[1:]] == [0, 0, 0], ended
        assert {one.out for one in ended[1:]} == {str([50_000] * 4)}
        check_visible(base)
        clear(base)
