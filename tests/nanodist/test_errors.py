"""An error of any length, and with any facts, crosses the ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
import nanodist
from nanodist.errors import LARGEST_ERROR, as_it_travels, from_record, to_record

HERE = {"rank": 0, "host": "h"}
LONG = {
    "ascii": "x" * 1_000_000,
    "of another script": "\u6f22" * 20_000,
    "of astral characters": "\U0001f600" * 20_000,
    "of bytes that are no text": "\udcff" * 20_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize(
    "make",
    [
        lambda text: nanocache.PostprocessFailed(hook="h", artifact="a", reason=text),
        lambda text: nanocache.PostprocessFailed(hook=text, artifact=text, reason=text),
        lambda text: nanocache.DownloadFailed(url="u", causes=tuple((f"u{n}", text[:1000]) for n in range(2000))),
        lambda text: nanocache.NotCached(url=text, base_dir="b", reason=text),
        lambda text: nanodist.LeaderLost(key=text, rank=0, host="h", pid=1, reason=text),
        ValueError,
        SystemExit,
    ],
    ids=["one fact", "three facts", "causes", "not cached", "lost", "foreign", "exit"],
)
def test_long_error_is_cut_and_stays_what_it_is(make: Callable[[str], BaseException], text: str) -> None:
    error = make(text)
    record = json.loads(json.dumps(to_record(error, **HERE)))
    assert len(json.dumps(record)) <= LARGEST_ERROR
    rebuilt = from_record(record)
    assert type(rebuilt) is (type(error) if isinstance(error, nanocache.NanocacheError) else nanodist.LeaderError)
    if isinstance(error, Exception):
        assert str(as_it_travels(error, **HERE)) == str(rebuilt), "the leader raises what the others get"
    assert "characters left out" in json.dumps(record) or len(record["facts"]["causes"]) < 2000


def test_beginning_and_end_of_a_long_text_travel() -> None:
    error = nanocache.PostprocessFailed(hook="h", artifact="a", reason="begun" + "x" * 50_000 + "ended")
    reason = to_record(error, **HERE)["facts"]["reason"]
    assert reason.startswith("begun")
    assert reason.endswith("ended")
    left_out = int(reason.split("[")[1].split(" ")[0].replace(",", ""))
    assert left_out + reason.count("x") == 50_000


def test_error_that_fits_travels_as_it_is() -> None:
    error = nanocache.DownloadFailed(url="u", causes=(("u", "x" * 14_000),), status=503)
    assert to_record(error, **HERE) == error.to_json()
    assert as_it_travels(error, **HERE) is error


def test_facts_that_are_no_json_travel_as_a_leader_error() -> None:
    error = nanocache.NoSpace(path=Path("/b"))  # type: ignore[arg-type]
    rebuilt = from_record(json.loads(json.dumps(to_record(error, **HERE))))
    assert isinstance(rebuilt, nanodist.LeaderError)
    assert "NoSpace" in rebuilt.type
    assert as_it_travels(error, **HERE) is error


def test_error_that_cannot_be_shown_travels() -> None:
    class Unshown(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "Unshown" in to_record(Unshown(), **HERE)["facts"]["type"]


@pytest.mark.parametrize(("size", "count"), [(20_000, 128), (17_000_000, 1)], ids=["128", "17 MB"])
def test_long_errors_of_hooks_are_the_same_on_every_rank(
    ranks: Callable[..., Any], base: Path, tmp_path: Path, size: int, count: int
) -> None:
    for n in range(count):
        (tmp_path / f"{n}.bin").write_text(str(n))
    code = """
        def hook(src, dst): raise ValueError("x" * size)
        hook.key = "long"
        wanted = [nanocache.Artifact(f"file://{folder}/{n}.bin", postprocess=hook) for n in range(count)]
        failing(lambda: nanodist.fetch(wanted[0], progress=False))
        got = nanodist.fetch_many(wanted, return_exceptions=True, progress=False)
        def fail(): raise ValueError("x" * size)
        failing(lambda: nanodist.leader_first("long", fail))
        report(got=[type(one).__name__ for one in got], word=nanodist.leader_first("word", lambda: "word"))
    """
    run = ranks(code, 2, size=size, count=count, folder=str(tmp_path))
    assert run.codes == [0, 0], run.err
    assert run.last("got") == [["PostprocessFailed"] * count] * 2
    assert run.last("word") == ["word"] * 2
    for first, second in zip(*run.reports, strict=True):
        assert {k: v for k, v in first.items() if k in ("error", "facts")} == {
            k: v for k, v in second.items() if k in ("error", "facts")
        }
