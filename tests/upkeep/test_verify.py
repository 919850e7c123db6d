"""Verify and repair: whatever is done to any file of a cache is found, or harmless, and heals."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import nanocache
from nanocache import Cache
from nanocache.cli.main import main
from nanocache.progress import Progress
from nanocache.store.layout import TAGS
from tests.servers.hub import LARGE
from tests.servers.origin import content
from tests.upkeep.conftest import Filled, copy


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Bit rot: no time of the file moves."""
    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path.chmod(before.st_mode & 0o7777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def parts(base: Path) -> list[Path]:
    """Every file of ours, but for locks and tags."""
    tops = ("blobs-v1", "products-v1", "trees-v1", "refs-v1")
    found = [path.relative_to(base) for top in tops for path in sorted((base / top).rglob("*")) if path.is_file()]
    return [path for path in found if path.name not in TAGS]


def is_right(filled: Filled, base: Path) -> None:
    """Fetch all that was fetched before, and compare."""
    cache = Cache(base)
    assert cache.fetch(filled.url).read_bytes() == content(50_000, "weights")
    assert cache.fetch(filled.pinned_url).read_bytes() == content(20_000, "pinned")
    copied = cache.fetch(filled.url, postprocess=copy)
    assert (copied / "b.txt").exists()
    folder = cache.snapshot("hf://owner/name")
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "deep/model.safetensors").read_bytes() == content(LARGE, "model")


@pytest.mark.parametrize("harm", [delete, truncate, flip])
@pytest.mark.parametrize("mend", ["verify", "repair", "fetch"])
def test_whatever_is_done_to_any_file_heals(
    filled: Filled, base: Path, tmp_path: Path, harm: Callable[[Path], None], mend: str
) -> None:
    for n, part in enumerate(parts(base)):
        again = tmp_path / f"{n}" / "base"
        shutil.copytree(base.parent / "home", again.parent)
        subprocess.run(["cp", "-a", base, again], check=True)
        harm(again / part)
        if mend != "fetch":
            found = Cache(again).verify()
            if part.parts[0] in ("blobs-v1", "trees-v1"):
                assert not found.sound, part
        if mend == "repair":
            assert Cache(again).verify(repair=True).sound, part
            assert Cache(again).verify().damage == (), part
        if mend != "fetch" or harm is not flip or part.parts[0] == "refs-v1":
            is_right(filled, again)
        shutil.rmtree(again)


def test_a_sound_cache_is_sound(filled: Filled) -> None:
    found = filled.cache.verify()
    assert found.sound
    assert found.damage == ()
    assert found.checked == 6  # two URLs, two files of the repository, its listing, the folder's manifest
    assert found.healed == 0


def test_right_bytes_that_lost_their_seal_get_it_back(filled: Filled) -> None:
    os.utime(filled.weights, (1, 1))
    assert filled.cache.verify().healed == 1
    assert filled.cache.verify().healed == 0


def test_a_wrong_blob_is_no_hit_any_more_but_stays_until_a_right_one_replaces_it(filled: Filled) -> None:
    flip(filled.weights)
    wrong = filled.weights.read_bytes()
    found = filled.cache.verify()
    assert [damage.path for damage in found.damage] == [str(filled.weights)]
    assert (found.left, found.repaired) == (1, 0)
    assert filled.weights.read_bytes() == wrong
    assert nanocache.lookup(filled.url, sha256=filled.weights.parent.name) is None


def test_what_no_server_has_any_more_is_left(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCACHE_RETRIES", "1")
    flip(filled.weights)
    filled.origin.close()
    found = filled.cache.verify(repair=True)
    assert (found.left, found.repaired) == (1, 0)
    assert filled.weights.exists()


def test_a_second_name_is_repaired_from_the_first(filled: Filled, base: Path, tmp_path: Path) -> None:
    other = filled.weights.with_name("other.bin")
    shutil.copy(filled.weights, other)
    flip(other)
    filled.origin.close()
    assert filled.cache.verify(repair=True).repaired == 1
    assert other.read_bytes() == filled.weights.read_bytes()


def test_targets_are_read_and_nothing_else(filled: Filled) -> None:
    flip(filled.weights)
    assert filled.cache.verify(filled.pinned_url).checked == 1
    assert filled.cache.verify([filled.pinned, filled.folder]).checked == 4  # and what the folder shows
    assert not filled.cache.verify(filled.url).sound


def test_each_file_is_read_once_however_many_names_it_has(filled: Filled) -> None:
    nanocache.fetch(filled.url, filename="other.bin")
    assert filled.cache.verify(filled.url).checked == 1


def test_what_cannot_be_read_is_damage_and_loses_nothing(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanocache.store import reading

    def fails(*_: object) -> object:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(reading, "_read", fails)
    monkeypatch.setattr(reading, "PAUSE", 0)
    assert filled.cache.verify(filled.url).left == 1
    assert filled.weights.read_bytes() == content(50_000, "weights")


def test_something_else_than_a_file_is_damage_that_a_person_removes(filled: Filled) -> None:
    os.symlink("/etc/passwd", filled.weights.with_name("evil.bin"))
    found = filled.cache.verify(repair=True)
    assert (found.left, found.repaired) == (1, 0)
    assert "remove it" in found.damage[0].reason


def test_progress_is_told_and_may_end_it(filled: Filled) -> None:
    told: list[Progress] = []
    filled.cache.verify(progress=told.append)
    assert told[-1].done == told[-1].total

    def enough(progress: Progress) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        filled.cache.verify(progress=enough)
    assert not [thread for thread in threading.enumerate() if thread.name == "nanocache-verify"]


def test_fetches_beside_it_are_no_damage(filled: Filled, base: Path) -> None:
    urls = [filled.origin.add(f"/many/{n}.bin", content(100_000, n)) for n in range(60)]
    fetching = threading.Thread(target=lambda: [nanocache.fetch(url, postprocess=copy) for url in urls])
    fetching.start()
    while fetching.is_alive():
        assert filled.cache.verify().damage == ()
    fetching.join()


def test_when_all_was_verified_is_remembered(filled: Filled, base: Path) -> None:
    for path in base.rglob("*.bin"):
        old = path.stat().st_mtime - 10 * 86_400
        os.utime(path, (old, old))
    assert filled.cache.verify(filled.url).sound
    before = filled.cache.info(filled.url).verified
    assert filled.cache.verify().sound
    after = filled.cache.info(filled.url).verified
    assert before is not None
    assert after is not None
    assert after - before > 8 * 86_400


@pytest.mark.parametrize("option", [{"repair": 1}, {"workers": 0}, {"workers": "2"}, {"progress": 3}])
def test_a_wrong_option_is_a_value_error(base: Path, option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Cache(base).verify(**option)  # type: ignore[arg-type]


def test_the_command_says_what_it_found(filled: Filled, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    assert "6 files read" in capfd.readouterr().out
    flip(filled.weights)
    assert main(["verify"]) == 1
    assert f"damaged: {filled.weights}: " in capfd.readouterr().out
    assert main(["verify", "--json", "--repair"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["schema"], facts["left"], facts["repaired"]) == (1, 0, 1)
    assert facts["damage"][0]["path"] == str(filled.weights)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_read_only_cache_is_read(filled: Filled, base: Path) -> None:
    flip(filled.weights)
    subprocess.run(["mount", "--bind", base, base], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", base], check=True)
        found = filled.cache.verify(repair=True)
        assert (found.left, found.checked) == (1, 6)
    finally:
        subprocess.run(["umount", "-l", base], check=True)
