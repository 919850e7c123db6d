"""Digests from where people have them: registries of pooch, TFDS and sha256sum."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact, ChecksumMismatch
from tests.servers.origin import Origin

A, B = (hashlib.sha256(data).hexdigest() for data in (b"aardvark", b"abacus"))
MD5 = hashlib.md5(b"aardvark", usedforsecurity=False).hexdigest()
SHA1 = hashlib.sha1(b"aardvark", usedforsecurity=False).hexdigest()


def listed(tmp_path: Path, text: str | bytes, **options: Any) -> dict[str, Artifact]:
    path = tmp_path / "registry.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return nanocache.registry(path, **options)


# --- forms ------------------------------------------------------------------------------------------------------------

POOCH = f"""
# a comment
a.csv {A}
  "data/b c.csv"   sha256:{B.upper()}
elsewhere.zip {A} https://elsewhere/x.zip?download=1
"""


def test_poochs_registry_is_read(tmp_path: Path) -> None:
    found = listed(tmp_path, POOCH, base_url="https://host/v1")
    assert {name: (artifact.url, artifact.sha256, artifact.name) for name, artifact in found.items()} == {
        "a.csv": ("https://host/v1/a.csv", A, "a.csv"),
        "data/b c.csv": ("https://host/v1/data/b%20c.csv", B, "b c.csv"),
        "elsewhere.zip": ("https://elsewhere/x.zip?download=1", A, "elsewhere.zip"),
    }


def test_pooch_reads_the_same(tmp_path: Path) -> None:
    pooch = pytest.importorskip("pooch", reason="pooch is what the benchmarks compare with")
    (tmp_path / "registry.txt").write_text(POOCH.replace(B.upper(), B))
    theirs = pooch.create(path=tmp_path, base_url="https://host/v1/")
    theirs.load_registry(tmp_path / "registry.txt")
    ours = nanocache.registry(tmp_path / "registry.txt", base_url="https://host/v1/")
    assert {name: artifact.sha256 for name, artifact in ours.items()} == {
        name: checksum.removeprefix("sha256:") for name, checksum in theirs.registry.items()
    }
    for name in theirs.registry:
        assert ours[name].url == theirs.get_url(name).replace(" ", "%20")


def test_a_checksum_file_of_tfds_is_read(tmp_path: Path) -> None:
    text = (
        f"https://host/a/train.zip\t8\t{A}\ttrain-of-a.zip\n"
        f"https://host/b/labels%20all.txt\t6\t{B}\n"
        f"https://host/c.tar 8 {A}\n"
        f"https://host/train/d.gz\t8\t{A}\nhttps://host/test/d.gz\t6\t{B}\n"
    )
    found = listed(tmp_path, text)
    assert {name: (artifact.sha256, artifact.size) for name, artifact in found.items()} == {
        "train-of-a.zip": (A, 8),
        "labels all.txt": (B, 6),
        "c.tar": (A, 8),
        "https://host/train/d.gz": (A, 8),
        "https://host/test/d.gz": (B, 6),
    }
    assert found["train-of-a.zip"].url == "https://host/a/train.zip"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"{A}  a.bin", "a.bin"),
        (f"{A} *a.bin", "a.bin"),
        (f"{A} a.bin", "a.bin"),
        (f"{A.upper()}  ./deep/a b.bin\r", "deep/a b.bin"),
        (rf"\{A}  a\nb\\c", "a\nb\\c"),
        (f"SHA256 (a (1).bin) = {A}", "a (1).bin"),
        (rf"\SHA256 (a\nb) = {A}", "a\nb"),
        (f"SHA2-256(a.bin)= {A}", "a.bin"),
        (f"SHA256(a.bin)= {A}", "a.bin"),
        (f"d41d8cd98f00b204e9800998ecf8427e {A}", "d41d8cd98f00b204e9800998ecf8427e"),
    ],
)
def test_a_line_of_each_form_is_read(tmp_path: Path, line: str, name: str) -> None:
    [(said, artifact)] = listed(tmp_path, line + "\n", base_url="https://host/").items()
    assert (said, artifact.sha256) == (name, A)


@pytest.mark.parametrize("options", [[], ["--binary"], ["--tag"]])
def test_what_sha256sum_prints_is_read_and_fetched(base: Path, tmp_path: Path, options: list[str]) -> None:
    for name in ("plain", "with space", "back\\slash", "new\nline"):
        (tmp_path / name).write_bytes(name.encode())
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    text = subprocess.check_output(["sha256sum", *options, *names], cwd=tmp_path)
    found = listed(tmp_path, text)
    assert sorted(found) == names
    for name, artifact in found.items():
        assert nanocache.fetch(artifact).read_bytes() == name.encode()


def test_a_byte_order_mark_and_an_empty_list_are_nothing(tmp_path: Path) -> None:
    assert list(listed(tmp_path, b"\xef\xbb\xbfa.csv " + A.encode(), base_url="https://host/")) == ["a.csv"]
    assert listed(tmp_path, "\n# nothing\n") == {}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"a.csv md5:{MD5}", "md5"),
        (f"a.csv {MD5}", "md5"),
        (f"{SHA1}  a.csv", "sha1"),
        (f"MD5 (a.csv) = {MD5}", "MD5"),
        (f"https://host/a\t8\t{MD5}", "md5"),
        (f"https://host/a\tmany\t{A}", "many"),
        (f"/etc/passwd {A}", "relative"),
        (f"../a {A}", "stay"),
        (f"{A}  ../../a", "stay"),
        (f"a.csv {A[:-1]}", "64 hex"),
        ("<html>", "a name, a digest"),
        (f'"a.csv {A}', "quotation"),
        (f"first.csv {B}", "above it"),
        (f"a.csv {A} gopher://host/a", "scheme"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"registry\.txt, line 3: .*{reason}"):
        listed(tmp_path, f"# entries\nfirst.csv {A}\n{line}\n", base_url="https://host/")


@pytest.mark.parametrize("source", [None, b"registry.txt", "", 3])
def test_what_is_no_list_is_a_value_error(source: Any) -> None:
    with pytest.raises(ValueError):
        nanocache.registry(source)


def test_bytes_that_are_no_text_and_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"registry\.txt is no list of digests"):
        listed(tmp_path, b"\x80\x81")
    with pytest.raises(FileNotFoundError):
        nanocache.registry(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="base_url"):
        listed(tmp_path, POOCH, base_url="https://host/?token=hunter2")


# --- over a network ---------------------------------------------------------------------------------------------------


def test_a_list_is_fetched_once_and_its_files_are_beside_it(base: Path, origin: Origin) -> None:
    origin.add("/v1/data/a.csv", b"aardvark")
    url = origin.add("/v1/SHA256SUMS", f"{A}  data/a.csv\n".encode())
    for _ in range(2):
        artifact = nanocache.registry(url)["data/a.csv"]
        path = nanocache.fetch(artifact)
        assert (path.name, path.read_bytes()) == ("a.csv", b"aardvark")
    assert origin.gets("/v1/SHA256SUMS") == 1
    assert nanocache.fetch_many(nanocache.registry(url).values()) == [path]


def test_a_list_may_say_its_own_digest_and_be_asked_for_again(base: Path, origin: Origin) -> None:
    text = f"a.csv {A}\n".encode()
    url = origin.add("/registry.txt", text)
    assert list(nanocache.registry(f"{url}#sha256={hashlib.sha256(text).hexdigest()}")) == ["a.csv"]
    with pytest.raises(ChecksumMismatch):
        nanocache.registry(f"{url}#sha256={'0' * 64}")
    nanocache.registry(url)
    origin.add("/registry.txt", f"b.csv {B}\n".encode())
    assert list(nanocache.registry(url)) == ["a.csv"]
    assert list(nanocache.registry(url, max_age=0)) == ["b.csv"]


def test_a_list_of_a_server_names_no_file_of_this_machine(base: Path, origin: Origin, tmp_path: Path) -> None:
    (secret := tmp_path / "secret").write_bytes(b"aardvark")
    url = origin.add("/registry.txt", f"a {A} {secret.as_uri()}\n".encode())
    with pytest.raises(ValueError, match="file of this machine"):
        nanocache.registry(url)


def test_no_secret_of_the_lists_url_is_shown(base: Path, origin: Origin) -> None:
    url = origin.add("/registry.txt", b"nonsense")
    with pytest.raises(ValueError) as raised:
        nanocache.registry(url.replace("://", "://me:hunter2@") + "?sig=swordfish")
    assert "line 1" in str(raised.value)
    assert not {secret for secret in ("hunter2", "swordfish") if secret in str(raised.value)}
