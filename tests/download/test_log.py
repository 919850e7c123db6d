# ruff: noqa: F401, F811  # fixtures are imported by name
"""What the log tells of a download: where it starts, why and how long it pauses, the next mirror, the end."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest

from nanocache.download.download import Condition
from nanocache.errors import DownloadFailed
from tests.download.downloads import MIB, Download, body, download, sha, slept
from tests.servers import misbehave as m
from tests.servers.misbehave import Misbehaving
from tests.servers.origin import Origin

Servers = Callable[..., Misbehaving]

DATA = body(3 * MIB + 17)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "nanocache")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    assert {record.levelno for record in log.records} <= {logging.INFO}
    return [record.getMessage() for record in log.records]


def test_a_download_tells_where_it_starts_and_how_it_ended(
    origin: Origin, download: Download, log: pytest.LogCaptureFixture
) -> None:
    url = origin.add("/f", DATA)
    download(url.replace("://", "://me:hunter2@") + "?token=hunter2", name="weights.bin")
    start, end = lines(log)
    assert "weights.bin" in start
    assert f"127.0.0.1:{origin.port}/f" in start
    assert re.search(r"weights.bin: 3,145,745 bytes in \d+\.\d+ s \([\d.,]+ MB/s\)", end)
    assert "hunter2" not in log.text


def test_a_pause_tells_its_reason_and_its_length(
    misbehaving: Servers, download: Download, slept: list[float], log: pytest.LogCaptureFixture
) -> None:
    download(misbehaving().route("/f", m.in_turn(m.retry_after(17), m.serve(DATA))))
    _, pause, _ = lines(log)
    assert re.search(r"503 .*asking again in 1[78]\.\d s", pause)


def test_bytes_that_were_here_before_are_not_counted_into_the_rate(
    misbehaving: Servers, download: Download, slept: list[float], log: pytest.LogCaptureFixture
) -> None:
    url = misbehaving().route("/f", m.in_turn(m.truncated(DATA, 2 * MIB), m.status(404), m.serve(DATA)))
    with pytest.raises(DownloadFailed):
        download(url)
    log.clear()
    download(url)
    assert "2,097,152 of them were here" in lines(log)[-1]


def test_the_next_mirror_is_named_with_the_reason(
    misbehaving: Servers, download: Download, log: pytest.LogCaptureFixture
) -> None:
    server = misbehaving()
    download(server.route("/one", m.status(404)) + "?key=hunter2", server.route("/two", m.serve(DATA)))
    _, following, _ = lines(log)
    assert "404" in following
    assert "/one" in following
    assert "/two" in following
    assert "hunter2" not in log.text


def test_a_new_start_tells_its_reason(
    misbehaving: Servers, download: Download, slept: list[float], log: pytest.LogCaptureFixture
) -> None:
    url = misbehaving().route("/f", m.in_turn(m.truncated(DATA, MIB), m.shifted_range(DATA, 1), m.serve(DATA)))
    download(url, digest=sha(DATA))
    assert any("from the first byte" in line and "was asked for" in line for line in lines(log))


def test_what_was_not_modified_is_told(origin: Origin, download: Download, log: pytest.LogCaptureFixture) -> None:
    download(origin.add("/f", DATA, etag='"v1"'), condition=Condition('"v1"'))
    assert "not modified" in lines(log)[-1]
