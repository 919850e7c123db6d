"""Mounts that refuse chmod, utime or fsync (gcsfuse, S3, SMB): the file comes all the same, after one warning each."""

from __future__ import annotations

import errno
import io
import logging
import os
import tarfile
from pathlib import Path

import pytest

import nanocache
from nanocache.disk import files
from tests.servers.origin import Origin

CODES = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS]


def packed() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("a/b.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"data"))
    return made.getvalue()


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("refused", ["chmod", "utime", "fsync"])
def test_a_mount_that_refuses_a_call_costs_one_warning(
    base: Path,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refused: str,
    code: int,
) -> None:
    if refused == "fsync" and code == errno.EPERM:
        pytest.skip("no mount says that")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "_warned", set())
    for name in ("chmod", "fchmod") if refused == "chmod" else (refused,):
        monkeypatch.setattr(os, name, refuse)
    urls = [origin.add(f"/{n}.bin", b"%d" % n) for n in range(3)]
    for n, url in enumerate(urls):
        assert nanocache.fetch(url).read_bytes() == b"%d" % n
        assert nanocache.fetch(url).read_bytes() == b"%d" % n
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if refused == "utime":
        assert [text.count("cannot keep the seal") for text in warnings] == [1] * 3  # it is said of each blob
    else:
        assert len([text for text in warnings if text.startswith(f"{refused} is not possible here")]) == 1
    assert not [text for text in warnings if "writable" in text]


def test_an_archive_is_unpacked_where_chmod_is_refused(
    base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)
    product = nanocache.fetch(origin.add("/a.tar", packed()), postprocess=nanocache.Unpack())
    assert (product / "a/b.txt").read_bytes() == b"data"
