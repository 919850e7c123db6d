"""nanocache.lock as text: its bytes are a function of what is in it, and what is wrong with one says where."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanocache
from nanocache import Artifact
from nanocache.lockfile import file, form
from nanocache.lockfile.form import Locked

A, B = "a" * 64, "b" * 64
COMMIT = "c" * 40


def locked(name: str, url: str = "https://host/a.bin", **more: object) -> Locked:
    return Locked.of(name, Artifact(url), A, 4, more.get("revision"))


ENTRIES = [
    locked("b.bin"),
    locked('a/\u00e9t\u00e9 "x".bin', "https://host/x?versionId=7"),
    locked("owner/name/config.json", "hf://owner/name@main/config.json", revision=COMMIT),
    Locked.of("m.bin", Artifact("https://host/m.bin", mirrors=["https://z/m.bin", "https://y/m.bin"]), B, 5),
]


def test_the_bytes_are_a_function_of_the_set_of_artifacts() -> None:
    texts = set()
    for seed in range(20):
        random.Random(seed).shuffle(shuffled := [*ENTRIES])
        texts.add(form.render(shuffled))
    assert len(texts) == 1


def test_what_is_written_is_read_back_and_toml() -> None:
    text = form.render(ENTRIES)
    assert set(form.parse(text)) == set(ENTRIES)
    tables = tomllib.loads(text)["artifact"]
    assert [table["name"] for table in tables] == sorted(entry.name for entry in ENTRIES)
    assert list(tables[2]) == ["name", "url", "sha256", "size", "mirrors"]
    assert tables[3]["revision"] == COMMIT


def test_two_branches_that_add_artifacts_change_no_line_of_each_other() -> None:
    both = form.render(ENTRIES).split("\n\n")
    for entry in ENTRIES:
        without = form.render([one for one in ENTRIES if one is not entry]).split("\n\n")
        rest = [table for table in both if f'"{entry.name}"' not in table and '\\"x\\"' not in table]
        assert {table.strip() for table in rest} <= {table.strip() for table in without} | {both[0]}


@given(st.text(min_size=1, max_size=40))
def test_any_name_that_is_taken_comes_back_as_it_was(name: str) -> None:
    try:
        entry = locked(name)
    except ValueError:
        return
    assert form.parse(form.render([entry])) == (entry,)


@given(st.text(alphabet="[]=\"'\\\n#a1 .", max_size=60))
def test_no_text_is_anything_but_a_lock_file_or_a_value_error(text: str) -> None:
    said = ""
    try:
        form.parse(text)
    except ValueError as e:
        said = str(e)
    assert "\n" not in said


def test_no_credential_is_written() -> None:
    url = "https://me:hunter2@Host:443/a.bin?X-Amz-Signature=hunter2&X-Amz-Date=1&versionId=3"
    entry = Locked.of("a", Artifact(url, mirrors=["https://you:hunter2@m/a"]), A, 1)
    text = form.render([entry])
    assert "hunter2" not in text
    assert 'url = "https://host/a.bin?versionId=3"' in text
    assert '"https://m/a"' in text


@pytest.mark.parametrize("name", ["token", "access_token", "api_key", "key", "X-Secret", "my_sig", "password"])
def test_a_parameter_that_is_named_like_a_credential_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(ValueError, match="seems to hold a credential") as caught:
        locked("a", f"https://host/a?{name}=hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["author", "tokenizer", "monkey", "download", "versionId", "signed"])
def test_a_parameter_that_chooses_content_stays(name: str) -> None:
    assert locked("a", f"https://host/a?{name}=1").url == f"https://host/a?{name}=1"


def test_an_entry_of_a_hub_means_its_commit_for_ever() -> None:
    entry = ENTRIES[2]
    assert entry.artifact.url == f"hf://owner/name@{COMMIT}/config.json"


# --- what is wrong ----------------------------------------------------------------------------------------------------

TABLE = f'[[artifact]]\nname = "a"\nurl = "https://host/a"\nsha256 = "{A}"\n'

WRONG = [
    (TABLE.replace(A, "aa"), "line 1: sha256 must be 64 hex digits"),
    (TABLE.replace(A, "md5:" + "a" * 32), "line 1: sha256 must be a SHA-256, got md5"),
    (f"{TABLE}\n{TABLE}", "line 6: another artifact is called 'a', see line 1"),
    (TABLE.replace('"a"', '"A/b"') + TABLE, "'a' is a file, and 'A/b' needs a folder there"),
    (TABLE.replace('"a"', '"../a"'), r"line 1: name must be a path that stays in its folder, got '../a'"),
    (TABLE.replace('"a"', '"/etc/passwd"'), "its name is absolute"),
    (TABLE.replace('"a"', '"a//b"'), "name must be a path without"),
    (TABLE.replace('"a"', '"C:/b"'), "may lead out of its folder"),
    (TABLE.replace('"a"', '"a\\u001b"'), r"its name holds '\\x1b'"),
    (TABLE.replace('"a"', "7"), "line 1: name must be a str"),
    (f"{TABLE}sha265 = 1\n", "line 1: unknown key 'sha265'"),
    (f"{TABLE}size = -1\n", "line 1: size must be at least 0"),
    (f"{TABLE}size = 1.5\n", "line 1: size must be a whole number"),
    (f'{TABLE}mirrors = "https://m/a"\n', "line 1: mirrors must be a list"),
    (f'{TABLE}revision = "{COMMIT}"\n', "line 1: revision is the commit of an hf:// URL"),
    (TABLE.replace("https://host/a", "hf://o/n/a") + 'revision = "main"\n', "commit of 40 hex digits"),
    (TABLE.replace("https://host/a", "gopher://host/a"), "line 1: cannot fetch 'gopher"),
    (TABLE.replace('sha256 = "', 'sha = "'), "line 1: unknown key 'sha'"),
    ("[[artifact]]\nname = 'a'\n", "line 1: it has no url"),
    (f"version = 2\n{TABLE}", "it has version 2, and this nanocache reads version 1"),
    (f"version = true\n{TABLE}", "it has version True"),
    (f"extra = 2\n{TABLE}", "it has the unknown key 'extra'"),
    ("artifact = 3", "its artifacts must be"),
    ("artifact = [3]", "artifact 1: an artifact must be a table"),
    (f"{TABLE}<<<<<<< HEAD\n{TABLE}=======\n>>>>>>> theirs\n", "line 5: it has a merge conflict"),
    ("not toml", r"it is no TOML: .*line 1"),
    ("x = " + "[" * 5000, "it is no TOML"),
    ("x = " + "9" * 5000, "it is no TOML"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_hostile_lock_file_is_a_value_error_of_one_line_that_says_where(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "nanocache.lock"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        nanocache.open_lock(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_text_file_is_refused_at_once(tmp_path: Path) -> None:
    import os

    os.mkfifo(fifo := tmp_path / "fifo.lock")
    (binary := tmp_path / "binary.lock").write_bytes(b"\xff\xfe\x00")
    (folder := tmp_path / "folder.lock").mkdir()
    for path in (fifo, binary, folder):
        with pytest.raises(ValueError, match=f"{path} is no lock file"):
            nanocache.open_lock(path)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_change_keeps_mode_and_symlink_and_leaves_nothing_beside(tmp_path: Path) -> None:
    real = tmp_path / "real" / "nanocache.lock"
    real.parent.mkdir()
    file.change(str(real), lambda _: (ENTRIES[0],))
    real.chmod(0o640)
    (link := tmp_path / "nanocache.lock").symlink_to(real)
    file.change(str(link), lambda entries: (*entries, ENTRIES[1]))
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert set(file.read(str(link))) == set(ENTRIES[:2])
    assert [path.name for path in real.parent.iterdir()] == ["nanocache.lock"]


def test_bytes_that_would_not_change_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "nanocache.lock"
    file.change(str(path), lambda _: tuple(ENTRIES))
    before = path.stat()
    file.change(str(path), lambda entries: tuple(reversed(entries)))
    assert path.stat() == before


def test_a_failed_change_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (folder := tmp_path / "locked").mkdir()
    path = folder / "nanocache.lock"
    file.change(str(path), lambda _: (ENTRIES[0],))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="needs a folder there"):
        file.change(str(path), lambda entries: (*entries, locked("b.bin/x")))
    assert path.read_bytes() == before
    assert [found.name for found in folder.iterdir()] == ["nanocache.lock"]


def test_processes_that_add_at_once_lose_nothing(spawn, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code = """
for n in range(10):
    name = f"{INDEX}/{n}"
    entry = form.Locked.of(name, Artifact(f"https://host/{name}"), "a" * 64, 4)
    file.change(path, lambda entries: (*entries, entry))
"""
    setup = "from nanocache import Artifact\nfrom nanocache.lockfile import file, form"
    path = str(tmp_path / "locked" / "nanocache.lock")
    Path(path).parent.mkdir()
    spawn(code, 4, setup=setup, path=path).outputs()
    assert len(file.read(path)) == 40
    assert [found.name for found in Path(path).parent.iterdir()] == ["nanocache.lock"]
