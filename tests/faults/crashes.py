"""Power cuts, as a model: what may be on disk after one, by the order in which a recorded run changed and synced files.

A run is recorded (`Recording`) as operations on inodes. After a power cut any of them may be missing that no fsync has
made durable, whatever came after it: names, bytes, modes and times are independent of each other, and of the order in
which they were written. An fsync of a file makes its bytes, mode and times durable, and not its name; an fsync of a
folder makes its names durable; syncfs everything. A write that is not durable may also be there by half, or as zeros;
a rename between folders may have happened at its target and not yet at its source. That is weaker than any real file
system, and so finds more. Source: Pillai and others, "All File Systems Are Not Created Equal", OSDI 2014 (ALICE).
"""

from __future__ import annotations

import io
import itertools
import os
import random
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nanocache.disk import durable
from tests.faults.calls import Call, Calls

__all__ = ["Disk", "Kept", "Node", "Recording", "states"]

ROOT = 0  # the inode of the base directory
KEPT, HALF, ZEROS, LINKED = "kept", "half", "zeros", "linked"
Kept = frozenset[tuple[int, str]]  # operations that reached the disk, by index, and how


@dataclass(frozen=True)
class Op:
    """`entry`: (folder, name, inode or None); `source`: (folder, name) of a rename; `data`: (offset, bytes)."""

    kind: str  # enter, leave, move, write, cut, mode, time, sync, sync all
    ino: int
    entry: tuple[int, str] | None = None
    source: tuple[int, str] | None = None
    data: tuple[int, bytes] = (0, b"")
    value: int = 0

    @property
    def folder(self) -> int | None:
        return None if self.entry is None else self.entry[0]

    def forms(self, *, loose_source: bool) -> tuple[str, ...]:
        if self.kind == "write" and len(self.data[1]) > 1:
            return (KEPT, HALF, ZEROS)
        return (KEPT, LINKED) if self.kind == "move" and loose_source else (KEPT,)


@dataclass
class Node:
    """A file or folder as it is on the disk of the model."""

    folder: bool
    data: bytes = b""
    mode: int = 0o600
    mtime: int | None = None  # nanoseconds; None: when it was made
    names: dict[str, int] = field(default_factory=dict)


class Disk:
    """What lies on disk: nodes by inode, and the tree below ROOT."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.nodes = nodes

    def tree(self, at: int = ROOT, path: str = "") -> Iterator[tuple[str, int, Node]]:
        for name, ino in sorted(self.nodes[at].names.items()):
            if (node := self.nodes.get(ino)) is not None:
                yield f"{path}{name}", ino, node
                if node.folder:
                    yield from self.tree(ino, f"{path}{name}/")

    def files(self) -> dict[str, bytes]:
        return {path: node.data for path, _, node in self.tree() if not node.folder}

    def fingerprint(self) -> int:
        """The same for disks that look the same from outside."""
        return hash(tuple((path, ino, node.data, node.mode, node.mtime) for path, ino, node in self.tree()))

    def write_to(self, base: Path) -> None:
        """Make it real. An hour has passed, and it is another boot."""
        from nanocache.coordination.process import me

        base.mkdir()
        made: dict[int, Path] = {}
        hour_ago = time.time_ns() - 3600 * 10**9
        for path, ino, node in self.tree():
            target = base / path
            if node.folder:
                target.mkdir()
                continue
            if ino in made:
                os.link(made[ino], target)
                continue
            made[ino] = target
            target.write_bytes(node.data.replace(me().boot.encode(), b"another boot"))
            target.chmod(node.mode)
            os.utime(target, ns=(hour_ago, hour_ago if node.mtime is None else node.mtime))


class Recording:
    """What a run changes below `base`, while the block runs."""

    def __init__(self, base: Path) -> None:
        self.ops: list[Op] = []
        self._base = os.fspath(base)
        self._numbers = itertools.count(ROOT + 1)
        self.before = self._read(base)
        self._now = {ino: _copy(node) for ino, node in self.before.items()}
        self._fds: dict[int, int] = {}  # descriptor -> inode
        self._at: dict[int, int] = {}  # descriptor -> offset
        self._foreign: set[int] = set()  # inodes that C code writes to
        self._calls = Calls(base, before=self._before, after=self._after)
        self._faults: list[Exception] = []  # the model's own, which the code that is recorded must not catch

    def _read(self, base: Path) -> dict[int, Node]:
        nodes, numbers = {ROOT: Node(True)}, {base: ROOT}
        seen: dict[int, int] = {}
        for path in sorted(base.rglob("*")):
            st = path.lstat()
            ino = seen.setdefault(st.st_ino, next(self._numbers))
            numbers[path] = ino
            nodes[numbers[path.parent]].names[path.name] = ino
            folder = stat.S_ISDIR(st.st_mode)
            data = b"" if folder else path.read_bytes()
            nodes[ino] = Node(folder, data, stat.S_IMODE(st.st_mode), st.st_mtime_ns)
        return nodes

    def __enter__(self) -> Self:
        self._sync_file_system = durable._sync_file_system
        durable._sync_file_system = self._synced_all
        self._calls.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.__exit__()
        durable._sync_file_system = self._sync_file_system
        self._absorb()
        if self._faults:
            raise self._faults[0]

    # --- what the calls mean ------------------------------------------------------------------------------------------

    def _synced_all(self, fd: int) -> bool:
        self._absorb()
        self._add(Op("sync all", ROOT))
        return True

    def _before(self, call: Call) -> None:
        if call.name in ("rename", "replace", "link", "fsync"):
            self._absorb()

    def _after(self, call: Call, result: Any) -> None:
        name = "c_open" if call.name in ("builtins.open", "io.open") else call.name
        meaning = getattr(self, f"_on_{name}", None)
        try:
            if meaning is not None:
                meaning(call, result)
        except Exception as e:
            self._faults.append(e)

    def _add(self, op: Op) -> None:
        self.ops.append(op)
        _apply(self._now, op, KEPT)

    def _place(self, call: Call, path: Any = None, *, fd: str = "dir_fd") -> tuple[int, str]:
        """(folder, name) of the path that a call names."""
        text = os.fspath(call.args[0] if path is None else path)
        at = ROOT
        if text.startswith(self._base):
            text = text[len(self._base) :]
        elif call.options.get(fd) is not None:
            at = self._fds[call.options[fd]]
        *folders, name = [part for part in text.split("/") if part] or ["."]
        for part in folders:
            at = self._now[at].names[part]
        return at, name

    def _ino(self, call: Call) -> int | None:
        if call.fd is not None:
            return self._fds.get(call.fd)
        at, name = self._place(call)
        return at if name == "." else self._now[at].names.get(name)

    def _new(self, entry: tuple[int, str], *, folder: bool) -> int:
        ino = next(self._numbers)
        self.before[ino] = Node(folder, mode=0o700 if folder else 0o600)  # an inode, without a name yet
        self._now[ino] = _copy(self.before[ino])
        self._add(Op("enter", ino, entry))
        return ino

    def _on_open(self, call: Call, fd: int) -> None:
        entry = self._place(call)
        ino = entry[0] if entry[1] == "." else self._now[entry[0]].names.get(entry[1])
        if ino is None:
            ino = self._new(entry, folder=False)
        elif call.args[1] & os.O_TRUNC:
            self._add(Op("cut", ino))
        self._fds[fd], self._at[fd] = ino, 0

    def _on_c_open(self, call: Call, file: Any) -> None:
        mode = call.args[1] if len(call.args) > 1 else call.options.get("mode", "r")
        if not set(mode) & set("wxa+"):
            return
        ino = self._ino(call)
        if ino is None:
            ino = self._new(self._place(call), folder=False)
        self._foreign.add(ino)

    def _on_close(self, call: Call, _: Any) -> None:
        self._fds.pop(call.args[0], None)

    def _on_write(self, call: Call, count: int) -> None:
        fd = call.args[0]
        self._add(Op("write", self._fds[fd], data=(self._at[fd], bytes(call.args[1])[:count])))
        self._at[fd] += count

    def _on_pwrite(self, call: Call, count: int) -> None:
        self._add(Op("write", self._fds[call.args[0]], data=(call.args[2], bytes(call.args[1])[:count])))

    def _on_ftruncate(self, call: Call, _: Any) -> None:
        self._add(Op("cut", self._fds[call.args[0]], value=call.args[1]))

    def _on_chmod(self, call: Call, _: Any) -> None:
        if (ino := self._ino(call)) is not None:
            self._add(Op("mode", ino, value=call.args[1]))

    _on_fchmod = _on_chmod

    def _on_utime(self, call: Call, _: Any) -> None:
        ns = call.options.get("ns")
        if (ino := self._ino(call)) is not None and ns is not None:
            self._add(Op("time", ino, value=ns[1]))

    def _on_mkdir(self, call: Call, _: Any) -> None:
        self._new(self._place(call), folder=True)

    def _on_unlink(self, call: Call, _: Any) -> None:
        entry = self._place(call)
        self._add(Op("leave", self._now[entry[0]].names[entry[1]], entry))

    _on_remove = _on_rmdir = _on_unlink

    def _on_link(self, call: Call, _: Any) -> None:
        folder, name = self._place(call)
        self._add(Op("enter", self._now[folder].names[name], self._place(call, call.args[1])))

    def _on_rename(self, call: Call, _: Any) -> None:
        source, target = self._place(call), self._place(call, call.args[1])
        self._add(Op("move", self._now[source[0]].names[source[1]], target, source))

    _on_replace = _on_rename

    def _on_fsync(self, call: Call, _: Any) -> None:
        self._add(Op("sync", self._fds[call.args[0]]))

    def _absorb(self) -> None:
        """What C code wrote meanwhile."""
        for path, ino, node in list(Disk(self._now).tree()):
            if ino in self._foreign:
                with io.FileIO(f"{self._base}/{path}") as file:
                    data = file.readall()
                if data != node.data:
                    self._add(Op("write", ino, data=(0, data)))


def _copy(node: Node) -> Node:
    return Node(node.folder, node.data, node.mode, node.mtime, dict(node.names))


def _apply(nodes: dict[int, Node], op: Op, form: str) -> None:
    node = nodes[op.ino]
    match op.kind:
        case "enter" | "move":
            assert op.entry is not None
            nodes[op.entry[0]].names[op.entry[1]] = op.ino
            if op.source is not None and form != LINKED:
                nodes[op.source[0]].names.pop(op.source[1], None)
        case "leave":
            assert op.entry is not None
            if nodes[op.entry[0]].names.get(op.entry[1]) == op.ino:
                del nodes[op.entry[0]].names[op.entry[1]]
        case "write":
            offset, data = op.data
            if form == HALF:
                data = data[: len(data) // 2]
            elif form == ZEROS:
                data = bytes(len(data))
            node.data = node.data[:offset].ljust(offset, b"\0") + data + node.data[offset + len(data) :]
        case "cut":
            node.data = node.data[: op.value].ljust(op.value, b"\0")
        case "mode":
            node.mode = op.value
        case "time":
            node.mtime = op.value


# --- what a power cut may leave ---------------------------------------------------------------------------------------


def disk_of(recording: Recording, kept: Iterable[tuple[int, str]]) -> Disk:
    nodes = {ino: _copy(node) for ino, node in recording.before.items()}
    for index, form in sorted(kept):
        _apply(nodes, recording.ops[index], form)
    return Disk(nodes)


def states(recording: Recording, *, at: Iterable[int] | None = None, most: int = 200, seed: int = 0) -> Iterator[Disk]:
    """The disks that a power cut may leave, each once.

    `at`: after how many operations it comes, by default anywhere. At each moment all of them if they are at most
    `most`; else those with one or two operations lost, with one or two not lost, and others at random.
    """
    seen: set[int] = set()
    tried: set[Kept] = set()
    chance = random.Random(seed)
    for end in range(len(recording.ops) + 1) if at is None else at:
        for kept in _subsets(recording.ops, end, most, chance):
            if kept in tried:
                continue
            tried.add(kept)
            disk = disk_of(recording, kept)
            if (print_ := disk.fingerprint()) not in seen:
                seen.add(print_)
                yield disk


def _subsets(ops: list[Op], end: int, most: int, chance: random.Random) -> Iterator[Kept]:
    firm, loose = _durable(ops, end)
    every = [(i, form) for i in loose for form in ops[i].forms(loose_source=_loose_source(ops, i, end))]
    base = frozenset((i, KEPT) for i in firm)
    plain = [(i, KEPT) for i in loose]
    if 2 ** len(loose) <= most:
        for count in range(len(loose) + 1):
            for some in itertools.combinations(plain, count):
                yield base | frozenset(some)
    else:
        few = range(3 if len(plain) <= 20 else 2)
        for lost in (n for count in few for n in itertools.combinations(plain, count)):
            yield base | (frozenset(plain) - frozenset(lost))
            yield base | frozenset(lost)
        for _ in range(most):
            yield base | frozenset(one for one in plain if chance.random() < 0.5)
    for i, form in every:  # by half, as zeros, or not yet gone from where it was: with everything else, and alone
        if form != KEPT:
            yield base | (frozenset(plain) - {(i, KEPT)}) | {(i, form)}
            yield base | {(i, form)}
    for i in firm:
        if _loose_source(ops, i, end):
            yield (base - {(i, KEPT)}) | {(i, LINKED)} | frozenset(plain)
            yield (base - {(i, KEPT)}) | {(i, LINKED)}


def _durable(ops: list[Op], end: int) -> tuple[list[int], list[int]]:
    synced: set[int] = set()
    everything, firm, loose = False, [], []
    for i in range(end - 1, -1, -1):
        op = ops[i]
        if op.kind == "sync all":
            everything = True
        elif op.kind == "sync":
            synced.add(op.ino)
        elif everything or (op.ino if op.folder is None else op.folder) in synced:
            firm.append(i)
        else:
            loose.append(i)
    return firm[::-1], loose[::-1]


def _loose_source(ops: list[Op], index: int, end: int) -> bool:
    op = ops[index]
    if op.source is None or op.folder == op.source[0]:
        return False
    return not any(
        later.kind == "sync all" or (later.kind == "sync" and later.ino == op.source[0]) for later in ops[index:end]
    )
