"""Unpack and Decompress: what is safe comes out whole, what is not is refused by name, and nothing else is touched."""

from __future__ import annotations

import bz2
import enum
import errno
import gzip
import io
import itertools
import os
import pickle
import re
import resource
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanocache import Decompress, Unpack, UnsafeArchive
from nanocache.archives import decoders, names, unpack
from nanocache.archives.refusal import Allowance, ArchiveRefused
from nanocache.archives.tree import ExtractedTree
from tests.archives import samples
from tests.archives.samples import (
    GZ,
    HARMLESS,
    OUTSIDE,
    PACK,
    REFUSED,
    TAR,
    TREE,
    ZIP,
    Entry,
    folder,
    member,
    tar,
    zipped,
)

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # thousands of small trees are slow on a disk that syncs

Tree = dict[str, bytes | None]


def tree(root: Path) -> Tree:
    """What is under `root`: files with their bytes, folders with a slash at the end."""
    found: Tree = {}
    for path, folders, files in os.walk(root):
        for name in folders:
            found[str(Path(path, name).relative_to(root)) + "/"] = None
        for name in files:
            file = Path(path, name)
            assert stat.S_ISREG(file.lstat().st_mode), file
            found[str(file.relative_to(root))] = file.read_bytes()
    return found


class Room:
    """A place with things of others in it, which must stay as they are, and a private folder to unpack in."""

    def __init__(self, root: Path) -> None:
        self.root, self.private, self.dst = root, root / "cwd" / "private", root / "cwd" / "private" / "product"
        self.private.mkdir(parents=True)
        for name in ("secret", "evil", "cwd/evil", "cwd/private/evil"):
            (root / name).write_bytes(b"of others")

    def state(self) -> dict[str, Any]:
        seen = {}
        for path, folders, files in os.walk(self.root):
            if Path(path) == self.private:
                for names in (folders, files):
                    names[:] = [name for name in names if name != self.dst.name]
            for name in folders + files:
                st = os.lstat(os.path.join(path, name))
                content = () if stat.S_ISDIR(st.st_mode) else (st.st_nlink, st.st_size, st.st_mtime_ns)
                seen[os.path.join(path, name)] = (st.st_ino, st.st_mode, *content)
        return seen

    def run(self, hook: Unpack | Decompress, data: bytes, name: str = "blob.bin") -> Path:
        """The product of `data`; whatever happens, nothing outside it moved and nothing was left open."""
        (self.root / name).write_bytes(data)
        if self.dst.exists():
            shutil.rmtree(self.dst) if self.dst.is_dir() else self.dst.unlink()
        before, opened = self.state(), sorted(os.listdir("/dev/fd"))
        try:
            hook(self.root / name, self.dst)
        finally:
            assert self.state() == before
            assert sorted(os.listdir("/dev/fd")) == opened
            assert not os.path.lexists(OUTSIDE)
            if self.dst.is_dir():
                tree(self.dst)
        return self.dst


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        room = Room(Path(path))
        monkeypatch.chdir(room.root / "cwd")
        yield room


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ratio counts from 64 KiB on, so that a bomb is cheap to test."""
    monkeypatch.setattr(unpack, "FREE", 1 << 16)


def refused(call: Callable[[], Any]) -> UnsafeArchive:
    with pytest.raises(UnsafeArchive) as caught:
        call()
    error = caught.value
    assert str(error).isprintable()
    assert len(str(error)) < 1000
    again = pickle.loads(pickle.dumps(error))
    assert (again.archive, again.reason, again.member) == (error.archive, error.reason, error.member)
    return error


# --- hostile archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", REFUSED)
def test_hostile_archive_is_refused_with_its_reason_and_touches_nothing_outside(room: Room, shape: str) -> None:
    data, reason = REFUSED[shape]
    error = refused(lambda: room.run(Unpack(), data, name="data.tar.gz"))
    assert re.search(reason if "|" in reason else re.escape(reason), error.reason), error.reason
    assert error.archive == "data.tar.gz"


@pytest.mark.parametrize("shape", HARMLESS)
def test_unusual_archive_that_is_harmless_comes_out_whole(room: Room, shape: str) -> None:
    data, expected = HARMLESS[shape]
    assert tree(room.run(Unpack(), data)) == expected


def test_error_names_the_member_and_bounds_its_name(room: Room) -> None:
    assert refused(lambda: room.run(Unpack(), tar(member("../evil", b"x")))).member == "../evil"
    assert refused(lambda: room.run(Unpack(), zipped(Entry("../evil", b"x")))).member == "../evil"
    long = refused(lambda: room.run(Unpack(), tar(samples.gnu_long("n" * 100_000), member("x"))))
    assert long.member == "n" * 200 + "..."
    assert str(refused(lambda: room.run(Unpack(), tar(samples.symlink("a", "b")), name="a.tar"))) == (
        "refused to unpack a.tar, member 'a': it is a symbolic link, and only files and folders are unpacked; "
        "choose others with members=; nothing was published"
    )


def test_link_that_stands_where_the_product_goes_is_not_followed(room: Room) -> None:
    (room.root / "elsewhere").mkdir()
    for hook, data in ((Unpack(), TAR), (Decompress(), GZ)):
        room.dst.unlink(missing_ok=True)
        room.dst.symlink_to(room.root / "elsewhere")
        (room.root / "blob").write_bytes(data)
        with pytest.raises(FileExistsError):
            hook(room.root / "blob", room.dst)
    assert list((room.root / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a/b"])
def test_names_that_only_the_file_system_holds_to_be_one_are_refused(room: Room, name: str) -> None:
    plenty = Allowance(100, "")
    with ExtractedTree(room.dst, wanted=None, members=plenty, written=plenty, depth=9) as tree:
        (room.dst / "a").write_bytes(b"what HFS+ makes of another spelling")
        with pytest.raises(ArchiveRefused, match="to this file system"):
            tree.file(names.segments(name), [b"x"])
    assert (room.dst / "a").read_bytes() == b"what HFS+ makes of another spelling"


# --- truncation and damage --------------------------------------------------------------------------------------------


def test_tar_cut_anywhere_before_its_end_is_refused(room: Room) -> None:
    whole = tar(folder("d"), samples.pax(("path", "long")), member("x", b"y" * 600), member("d/z"))
    cuts = {cut + near for cut in range(0, len(whole), 256) for near in (-1, 0, 1)} & set(range(len(whole)))
    for cut in sorted(cuts):
        refused(lambda cut=cut: room.run(Unpack(), whole[:cut]))
    assert set(tree(room.run(Unpack(), whole + bytes(100)))) == {"d/", "long", "d/z"}


@pytest.mark.parametrize("name", PACK)
def test_compressed_stream_cut_at_any_byte_is_refused(room: Room, name: str) -> None:
    packed = PACK[name](TAR)
    for cut in range(len(packed)):
        refused(lambda cut=cut: room.run(Unpack(), packed[:cut]))
        refused(lambda cut=cut: room.run(Decompress(), packed[:cut]))


def test_zip_cut_at_any_byte_is_refused(room: Room) -> None:
    for cut in range(len(ZIP)):
        refused(lambda cut=cut: room.run(Unpack(), ZIP[:cut]))


@pytest.mark.parametrize("data", [TAR[:512], ZIP, GZ], ids=["tar", "zip", "gz"])
def test_any_flipped_byte_is_refused_or_harmless(room: Room, data: bytes) -> None:
    end = samples.END if len(data) == 512 else b""
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ 0x81]) + data[at + 1 :] + end
        try:
            room.run(Unpack(), flipped)
        except UnsafeArchive:
            pass


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", PACK)
def test_bomb_is_stopped_at_the_ratio_before_it_fills_the_disk(room: Room, name: str) -> None:
    bomb = PACK[name](tar(member("zeros", bytes(8 << 20))))
    error = refused(lambda: room.run(Unpack(), bomb))
    assert "raise max_ratio" in error.reason
    assert sum(file.stat().st_size for file in room.dst.iterdir()) <= 2 * max(1 << 20, 100 * len(bomb))
    assert tree(room.run(Unpack(max_ratio=1e6), bomb)) == {"zeros": bytes(8 << 20)}
    assert "raise max_ratio" in refused(lambda: room.run(Decompress(), bomb)).reason


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("method", [8, 12, 93, 95])
def test_zip_members_share_one_ratio(room: Room, method: int) -> None:
    pack = {8: samples.deflated, 12: bz2.compress, 93: PACK["zst"], 95: PACK["xz"]}[method]
    zeros = bytes(1 << 18)
    bomb = zipped(*(Entry(f"f{n}", zeros, method=method, packed=pack(zeros)) for n in range(32)))
    assert "raise max_ratio" in refused(lambda: room.run(Unpack(), bomb)).reason
    assert 0 < len(tree(room.dst)) < 32


@pytest.mark.usefixtures("strict")
def test_gz_of_many_members_shares_one_ratio(room: Room) -> None:
    bomb = gzip.compress(bytes(1 << 18)) * 64
    assert "raise max_ratio" in refused(lambda: room.run(Decompress(), bomb)).reason


@pytest.mark.usefixtures("strict")
def test_bomb_of_extended_headers_or_trailing_zeros_is_stopped_too(room: Room) -> None:
    for endless in (samples.pax(("comment", "c" * 900), kind=b"g") * 4000, samples.END * 4000):
        assert "raise max_ratio" in refused(lambda data=endless: room.run(Unpack(), gzip.compress(data))).reason


def test_a_gib_of_zeros_is_within_the_default_limits() -> None:
    allowance = unpack._ratio(unpack.MAX_RATIO, 1 << 20)  # gzip makes about a MiB of it
    allowance.spend(1 << 30)
    with pytest.raises(ArchiveRefused):
        allowance.spend(1)


def test_plain_archives_of_any_size_pass_the_ratio() -> None:
    unpack._ratio(1.0, 150 << 30).spend(150 << 30)


@pytest.mark.parametrize("data", [TAR, ZIP, GZ], ids=["tar", "zip", "tar.gz"])
def test_max_size_counts_the_bytes_written(room: Room, data: bytes) -> None:
    size = sum(len(content or b"") for content in TREE.values())
    assert tree(room.run(Unpack(max_size=size), data)) == TREE
    error = refused(lambda: room.run(Unpack(max_size=size - 1), data))
    assert f"more than {size - 1} bytes" in error.reason


def test_max_size_bounds_a_decompressed_file(room: Room) -> None:
    assert room.run(Decompress(max_size=len(TAR)), GZ).read_bytes() == TAR
    assert "raise max_size" in refused(lambda: room.run(Decompress(max_size=len(TAR) - 1), GZ)).reason


def test_max_members_counts_files_and_folders_also_those_not_listed(room: Room) -> None:
    data = tar(member("a/b/c/d", b"x"), member("e", b"x"))
    assert len(tree(room.run(Unpack(max_members=5), data))) == 5
    assert "more than 4 members" in refused(lambda: room.run(Unpack(max_members=4), data)).reason


def test_max_depth_counts_the_segments_of_a_name(room: Room) -> None:
    data = tar(member("a/b/c", b"x"))
    room.run(Unpack(max_depth=3), data)
    error = refused(lambda: room.run(Unpack(max_depth=2), data))
    assert "raise max_depth" in error.reason
    assert error.member == "a/b/c"


MEASURE = """
import resource, sys
from pathlib import Path
from nanocache import Unpack
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform == "linux" else 1024)
small, large, dst = map(Path, sys.argv[1:])
Unpack()(small, dst / "small")
before = peak()
Unpack()(large, dst / "large")
print(peak() - before)
"""


def _big_file() -> bytes:
    return tar(member("big", os.urandom(1 << 20) * 32))


def _many_files() -> bytes:
    return tar(*(member(f"d/{n}") for n in range(15_000)))


@pytest.mark.parametrize("pack", [None, "gz", "zst"])
@pytest.mark.parametrize("make", [_big_file, _many_files])
def test_memory_is_flat_whatever_the_size(
    tmp_path: Path, room: Room, make: Callable[[], bytes], pack: str | None
) -> None:
    compress = PACK[pack] if pack else bytes
    for name, data in (("small", TAR), ("large", make())):
        (room.root / name).write_bytes(compress(data))
    paths = [str(room.root / name) for name in ("small", "large", "cwd/private")]
    grown = subprocess.run([sys.executable, "-c", MEASURE, *paths], check=True, capture_output=True, text=True).stdout
    assert int(grown) < 16 << 10  # KiB


# --- what comes out ---------------------------------------------------------------------------------------------------

PLAIN: Tree = {
    "d/": None,
    "d/empty/": None,
    "d/text": b"hello\n",
    "d/nothing": b"",
    "d/ünïcödé 名前 🎉": b"names",
    "d/" + "long-" * 40: b"long name",
    "deep/": None,
    **{f"deep/{'x/' * n}": None for n in range(1, 9)},
    f"deep/{'x/' * 8}file": b"deep",
    "block": bytes(512),
    "block+1": b"x" * 513,
    "large": os.urandom(1_500_000),
}


def _tarfile(format_: int, mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format_) as archive:
        for name, data in PLAIN.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type, info.size = (tarfile.REGTYPE, len(data)) if data is not None else (tarfile.DIRTYPE, 0)
            archive.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_tar_of_the_standard_library_comes_out_as_it_went_in(room: Room, format_: int, compression: str) -> None:
    data = _tarfile(format_, f"w:{compression}")
    hook = Unpack(format=f"tar.{compression}" if compression else "tar")  # type: ignore[arg-type]
    assert tree(room.run(hook, data)) == PLAIN
    assert tree(room.run(Unpack(), data)) == PLAIN


def test_tar_zst_comes_out_as_it_went_in(room: Room) -> None:
    data = PACK["zst"](_tarfile(tarfile.PAX_FORMAT, "w:"))
    assert tree(room.run(Unpack(format="tar.zst"), data)) == PLAIN
    assert tree(room.run(Unpack(), data)) == PLAIN


class Pipe(io.RawIOBase):
    """A file that cannot seek, so that the sizes come after the data."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.written += bytes(data)
        return len(data)


@pytest.mark.parametrize("streamed", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zip_of_the_standard_library_comes_out_as_it_went_in(room: Room, method: int, streamed: bool) -> None:
    sink: Any = Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for number, (name, data) in enumerate(PLAIN.items()):
            if data is None:
                archive.mkdir(name) if not streamed else archive.writestr(name, b"")
            else:
                with archive.open(name, "w", force_zip64=bool(number % 2)) as file:
                    file.write(data)
    data = sink.written if streamed else sink.getvalue()
    assert tree(room.run(Unpack(format="zip"), data)) == PLAIN
    assert tree(room.run(Unpack(), data)) == PLAIN


COMMANDS = {
    "tar": ["tar", "cf", "-", "-C", "{src}", "."],
    "tar pax": ["tar", "cf", "-", "--format=pax", "-C", "{src}", "."],
    "tar gz": ["tar", "czf", "-", "-C", "{src}", "."],
    "tar xz": ["tar", "cJf", "-", "-C", "{src}", "."],
    "zip": ["sh", "-c", "cd {src} && zip -qr - ."],
    "zip of a file": ["sh", "-c", "cd {src} && zip -qr ../made.zip . && cat ../made.zip"],
}


@pytest.mark.parametrize("which", COMMANDS)
def test_archive_of_the_system_tools_comes_out_as_it_went_in(room: Room, which: str) -> None:
    for tool in {"tar", "zip", "xz"} & set(which.split()):
        if not shutil.which(tool):
            pytest.skip(f"no {tool}")
    source = room.root / "source"
    for name, data in PLAIN.items():
        if data is None:
            (source / name).mkdir(parents=True, exist_ok=True)
        else:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
    command = [word.replace("{src}", str(source)) for word in COMMANDS[which]]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    assert tree(room.run(Unpack(), packed)) == PLAIN


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize(
    "data", [b"", b"hello\n", os.urandom(1_500_000), bytes(3 << 20)], ids=["0", "6", "1.5M", "zeros"]
)
def test_decompress_gives_the_bytes(room: Room, name: str, data: bytes) -> None:
    packed = PACK[name](data)
    assert room.run(Decompress(), packed).read_bytes() == data
    assert room.run(Decompress(format=name), packed).read_bytes() == data  # type: ignore[arg-type]
    assert room.run(Decompress(), packed + PACK[name](b"more")).read_bytes() == data + b"more"
    assert stat.S_IMODE(room.dst.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not gz, bz2, xz or zst"),
        (b"text", "not gz, bz2, xz or zst"),
        (TAR, "not gz, bz2, xz or zst"),
        (ZIP, "it is a zip: use Unpack"),
        (samples.xz_with_dictionary(40), "emory"),
        (samples.zst_with_window(31), "memory"),
        (GZ + b"garbage", "bytes that are no gz data follow the end of its gz data"),
        (GZ + PACK["zst"](b"x"), "bytes that are no gz data follow the end of its gz data"),
    ],
)
def test_decompress_refuses_what_it_cannot_tell(room: Room, data: bytes, reason: str) -> None:
    assert reason in refused(lambda: room.run(Decompress(), data)).reason


@pytest.mark.parametrize("name", PACK)
def test_bytes_behind_the_end_are_called_that_and_what_to_do_is_said(room: Room, name: str) -> None:
    packed = PACK[name](TAR)
    for hook in (Unpack(), Decompress()):
        for tail in (b"garbage after the end", b"\0\0garbage", b"-----BEGIN PGP SIGNATURE-----"):
            reason = refused(lambda hook=hook, tail=tail: room.run(hook, packed + tail)).reason
            assert f"bytes that are no {name} data follow the end of its {name} data" in reason
            assert "cut them off" in reason
    damaged = packed + packed[: len(packed) // 2] + bytes(40) + packed[len(packed) // 2 + 40 :]
    assert "follow the end" not in refused(lambda: room.run(Decompress(), damaged)).reason


@pytest.mark.parametrize("name", PACK)
def test_streams_may_end_where_a_read_ends(name: str) -> None:
    hello, world = PACK[name](b"hello "), PACK[name](b"world")
    for packed in ([hello, world], [hello, b"\0\0", bytes(2), world], [bytes([byte]) for byte in hello + world]):
        found = b"".join(decoders.decoded(name, iter(packed), Allowance(100, "")))
        assert found == b"hello world"


def test_largest_windows_that_the_tools_make_by_themselves_are_decoded(room: Room) -> None:
    assert room.run(Decompress(), samples.zst_with_window(27)).read_bytes() == b"abc"
    assert room.run(Decompress(), samples.xz_with_dictionary(30)).read_bytes() == b"x" * 100


def test_format_is_told_by_content_whatever_the_name(room: Room) -> None:
    assert tree(room.run(Unpack(), GZ, name="data.zip")) == TREE
    assert tree(room.run(Unpack(), ZIP, name="data.tar.gz")) == TREE
    assert tree(room.run(Unpack(), TAR, name="data")) == TREE


@pytest.mark.parametrize(("data", "found"), [(TAR, "tar"), (GZ, "tar.gz"), (ZIP, "zip")], ids=["tar", "gz", "zip"])
def test_another_format_than_the_one_asked_for_is_refused(room: Room, data: bytes, found: str) -> None:
    error = refused(lambda: room.run(Unpack(format="tar.xz"), data))
    assert error.reason == f"expected tar.xz, got {found}"
    assert not room.dst.exists()


def test_modes_are_0644_0755_and_nothing_of_the_archive_or_the_umask(room: Room) -> None:
    modes = {"plain": 0o666, "secret": 0o600, "none": 0o000, "run": 0o777, "owner": 0o700, "setuid": 0o6755}
    before = os.umask(0o077)
    try:
        for data in (
            tar(*(member(name, b"x", mode=b"%07o\0" % mode) for name, mode in modes.items()), member("d/f", b"x")),
            zipped(*(Entry(name, b"x", mode=0o100000 | mode) for name, mode in modes.items()), Entry("d/f", b"x")),
        ):
            product = room.run(Unpack(), data)
            found = {name: stat.S_IMODE((product / name).stat().st_mode) for name in [*modes, "d", "."]}
            assert found == dict.fromkeys(modes, 0o644) | dict.fromkeys(["run", "owner", "setuid", "d", "."], 0o755)
    finally:
        os.umask(before)


def test_set_group_id_of_a_shared_cache_reaches_the_folders_and_no_file(room: Room) -> None:
    room.private.chmod(0o2775)
    product = room.run(Unpack(), tar(member("d/e/f", b"x", mode=b"0002755\0")))
    assert all((product / name).stat().st_mode & stat.S_ISGID for name in ("", "d", "d/e"))
    assert not (product / "d/e/f").stat().st_mode & (stat.S_ISUID | stat.S_ISGID)


def test_interleaved_folders_come_out_right(room: Room) -> None:
    names = [f"{n % 7}/{n % 5}/{n}" for n in range(700)]
    expected = {name: name.encode() for name in names}
    for data in (
        tar(*(member(name, name) for name in names)),
        zipped(*(Entry(name, name.encode()) for name in names)),
    ):
        found = tree(room.run(Unpack(), data))
        assert {name: content for name, content in found.items() if content is not None} == expected


# --- members ----------------------------------------------------------------------------------------------------------

MIXED = tar(
    *(folder("d"), member("d/a", b"1"), member("d/sub/b", b"2"), member("dd", b"3"), member("c", b"4")),
    *(samples.symlink("latest", "d"), samples.hardlink("e", "c"), member("pipe", kind=b"6")),
)
CHOICES: dict[str, tuple[list[str], Tree]] = {
    "a file": (["c"], {"c": b"4"}),
    "a file in a folder": (["d/a"], {"d/": None, "d/a": b"1"}),
    "a folder and all that is in it": (["d"], {"d/": None, "d/a": b"1", "d/sub/": None, "d/sub/b": b"2"}),
    "spelled with dots and slashes": (["./d//sub/"], {"d/": None, "d/sub/": None, "d/sub/b": b"2"}),
    "two": (["c", "dd"], {"c": b"4", "dd": b"3"}),
}


@pytest.mark.parametrize("which", CHOICES)
def test_members_chooses_and_may_leave_links_out(room: Room, which: str) -> None:
    members, expected = CHOICES[which]
    for data in (MIXED, gzip.compress(MIXED)):
        assert tree(room.run(Unpack(members=members), data)) == expected


def test_members_chooses_in_a_zip_and_reads_past_the_others(room: Room) -> None:
    data = zipped(*(Entry(name, name.encode() * 9) for name in ("a/b", "c", "a/d", "e")))
    assert tree(room.run(Unpack(members=["a"]), data)) == {"a/": None, "a/b": b"a/b" * 9, "a/d": b"a/d" * 9}


def test_members_of_a_zip_leave_out_what_is_not_supported(room: Room) -> None:
    data = zipped(
        Entry("link", b"a", mode=0o120777), Entry("old", b"x", method=6), Entry("key", b"x", flags=1), Entry("a", b"1")
    )
    assert tree(room.run(Unpack(members=["a"]), data)) == {"a": b"1"}
    assert "symbolic" in refused(lambda: room.run(Unpack(members=["a", "link"]), data)).reason


def test_member_that_is_not_there_is_refused(room: Room) -> None:
    for data in (MIXED, ZIP):
        error = refused(lambda data=data: room.run(Unpack(members=["d", "gone"]), data))
        assert (error.member, error.reason) == ("gone", "members= asks for it, and the archive does not hold it")


def test_hostile_names_and_truncation_are_refused_among_members_not_chosen_too(room: Room) -> None:
    for data in (tar(member("a"), member("../evil", b"x")), tar(member("a"), end=b""), zipped(Entry("a"), Entry("/b"))):
        refused(lambda data=data: room.run(Unpack(members=["a"]), data))


def test_root_in_many_spellings_is_the_root(room: Room) -> None:
    for name in ("./" * 40, "./" * 300, "./" * 500, "/".join("." * 200) + "/"):
        data = tar(samples.pax(("path", name)), member("x", kind=b"5"), member("a", b"x"))
        assert tree(room.run(Unpack(), data)) == {"a": b"x"}
        assert "without a name" in refused(lambda name=name: room.run(Unpack(), zipped(Entry(name[:-1], b"")))).reason
    refused(lambda: room.run(Unpack(), tar(samples.pax(("path", "./" * 600)), member("x", kind=b"5"))))


@pytest.mark.parametrize("size", [(1 << 63) - 1, 1 << 63, 1 << 64, 10**18, (1 << 88) - 1])
def test_sizes_beyond_every_integer_are_refused(room: Room, size: int) -> None:
    field = b"\x80" + size.to_bytes(11, "big")
    head = bytearray(member("x"))
    head[124:136] = field
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    for hook in (Unpack(), Unpack(members=["y"])):
        assert "truncated" in refused(lambda hook=hook: room.run(hook, bytes(head) + samples.END)).reason


# --- errors of the system ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hook", "data"), [(Unpack(), tar(member("a", b"x" * 99_999))), (Decompress(), GZ)])
def test_full_disk_is_the_oserror_that_it_is(room: Room, hook: Unpack | Decompress, data: bytes) -> None:
    (room.root / "blob").write_bytes(data)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    opened = sorted(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError) as caught:
            hook(room.root / "blob", room.dst)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert not isinstance(caught.value, UnsafeArchive)
    assert sorted(os.listdir("/dev/fd")) == opened


@pytest.mark.parametrize("data", [tar(member("d/ü", b"x")), tar(member("ü/d", b"x"))], ids=["file", "folder"])
def test_name_that_the_process_cannot_encode_is_an_oserror_that_says_what_to_set(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    code = """
import os
from pathlib import Path
from nanocache import Unpack
try:
    Unpack()(Path("a.tar"), Path("product"))
except OSError as e:
    print(ascii(str(e)))
"""
    environ = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, env=environ)
    assert "PYTHONUTF8=1" in done.stdout


def test_paths_may_be_str(room: Room) -> None:
    (room.root / "tar").write_bytes(TAR)
    (room.root / "gz").write_bytes(GZ)
    Unpack()(str(room.root / "tar"), str(room.dst))  # type: ignore[arg-type]
    assert tree(room.dst) == TREE
    Decompress()(str(room.root / "gz"), str(room.private / "file"))  # type: ignore[arg-type]
    assert (room.private / "file").read_bytes() == TAR


def test_missing_archive_is_file_not_found(room: Room) -> None:
    for hook in (Unpack(), Decompress()):
        with pytest.raises(FileNotFoundError):
            hook(room.root / "gone", room.dst)


def test_zst_without_a_decoder_says_what_to_install(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, samples.zstd.__name__, None)
    for hook in (Unpack(), Decompress()):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'nanocache\[zstd\]'"):
            room.run(hook, PACK["zst"](TAR))
    assert tree(room.run(Unpack(), GZ)) == TREE


# --- hooks are values -------------------------------------------------------------------------------------------------

HOOKS: list[Unpack | Decompress] = [
    Unpack(),
    Unpack(format="zip"),
    Unpack(format="tar"),
    Unpack(members=["a"]),
    Unpack(members=["a", "b"]),
    Unpack(members=["a,b"]),
    Unpack(members=["ä"]),
    Unpack(max_size=1 << 40),
    Unpack(max_ratio=1000),
    Unpack(max_members=10),
    Unpack(max_depth=10),
    Unpack(max_members=10, max_depth=10),
    Decompress(),
    Decompress(format="gz"),
    Decompress(max_size=1 << 40),
    Decompress(max_ratio=1000),
]
SAME: list[tuple[Unpack | Decompress, Unpack | Decompress]] = [
    (Unpack(), Unpack(max_ratio=100, max_depth=64, members=None)),
    (Unpack(max_ratio=1000), Unpack(max_ratio=1000.0)),
    (Unpack(members=["b", "a"]), Unpack(members=("a", "./b/", "a"))),
    (Unpack(members={"a"}), Unpack(members=["a"])),
    (Decompress(), Decompress(max_size=None)),
]


def test_different_options_are_different_hooks() -> None:
    assert len({hook.key for hook in HOOKS}) == len(set(HOOKS)) == len(HOOKS)
    assert len({repr(hook) for hook in HOOKS}) == len(HOOKS)
    assert all(one != other for one, other in itertools.combinations(HOOKS, 2))


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_options_are_one_hook(one: Unpack, other: Unpack) -> None:
    assert one == other
    assert hash(one) == hash(other)
    assert one.key == other.key
    assert repr(one) == repr(other)


@pytest.mark.parametrize("hook", HOOKS, ids=repr)
def test_hook_survives_pickle_and_repr(hook: Unpack | Decompress) -> None:
    for again in (pickle.loads(pickle.dumps(hook)), eval(repr(hook))):
        assert again == hook
        assert again.key == hook.key


def test_keys_are_these_for_ever() -> None:
    """A changed key unpacks every archive in every cache again."""
    assert Unpack().key == "nanocache.Unpack/1 {}"
    assert Decompress(max_size=5).key == 'nanocache.Decompress/1 {"max_size": 5}'
    assert Unpack(members=["ä", "b"], max_ratio=7).key == (
        'nanocache.Unpack/1 {"max_ratio": 7.0, "members": ["b", "\\u00e4"]}'
    )
    assert repr(Unpack(members=["b", "a"], max_size=5)) == "Unpack(members=('a', 'b'), max_size=5)"


def test_numbers_of_subclasses_are_numbers() -> None:
    class Size(enum.IntEnum):
        SMALL = 5

    class Ratio(float):
        pass

    assert Unpack(max_size=Size.SMALL, max_ratio=Ratio(7)).key == Unpack(max_size=5, max_ratio=7).key


def test_key_is_the_same_in_another_process() -> None:
    code = "from nanocache import Unpack; print(Unpack(members={'c', 'b', 'a'}, max_depth=3).key)"
    for seed in ("1", "2"):
        environ = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environ)
        assert done.stdout.strip() == Unpack(members=["a", "b", "c"], max_depth=3).key


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Unpack(format="rar"), "format must be one of zip, tar, tar.gz"),  # type: ignore[arg-type]
        (lambda: Unpack(format="gz"), "format must be one of"),  # type: ignore[arg-type]
        (lambda: Decompress(format="zip"), "format must be one of gz, bz2"),  # type: ignore[arg-type]
        (lambda: Unpack(members="data"), "write \\['data'\\]"),
        (lambda: Unpack(members=[]), "members must name"),
        (lambda: Unpack(members=["."]), "members must name"),
        (lambda: Unpack(members=["../a"]), "may lead out"),
        (lambda: Unpack(members=["/a"]), "absolute"),
        (lambda: Unpack(max_size=0), "max_size must be a whole number above 0, got 0"),
        (lambda: Unpack(max_size=1e9), "max_size must be a whole number"),  # type: ignore[arg-type]
        (lambda: Unpack(max_members=-1), "max_members must be"),
        (lambda: Unpack(max_members=None), "max_members must be"),  # type: ignore[arg-type]
        (lambda: Unpack(max_depth=True), "max_depth must be"),
        (lambda: Unpack(max_ratio=float("nan")), "max_ratio must be a number above 0, got nan"),
        (lambda: Decompress(max_ratio=0), "max_ratio must be"),
        (lambda: Decompress(max_size="1"), "max_size must be"),  # type: ignore[arg-type]
        (lambda: Unpack(max_ratio=10**400), "max_ratio must be"),
        (lambda: Decompress(max_ratio=10**5000), "max_ratio must be"),
        (lambda: Unpack(max_members=1 << 63), "max_members must be below 2\\*\\*63"),
        (lambda: Unpack(max_size=10**5000), "max_size must be"),
        (lambda: Unpack(max_depth="9" * 5000), "max_depth must be"),  # type: ignore[arg-type]
        (lambda: Unpack(members=[b"a"]), "members must be names, each a str, got b'a'"),  # type: ignore[list-item]
        (lambda: Unpack(members=["a", 1]), "members must be names, each a str, got 1"),  # type: ignore[list-item]
        (lambda: Unpack(members=[None]), "members must be names, each a str, got None"),  # type: ignore[list-item]
        (lambda: Unpack(members=b"a"), "members must be a collection of names"),  # type: ignore[arg-type]
        (lambda: Unpack(members=7), "members must be a collection of names, got 7"),  # type: ignore[arg-type]
        (lambda: Unpack(members=["a\udc80"]), "members: its name holds '\\\\udc80'"),
        (lambda: Unpack(members=["./" * 100, "./" * 300]), "members must name"),
        (lambda: Unpack(format=["tar"]), "format must be one of"),  # type: ignore[arg-type]
    ],
)
def test_options_that_make_no_sense_are_a_value_error_at_once(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_no_codec_is_imported_before_it_is_needed() -> None:
    codecs = "{'tarfile', 'zipfile', 'lzma', 'bz2', 'zlib'}"
    code = f"import sys, nanocache.archives.unpack; print(sorted({codecs} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# --- fuzz -------------------------------------------------------------------------------------------------------------

often = settings(deadline=None, max_examples=200)
SEEDS = [TAR, ZIP, GZ, *(pack(TAR) for pack in PACK.values()), MIXED] + [data for data, _ in HARMLESS.values()]


@pytest.fixture(scope="module")
def place() -> Iterator[Room]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        yield Room(Path(path))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good archive with a few edits; in a tar the checksums are often made right again, or little gets past them."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([0, 1, 1, 1, 2, 4, 8, 30, 512]))
        put = draw(st.binary(max_size=8) | st.sampled_from([bytes(data[at : at + 600]), b"\xff" * 4, b"../", b"\0\0"]))
        data[at : at + length] = put
    if draw(st.booleans()):
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                data[at + 148 : at + 156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


@often
@given(
    mutated() | st.binary(max_size=600) | st.builds(bytes.__add__, st.sampled_from([b"PK\3\4", b"BZh9"]), st.binary())
)
def test_any_bytes_end_in_a_product_or_unsafe_archive(place: Room, data: bytes) -> None:
    for hook in (Unpack(max_size=1 << 20, max_members=100), Decompress(max_size=1 << 20)):
        try:
            place.run(hook, data)
        except UnsafeArchive:
            pass


pieces = st.text(st.sampled_from("aA.eé /\\:\0\n~"), max_size=12)


@often
@given(st.lists(st.tuples(pieces, st.booleans()), max_size=6), st.booleans())
def test_any_names_end_in_a_product_or_unsafe_archive(place: Room, names: list[tuple[str, bool]], packed: bool) -> None:
    if packed:
        data = zipped(*(Entry(name + "/" * slash, b"", flags=0x800) for name, slash in names))
    else:
        listed = [samples.pax(("path", name)) + member("x", kind=b"5" if slash else b"0") for name, slash in names]
        data = tar(*listed)
    try:
        product = place.run(Unpack(), data)
    except UnsafeArchive:
        return
    assert all("\\" not in name and ".." not in name.split("/") for name in tree(product))


@often
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20), st.binary())
)
def test_any_files_come_back_from_tar_and_zip(place: Room, files: dict[str, bytes]) -> None:
    files = {names.folded(name): data for name, data in files.items()}  # no twins
    for data in (
        tar(*(samples.pax(("path", name)) + member("x", content) for name, content in files.items())),
        zipped(*(Entry(name, content, flags=0x800) for name, content in files.items())),
    ):
        assert tree(place.run(Unpack(), data)) == files


def test_crafted_pieces_are_what_the_standard_library_reads() -> None:
    """The builders of hostile shapes make good archives when nothing is wrong with them."""
    with tarfile.open(fileobj=io.BytesIO(TAR)) as archive:
        assert archive.getnames() == ["d", "d/hello", "run"]
    with zipfile.ZipFile(io.BytesIO(ZIP)) as zipped_:
        assert zipped_.testzip() is None
        assert zipped_.namelist() == ["d/", "d/hello", "run"]
    with zipfile.ZipFile(io.BytesIO(samples.quoted_overlap(9))) as bomb:
        assert sum(info.file_size for info in bomb.infolist()) > 9 << 20
    assert zlib.crc32(b"") == 0
    assert struct.calcsize("<4s6H3I5H2I") == 46
