"""What a member or a chunk costs does not grow with their number, whatever their names: no archive is a bomb of CPU."""

from __future__ import annotations

import io
import shutil
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import nanocache
from nanocache.archives.unpack import Unpack
from tests.servers import misbehave as m
from tests.servers.misbehave import Misbehaving

FEW, TIMES = 300, 6  # a cost that grows with the square is 36 times as high


def tar(names: Iterable[str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return made.getvalue()


def folders(names: Iterable[str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
    return made.getvalue()


def zipped(names: Iterable[str]) -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"")
    return made.getvalue()


NAMES: dict[str, Callable[[int], str]] = {
    "plain": lambda n: f"d{n % 100}/f{n}",
    "dots between": lambda n: f"./././././d{n % 100}/./f{n}",
    "dots in": lambda n: f"f.{n}.a.b.c.d.e",
    "slashes": lambda n: f"d{'/' * 50}f{n}",
    "one folder": lambda n: f"a/f{n}",
    "deep": lambda n: f"{'/'.join(f'{n:06}')}/f",
    "in each other": lambda n: "a/" * (n % 30 + 1) + f"f{n}",
    "long": lambda n: f"{'x' * 180}{n}",
    "case": lambda n: f"f{n}".swapcase() if n % 2 else f"f{n}",
}


def cost(data: bytes, suffix: str, folder: Path) -> float:
    """Seconds of CPU, in this thread, which does it all."""
    folder.mkdir()
    (folder / f"a{suffix}").write_bytes(data)
    began = time.thread_time()
    Unpack()(folder / f"a{suffix}", folder / "out")
    took = time.thread_time() - began
    shutil.rmtree(folder)
    return took


@pytest.mark.parametrize("pack", [tar, folders, zipped])
@pytest.mark.parametrize("names", NAMES)
def test_a_member_costs_the_same_however_many_there_are(
    names: str, pack: Callable[[Iterable[str]], bytes], memory: Path
) -> None:
    suffix = ".zip" if pack is zipped else ".tar.gz"
    ending = "/" if pack is folders else ""
    few, many = (pack(NAMES[names](n) + ending for n in range(count)) for count in (FEW, FEW * TIMES))

    once = min(cost(few, suffix, memory / "x") for _ in range(3))  # on a busy machine CPU time varies, too
    assert any(cost(many, suffix, memory / "x") < 3 * TIMES * max(once, 0.005) for _ in range(3))


@pytest.mark.alone
def test_a_chunk_costs_the_same_however_many_there_are(base: Path, misbehaving: Callable[..., Misbehaving]) -> None:
    server = misbehaving()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    took = []
    for count in (FEW, 2 * FEW, 2 * FEW * TIMES):  # the first one imports what is needed
        url = server.route(f"/{count}.bin", m.raw(head, b"1\r\nx\r\n" * count, b"0\r\n\r\n"))
        began = time.thread_time()
        assert nanocache.fetch(url).stat().st_size == count
        took.append(time.thread_time() - began)
    assert took[2] < 3 * TIMES * max(took[1], 0.005)
