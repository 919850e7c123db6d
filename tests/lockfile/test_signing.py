"""Signatures of a lock file: by a key of one's own, offline, in the form that Model Signing's own tool checks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import nanocache
from nanocache import Cache, NotSigned
from nanocache.cli.main import main
from tests.servers.origin import Origin


def written_key(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pem").write_bytes(private)
    (folder / f"{name}.pub").write_bytes(public)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (folder := tmp_path / "keys").mkdir()
    written_key(folder, "mine", ec.generate_private_key(ec.SECP256R1()))
    written_key(folder, "theirs", ec.generate_private_key(ec.SECP384R1()))
    written_key(folder, "rsa", rsa.generate_private_key(65537, 2048))
    return folder


@pytest.fixture
def url(base: Path, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (project := tmp_path / "project").mkdir()
    monkeypatch.chdir(project)
    return origin.add("/a.bin", b"aardvark")


@pytest.fixture
def signed(url: str, keys: Path, origin: Origin) -> Path:
    """A lock file that `mine` signed, and nothing cached."""
    assert main(["lock", "-q", url, "--sign", str(keys / "mine.pem")]) == 0
    Cache().remove(url)
    origin.reset()
    return Path("nanocache.lock")


def sync(key: Path) -> int:
    return main(["sync", "-q", "--require-signature", str(key)])


def test_a_signed_lock_file_is_synced(signed: Path, keys: Path) -> None:
    before = signed.read_bytes()
    assert sync(keys / "mine.pub") == 0
    assert signed.read_bytes() == before
    lock = nanocache.open_lock(require_signature=keys / "mine.pub")
    assert lock.fetch("a.bin").read_bytes() == b"aardvark"


def test_the_tool_of_model_signing_takes_the_signature(signed: Path, keys: Path) -> None:
    line = [sys.executable, "-m", "model_signing", "verify", "key", "nanocache.lock"]
    line += ["--signature", "nanocache.lock.sig", "--public_key", str(keys / "mine.pub")]
    assert subprocess.run(line, capture_output=True, timeout=60).returncode == 0
    signed.write_bytes(signed.read_bytes() + b"\n")
    assert subprocess.run(line, capture_output=True, timeout=60).returncode != 0


def changed(lock: Path) -> None:
    lock.write_text(lock.read_text().replace("size = 8", "size = 9"))


def rewritten(lock: Path) -> None:
    """The payload is another file's, and the signature stays."""
    sig = Path("nanocache.lock.sig")
    record = json.loads(sig.read_text())
    record["dsseEnvelope"]["payload"] = record["dsseEnvelope"]["payload"][:-8] + "fQp9fQp9"
    sig.write_text(json.dumps(record))


FAULTS: dict[str, Callable[[Path], object]] = {
    "the lock file was changed": changed,
    "a byte was added": lambda lock: lock.write_bytes(lock.read_bytes() + b"\n"),
    "there is no signature": lambda lock: Path("nanocache.lock.sig").unlink(),
    "the signature is empty": lambda lock: Path("nanocache.lock.sig").write_text(""),
    "the signature is no text": lambda lock: Path("nanocache.lock.sig").write_bytes(b"\xff\xfe"),
    "the signature is something else": lambda lock: Path("nanocache.lock.sig").write_text("{}"),
    "the signature is brackets": lambda lock: Path("nanocache.lock.sig").write_text("[" * 100_000),
    "the payload is another": rewritten,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_key_did_not_sign_is_refused_before_any_request(
    fault: str, signed: Path, keys: Path, origin: Origin, capfd: pytest.CaptureFixture[str]
) -> None:
    FAULTS[fault](signed)
    capfd.readouterr()
    assert sync(keys / "mine.pub") == 1
    said = capfd.readouterr()
    assert "nanocache.lock is not signed by" in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out
    assert not origin.requests()
    with pytest.raises(NotSigned):
        nanocache.open_lock(require_signature=keys / "mine.pub")


def test_anothers_key_is_refused(signed: Path, keys: Path) -> None:
    assert sync(keys / "theirs.pub") == 1
    assert main(["lock", "-q", "--sign", str(keys / "theirs.pem")]) == 0
    assert sync(keys / "theirs.pub") == 0
    assert sync(keys / "mine.pub") == 1


def test_a_hostile_lock_file_is_not_even_parsed_without_a_signature(signed: Path, keys: Path) -> None:
    signed.write_text("<<<<<<< HEAD\n")
    with pytest.raises(NotSigned):
        nanocache.open_lock(require_signature=keys / "mine.pub")


@pytest.mark.parametrize("key", ["rsa", "nothing", "text", "mine.pub as a private key"])
def test_what_is_no_key_is_said(key: str, signed: Path, keys: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (keys / "text.pem").write_text("hunter2")
    (keys / "text.pub").write_text("hunter2")
    swapped = key.endswith("private key")
    name = "mine" if swapped else key
    private, public = (
        (keys / f"{name}.pub", keys / f"{name}.pem") if swapped else (keys / f"{name}.pem", keys / f"{name}.pub")
    )
    code = 1 if key == "nothing" else 2
    capfd.readouterr()
    assert main(["lock", "--sign", str(private)]) == code
    assert sync(public) == code
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 2
    assert said.count(str(keys)) == 2
    assert "hunter2" not in said


def test_a_list_of_digests_is_not_signed(url: str, keys: Path) -> None:
    Path("SHA256SUMS").write_text(f"{'0' * 64}  a.bin\n")
    with pytest.raises(ValueError, match="only a lock file is signed"):
        nanocache.open_lock("SHA256SUMS", require_signature=keys / "mine.pub")


def test_without_the_library_the_error_names_the_extra(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(NotSigned, match=r"nanocache\[sign\]"):
        nanocache.open_lock(require_signature=keys / "mine.pub")
