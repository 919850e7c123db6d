"""Looking at a cache: what is there, since when, from where, and how much it takes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

import nanocache
from nanocache import Cache, NotCached
from nanocache.upkeep import usage
from tests.upkeep.conftest import Filled, made_old


def test_each_digest_is_one_entry_with_all_its_names(filled: Filled) -> None:
    again = nanocache.fetch(filled.url, filename="other.bin")
    entry = next(e for e in filled.cache.entries() if e.digest == again.parent.name)
    assert entry.names == ("other.bin", "weights.bin")
    assert entry.paths == (str(again), str(filled.weights))
    assert (entry.size, entry.links) == (50_000, 0)
    assert entry.urls == (filled.url,)
    assert entry.products == (str(filled.copied),)
    assert (entry.pinned, entry.held) == (False, False)
    now = time.time()
    assert now - 60 < entry.used <= now + 1
    assert now - 60 < entry.created <= now + 1
    assert entry.verified is not None
    assert now - 86_460 < entry.verified <= now + 1


def test_there_is_an_entry_for_each_folder_of_blobs_and_no_more(filled: Filled, base: Path) -> None:
    found = {entry.digest for entry in filled.cache.entries()}
    assert found == {path.name for path in base.glob("blobs-v1/sha256/*/*")}
    assert filled.folder.parent.name in found  # the manifest of a snapshot is a blob, too


def test_the_files_of_a_snapshot_say_that_they_have_a_name_outside(filled: Filled) -> None:
    model = filled.cache.info(filled.folder / "deep/model.safetensors")  # of the folder, whose manifest is a blob
    assert model.products == (str(filled.folder),)
    blob = next(e for e in filled.cache.entries() if e.names == ("model.safetensors",))
    assert blob.links == 1


def test_a_product_without_its_artifact_is_an_entry(filled: Filled) -> None:
    os.unlink(filled.weights)
    os.rmdir(filled.weights.parent)
    entry = filled.cache.info(filled.copied)
    assert (entry.size, entry.names, entry.products) == (0, (), (str(filled.copied),))
    assert entry.verified is None


def test_what_was_written_to_is_not_verified(filled: Filled) -> None:
    os.chmod(filled.weights, 0o644)
    filled.weights.write_bytes(b"x")
    os.utime(filled.weights, (1, 1))
    assert filled.cache.info(filled.url).verified is None


@pytest.mark.parametrize("spell", ["url", "path", "digest", "short", "prefixed", "product", "link", "str path"])
def test_a_target_is_a_path_a_url_or_a_digest(filled: Filled, spell: str, tmp_path: Path) -> None:
    digest = filled.weights.parent.name
    os.link(filled.weights, tmp_path / "mine.bin")
    target = {
        "url": filled.url,
        "path": filled.weights,
        "digest": digest.upper(),
        "short": digest[:8],
        "prefixed": f"sha256:{digest}",
        "product": filled.copied / "a.txt",
        "link": tmp_path / "mine.bin",
        "str path": str(filled.weights),
    }[spell]
    assert filled.cache.info(target).digest == digest


def test_a_repository_is_a_target(filled: Filled) -> None:
    assert filled.cache.info("hf://owner/name").products == (str(filled.folder),)


@pytest.mark.parametrize("target", ["0123456789", "https://host/unknown", "/etc/passwd", "hf://owner/other", "a" * 64])
def test_what_is_unknown_is_not_cached(filled: Filled, target: str) -> None:
    with pytest.raises(NotCached, match="nanocache ls"):
        filled.cache.info(target)


@pytest.mark.parametrize("target", [None, 7, "", b"x", ["a"]])
def test_what_is_no_target_is_a_value_error(filled: Filled, target: object) -> None:
    with pytest.raises(ValueError, match="a target is"):
        filled.cache.info(target)


def test_a_beginning_that_fits_two_is_refused(base: Path) -> None:
    for digest in ("ab" * 32, "ab" * 31 + "cd"):
        (base / "products-v1" / digest / "hook" / "x").mkdir(parents=True)
    with pytest.raises(ValueError, match="beginning of 2 digests"):
        Cache(base).info("abababab")


def test_looking_writes_nothing_and_needs_no_right_to(filled: Filled, base: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in base.rglob("*")}
    entries = list(filled.cache.entries())
    assert [entry.urls for entry in entries]
    usage.measure(filled.cache.store)
    assert {path: path.lstat().st_mtime_ns for path in base.rglob("*")} == before


def test_an_empty_or_missing_base_has_no_entries(tmp_path: Path) -> None:
    assert list(Cache(tmp_path / "none").entries()) == []
    assert sum(one.size for one in usage.measure(Cache(tmp_path / "none").store)) == 0
    assert not (tmp_path / "none").exists()


def test_use_is_seen_by_the_folders_of_all_that_was_made(filled: Filled, base: Path) -> None:
    made_old(base, 5)
    entry = filled.cache.info(filled.url)
    assert 4.9 * 3600 < time.time() - entry.used < 5.1 * 3600
    os.utime(base / "products-v1" / entry.digest)
    assert time.time() - filled.cache.info(filled.url).used < 60


def test_a_file_with_several_names_is_counted_once(filled: Filled, base: Path) -> None:
    before = {one.kind: one for one in usage.measure(filled.cache.store)}
    assert before["trees"].files == 2  # our tags: the rest are further names of blobs
    assert before["products"].files == 5  # two, the record of how many, and our tags
    nanocache.fetch(filled.url, filename="other.bin")
    after = {one.kind: one for one in usage.measure(filled.cache.store)}
    assert after["blobs"] == before["blobs"]
    sizes = {(p.stat().st_ino): p.stat().st_size for p in base.rglob("*") if p.is_file()}
    assert sum(one.files for one in after.values()) == len(sizes)
    assert sum(one.size for one in after.values()) <= sum(sizes.values())


def test_an_entry_is_json(filled: Filled) -> None:
    facts = json.loads(json.dumps(filled.cache.info(filled.url).to_json()))
    assert facts["digest"] == filled.weights.parent.name
    assert facts["urls"] == [filled.url]
    assert not [name for name in facts if name.startswith("_")]
