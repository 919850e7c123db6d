# ruff: noqa: F401, F811  # fixtures are imported by name
"""Whatever a server does, in whatever order, and wherever it is called off: the right bytes or a named error."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nanocache.cancel import Cancel, Cancelled
from nanocache.download import attempts, connections, growth, ledger
from nanocache.errors import ChecksumMismatch, DownloadFailed
from tests.download.downloads import Download, body, sha, slept
from tests.servers import misbehave as m
from tests.servers.misbehave import Misbehaving
from tests.servers.origin import Request

KIB = 1024
ONE, TWO = body(100 * KIB + 7, seed=1), body(90 * KIB + 3, seed=2)  # two versions of one file

Fault = Callable[[bytes, dict[str, Any]], m.Handler]


def faults() -> st.SearchStrategy[Fault]:
    size = st.integers(0, 60 * KIB)
    odd: list[Callable[[bytes], m.Handler]] = [
        m.multipart,
        m.bad_content_range,
        m.ignored_range,
        m.refused_range,
        m.shifted_range,
        lambda data: m.shifted_range(data, -1),
        lambda data: m.wrong_total(data, "*"),
        lambda data: m.wrong_total(data, len(data) + 1),
        m.chunked,
        lambda data: m.chunked(data[: KIB * 40], whole=False),
        lambda data: m.raw(m.RST),
        lambda data: m.cut_head(),
        lambda data: m.nonsense(),
        lambda data: m.lying_length(data, 5),
    ]
    return st.one_of(
        st.just(lambda data, manners: m.serve(data, **manners)),
        size.map(lambda at: lambda data, manners: m.truncated(data, at, **manners)),
        size.map(lambda at: lambda data, manners: m.dropped(data, at, **manners)),
        size.map(lambda at: lambda data, manners: m.stalled(data, at, 0.03, **manners)),
        st.integers(1, 60 * KIB).map(lambda n: lambda data, manners: m.short_range(data, n)),
        st.sampled_from([429, 500, 503, 404]).map(lambda code: lambda data, manners: m.status(code)),
        st.sampled_from(odd).map(lambda make: lambda data, manners: make(data)),
    )


MANNERS = st.sampled_from(
    [{"etag": '"v{}"'}, {"etag": 'W/"v{}"', "last_modified": ""}, {"etag": "", "last_modified": ""}]
)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 100 KiB were a large file and each connection helped."""
    monkeypatch.setattr(ledger, "SMALLEST_PIECE", 8 * KIB)
    monkeypatch.setattr(attempts, "SMALLEST_PIECE", 8 * KIB)
    monkeypatch.setattr(attempts, "SMALL", 16 * KIB)
    monkeypatch.setattr(growth, "SOON", 0.002)
    monkeypatch.setattr(growth, "LATE", 0.004)
    monkeypatch.setattr(growth, "IDLE_SHARE", -1e9)
    monkeypatch.setattr(connections, "SECOND_CHANCE", 0.001)


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    script=st.lists(faults(), min_size=1, max_size=12),
    manners=MANNERS,
    changes=st.integers(0, 30),
    judged=st.booleans(),
    kills=st.lists(st.integers(0, 120 * KIB), max_size=3),
    connections=st.sampled_from([1, 2, 5]),
)
def test_the_right_bytes_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory,
    slept: list[float],
    small_pieces: None,
    script: list[Fault],
    manners: dict[str, str],
    changes: int,
    judged: bool,
    kills: list[int],
    connections: int,
) -> None:
    """`changes`: after so many requests the file is another one. `kills`: the calls before the last are called off
    once so many bytes have come. After at most twelve faults the server behaves."""
    turns, count = iter(script), itertools.count()
    lock = threading.Lock()

    def handler(request: Request) -> Iterator[m.Step]:
        with lock:
            fault, number = next(turns, None), next(count)
        version = 1 if number < changes or judged else 2
        data = ONE if version == 1 else TWO
        mine = {key: value.format(version) for key, value in manners.items()}
        for step in (m.serve(data, **mine) if fault is None else fault(data, mine))(request):
            yield step.replace(b'ETag: "v1"', b'ETag: "v%d"' % version) if isinstance(step, bytes) else step

    with Misbehaving() as server:
        url = server.route("/f", handler)
        download = Download(tmp_path_factory.mktemp("base"))
        digest = sha(ONE) if judged else None
        for kill in [*kills, None]:
            outcome = _call(download, url, digest, kill, connections)
        if isinstance(outcome, bytes):
            assert outcome in ((ONE,) if judged else (ONE, TWO))
            assert download.got.digest == sha(outcome)


def _call(download: Download, url: str, digest: str | None, kill: int | None, connections: int) -> Any:
    cancel = Cancel()

    class Killing(list[Any]):
        def append(self, report: Any) -> None:
            if kill is not None and report[0] >= kill:
                cancel.set()

    download.reports = Killing()
    try:
        return download(url, digest=digest, cancel=cancel, connections=connections, retries=4)
    except (DownloadFailed, ChecksumMismatch, Cancelled) as e:
        return e
