"""Bundles: what a lock file names, carried to a machine without a network in one tar, and verified there."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact, Cache, ChecksumMismatch, DamagedBundle, NotCached, UnsafeArchive
from nanocache.bundle import packing
from nanocache.bundle.contents import CONTENTS, BundleContents
from nanocache.cli.main import main
from tests.servers.hub import LARGE, HubServer
from tests.servers.origin import MIB, Origin, content

FILES = {"config.json": b"{}", "deep/model.safetensors": content(LARGE, "model")}
BODIES = {"a.bin": content(300_000, "a"), "b.bin": b"", "c.bin": content(70_001, "c")}


@pytest.fixture(autouse=True)
def project(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder := tmp_path / "project").mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    hub.commit("owner/name", FILES)
    return hub


@pytest.fixture
def urls(origin: Origin) -> dict[str, str]:
    return {name: origin.add(f"/{name}", body) for name, body in BODIES.items()}


@pytest.fixture
def bundle(urls: dict[str, str], project: Path) -> Path:
    assert main(["lock", "-q", *urls.values()]) == 0
    assert main(["export", "nanocache.lock", "-o", "x.tar"]) == 0
    return project / "x.tar"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Cache:
    """A cache on another machine, with nothing in it."""
    return Cache(tmp_path / "elsewhere")


def written(cache: Cache) -> set[str]:
    """The files in a cache, but for those that are private, or say how it is used."""
    own = ("partials-v1", "locks-v1", "trash-v1")
    found = (path.relative_to(cache.base_dir) for path in cache.base_dir.rglob("*") if path.is_file())
    return {str(path) for path in found if path.parts[0] not in own and path.name not in ("CACHEDIR.TAG", ".gitignore")}


# --- there and back ---------------------------------------------------------------------------------------------------


def test_what_was_exported_is_a_hit_elsewhere_without_a_network(
    bundle: Path, urls: dict[str, str], elsewhere: Cache, origin: Origin, capfd: pytest.CaptureFixture[str]
) -> None:
    origin.reset()
    capfd.readouterr()
    assert main(["import", str(bundle), "--dir", str(elsewhere.base_dir)]) == 0
    assert capfd.readouterr().out == "3 artifacts, 370 kB, came; 0 were here\n"
    for name, url in urls.items():
        digest = hashlib.sha256(BODIES[name]).hexdigest()
        assert elsewhere.fetch(url, offline=True).read_bytes() == BODIES[name]
        assert elsewhere.fetch("http://127.0.0.1:9/x", sha256=digest, offline=True).read_bytes() == BODIES[name]
    lock = nanocache.open_lock(base_dir=elsewhere.base_dir)
    assert {name: path.read_bytes() for name, path in lock.sync(offline=True).items()} == BODIES
    assert elsewhere.verify().sound
    assert not origin.requests()


def test_other_tools_read_it_and_its_members_are_what_they_are_called(bundle: Path) -> None:
    listed = subprocess.run(["tar", "tf", bundle], capture_output=True, text=True, check=True).stdout.splitlines()
    assert listed[0] == CONTENTS
    assert {Path(name).name for name in listed[1:]} == set(BODIES)
    with tarfile.open(bundle) as tar:
        assert tar.getnames() == listed
        for member in tar.getmembers()[1:]:
            data = tar.extractfile(member)
            assert data is not None
            assert hashlib.sha256(data.read()).hexdigest() == member.name.split("/")[1]
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)


def test_the_same_artifacts_give_the_same_bytes_in_any_order_cache_and_time(
    bundle: Path, urls: dict[str, str], elsewhere: Cache, project: Path
) -> None:
    artifacts = [Artifact(url) for url in urls.values()]
    random.Random(1).shuffle(artifacts)
    time.sleep(0.01)
    os.umask(os.umask(0o027))
    for cache in (elsewhere, Cache()):
        cache.export(artifacts, "y.tar")
        assert Path("y.tar").read_bytes() == bundle.read_bytes()
        artifacts.reverse()
    assert sorted(os.listdir()) == ["nanocache.lock", "x.tar", "y.tar"]


def test_what_is_missing_is_fetched_and_offline_it_is_not_cached(
    urls: dict[str, str], elsewhere: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["lock", "-q", *urls.values()])
    assert elsewhere.export("nanocache.lock", "x.tar") == [Path.cwd() / "x.tar"]
    monkeypatch.setenv("NANOCACHE_OFFLINE", "1")
    with pytest.raises(NotCached):
        Cache(Path.cwd() / "third").export("nanocache.lock", "y.tar")
    for target in ("0" * 64, "hf://owner/nothing", "/no/such/path"):
        with pytest.raises(NotCached):
            elsewhere.export(target, "y.tar")
    assert not Path("y.tar").exists()


@pytest.mark.parametrize("how", ["path", "digest", "lock", "several"])
def test_targets_are_taken_as_everywhere(how: str, urls: dict[str, str], elsewhere: Cache) -> None:
    path = nanocache.fetch(urls["a.bin"])
    main(["lock", "-q", urls["a.bin"]])
    targets: dict[str, object] = {
        "path": path,
        "digest": path.parent.name[:12],
        "lock": nanocache.open_lock(),
        "several": [nanocache.open_lock(), urls["a.bin"], path],
    }
    Cache().export(targets[how], "x.tar")
    loaded = elsewhere.load("x.tar")
    assert loaded.digests == (path.parent.name,)
    assert (loaded.added, loaded.size) == (1, 300_000)


def test_a_blob_gets_all_of_its_names(urls: dict[str, str], elsewhere: Cache) -> None:
    wanted = [Artifact(urls["a.bin"]), Artifact(urls["a.bin"], filename="other.bin")]
    Cache().export(wanted, "x.tar")
    elsewhere.load("x.tar")
    folder = elsewhere.fetch(wanted[0], offline=True).parent
    assert {path.name for path in folder.iterdir()} == {"a.bin", "other.bin"}


def test_names_of_any_length_and_script_come_back(origin: Origin, elsewhere: Cache) -> None:
    name = "\u00e9t\u00e9" * 20 + "x" * 80 + ".bin"
    wanted = Artifact(origin.add("/a.bin", b"aardvark"), filename=name)
    Cache().export(wanted, "x.tar")
    subprocess.run(["tar", "tf", "x.tar"], capture_output=True, check=True)
    elsewhere.load("x.tar")
    assert elsewhere.fetch(wanted, offline=True).name == name


def test_a_snapshot_is_made_offline_of_what_was_carried(hub: HubServer, elsewhere: Cache) -> None:
    folder = nanocache.snapshot("hf://owner/name")
    some = nanocache.snapshot("hf://owner/name", include="*.json")
    Cache().export("hf://owner/name", "x.tar")
    elsewhere.load("x.tar")
    hub.reset()
    for options, made in (({}, folder), ({"include": "*.json"}, some)):
        there = elsewhere.snapshot("hf://owner/name", offline=True, **options)  # type: ignore[arg-type]
        assert {p.name for p in there.rglob("*")} == {p.name for p in made.rglob("*")}
    assert (elsewhere.snapshot("hf://owner/name", offline=True) / "deep/model.safetensors").stat().st_size == LARGE
    assert not hub.requests()


def test_a_locked_repository_is_carried_and_its_files_are_hits(
    hub: HubServer, elsewhere: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["lock", "-q", "hf://owner/name"])
    Cache().export(nanocache.open_lock(), "x.tar")
    elsewhere.load("x.tar")
    for url in ("hf://owner/name/config.json", "hf://owner/name@main/config.json"):
        assert elsewhere.fetch(url, offline=True).read_bytes() == b"{}"
    monkeypatch.setenv("NANOCACHE_FROZEN", "1")
    assert len([*elsewhere.snapshot("hf://owner/name", offline=True).rglob("*.*")]) == 2


def test_what_a_url_gave_here_is_not_replaced_by_what_it_gave_there(
    bundle: Path, urls: dict[str, str], elsewhere: Cache, origin: Origin
) -> None:
    origin.add("/a.bin", b"newer")
    assert elsewhere.fetch(urls["a.bin"]).read_bytes() == b"newer"
    elsewhere.load(bundle)
    assert elsewhere.fetch(urls["a.bin"]).read_bytes() == b"newer"
    elsewhere.remove(hashlib.sha256(b"newer").hexdigest())
    elsewhere.load(bundle)
    assert elsewhere.fetch(urls["a.bin"], offline=True).read_bytes() == BODIES["a.bin"]


def test_an_imported_ref_is_asked_about_as_soon_as_an_age_is_given(
    bundle: Path, urls: dict[str, str], elsewhere: Cache, origin: Origin
) -> None:
    elsewhere.load(bundle)
    origin.add("/a.bin", b"newer")
    assert elsewhere.fetch(urls["a.bin"], max_age=86_400).read_bytes() == b"newer"


def test_what_is_damaged_in_the_cache_is_not_carried_away(urls: dict[str, str]) -> None:
    path = nanocache.fetch(urls["a.bin"])
    st = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(st.st_mtime_ns, st.st_mtime_ns))
    with pytest.raises(ChecksumMismatch, match="verify --repair"):
        Cache().export(urls["a.bin"], "x.tar")
    assert not os.listdir()


def test_no_secret_is_in_a_bundle(origin: Origin) -> None:
    url = origin.add("/a.bin", b"a").replace("://", "://me:hunter2@") + "?token=hunter2"
    Cache().export(Artifact(url, headers={"Authorization": "hunter2"}), "x.tar")
    assert b"hunter2" not in Path("x.tar").read_bytes()


def test_progress_is_told_for_both(bundle: Path, elsewhere: Cache) -> None:
    seen: dict[str, list[nanocache.Progress]] = {"export": [], "load": []}
    Cache().export("nanocache.lock", "y.tar", progress=seen["export"].append)
    elsewhere.load("y.tar", progress=seen["load"].append)
    for told in seen.values():
        assert (told[-1].name, told[-1].done, told[-1].total) == ("y.tar", 370_001, 370_001)


# --- parts ------------------------------------------------------------------------------------------------------------


def parts(split: object = 100_000) -> list[Path]:
    return Cache().export("nanocache.lock", "p.tar", split=split)  # type: ignore[arg-type]


@pytest.mark.parametrize("named", ["p.tar", "p.tar.000"])
def test_parts_together_are_the_bundle(named: str, bundle: Path, elsewhere: Cache) -> None:
    written = parts()
    assert [path.name for path in written] == [f"p.tar.{n:03}" for n in range(4)]
    assert [path.stat().st_size for path in written[:-1]] == [100_000] * 3
    assert b"".join(path.read_bytes() for path in written) == bundle.read_bytes()
    assert elsewhere.load(named).added == 3


def test_parts_that_a_larger_bundle_left_are_taken_away(bundle: Path, elsewhere: Cache) -> None:
    parts(50_000)
    assert len(parts("200kB")) == 2
    assert sorted(os.listdir()) == ["nanocache.lock", "p.tar.000", "p.tar.001", "x.tar"]
    elsewhere.load("p.tar")


@pytest.mark.parametrize("split", [0, 100, -1, "many", 1.5, True])
def test_a_split_that_makes_no_sense_is_a_value_error(split: object, bundle: Path) -> None:
    with pytest.raises(ValueError, match="split must be"):
        parts(split)


def swapped(files: list[Path]) -> None:
    one, two = files[1].read_bytes(), files[2].read_bytes()
    files[1].write_bytes(two)
    files[2].write_bytes(one)


FAULTS: dict[str, Callable[[list[Path]], object]] = {
    "one is missing": lambda files: files[1].unlink(),
    "the first is missing": lambda files: files[0].unlink(),
    "the last is missing": lambda files: files[-1].unlink(),
    "one is cut": lambda files: os.truncate(files[1], 99_999),
    "one is there twice": lambda files: files[1].with_name("p.tar.0001").write_bytes(files[1].read_bytes()),
    "one too many": lambda files: files[1].with_name("p.tar.004").write_bytes(b"x" * 10),
    "two are swapped": swapped,
    "one is another's copy": lambda files: files[2].write_bytes(files[1].read_bytes()),
    "one is a folder": lambda files: (files[1].unlink(), files[1].mkdir()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_parts_that_are_not_all_of_a_bundle_are_refused(fault: str, bundle: Path, elsewhere: Cache) -> None:
    FAULTS[fault](parts())
    with pytest.raises(UnsafeArchive):
        elsewhere.load("p.tar")
    assert not [name for name in written(elsewhere) if not name.startswith("blobs-v1")]
    assert not elsewhere.base_dir.exists() or elsewhere.verify().sound


# --- hostile bundles --------------------------------------------------------------------------------------------------

DIGEST = hashlib.sha256(b"aardvark").hexdigest()
MEMBER = f"sha256/{DIGEST}/a.bin"
BLOB = {"sha256": DIGEST, "size": 8, "names": ["a.bin"]}
REF = {"key": "0" * 64, "url": "https://host/a.bin", "sha256": DIGEST, "size": 8}


def made(
    *members: tuple[str, bytes] | tarfile.TarInfo, blobs: object = (BLOB,), refs: object = (), **more: object
) -> bytes:
    record = {"version": 1, "blobs": blobs, "refs": refs} | more
    data = json.dumps(record, indent=1).encode() + b"\n"
    tar = b""
    for member in ((CONTENTS, data), *members):
        info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
        body = b"" if isinstance(member, tarfile.TarInfo) else member[1]
        info.size = info.size or len(body)
        tar += info.tobuf(tarfile.PAX_FORMAT) + body + bytes(-len(body) % 512)
    return tar + bytes(1024)


def special(kind: bytes, **facts: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(facts.pop("name", MEMBER))
    info.type = kind
    for name, value in facts.items():
        setattr(info, name, value)
    return info


GOOD = (MEMBER, b"aardvark")
HOSTILE: dict[str, bytes] = {
    "a symlink": made(special(tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link": made(special(tarfile.LNKTYPE, linkname=CONTENTS)),
    "a device": made(special(tarfile.CHRTYPE)),
    "a fifo": made(special(tarfile.FIFOTYPE)),
    "a folder": made(special(tarfile.DIRTYPE), GOOD),
    "a name with ..": made(("sha256/../../x", b"aardvark")),
    "an absolute name": made(("/etc/passwd", b"aardvark")),
    "a name that leads elsewhere": made(GOOD, blobs=[BLOB | {"names": ["../a.bin"]}]),
    "a name with a slash": made(GOOD, blobs=[BLOB | {"names": ["a/b"]}]),
    "a name with a backslash": made(GOOD, blobs=[BLOB | {"names": ["a\\b"]}]),
    "no names": made(GOOD, blobs=[BLOB | {"names": []}]),
    "names out of order": made((f"sha256/{DIGEST}/b", b"aardvark"), blobs=[BLOB | {"names": ["b", "a"]}]),
    "a digest that is none": made(GOOD, blobs=[BLOB | {"sha256": "../../../x"}]),
    "a digest in capitals": made(GOOD, blobs=[BLOB | {"sha256": DIGEST.upper()}]),
    "a huge size": made(GOOD, blobs=[BLOB | {"size": 1 << 62}]),
    "a huge size in a header": made(special(tarfile.REGTYPE, size=1 << 40), blobs=[BLOB | {"size": 1 << 40}]),
    "a size below zero": made(GOOD, blobs=[BLOB | {"size": -1}]),
    "a size that is no number": made(GOOD, blobs=[BLOB | {"size": True}]),
    "another size than it says": made((MEMBER, b"aardvarks")),
    "another file than it says": made((f"sha256/{'0' * 64}/a.bin", b"aardvark")),
    "a file that it does not name": made(GOOD, ("extra", b"x")),
    "no file that it names": made(),
    "the same file twice": made(GOOD, GOOD),
    "a blob that it names twice": made(GOOD, GOOD, blobs=[BLOB, BLOB]),
    "a key too many": made(GOOD, blobs=[BLOB | {"mode": 7}]),
    "more than it may say": made(GOOD, extra=1),
    "another version": made(GOOD, version=2),
    "blobs that are no list": made(GOOD, blobs=7),
    "brackets in brackets": made(GOOD, blobs=[]).replace(b"[]", b"[" * 2),
    "a ref to what is not there": made(GOOD, refs=[REF | {"sha256": "0" * 64}]),
    "a ref with a key that is a path": made(GOOD, refs=[REF | {"key": "../" * 21 + "x"}]),
    "a ref that a terminal obeys": made(GOOD, refs=[REF | {"url": "\x1b[2J"}]),
    "contents at the end": b"".join([made(GOOD)[1536:2560], made(GOOD)]),
    "no contents": made(GOOD)[1024:],
    "trailing rubbish": made(GOOD) + b"rubbish",
    "another tar behind it": made(GOOD) + made(GOOD),
    "one byte short": made(GOOD).rstrip(b"\0"),
    "cut in a header": made(GOOD)[:700],
    "empty": b"",
    "zeros": bytes(10_240),
    "no tar": b"PK\x03\x04" + bytes(2000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_bundle_is_refused_and_nothing_is_written(kind: str, elsewhere: Cache, project: Path) -> None:
    (path := project / "x.tar").write_bytes(HOSTILE[kind])
    with pytest.raises(UnsafeArchive, match=r"^refused to unpack x\.tar") as caught:
        elsewhere.load(path)
    assert len(str(caught.value).splitlines()) == 1
    assert not elsewhere.base_dir.exists()
    assert os.listdir() == ["x.tar"]


def test_a_bundle_that_chance_damaged_is_refused_or_right(elsewhere: Cache, project: Path) -> None:
    good = made(GOOD, refs=[REF])
    chance = random.Random(7)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            at, end = sorted(chance.choices(range(len(data)), k=2))
            kind = chance.randrange(4)
            if kind == 0:
                data[at] = chance.randrange(256)
            elif kind == 1:
                del data[at : min(end, at + 600)]
            elif kind == 2:
                data[at:at] = chance.randbytes(chance.choice((1, 512)))
            else:
                data[at : at + 512] = data[end : end + 512]
        (project / "x.tar").write_bytes(data)
        with suppress(UnsafeArchive):
            elsewhere.load("x.tar")
    assert written(elsewhere) <= {f"blobs-v1/sha256/{DIGEST[:2]}/{DIGEST}/a.bin", f"refs-v1/00/{'0' * 64}.json"}
    assert not elsewhere.base_dir.exists() or elsewhere.verify().sound
    assert os.listdir() == ["x.tar"]


def test_what_the_hostile_ones_are_made_from_is_taken(elsewhere: Cache, project: Path) -> None:
    (path := project / "x.tar").write_bytes(made(GOOD, refs=[REF]))
    assert elsewhere.load(path).digests == (DIGEST,)
    with tarfile.open(path) as tar:
        (data := tar.extractfile(CONTENTS))
        assert data is not None
        contents = BundleContents.from_bytes(data.read())
    assert contents.data == BundleContents.of(reversed(contents.blobs), contents.refs).data


def test_the_first_wrong_bytes_end_the_import_are_named_and_what_came_before_stays(
    bundle: Path, elsewhere: Cache, capfd: pytest.CaptureFixture[str]
) -> None:
    order = sorted(hashlib.sha256(body).hexdigest() for body in BODIES.values() if body)
    body = next(body for body in BODIES.values() if hashlib.sha256(body).hexdigest() == order[1])
    sound = bundle.read_bytes()
    at = sound.index(body[:1000]) + 5000
    bundle.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
    with pytest.raises(DamagedBundle, match=order[1]) as caught:
        elsewhere.load(bundle)
    assert isinstance(caught.value, ChecksumMismatch)
    assert caught.value.expected == order[1]
    assert order[0] in {entry.digest for entry in elsewhere.entries()}
    assert order[1] not in {entry.digest for entry in elsewhere.entries()}
    assert main(["import", str(bundle), "--dir", str(elsewhere.base_dir)]) == 4
    assert f"sha256/{order[1]}/" in capfd.readouterr().err
    bundle.write_bytes(sound)
    assert elsewhere.load(bundle).added == 2  # the empty one comes last
    assert not list((elsewhere.base_dir / "partials-v1").glob("new-*"))


def test_what_is_here_is_not_read_again(bundle: Path, elsewhere: Cache) -> None:
    elsewhere.load(bundle)
    data = bytearray(bundle.read_bytes())
    at = bytes(data).index(BODIES["a.bin"][:1000])
    data[at : at + 1000] = bytes(1000)
    bundle.write_bytes(data)
    assert elsewhere.load(bundle).added == 0


def test_a_killed_import_goes_on(urls: dict[str, str], origin: Origin, elsewhere: Cache) -> None:
    wanted = [origin.add(f"/{n}.bin", content(MIB // 2, f"{n}")) for n in range(40)]
    Cache().export(wanted, "x.tar")
    line = [sys.executable, "-m", "nanocache", "import", "-q", "x.tar", "--dir", str(elsewhere.base_dir)]
    process = subprocess.Popen(line)
    deadline = time.monotonic() + 30
    while len(list(elsewhere.base_dir.glob("blobs-v1/sha256/*/*/*"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(list(elsewhere.entries()))
    assert 5 <= before < 40
    loaded = elsewhere.load("x.tar")
    assert loaded.added <= 40 - before
    assert len(list(elsewhere.entries())) == 40
    assert elsewhere.verify().sound


def test_imports_at_once_bring_everything(bundle: Path, spawn: Callable[..., Any], tmp_path: Path) -> None:
    code = "print(len(Cache(there).load(path).digests))"
    there = str(tmp_path / "there")
    setup = "from nanocache import Cache"
    assert spawn(code, 3, setup=setup, there=there, path=str(bundle)).outputs() == ["3"] * 3
    assert Cache(there).verify().sound


def test_a_full_disk_is_said_before_anything_is_written(
    bundle: Path, elsewhere: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs("/")
    small = os.statvfs_result((real[0], real[1], real[2], 1, 1, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    with pytest.raises(nanocache.NoSpace):
        elsewhere.load(bundle)
    with pytest.raises(nanocache.NoSpace):
        Cache().export("nanocache.lock", "y.tar")
    assert not Path("y.tar").exists()
    assert not written(elsewhere)


def test_an_import_keeps_the_cap(bundle: Path, elsewhere: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCACHE_MAX_SIZE", "200kB")
    with pytest.raises(nanocache.NoSpace, match="NANOCACHE_MAX_SIZE"):
        elsewhere.load(bundle)
    assert {entry.size for entry in elsewhere.entries()} <= {70_001, 0}
    monkeypatch.setenv("NANOCACHE_MAX_SIZE", "1MB")
    assert elsewhere.load(bundle).digests


def test_memory_stays_flat_on_both_sides(origin: Origin, spawn: Callable[..., Any], tmp_path: Path) -> None:
    path = nanocache.fetch(origin.add("/large.bin", content(96 * MIB, "large")))
    code = """
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Cache().export(path, "x.tar")
Cache(there).load("x.tar")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    setup = "import resource\nfrom nanocache import Cache"
    [grown] = spawn(code, setup=setup, path=str(path), there=str(tmp_path / "there")).outputs()
    assert int(grown) < 40  # MiB


# --- large members ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4 << 30) + 1, (9 << 30) + 1])
def test_members_over_4_and_8_gib_are_found_where_they_are(size: int, project: Path, tmp_path: Path) -> None:
    """Sparse, so that it costs nothing: what is looked at are the headers, and the bytes where they are to be."""
    from nanocache.bundle.contents import BundledBlob
    from nanocache.bundle.loading import _survey
    from nanocache.bundle.parts import PartReader

    blobs = [BundledBlob("1" * 64, size, ("large.bin",)), BundledBlob("2" * 64, 3, ("small.bin",))]
    contents = BundleContents.of(blobs, ())
    with open("x.tar", "wb") as file:
        file.write(packing._header(CONTENTS, len(contents.data)) + contents.data)
        file.write(packing._padding(len(contents.data)))
        file.write(packing._header(blobs[0].member, size))
        file.seek(size + -size % 512, os.SEEK_CUR)
        file.write(packing._header(blobs[1].member, 3) + b"abc" + packing._padding(3) + bytes(1024))
    with PartReader("x.tar") as reader:
        found, offsets = _survey(reader)
        assert found == contents
        assert reader.read(offsets["2" * 64], 3) == b"abc"
    with tarfile.open("x.tar") as tar:
        assert [member.size for member in tar.getmembers()[1:]] == [size, 3]
    assert str(size) in subprocess.run(["tar", "tvf", "x.tar"], capture_output=True, text=True, check=True).stdout
