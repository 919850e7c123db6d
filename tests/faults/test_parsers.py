"""Every parser meets bytes that nobody would write: it says what they mean, that they mean nothing, or a ValueError.

What lies on disk (refs, records of locks, states of partials, identities) may have been torn, damaged or written by
anybody; what a caller gives (URLs, names, digests) may be anything. Never another exception, never a wrong file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import string
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import nanocache
from nanocache import Artifact, errors, progress
from nanocache.artifact import digest, filenames, schemes, urls
from nanocache.cancel import Cancel
from nanocache.coordination import holder as records
from nanocache.coordination import process
from nanocache.coordination.holder import HolderRecord
from nanocache.coordination.process import Identity
from nanocache.coordination.waiting import WaitOptions
from nanocache.disk import files
from nanocache.errors import NanocacheError
from nanocache.store import orphans, partials, refs
from nanocache.store.blobs import Store
from tests.faults.checks import rounds
from tests.servers.origin import Origin

often = settings(
    deadline=None, max_examples=rounds(100, 5000), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seldom = settings(often, max_examples=rounds(20, 1000))

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-10, 10)
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["a" * 64, "0" * 64, "../../etc", "\ud800", "\r\nX: y", '"v1"', "1e999", "9" * 50])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def records_of(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Records with these fields, each of which may be missing or be anything, and with others."""
    return st.fixed_dictionaries({}, optional={name: one | values for name, one in known.items()}).flatmap(
        lambda record: st.dictionaries(st.text(max_size=5), values, max_size=2).map(lambda more: more | record)
    )


def almost(*whole: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A right record with one or two fields that are anything."""
    return st.sampled_from(whole).flatmap(
        lambda record: st.dictionaries(st.sampled_from(sorted(record)), values, min_size=1, max_size=2).map(
            lambda odd: record | odd
        )
    )


def torn(record: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A right record as a crash or a bad disk may leave it: cut, with zeros, with a wrong byte."""
    text = json.dumps(record).encode()
    cut = st.integers(0, len(text)).map(lambda n: text[:n])
    zeros = st.integers(0, len(text)).map(lambda n: text[:n] + bytes(len(text) - n))
    wrong = st.tuples(st.integers(0, len(text) - 1), st.integers(0, 255)).map(
        lambda at: text[: at[0]] + bytes([at[1]]) + text[at[0] + 1 :]
    )
    return cut | zeros | wrong


def written(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


ME = process.me().to_json()
REF = {
    "url": "http://h/x",
    "digest": "a" * 64,
    "size": 1,
    "etag": '"v1"',
    "last_modified": None,
    "fetched_at": 1.0,
    "source": [1, 2],
    "version": "v1",
    "pinned": "hf://owner/name@rev/x",
}
HOLDING = {"holder": ME, "beat": 2, "done": 1, "total": 2, "rate": 3.0}
FAILED = {
    "error": {"error": "DownloadFailed", "facts": {"url": "http://h/", "causes": [["http://h/", "404"]]}},
    "ended": 1.0,
    "salt": "ab",
    "asker": records.fingerprint(("me",), "ab"),
}
ERRORS: list[NanocacheError] = [
    errors.ChecksumMismatch(url="u", expected="a" * 64, got="b" * 64, size=1),
    errors.UpstreamChanged(name="n", lock="/l", url="u", expected="a" * 64, got="b" * 64, size=1),
    errors.DownloadFailed(url="u", causes=(("u", "404"),), status=404),
    errors.NotCached(url="u", base_dir="/b"),
    errors.NotLocked(target="u", lock="/l", reason="r"),
    errors.NotSigned(lock="/l", key="/k", reason="r"),
    errors.LockTimeout(path="/l", waited=1.0, pid=1, host="h", done=1, total=2),
    errors.NoSpace(path="/p", needed=1, available=0),
    errors.UnsafeArchive(archive="a", reason="r"),
    errors.DamagedBundle(archive="a", member="m", expected="a" * 64, got="b" * 64, size=1),
    errors.UnsafeCache(path="/p", reason="r"),
    errors.PostprocessFailed(hook="h", artifact="a", reason="r"),
]


@pytest.fixture
def store(base: Path) -> Store:
    store = Store(str(base))
    assert store.prepare()
    return store


# --- what lies on disk ------------------------------------------------------------------------------------------------


@often
@given(st.binary(max_size=200) | torn(REF) | records_of(**{name: st.just(v) for name, v in REF.items()}).map(written))
@example(b"[" * 100_000)
@example(b'{"a":' + b"9" * 5000 + b"}")
@example("\ufeff{}".encode("utf-16"))
def test_a_json_file_is_an_object_or_nothing(base: Path, data: bytes) -> None:
    (base / "r.json").write_bytes(data)
    value = files.read_json(str(base / "r.json"))
    assert value is None or isinstance(value, dict)


@often
@given(almost(REF) | records_of(**{name: st.just(value) for name, value in REF.items()}))
@example(REF | {"fetched_at": math.inf})
@example(REF | {"fetched_at": 10**400})
@example(REF | {"fetched_at": True})
@example(REF | {"digest": "A" * 64})
@example(REF | {"digest": "a" * 64 + "\n"})
def test_a_ref_names_a_digest_and_a_time_or_is_none(store: Store, record: dict[str, Any]) -> None:
    path = Path(store.ref("k" * 64))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(written(record))
    ref = refs.read(store, "k" * 64)
    if ref is None:
        assert record != REF
        return
    assert len(ref.digest) == 64
    assert not set(ref.digest) - set("0123456789abcdef")
    assert 0 <= time.time() - ref.fetched_at < math.inf or ref.fetched_at > time.time()
    assert store.blob(ref.digest, "x").startswith(f"{store.base}/blobs-v1/sha256/")


@seldom
@given(almost(REF))
@example(REF | {"fetched_at": math.inf})
@example(REF | {"fetched_at": time.time() + 1e6})
@example(REF | {"etag": "\r\nX: y"})
@example(REF | {"etag": "\ud800", "last_modified": "\x00"})
def test_whatever_a_ref_says_the_next_fetch_is_right_and_remembered(
    base: Path, origin: Origin, record: dict[str, Any]
) -> None:
    url = origin.add("/x.bin", b"right")
    nanocache.fetch(url)
    origin.reset()
    path = Path(nanocache.Cache().store.ref(urls.url_key(url)))
    path.write_bytes(written(record))
    assert nanocache.fetch(url, max_age=3600).read_bytes() == b"right"
    assert nanocache.fetch(url).read_bytes() == b"right"
    assert nanocache.fetch(url, max_age=3600).read_bytes() == b"right"
    assert origin.gets() <= 1, "a ref that says nonsense is replaced by the first download"


@often
@given(
    almost(HOLDING, FAILED)
    | records_of(holder=records_of(**{n: st.just(v) for n, v in ME.items()}), error=values, done=values, total=values)
)
@example(HOLDING | {"done": "many"})
@example(HOLDING | {"done": 10**400, "total": math.inf, "rate": math.nan})
@example(HOLDING | {"holder": ["pid"]})
@example(FAILED | {"error": {"error": "DownloadFailed", "facts": {"url": "u", "causes": [[]]}}})
@example(FAILED | {"error": {"error": "LockTimeout", "facts": {"path": "p", "waited": 10**400}}})
@example(FAILED | {"salt": "\ud800"})
def test_a_record_of_a_lock_can_be_waited_by_shown_and_raised(base: Path, record: dict[str, Any]) -> None:
    path = base / "k.json"
    path.write_bytes(written(record))
    read = records.read(str(path))
    if read is None:
        return
    assert read.holder is None or isinstance(read.holder.alive, bool | None)
    shown: list[progress.Progress] = []
    display = progress.Display(shown.append, "x")
    if read.holder is not None:
        display.waiting(str(read.holder), read.done or 0, read.total)
    display.close()
    for one in shown:
        assert type(one.done) is int
        assert one.total is None or type(one.total) is int
        assert one.done >= 0
    holder = read.holder
    str(
        errors.LockTimeout(
            path="p",
            waited=1.0,
            pid=holder.pid if holder else None,
            host=holder.host if holder else None,
            done=read.done,
            total=read.total,
        )
    )
    if read.error is not None:
        assert isinstance(read.is_of(("me",)), bool)
        str(read.error)


@seldom
@given(almost(HOLDING, FAILED) | torn(HOLDING).map(lambda _: {}))
@example(HOLDING | {"done": "many"})
@example(HOLDING | {"holder": ME | {"pid": -1, "start": ""}})
@example(HOLDING | {"holder": ME | {"pid": 0, "start": ""}})
def test_whatever_a_record_says_who_waits_takes_over_in_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]
) -> None:
    """Nobody holds the lock in truth, and it is refused only for a moment."""
    from nanocache.coordination import waiting

    turns = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(waiting, "NEAR", 0.0001)
        patch.setattr(waiting, "FAR", 0.0001)
        patch.setattr(waiting, "try_lock", lambda path, mode: None if next(turns) < 3 else records_lock())
        path = Path(store.lock_place("ab" * 32).path).with_suffix(".json")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(written(record))
        wait = WaitOptions(lambda: False, ("nobody",), Cancel(), None, lambda *_: None)
        with waiting.hold_lock(store.lock_place("ab" * 32), wait) as holding:
            assert holding is not None


def records_lock() -> Any:
    from nanocache.coordination.lock import Lock

    return Lock()


@often
@given(almost(ME) | records_of(**{name: st.just(value) for name, value in ME.items()}))
@example(ME | {"pid": -1, "start": ""})
@example(ME | {"pid": 0, "start": ""})
@example(ME | {"pid": 10**30})
@example(ME | {"pid": True})
@example(ME | {"start": "\0"})
@example(ME | {"host": ""})
def test_an_identity_names_one_process_or_none(record: dict[str, Any]) -> None:
    one = Identity.parse(record)
    if one is None:
        return
    assert one.pid > 0
    assert one.alive in (True, False, None)
    here = replace(process.me(), host=one.host)  # a host's name is for people, and may change
    assert one.alive is not True or one == here or one.pid != os.getpid()
    assert Identity.parse(json.loads(json.dumps(one.to_json()))) == one


STATE = {"url": "k", "validator": '"v1"', "etag": '"v1"', "last-modified": None, "total": 4, "done": [[0, 2]]}


@often
@given(
    st.binary(max_size=100)
    | torn({"owner": ME, "left": True, "state": STATE})
    | almost({"owner": ME, "left": True, "state": STATE}).map(written)
)
def test_a_state_that_makes_no_sense_is_a_partial_of_nobody(store: Store, data: bytes) -> None:
    with partials.create(store, "k") as partial:
        partial.write(b"half", 0)
        partial.save(STATE)
        folder = Path(partial.folder or "")
    (folder / "state.json").write_bytes(data)
    with orphans.claim(store, "k", judged=True) as again:
        assert again.state is None or isinstance(again.state, dict)
        again.state = None
    for left in Path(store.partials("k")).glob("*"):
        files.remove(str(left))


@seldom
@given(almost(STATE) | records_of(**{name: st.just(value) for name, value in STATE.items()}))
@example(STATE | {"total": "4"})
@example(STATE | {"total": math.inf})
@example(STATE | {"total": -1})
@example(STATE | {"done": [[-5, 4]]})
@example(STATE | {"done": [[0, 10**30]]})
@example(STATE | {"done": [[0, 4]], "total": True})
@example(STATE | {"done": {"a": 1}})
@example(STATE | {"validator": 5})
@example(STATE | {"validator": "\r\nX: y", "etag": ["a"]})
@pytest.mark.parametrize("pinned", [True, False])
def test_whatever_a_state_says_the_next_download_is_right(
    base: Path, origin: Origin, pinned: bool, state: dict[str, Any]
) -> None:
    body = b"weights!" * 100
    url = origin.add("/x.bin", body)
    sha256 = hashlib.sha256(body).hexdigest() if pinned else None
    store = nanocache.Cache().store
    store.prepare()
    if state.get("url") == "k":
        state = state | {"url": urls.url_key(url)}
    key = sha256 or f"u-{urls.url_key(url)}"
    with partials.create(store, key) as partial:
        partial.write(body[:400], 0)
        partial.save(state)
    assert nanocache.fetch(url, sha256=sha256).read_bytes() == body
    assert not list((base / "partials-v1").glob("*/*"))
    files.remove(os.path.dirname(store.blob(hashlib.sha256(body).hexdigest(), "")))
    files.remove(store.ref(urls.url_key(url)))


# --- errors that cross processes --------------------------------------------------------------------------------------


@often
@given(st.sampled_from(ERRORS).flatmap(lambda e: almost(e.to_json(), *[e.to_json()["facts"]])) | values)
def test_the_record_of_an_error_is_an_error_or_a_value_error(record: Any) -> None:
    with only(ValueError):
        str(NanocacheError.from_json(record))


@often
@given(st.sampled_from(ERRORS).flatmap(lambda e: almost(e.facts()).map(lambda facts: (type(e).__name__, facts))))
@example(("DownloadFailed", {"url": "u", "causes": [[]]}))
@example(("DownloadFailed", {"url": "u", "causes": ["ab", 5]}))
@example(("LockTimeout", {"path": "p", "waited": 10**400}))
@example(("ChecksumMismatch", {"url": "u", "expected": None, "got": 1, "size": "x"}))
def test_facts_that_are_none_make_no_error(record: tuple[str, dict[str, Any]]) -> None:
    with only(ValueError):
        error = NanocacheError.from_json({"error": record[0], "facts": record[1]})
        assert type(error).__name__ == record[0]
        assert "\n" not in str(error).replace(str(record[1]), "") or any("\n" in str(v) for v in record[1].values())


@contextmanager
def only(*kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds:
        pass


# --- what callers give ------------------------------------------------------------------------------------------------

anything = st.text(max_size=60) | st.text(string.printable, max_size=60)
odd_urls = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["http://", "https://", "file://", "HTTP:", "file:", "//", "http:/", "http:///", ""]),
        st.sampled_from(
            ["h", "h:80", "h:", "h:99999", "h:-1", "[::1]", "[::1", "[v1.x]", "u:p@h", "@", "h%00", "h..", ""]
        ),
        st.sampled_from(["/", "", "/x.bin", "/..", "/%2e%2e/%2f", "/%", "/%zz", "/\u0130", "/" + "a" * 300, "\\x"]),
        st.sampled_from(["", "?", "?a=b&&=", "?X-Amz-Signature=s3cret", "#f", "?#", ";p=1"]),
        anything,
    ),
)


@often
@given(odd_urls | anything)
def test_a_url_is_refused_or_has_a_name_a_key_and_an_origin(url: str) -> None:
    try:
        artifact = Artifact(url)
    except ValueError:
        return
    assert filenames.check(artifact.name) == artifact.name
    key = urls.url_key(artifact.url)
    assert len(key) == 64
    scheme, host, port = urls.origin(artifact.url)
    assert schemes.refusal_of(scheme) is None
    assert host or scheme not in schemes.WEB
    assert 0 <= port < 65536
    assert "s3cret" not in repr(artifact)
    if urls.is_file(artifact.url):
        assert urls.file_path(artifact.url).startswith("/")


@seldom
@given(odd_urls)
def test_a_url_that_is_accepted_is_fetched_or_fails_by_name(base: Path, url: str) -> None:
    """Offline, so that nobody is asked; what a URL is turned into (paths, keys, texts) is all that happens."""
    with only(ValueError, nanocache.NotCached, nanocache.DownloadFailed):
        nanocache.fetch(url, offline=True)
    assert not list(base.parent.glob("x*"))


@often
@given(anything | st.text("0123456789abcdefABCDEF", min_size=60, max_size=68) | st.binary(max_size=40).map(repr))
@example("sha256-" + "A" * 43 + "=")
@example("sha256-" + "A" * 44)
@example("sha256:" + "\u0661" * 64)
@example("\uff11" * 64)
@example("a" * 64 + "\n")
def test_a_digest_is_sixty_four_hex_digits_or_a_value_error(text: str) -> None:
    try:
        parsed = digest.parse(text)
    except ValueError:
        return
    assert len(parsed) == 64
    assert not set(parsed) - set("0123456789abcdef")
    assert parsed.isascii()


@often
@given(anything | st.text(st.characters(), max_size=300))
def test_a_name_is_one_segment_that_can_be_made_or_a_value_error(tmp_path_factory: Any, name: str) -> None:
    try:
        filenames.check(name)
    except ValueError:
        return
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    assert (folder / name).parent == folder
    (folder / name).unlink()


def test_every_field_of_a_record_is_tried() -> None:
    assert set(REF) == {field.name for field in fields(refs.Ref)}
    assert set(ME) == set(Identity.__slots__)
    assert set(HOLDING) | {"error", "salt", "fingerprint"} == {field.name for field in fields(HolderRecord)}
    assert {type(error).__name__ for error in ERRORS} == set(errors._LEAVES)
    assert {"url", "validator", "etag", "last-modified", "total", "done"} == set(STATE)
