"""download_file_with_lock: the code that grew up on nanochat's helper goes on working, without its races."""

from __future__ import annotations

import io
import logging
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import PostprocessFailed, download_file_with_lock, get_base_dir
from tests.servers.misbehave import Misbehaving, close_delimited
from tests.servers.origin import Origin

BODY = b"aardvark\nabacus\n"


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.add("/words_alpha.txt", BODY)


def foreign(base: Path) -> list[str]:
    """What lies in the base directory that is not ours."""
    return sorted(path.name for path in base.iterdir() if not path.name.endswith("-v1"))


# --- the seed's callers -----------------------------------------------------------------------------------------------


def test_a_word_list_as_the_seed_asks_for_it(base: Path, url: str, origin: Origin) -> None:
    path = download_file_with_lock(url, "words_alpha.txt")
    assert type(path) is str
    assert path == os.path.join(get_base_dir(), "words_alpha.txt")
    with open(path) as file:
        assert [line.strip() for line in file] == ["aardvark", "abacus"]
    assert download_file_with_lock(url, "words_alpha.txt") == path
    assert origin.gets() == 1
    assert foreign(base) == ["words_alpha.txt"]


def place_eval_bundle(file_path: str) -> None:
    base_dir = get_base_dir()
    eval_bundle_dir = os.path.join(base_dir, "eval_bundle")
    with tempfile.TemporaryDirectory() as tmpdir:
        with zipfile.ZipFile(file_path, "r") as zip_ref:
            zip_ref.extractall(tmpdir)
        extracted_bundle_dir = os.path.join(tmpdir, "eval_bundle")
        shutil.move(extracted_bundle_dir, eval_bundle_dir)


def test_a_bundle_with_a_hook_that_places_it_elsewhere(base: Path, origin: Origin) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("eval_bundle/core.yaml", "tasks: []")
    url = origin.add("/eval_bundle.zip", data.getvalue())
    for _ in range(2):
        path = download_file_with_lock(url, "eval_bundle.zip", postprocess_fn=place_eval_bundle)
        assert zipfile.is_zipfile(path)
    assert (base / "eval_bundle" / "core.yaml").read_text() == "tasks: []"
    assert foreign(base) == ["eval_bundle", "eval_bundle.zip"]
    assert origin.gets() == 1


def test_the_hook_gets_one_str_that_ends_in_the_filename(base: Path, url: str) -> None:
    seen: list[str] = []

    def hook(path: str) -> None:
        seen.append(path)
        assert Path(path).read_bytes() == BODY

    download_file_with_lock(url, "data/words.txt", hook)
    assert [type(path) for path in seen] == [str]
    assert seen[0].endswith("/data/words.txt")
    assert not os.path.exists(seen[0])


def test_the_environments_base_directory_is_the_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "chat"))
    assert download_file_with_lock(url, "words.txt") == str(tmp_path / "chat" / "words.txt")


def test_any_callable_will_do_as_a_hook(base: Path, url: str) -> None:
    """The seed's hooks have no identity to be told apart by: the name on disk is the identity."""
    assert os.path.exists(download_file_with_lock(url, "a.txt", lambda path: None))
    assert os.path.exists(download_file_with_lock(url, "b.txt", [].append))


# --- what appears, and when -------------------------------------------------------------------------------------------


def test_the_name_is_a_read_only_hard_link_to_the_blob(base: Path, url: str) -> None:
    path = os.stat(download_file_with_lock(url, "words.txt"))
    blob = nanocache.fetch(url).stat()
    assert (path.st_ino, path.st_dev) == (blob.st_ino, blob.st_dev)
    assert stat.S_IMODE(path.st_mode) == 0o444


def test_the_name_appears_only_after_the_hook_succeeded(base: Path, url: str) -> None:
    def hook(path: str) -> None:
        assert not (base / "words.txt").exists()
        raise KeyError("not yet")

    for _ in range(2):
        with pytest.raises(PostprocessFailed, match="KeyError: 'not yet'") as failed:
            download_file_with_lock(url, "words.txt", hook)
        assert isinstance(failed.value.__cause__, KeyError)
        assert foreign(base) == []
    assert os.path.exists(download_file_with_lock(url, "words.txt", lambda path: None))


def test_a_failed_hook_runs_again_and_a_successful_one_does_not(base: Path, url: str, origin: Origin) -> None:
    ran: list[str] = []

    def hook(path: str) -> None:
        ran.append(path)
        if len(ran) < 3:
            raise OSError("the disk is away")

    for _ in range(2):
        with pytest.raises(PostprocessFailed):
            download_file_with_lock(url, "words.txt", hook)
    for _ in range(3):
        download_file_with_lock(url, "words.txt", hook)
    assert len(ran) == 3
    assert origin.gets() == 1
    assert not [path for path in (base / "partials-v1").iterdir() if path.is_dir()]


@pytest.mark.skipif(os.geteuid() != 0, reason="to others the file is read-only")
def test_a_hook_that_edits_its_file_edits_no_blob(
    base: Path, url: str, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """Root writes through 0444, in a container for one: so it gets a copy."""
    blob = nanocache.fetch(url)
    before = blob.stat()
    ran: list[str] = []

    def edit(path: str) -> None:
        ran.append(path)
        with open(path, "r+b") as file:
            file.write(b"EDIT")

    with caplog.at_level(logging.WARNING, "nanocache"):
        for _ in range(3):
            path = download_file_with_lock(url, "words.txt", edit)
    assert blob.read_bytes() == Path(path).read_bytes() == BODY
    assert stat.S_IMODE(before.st_mode) == stat.S_IMODE(blob.stat().st_mode) == 0o444
    assert before.st_mtime_ns == blob.stat().st_mtime_ns
    assert (len(ran), origin.gets()) == (1, 1)
    assert caplog.text.count("changed the file that it was given") == 1


@pytest.mark.parametrize("consume", [os.unlink, lambda path: os.rename(path, path + ".moved")])
def test_a_hook_may_consume_its_file(base: Path, url: str, consume: Callable[[str], None]) -> None:
    assert Path(download_file_with_lock(url, "words.txt", consume)).read_bytes() == BODY


def test_a_name_that_was_deleted_comes_back_with_its_hook(base: Path, url: str, origin: Origin) -> None:
    ran: list[str] = []
    path = download_file_with_lock(url, "words.txt", ran.append)
    os.unlink(path)
    assert Path(download_file_with_lock(url, "words.txt", ran.append)).read_bytes() == BODY
    assert len(ran) == 2
    assert origin.gets() == 1


def test_a_name_that_was_written_to_heals(base: Path, url: str, origin: Origin) -> None:
    path = Path(download_file_with_lock(url, "words.txt"))
    path.chmod(0o644)
    path.write_bytes(b"tampered")
    assert Path(download_file_with_lock(url, "words.txt")).read_bytes() == BODY
    assert nanocache.fetch(url).read_bytes() == BODY
    assert origin.gets() == 2


@pytest.mark.parametrize("hook", ["None", "hook"])
def test_eight_processes_download_once_and_run_the_hook_once(
    spawn: Callable[..., Any], base: Path, origin: Origin, tmp_path: Path, hook: str
) -> None:
    url = origin.url("/bytes/3000000/1/weights.bin")
    setup = (
        "import os, time, nanocache\n"
        "def hook(path):\n"
        "    assert not os.path.exists(os.path.join(nanocache.get_base_dir(), 'w.bin'))\n"
        "    with open(log, 'a') as file: file.write(path + '\\n')\n"
        "    time.sleep(0.2)"
    )
    code = f"path = nanocache.download_file_with_lock(url, 'w.bin', {hook}); print(path, os.path.getsize(path))"
    log = tmp_path / "log"
    told = spawn(code, 8, setup=setup, url=url, log=str(log)).outputs()
    assert set(told) == {f"{base / 'w.bin'} 3000000"}
    assert origin.gets() == 1
    assert hook == "None" or len(log.read_text().splitlines()) == 1


def test_threads_run_the_hook_once(base: Path, url: str, origin: Origin) -> None:
    ran: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(download_file_with_lock, url, "words.txt", ran.append) for _ in range(8)]
        assert len({call.result() for call in calls}) == 1
    assert len(ran) == 1
    assert origin.gets() == 1


def test_names_of_one_content_are_links_to_one_blob(base: Path, url: str, origin: Origin) -> None:
    one, other = download_file_with_lock(url, "a.txt"), download_file_with_lock(url, "deep/er/b.txt")
    assert os.path.samefile(one, other)
    assert origin.gets() == 1


def test_two_urls_under_one_name_take_turns(base: Path, url: str, origin: Origin) -> None:
    other = origin.add("/other.txt", b"other")
    for wanted, body in ((url, BODY), (other, b"other"), (url, BODY)):
        assert Path(download_file_with_lock(wanted, "words.txt")).read_bytes() == body
    assert foreign(base) == ["words.txt"]  # what we gave we may take
    assert origin.gets() == 2


def test_a_body_that_cannot_be_remembered_is_placed_all_the_same(
    base: Path, misbehaving: Callable[..., Misbehaving], caplog: pytest.LogCaptureFixture
) -> None:
    url = misbehaving().route("/words.txt", close_delimited(BODY))
    ran: list[str] = []
    assert Path(download_file_with_lock(url, "words.txt", ran.append)).read_bytes() == BODY
    assert len(ran) == 1
    assert "not remembered" in caplog.text


def test_without_a_seal_the_link_itself_tells(base: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that keeps no times: the hook runs once there, too."""
    monkeypatch.setattr("nanocache.store.seal.holds", lambda st, digest: False)
    ran: list[str] = []
    for _ in range(3):
        assert Path(download_file_with_lock(url, "words.txt", ran.append)).read_bytes() == BODY
    assert len(ran) == 1


# --- what is not ours -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("online", [True, False])
def test_a_file_that_the_seed_left_is_adopted_where_it_lies(
    base: Path, url: str, origin: Origin, monkeypatch: pytest.MonkeyPatch, online: bool
) -> None:
    left = base / "words.txt"
    left.write_bytes(b"the seed's download")
    before = left.stat()
    ran: list[str] = []
    monkeypatch.setenv("NANOCACHE_OFFLINE", "0" if online else "1")
    for _ in range(2):
        assert download_file_with_lock(url, "words.txt", ran.append) == str(left)
    after = left.stat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    assert left.read_bytes() == b"the seed's download"
    assert os.listdir(base) == ["words.txt"]
    assert (ran, origin.gets()) == ([], 0)


def test_a_file_of_the_seed_in_a_folder_and_of_even_seconds_is_adopted_too(
    base: Path, url: str, origin: Origin
) -> None:
    """As rsync leaves it: its time alone does not tell it from a sealed file of ours."""
    left = base / "data" / "words.txt"
    left.parent.mkdir()
    left.write_bytes(b"the seed's download")
    os.utime(left, (1_700_000_000, 1_700_000_000))
    assert Path(download_file_with_lock(url, "data/words.txt")).read_bytes() == b"the seed's download"
    assert origin.gets() == 0


def test_the_same_bytes_that_the_seed_left_are_not_fetched_again(base: Path, url: str, origin: Origin) -> None:
    (base / "words.txt").write_bytes(BODY)
    assert Path(download_file_with_lock(url, "words.txt")).read_bytes() == BODY
    assert foreign(base) == ["words.txt"]
    assert origin.gets() == 0


def test_an_empty_file_that_a_killed_seed_left_is_no_download(base: Path, url: str, origin: Origin) -> None:
    (base / "words.txt").write_bytes(b"")
    assert Path(download_file_with_lock(url, "words.txt")).read_bytes() == BODY
    assert origin.gets() == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_strangers_file_is_not_adopted(base: Path, url: str) -> None:
    (base / "words.txt").write_bytes(b"from a stranger")
    os.chown(base / "words.txt", 12345, 12345)
    assert Path(download_file_with_lock(url, "words.txt")).read_bytes() == BODY


def test_a_foreign_file_at_the_name_of_a_url_that_is_cached_is_moved_aside_and_never_lost(
    base: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    nanocache.fetch(url)
    (base / "words.txt").write_bytes(b"my own words")
    with caplog.at_level(logging.WARNING, "nanocache"):
        path = download_file_with_lock(url, "words.txt")
    assert Path(path).read_bytes() == BODY
    (aside,) = base.glob("words.txt.before-*")
    assert aside.read_bytes() == b"my own words"
    assert caplog.text.count(str(aside)) == 1


def test_a_foreign_file_stays_where_it_is_if_the_hook_fails(base: Path, url: str) -> None:
    def hook(path: str) -> None:
        raise ValueError

    nanocache.fetch(url)
    (base / "words.txt").write_bytes(b"my own words")
    with pytest.raises(PostprocessFailed):
        download_file_with_lock(url, "words.txt", hook)
    assert (base / "words.txt").read_bytes() == b"my own words"
    assert foreign(base) == ["words.txt"]


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_foreign_folder_or_link_is_never_lost(base: Path, tmp_path: Path, url: str, kind: str) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_bytes(b"theirs")
    if kind == "link":
        (base / "words.txt").symlink_to(tmp_path / "theirs" / "file")
    else:
        (tmp_path / "theirs").rename(base / "words.txt")
    assert Path(download_file_with_lock(url, "words.txt")).read_bytes() == BODY
    (aside,) = base.glob("words.txt.before-*")
    assert (aside if kind == "link" else aside / "file").read_bytes() == b"theirs"
    assert kind == "folder" or (tmp_path / "theirs" / "file").read_bytes() == b"theirs"


def test_the_same_bytes_of_a_url_that_is_cached_are_taken_over(base: Path, url: str) -> None:
    nanocache.fetch(url)
    (base / "words.txt").write_bytes(BODY)
    assert Path(download_file_with_lock(url, "words.txt")).read_bytes() == BODY
    assert foreign(base) == ["words.txt"]
    assert stat.S_IMODE((base / "words.txt").stat().st_mode) == 0o444


@pytest.mark.parametrize("filename", ["n" * 256, "ü" * 128, "d" * 256 + "/words.txt", "a\udc80", "d\ud800/words.txt"])
def test_a_filename_that_no_disk_takes_is_a_value_error_before_any_request(
    base: Path, url: str, origin: Origin, filename: str
) -> None:
    with pytest.raises(ValueError, match="filename must") as raised:
        download_file_with_lock(url, filename)
    assert type(raised.value) is ValueError
    assert not origin.requests()


@pytest.mark.parametrize(
    "filename",
    [
        *("", ".", "..", "/etc/passwd", "../x", "a/../../x", "a/..", "a\0b", "a\\..\\b"),
        *("blobs-v1/x", "locks-v1", "./refs-v1/x", "partials-v1/a/b", "trash-v1/x", "products-v1/x", "Blobs-v1/x"),
    ],
)
def test_a_filename_stays_in_the_base_directory_and_out_of_our_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, origin: Origin, filename: str
) -> None:
    monkeypatch.setenv("NANOCACHE_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"\Afilename must .*\Z"):
        download_file_with_lock(url, filename)
    assert not (tmp_path / "nowhere").exists()
    assert not origin.requests()


def test_a_filename_may_lie_in_a_folder(base: Path, url: str) -> None:
    for filename in ("a/b/words.txt", "a//b/./words.txt", Path("a/b/words.txt")):
        assert download_file_with_lock(url, filename) == str(base / "a" / "b" / "words.txt")  # type: ignore[arg-type]
    assert foreign(base / "a") == ["b"]


def test_offline_what_is_there_is_given(base: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCACHE_OFFLINE", "1")
    with pytest.raises(nanocache.NotCached):
        download_file_with_lock(url, "words.txt")
    monkeypatch.delenv("NANOCACHE_OFFLINE")
    path = download_file_with_lock(url, "words.txt")
    monkeypatch.setenv("NANOCACHE_OFFLINE", "1")
    assert download_file_with_lock(url, "words.txt") == path
