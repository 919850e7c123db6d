"""Real mounts of many kinds, small, for as long as a block runs. They need root, and the tools of each kind.

    with mounted("xfs", tmp_path) as place: ...

A kind that cannot be had here raises `Unavailable`, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["KINDS", "Unavailable", "mounted"]

MIB = 1 << 20
SBIN = "/usr/sbin:/sbin"


class Unavailable(Exception):
    """This machine cannot mount that."""


def _run(*command: object, env: dict[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    path = f"{os.environ['PATH']}:{SBIN}"
    if os.geteuid():
        raise Unavailable("needs root")
    if not (program := shutil.which(words[0], path=path)):
        raise Unavailable(f"needs {words[0]}")
    ended = subprocess.run([program, *words[1:]], capture_output=True, text=True, env=env)
    if ended.returncode:
        raise Unavailable(f"{' '.join(words)}: {ended.stderr.strip()}")


@contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Path]:
    """A new mount of this kind, in a folder of its own below `folder`. Raises Unavailable."""
    work = folder / kind.replace(" ", "-")
    (place := work / "mounted").mkdir(parents=True)
    with ExitStack() as undo:
        KINDS[kind](work, place, undo)
        undo.callback(_unmount, place)
        yield place


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", place], capture_output=True)


def _image(size: int, *make: str) -> Callable[[Path, Path, ExitStack], None]:
    """A file system in a sparse file."""

    def mount(work: Path, place: Path, undo: ExitStack) -> None:
        (image := work / "image").touch()
        os.truncate(image, size)
        _run(*make, image)
        _run("mount", "-o", "loop", image, place)

    return mount


def _tmpfs(*options: str) -> Callable[[Path, Path, ExitStack], None]:
    def mount(work: Path, place: Path, undo: ExitStack) -> None:
        _run("mount", "-t", "tmpfs", "-o", ",".join(["size=16M", *options]), "tmpfs", place)

    return mount


def _full(work: Path, place: Path, undo: ExitStack) -> None:
    _tmpfs("nr_inodes=32")(work, place, undo)
    try:
        for number in range(64):
            (place / f"file{number}").touch()
    except OSError:
        return


def _read_only(work: Path, place: Path, undo: ExitStack) -> None:
    (source := work / "source").mkdir()
    _run("mount", "--bind", source, place)
    _run("mount", "-o", "remount,bind,ro", place)


def _overlay(work: Path, place: Path, undo: ExitStack) -> None:
    layers = [work / name for name in ("lower", "upper", "work")]
    for layer in layers:
        layer.mkdir(exist_ok=True)
    lower, upper, inner = layers
    _run("mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={inner}", "overlay", place)


def _bindfs(work: Path, place: Path, undo: ExitStack) -> None:
    (source := work / "source").mkdir()
    _run("bindfs", "--multithreaded", source, place)


def _exfat(work: Path, place: Path, undo: ExitStack) -> None:
    """By the kernel where it can, else by FUSE, which takes block devices only."""
    (image := work / "image").touch()
    os.truncate(image, 16 * MIB)
    _run("mkfs.exfat", image)
    try:
        _run("mount", "-t", "exfat", "-o", "loop", image, place)
    except Unavailable:
        if not shutil.which("mount.exfat-fuse", path=SBIN):
            raise
        device = subprocess.check_output(["losetup", "--find", "--show", image], text=True).strip()
        undo.callback(subprocess.run, ["losetup", "--detach", device], capture_output=True)
        _run("mount.exfat-fuse", device, place)


def _rclone(work: Path, place: Path, undo: ExitStack) -> None:
    """A folder behind rclone, as a bucket is mounted."""
    tool = Path(sys.executable).parent / "rclone"
    if os.geteuid() or not tool.exists() or not os.path.exists("/dev/fuse"):
        raise Unavailable("needs root, rclone and FUSE")
    (source := work / "source").mkdir()
    env = os.environ | {"PATH": _with_fusermount3(work / "bin")}
    command = [tool, "mount", "--config", os.devnull, "--vfs-cache-mode", "writes", "--cache-dir", work / "cache"]
    process = subprocess.Popen([*command, source, place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    undo.callback(process.wait)
    undo.callback(process.terminate)
    deadline = time.monotonic() + 20
    while not os.path.ismount(place):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable("rclone could not mount it")
        time.sleep(0.02)


def _with_fusermount3(folder: Path) -> str:
    """A PATH on which rclone finds the program that mounts, which may be that of FUSE 2."""
    path = os.environ["PATH"]
    if not shutil.which("fusermount3") and (older := shutil.which("fusermount")):
        folder.mkdir()
        (folder / "fusermount3").symlink_to(older)
        path = f"{folder}:{path}"
    return path


KINDS: dict[str, Callable[[Path, Path, ExitStack], None]] = {
    "ext4": _image(16 * MIB, "mkfs.ext4", "-q"),
    "tmpfs": _tmpfs(),
    "xfs": _image(320 * MIB, "mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": _image(128 * MIB, "mkfs.btrfs", "-q"),
    "overlay": _overlay,
    "FUSE (bindfs)": _bindfs,
    "FUSE (rclone)": _rclone,
    "exfat": _exfat,
    "vfat": _image(16 * MIB, "mkfs.vfat"),
    "read-only": _read_only,
    "no inodes left": _full,
}
