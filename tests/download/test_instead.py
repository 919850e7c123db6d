# ruff: noqa: F401, F811  # fixtures are imported by name
"""Something else came instead of the file: the error says what it seems to be, and nothing of it is remembered."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from nanocache.errors import ChecksumMismatch, DownloadFailed
from tests.download.downloads import Download, body, download, sha, slept
from tests.servers import misbehave as m
from tests.servers.misbehave import Misbehaving

Servers = Callable[..., Misbehaving]

EXPECTED = sha(b"the file")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 4096\n"
PAGE = b"\n<!doctype html>\n<html><title>Log in</title></html>"

CAME: dict[str, tuple[m.Handler, str]] = {
    "LFS pointer": (m.serve(POINTER, content_type="text/plain"), "Git LFS pointer"),
    "LFS pointer, chunked": (m.chunked(POINTER), "Git LFS pointer"),
    "old LFS pointer": (m.serve(POINTER.replace(b"git-lfs.github.com", b"hawser.github.com")), "Git LFS pointer"),
    "page": (m.html(PAGE), "web page"),
    "page that is called binary": (m.serve(PAGE, content_type="application/octet-stream"), "web page"),
    "page of another doctype": (m.serve(b"\xef\xbb\xbf<HTML lang=en><p>Quota exceeded"), "web page"),
    "error in JSON": (m.serve(b'{"error": "Repository not found"}'), "error message"),
    "error in XML": (m.serve(b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>'), "error message"),
    "nothing": (m.serve(b""), "empty"),
}


@pytest.mark.parametrize("came", CAME)
def test_a_wrong_digest_says_what_came_instead(misbehaving: Servers, download: Download, came: str) -> None:
    handler, named = CAME[came]
    with pytest.raises(ChecksumMismatch, match=named) as e:
        download(misbehaving().route("/weights.safetensors", handler), digest=EXPECTED)
    assert named in e.value.note


@pytest.mark.parametrize("came", [name for name in CAME if "LFS" in name])
def test_a_pointer_is_refused_without_a_digest_too(misbehaving: Servers, download: Download, came: str) -> None:
    with pytest.raises(DownloadFailed, match="Git LFS pointer"):
        download(misbehaving().route("/weights.safetensors", CAME[came][0]))
    assert download.left() is None


def test_a_pointer_that_is_meant_is_taken_by_its_digest(misbehaving: Servers, download: Download) -> None:
    url = misbehaving().route("/pointer", m.serve(POINTER))
    assert download(url, digest=sha(POINTER)) == POINTER
    assert download(url, size=len(POINTER)) == POINTER


def test_a_page_of_another_size_than_expected_is_named(misbehaving: Servers, download: Download) -> None:
    with pytest.raises(DownloadFailed, match=r"bytes where 4,096 were expected.*web page"):
        download(misbehaving().route("/f", m.html(PAGE)), size=4096)


@pytest.mark.parametrize(
    "data",
    [
        body(100),
        b"{}",
        b'[{"error": 1}]',
        b'{"model": "error"}',
        b"<?xml version='1.0'?><svg/>",
        b"version 1\n",
        b"\xff",
    ],
)
def test_another_file_is_only_another_file(misbehaving: Servers, download: Download, data: bytes) -> None:
    with pytest.raises(ChecksumMismatch) as e:
        download(misbehaving().route("/f", m.serve(data)), digest=EXPECTED)
    assert e.value.note == ""


@pytest.mark.parametrize(("name", "data"), [("index.html", PAGE), ("config.json", b'{"error": "none"}')])
def test_what_the_name_says_is_no_surprise(misbehaving: Servers, download: Download, name: str, data: bytes) -> None:
    with pytest.raises(ChecksumMismatch) as e:
        download(misbehaving().route("/f", m.serve(data)), digest=EXPECTED, name=name)
    assert e.value.note == ""


def test_an_encoding_that_was_not_asked_for_is_warned_of_unless_a_digest_judges_the_bytes(
    misbehaving: Servers, download: Download, caplog: pytest.LogCaptureFixture
) -> None:
    url = misbehaving().route("/f", m.gzipped(body(1000)))
    with caplog.at_level(logging.WARNING, "nanocache"):
        raw = download(url + "?token=secret")
        assert "gzip" in caplog.text
        assert "secret" not in caplog.text
        caplog.clear()
        download(url, digest=sha(raw))
    assert not caplog.records
