"""What a function built, for a peer that lacks it: whether it is here, what is in it, how it comes in.

    check_build      whether such a thing can be built at all
    find_built       whether it is here
    check_travels    whether it can be on another disk what it is here
    Parcel.of        on the peer that has it: what is in it
    PackReader       there: the bytes of some of its files
    receive_built    copies what is here already, takes the rest, and publishes it once all is there

How bytes travel is the caller's business. Invariants: as for a blob from a peer (`peers`): it comes in by the engine's
own door, under the product's lock, for which this process does not wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from .cache import Cache, PathLike
from .callers import callers_errors
from .cancel import Cancel, ambient
from .config import Settings
from .coordination.waiting import WaitOptions, hold_lock
from .disk.absence import listed
from .engine.building import BuiltPlace
from .engine.building import check as check_build
from .engine.parcel import PackReader, Parcel, check_travels
from .engine.products import lock_key_of
from .engine.room import room_for
from .engine.unpacking import ParcelRefused, Unpacking
from .store.private import private_folder

__all__ = ["PackReader", "Parcel", "ParcelRefused", "Unpacking", "built_path", "check_build"]
__all__ += ["check_travels", "find_built", "receive_built"]


def built_path(key: str, name: str, base_dir: PathLike | None) -> Path:
    """Where it lies, once it is built."""
    return Path(_place(key, name, base_dir).path)


def find_built(key: str, name: str, base_dir: PathLike | None) -> Path | None:
    """What was built under `key`, if all of it is here. No name is looked up that its folder does not list.

    A look at an absent name would be remembered by NFS and FUSE clients, while another host may publish it.
    """
    place = _place(key, name, base_dir)
    with callers_errors():
        return place.find() if listed(place.path, below=place.store.base) else None


def _place(key: str, name: str, base_dir: PathLike | None) -> BuiltPlace:
    return BuiltPlace(Cache(base_dir).store, key, name)


@contextmanager
def receive_built(key: str, name: str, base_dir: PathLike | None) -> Iterator[Unpacking]:
    """A place for what comes; without `publish` in the block nothing is kept of it.

    Raises LockTimeout at once if another process builds the same, UnsafeCache, OSError.
    """
    place = _place(key, name, base_dir)
    if not place.store.prepare():
        raise PermissionError(f"{place.store.base} is not writable for this user")
    room = room_for(place.store, Settings.read(), ambient())
    lock = lock_key_of(place.store, place.path)
    at_once = WaitOptions(lambda: False, ("receive", key, name), Cancel(), 0.0, lambda *_: None)
    with (
        callers_errors(),
        hold_lock(place.store.lock_place(lock), at_once),
        private_folder(place.store, lock, room) as folder,
        closing(Unpacking(place, folder, room)) as incoming,
    ):
        yield incoming
