"""The public face: the names, their signatures, the errors' facts, what an Artifact is, and the environment."""

from __future__ import annotations

import asyncio
import copy
import errno
import hashlib
import inspect
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact, Cache, NanocacheError, config
from tests.servers.origin import Origin

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of b"test"


# --- names and signatures ---------------------------------------------------------------------------------------------


def test_the_public_names_are_pinned() -> None:
    assert nanocache.__all__ == [
        *("fetch", "afetch", "fetch_many", "lookup", "snapshot", "prefetch", "build", "registry"),
        *("open_lock", "LockFile", "doctor"),
        *("Artifact",),
        *("Cache", "get_base_dir", "download_file_with_lock", "Unpack", "Decompress", "Progress", "Prefetch"),
        *("register_source", "Resolved", "Source", "Described", "Reader"),
        *("Entry", "Verified", "Damage", "Pruned", "Finding", "Stats", "Loaded"),
        *("NanocacheError", "ChecksumMismatch", "UpstreamChanged", "DownloadFailed", "NotCached", "NotLocked"),
        *("NotSigned", "LockTimeout", "NoSpace"),
        *("UnsafeArchive", "DamagedBundle", "UnsafeCache", "PostprocessFailed"),
    ]


def test_every_public_name_resolves_and_is_listed() -> None:
    from nanocache import errors

    for name in nanocache.__all__:
        assert getattr(nanocache, name).__module__.startswith("nanocache")
    assert set(nanocache.__all__) <= set(dir(nanocache))
    assert set(errors.__all__) <= set(nanocache.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*|0\+unknown", nanocache.__version__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nanocache' has no attribute 'fetsch'"):
        nanocache.fetsch  # noqa: B018


def test_a_star_import_gives_the_public_names() -> None:
    space: dict[str, Any] = {}
    exec("from nanocache import *", space)
    assert set(nanocache.__all__) <= set(space)


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function as its caller sees them."""
    found = list(inspect.signature(function).parameters.values())
    return [parameter for parameter in found if parameter.name not in ("self", "base_dir")]


@pytest.mark.parametrize("name", ["fetch", "afetch", "fetch_many", "lookup"])
def test_a_function_is_the_method_of_the_same_name(name: str) -> None:
    function, method = getattr(nanocache, name), getattr(Cache, name)
    assert parameters(function) == parameters(method)
    assert inspect.signature(function).parameters["base_dir"].default is None
    assert inspect.signature(function).return_annotation == inspect.signature(method).return_annotation
    assert inspect.getdoc(function)


def test_fetch_and_afetch_have_one_signature() -> None:
    assert inspect.signature(nanocache.fetch) == inspect.signature(nanocache.afetch)
    assert inspect.iscoroutinefunction(nanocache.afetch)
    assert inspect.iscoroutinefunction(Cache.afetch)


@pytest.mark.parametrize("name", ["fetch", "afetch", "lookup", "fetch_many", "Artifact"])
def test_options_are_keyword_only(name: str) -> None:
    first, *options = parameters(getattr(nanocache, name))
    assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {option.kind for option in options} == {inspect.Parameter.KEYWORD_ONLY}


def test_an_artifact_says_what_fetch_says() -> None:
    said = {parameter.name for parameter in parameters(Artifact)}
    about_the_call = {"rehash", "max_age", "offline", "progress", "into"}
    assert {parameter.name for parameter in parameters(nanocache.fetch)} == (said - {"size"}) | about_the_call


def test_the_seeds_call_keeps_its_signature() -> None:
    assert [p.name for p in parameters(nanocache.download_file_with_lock)] == ["url", "filename", "postprocess_fn"]
    assert inspect.signature(nanocache.download_file_with_lock).parameters["postprocess_fn"].default is None


# --- importing --------------------------------------------------------------------------------------------------------


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement loads into a bare interpreter."""
    code = f"import sys; before = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_importing_loads_one_file_of_ours_and_nothing_heavy() -> None:
    loaded = loaded_by("import nanocache")
    assert {name for name in loaded if name.startswith("nanocache")} == {"nanocache"}
    heavy = {"torch", "httpx", "httpcore", "tqdm", "filelock", "asyncio", "anyio", "platformdirs", "ssl"}
    assert not loaded & (heavy | {"logging", "dataclasses", "urllib", "pathlib", "hashlib", "importlib.metadata"})


def test_using_every_name_loads_no_library() -> None:
    loaded = loaded_by("from nanocache import *")
    assert not loaded & {"torch", "httpx", "httpcore", "tqdm", "filelock", "asyncio", "anyio", "platformdirs", "ssl"}


def test_a_hit_loads_no_http_client(spawn: Callable[..., Any], base: Path, origin: Origin) -> None:
    url = origin.add("/a.bin", b"test")
    nanocache.fetch(url, sha256=DIGEST)
    code = (
        "import sys; nanocache.fetch(url, sha256=digest); print({'httpx', 'httpcore', 'filelock'} & set(sys.modules))"
    )
    assert spawn(code, url=url, digest=DIGEST, fresh=True).outputs() == ["set()"]


# --- errors -----------------------------------------------------------------------------------------------------------

URL = "https://host/f.bin"
ERRORS = [
    (nanocache.ChecksumMismatch(url=URL, expected=DIGEST, got="6" * 64, size=12_582_912), ValueError),
    (nanocache.ChecksumMismatch(url=URL, expected=DIGEST, got="6" * 64, size=1, note="gzip, which it was"), ValueError),
    (nanocache.UpstreamChanged(name="f", lock="l", url=URL, expected=DIGEST, got="6" * 64, size=1), ValueError),
    (nanocache.NotLocked(target=URL, lock="/l"), KeyError),
    (nanocache.NotLocked(target=URL, lock="/l", reason="frozen"), KeyError),
    (nanocache.NotSigned(lock="/l", key="/k", reason="it is not there"), ValueError),
    (nanocache.DownloadFailed(url=URL, causes=((URL, "404 Not Found"),), status=404), OSError),
    (nanocache.DownloadFailed(url=URL, causes=((URL, "a"), ("https://m/f", "b")), remedy="log in"), OSError),
    (nanocache.DownloadFailed(url=URL, causes=()), OSError),
    (nanocache.NotCached(url=URL, base_dir="/base"), FileNotFoundError),
    (nanocache.NotCached(url=URL, base_dir="/base", sha256=DIGEST, reason="read-only"), FileNotFoundError),
    (nanocache.LockTimeout(path="/base/x.lock", waited=30.0, pid=7, host="n1", done=5, total=10), TimeoutError),
    (nanocache.LockTimeout(path="/base/x.lock", waited=30.0), TimeoutError),
    (nanocache.NoSpace(path="/base", needed=1 << 30, available=7), OSError),
    (nanocache.NoSpace(path="/base"), OSError),
    (nanocache.UnsafeArchive(archive="a.zip", reason="it leads elsewhere", member="../x"), ValueError),
    (nanocache.UnsafeArchive(archive="a.zip", reason="damaged"), ValueError),
    (nanocache.DamagedBundle(archive="x.tar", member="m", expected=DIGEST, got="6" * 64, size=1), ValueError),
    (nanocache.UnsafeCache(path="/base/x", reason="a symlink"), PermissionError),
    (nanocache.PostprocessFailed(hook="tokenize", artifact="f.bin", reason="KeyError: 'x'"), RuntimeError),
]
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
WAYS: dict[str, Callable[[NanocacheError], NanocacheError]] = {
    **{f"pickle{n}": lambda e, n=n: pickle.loads(pickle.dumps(e, protocol=n)) for n in PROTOCOLS},  # type: ignore[misc]
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "json": lambda e: NanocacheError.from_json(json.loads(json.dumps(e.to_json()))),
}


def test_every_error_is_tried() -> None:
    from nanocache import errors

    ours = {getattr(nanocache, name) for name in errors.__all__} - {NanocacheError}
    assert {type(error) for error, _ in ERRORS} == ours


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("error", "builtin"), ERRORS)
def test_an_error_is_rebuilt_from_its_facts(error: NanocacheError, builtin: type[Exception], way: str) -> None:
    again = WAYS[way](error)
    assert type(again) is type(error)
    assert again.facts() == error.facts()
    assert str(again) == str(error)
    assert getattr(again, "errno", None) == getattr(error, "errno", None)


@pytest.mark.parametrize(("error", "builtin"), ERRORS)
def test_an_error_is_caught_as_the_builtin_one_would_expect(error: NanocacheError, builtin: type[Exception]) -> None:
    assert isinstance(error, NanocacheError)
    assert isinstance(error, builtin)
    for name, fact in error.facts().items():
        assert getattr(error, name) == fact


@pytest.mark.parametrize(("error", "builtin"), ERRORS)
def test_an_error_is_one_line_that_names_what_and_where(error: NanocacheError, builtin: type[Exception]) -> None:
    text = str(error)
    assert len(text.splitlines()) == 1
    assert any(str(fact) in text for fact in error.facts().values())
    assert "None" not in text


def test_the_messages_read_as_designed() -> None:
    assert str(ERRORS[0][0]) == (
        f"sha256 mismatch for {URL}: expected 9f86d081884c..., got 666666666666... (12,582,912 bytes); "
        "nothing was cached"
    )
    assert nanocache.NoSpace(path="/b").errno == errno.ENOSPC


@pytest.mark.parametrize(
    "record", [{}, {"error": "KeyError", "facts": {}}, {"error": "NoSpace", "facts": {"x": 1}}, {"error": "NoSpace"}]
)
def test_what_is_no_record_of_an_error_is_a_value_error(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not the record"):
        NanocacheError.from_json(record)


# --- Artifact ---------------------------------------------------------------------------------------------------------


def convert(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes())


@dataclass
class Unhashable:
    """A hook that compares by value and so has no hash, as a plain dataclass has none."""

    key: str

    def __call__(self, src: Path, dst: Path) -> None:
        dst.write_text(self.key)


FULL = {
    "sha256": DIGEST,
    "filename": "f.bin",
    "size": 4,
    "mirrors": ["https://mirror/f.bin"],
    "headers": {"Authorization": "Bearer s3cret"},
    "postprocess": convert,
}


@pytest.mark.parametrize("options", [{}, FULL, {"postprocess": Unhashable("v1")}])
def test_an_artifact_is_a_value(options: dict[str, Any]) -> None:
    one, same = Artifact(URL, **options), Artifact(URL, **options)
    assert one == same
    assert hash(one) == hash(same)
    for way in (lambda a: pickle.loads(pickle.dumps(a)), copy.copy, copy.deepcopy):
        assert way(one) == one
    with pytest.raises(AttributeError):
        one.url = "https://other"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        one.other = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FULL)
def test_each_thing_an_artifact_says_makes_it_another(name: str) -> None:
    assert Artifact(URL, **{name: FULL[name]}) != Artifact(URL)  # type: ignore[arg-type]


def test_an_artifact_keeps_its_own_copies() -> None:
    mirrors, headers = ["https://mirror/f.bin"], {"A": "b"}
    artifact = Artifact(URL, mirrors=mirrors, headers=headers)
    mirrors.append("https://other/f.bin")
    headers["C"] = "d"
    assert artifact.mirrors == ("https://mirror/f.bin",)
    assert artifact.headers == (("A", "b"),)
    assert artifact == Artifact(URL, mirrors=iter(["https://mirror/f.bin"]), headers=[("A", "b")])


def test_an_artifacts_repr_shows_no_secret() -> None:
    secret = "https://me:s3cret@host/f.bin?X-Amz-Signature=s3cret&token=s3cret"
    shown = repr(Artifact(secret, **(FULL | {"mirrors": [secret]})))  # type: ignore[arg-type]
    assert "s3cret" not in shown
    assert "Authorization" not in shown
    assert "https://host/f.bin" in shown
    assert DIGEST in shown
    assert "convert" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mirrors": "https://mirror/f.bin"}, "mirrors must be a list"),
        ({"mirrors": ["ftp://mirror/f.bin"]}, "the scheme must be"),
        ({"size": -1}, "size must be"),
        ({"size": 1.5}, "size must be"),
        ({"headers": {"A": 1}}, "headers must map"),
        ({"headers": ["A: b"]}, "headers must map"),
        ({"headers": {"A": "b\r\nX: y"}}, "'A' holds a line break; take it out"),
        ({"headers": {"A": "b", "B": "a\0b"}}, r"'B' holds a null character \(U\+0000\); take it out"),
        ({"headers": {"A": "a\tb"}}, r"'A' holds a tab \(U\+0009\)"),
        ({"headers": {"A": "a\x7f"}}, r"'A' holds a character that no header may hold \(U\+007F\)"),
        ({"headers": {"A": "a\udcff"}}, r"'A' holds a character that no header may hold \(U\+DCFF\)"),
        ({"headers": {"X-\u00e9": "y"}}, "no name may hold"),
        ({"headers": {"": "b"}}, "is empty"),
        ({"sha256": "9f86d081"}, "64 hex digits"),
        ({"sha256": "md5:098f6bcd4621d373cade4e832627b4f6"}, "got md5"),
        ({"filename": "a/b"}, "one path segment"),
    ],
)
def test_what_is_wrong_with_an_artifact_is_a_value_error(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Artifact(URL, **options)


# --- bad arguments are found before any I/O ---------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A base directory that does not exist, and must not after a ValueError."""
    monkeypatch.setenv("NANOCACHE_DIR", str(tmp_path / "nowhere"))
    return tmp_path / "nowhere"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"sha256": "md5:098f6bcd4621d373cade4e832627b4f6"}, "prints the SHA-256 to use"),
    ({"sha256": "9f86d081"}, "64 hex digits"),
    ({"sha256": ""}, "64 hex digits"),
    ({"filename": "../x"}, "one path segment"),
    ({"mirrors": "https://mirror/f.bin"}, "mirrors must be a list"),
    ({"headers": {"A": 1}}, "headers must map"),
    ({"max_age": 1, "sha256": DIGEST}, "give one of them"),
    ({"max_age": -1}, "at least 0"),
    ({"max_age": float("nan")}, "at least 0"),
    ({"postprocess": lambda src, dst: None}, "hook.key ="),
    ({"postprocess": "gunzip"}, "must be a function"),
    ({"postprocess": nanocache.Unpack}, r"write Unpack\(\)"),
    ({"sha256": bytes(32)}, r"hex\(\)"),
    ({"sha256": [DIGEST]}, "sha256 must be a str"),
    ({"sha256": "0" * 32}, "got md5"),
    ({"sha256": "0" * 128}, "got sha512"),
    ({"filename": Path("f.bin")}, "str"),
    ({"filename": ["f.bin"]}, "filename must be a str"),
    ({"mirrors": None}, "mirrors must be a list"),
    ({"mirrors": b"https://mirror/f.bin"}, "mirrors must be a list"),
    ({"mirrors": [None]}, "not a URL"),
    ({"headers": "Accept: text/plain"}, "headers must map"),
    ({"headers": ["Accept: text/plain"]}, "headers must map"),
    ({"headers": {b"Accept": b"*/*"}}, "headers must map"),
    ({"headers": 1}, "headers must map"),
    ({"headers": {"A b": "c"}}, "'A b'"),
    ({"headers": {"A": "c\n"}}, "'A' holds a line break; strip"),
    ({"headers": {"A": " c"}}, "'A' begins or ends"),
    *(
        ({"headers": {name: "x"}}, f"the header '{name}' can't be set")
        for name in ("Range", "If-None-Match", "if-range", "Accept-Encoding", "HOST", "Transfer-Encoding", "TE")
    ),
    *(
        ({"headers": {name: "x"}}, f"the header '{name}' can't be set")
        for name in ("Connection", "Content-Length", "Upgrade", "Keep-Alive", "Expect", "Trailer")
    ),
    ({"rehash": "yes"}, "rehash must be True or False"),
    ({"rehash": None}, "rehash must be True or False"),
    ({"max_age": "1d"}, "max_age must be a number of seconds"),
    ({"max_age": True}, "max_age must be a number of seconds"),
    ({"max_age": timedelta(days=1)}, r"total_seconds\(\)"),
    ({"offline": "no"}, "offline must be True, False, or None"),
    ({"offline": 1}, "offline must be True, False, or None"),
    ({"progress": "bar"}, "progress must be True, False, None"),
    ({"base_dir": ""}, "base_dir is empty"),
    ({"base_dir": b"/data"}, "base_dir must be a str or a Path"),
    ({"base_dir": 1}, "base_dir must be a str or a Path"),
    ({"base_dir": "~nobody-of-this-name/cache"}, "base_dir is '~nobody"),
    ({"base_dir": "$NOT_SET_ANYWHERE/cache"}, "NOT_SET_ANYWHERE is not set"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_bad_arguments_are_a_value_error_before_any_io(
    fetch: Callable[..., Path], nowhere: Path, origin: Origin, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        fetch(origin.url("/bytes/4/1/f.bin"), **options)
    assert not nowhere.exists()
    assert not origin.requests()


@pytest.mark.parametrize(("options", "said"), BAD)
def test_bad_arguments_of_a_hit_are_a_value_error_too(
    fetch: Callable[..., Path], base: Path, origin: Origin, options: dict[str, Any], said: str
) -> None:
    url = origin.url("/bytes/4/1/f.bin")
    fetch(url)
    fetch(url, sha256=(digest := hashlib.sha256(fetch(url).read_bytes()).hexdigest()))
    for pin in ({}, {"sha256": digest}):
        if pin.keys() & options.keys():
            continue
        if "max_age" in options and pin:
            said = said + "|give one of them"
        with pytest.raises(ValueError, match=said):
            fetch(url, **pin, **options)
    assert origin.gets() == 1


@pytest.mark.parametrize(
    "url", [None, b"https://host/a", Path("/data/a"), "s3://bucket", "www.host/a", ["https://h/a"]]
)
def test_what_is_no_url_is_refused_by_each_function(nowhere: Path, url: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: nanocache.fetch(url),
        lambda: asyncio.run(nanocache.afetch(url)),
        lambda: nanocache.lookup(url),
        lambda: nanocache.fetch_many([url]),
        lambda: nanocache.fetch_many(["https://host/a", url]),
        lambda: Artifact(url),
        lambda: Artifact("https://host/a", mirrors=[url]),
        lambda: nanocache.download_file_with_lock(url, "a"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"not a URL|cannot fetch"):
            call()
    assert not nowhere.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("https://host/a", 1), "filename must be a str"),
        (("https://host/a", b"a"), "filename must be a str"),
        (("https://host/a", None), "filename must be a str"),
        (("https://host/a", "a", "gunzip"), "postprocess_fn must be a function"),
        (("https://host/a", "a", nanocache.Unpack), r"write Unpack\(\)"),
    ],
)
def test_the_seeds_call_refuses_what_it_cannot_use(nowhere: Path, arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        nanocache.download_file_with_lock(*arguments)
    assert not nowhere.exists()


@pytest.mark.parametrize(
    ("artifacts", "options", "said"),
    [
        ("https://host/a", {}, "not one str"),
        (b"https://host/a", {}, "artifacts must be a list"),
        (Artifact("https://host/a"), {}, "not one Artifact"),
        (Path("/data"), {}, "artifacts must be a list"),
        (None, {}, "artifacts must be a list"),
        ({"https://host/a": b"0"}, {}, "sha256 must be a str"),
        ({"https://host/a": "9f86"}, {}, "64 hex digits"),
        ({Artifact("https://host/a"): DIGEST}, {}, "an Artifact already says"),
        ([], {"workers": "4"}, "workers must be a whole number"),
        ([], {"workers": 2.0}, "workers must be a whole number"),
        ([], {"return_exceptions": 1}, "return_exceptions must be True or False"),
        ([], {"offline": "no"}, "offline must be"),
        ([], {"progress": "bar"}, "progress must be"),
        ([], {"base_dir": ""}, "base_dir is empty"),
    ],
)
def test_fetch_many_refuses_what_it_cannot_use(
    nowhere: Path, artifacts: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        nanocache.fetch_many(artifacts, **options)
    assert not nowhere.exists()


def test_fetch_many_of_a_mapping_takes_the_digests(base: Path, origin: Origin) -> None:
    urls = {origin.add(f"/{name}.bin", name.encode()): hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    assert [path.read_bytes() for path in nanocache.fetch_many(urls)] == [b"a", b"b"]
    assert all(
        path.parent.name == digest for path, digest in zip(nanocache.fetch_many(urls), urls.values(), strict=True)
    )
    wrong = dict.fromkeys(urls, DIGEST)
    with pytest.raises(nanocache.ChecksumMismatch):
        nanocache.fetch_many(wrong)


def test_headers_that_are_no_credentials_choose_the_content(
    fetch: Callable[..., Path], base: Path, origin: Origin
) -> None:
    url = origin.add("/a.bin", b"test")
    german = {"Accept-Language": "de"}
    fetch(url)
    fetch(url, headers=german)
    assert origin.gets() == 2
    path = fetch(url, headers=german | {"Authorization": "Bearer x"})
    assert origin.gets() == 2
    assert nanocache.lookup(url, headers=german) == path
    assert nanocache.lookup(url, headers={"Accept-Language": "fr"}) is None
    assert nanocache.lookup(url, headers=list(german.items())) == path


def test_an_artifact_takes_no_options_of_its_own_again(fetch: Callable[..., Path], nowhere: Path) -> None:
    for name in ("sha256", "filename", "mirrors", "headers", "postprocess"):
        with pytest.raises(ValueError, match="an Artifact already says"):
            fetch(Artifact(URL), **{name: FULL[name]})
    assert not nowhere.exists()


def test_an_artifact_that_is_a_hit_takes_no_options_of_its_own_either(
    fetch: Callable[..., Path], base: Path, origin: Origin
) -> None:
    artifact = Artifact(origin.url("/bytes/4/1/f.bin"))
    fetch(artifact)
    fetch(artifact)  # remembered from now on
    for name in ("sha256", "filename", "mirrors", "headers", "postprocess"):
        with pytest.raises(ValueError, match="an Artifact already says"):
            fetch(artifact, **{name: FULL[name]})


def test_lookup_and_fetch_many_find_bad_arguments_before_any_io(nowhere: Path) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        nanocache.lookup(URL, sha256="9f86d081")
    with pytest.raises(ValueError, match="the scheme must be"):
        nanocache.fetch_many(["https://host/a", "ftp://host/b"])
    with pytest.raises(ValueError, match="workers must be at least 1"):
        nanocache.fetch_many([URL], workers=0)
    assert not nowhere.exists()


# --- what fetch takes -------------------------------------------------------------------------------------------------


def test_fetch_takes_whatever_prints_as_a_url(fetch: Callable[..., Path], base: Path, origin: Origin) -> None:
    class Url:
        def __str__(self) -> str:
            return origin.add("/a.bin", b"test")

    paths = {fetch(Url(), sha256=DIGEST), fetch(str(Url()), sha256=DIGEST), fetch(Artifact(Url(), sha256=DIGEST))}
    assert [path.read_bytes() for path in paths] == [b"test"]
    assert origin.gets() == 1


def test_a_hook_without_a_hash_will_do(fetch: Callable[..., Path], base: Path, origin: Origin) -> None:
    url = origin.add("/a.bin", b"test")
    hook = Unhashable("v1")
    for _ in range(2):
        assert fetch(url, postprocess=hook).read_text() == "v1"
        assert fetch(Artifact(url, postprocess=hook)).read_text() == "v1"
        assert nanocache.fetch_many([Artifact(url, postprocess=hook)])[0].read_text() == "v1"
    hook.key = "v2"
    assert fetch(url, postprocess=hook).read_text() == "v2"
    assert fetch(Artifact(url, postprocess=hook)).read_text() == "v2"


def test_a_base_dir_of_the_call_wins(
    fetch: Callable[..., Path], base: Path, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = origin.add("/a.bin", b"test")
    monkeypatch.chdir(tmp_path)
    for given in (tmp_path / "other", str(tmp_path / "other"), "other"):
        path = fetch(url, base_dir=given)
        assert path.is_relative_to(tmp_path / "other")
        assert nanocache.lookup(url, base_dir=given) == path
        assert nanocache.fetch_many([url], base_dir=given) == [path]
    assert not list(base.iterdir())
    assert origin.gets() == 1


def test_a_cache_is_the_functions_on_one_base_directory(base: Path, tmp_path: Path, origin: Origin) -> None:
    cache = Cache(tmp_path / "own")
    assert cache.base_dir == tmp_path / "own"
    assert not (tmp_path / "own").exists()
    assert cache.lookup(url := origin.add("/a.bin", b"test")) is None
    assert cache.fetch(url) == cache.lookup(url) == cache.fetch_many([url])[0]
    assert nanocache.lookup(url) is None


def test_the_environment_is_read_at_each_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: Origin, fetch: Callable[..., Path]
) -> None:
    url = origin.add("/a.bin", b"test")
    for name in ("one", "other", "one"):
        monkeypatch.setenv("NANOCACHE_DIR", str(tmp_path / name))
        assert fetch(url).is_relative_to(tmp_path / name)
    assert origin.gets() == 2


def test_offline_of_the_call_wins_over_the_environment(
    fetch: Callable[..., Path], base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = origin.add("/a.bin", b"test")
    with pytest.raises(nanocache.NotCached, match="offline"):
        fetch(url, offline=True)
    monkeypatch.setenv("NANOCACHE_OFFLINE", "yes")
    with pytest.raises(nanocache.NotCached, match=f"NANOCACHE_DIR={base} nanocache fetch"):
        fetch(url)
    assert origin.gets() == 0
    path = fetch(url, offline=False)
    assert fetch(url) == path


def test_the_line_that_fills_the_cache_can_be_pasted() -> None:
    error = nanocache.NotCached(url="https://host/it's", base_dir="/my data/$cache", reason="/my data is not writable")
    line = str(error).split("a machine that can: ")[1]
    variable, *words = shlex.split(line)
    assert variable == "NANOCACHE_DIR=/my data/$cache"
    assert words == ["nanocache", "fetch", "https://host/it's"]
    assert "set NANOCACHE_DIR to a folder" in str(error)
    assert "set NANOCACHE_DIR" not in str(nanocache.NotCached(url="https://host/a", base_dir="/data"))


# --- the environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"NANOCACHE_DIR": "/data/cache"}, "/data/cache"),
        ({"NANOCACHE_DIR": "/data/cache", "NANOCHAT_BASE_DIR": "/data/chat"}, "/data/cache"),
        ({"NANOCHAT_BASE_DIR": "/data/chat"}, "/data/chat"),
        ({"NANOCACHE_DIR": "", "NANOCHAT_BASE_DIR": "/data/chat"}, "/data/chat"),
        ({"NANOCACHE_DIR": "~/cache", "HOME": "/home/me"}, "/home/me/cache"),
        ({"NANOCHAT_BASE_DIR": "~/chat", "HOME": "/home/me"}, "/home/me/chat"),
        ({"NANOCACHE_DIR": "$SCRATCH/cache", "SCRATCH": "/scratch/me"}, "/scratch/me/cache"),
        ({"NANOCACHE_DIR": "${SCRATCH}/a/../cache/", "SCRATCH": "/scratch"}, "/scratch/cache"),
    ],
)
def test_the_base_directory(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], place: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert config.base_dir() == place
    assert str(Cache().base_dir) == place


@pytest.mark.parametrize("name", ["NANOCACHE_DIR", "NANOCHAT_BASE_DIR"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"/data/cache"', "quotes"),
        ("'/data/cache'", "quotes"),
        (" /data/cache", "spaces"),
        ("/data/cache\n", "spaces"),
        ("  ", "empty"),
        ("$NOT_SET_ANYWHERE/cache", "NOT_SET_ANYWHERE is not set"),
        ("${NOT_SET_ANYWHERE}/cache", "NOT_SET_ANYWHERE is not set"),
        ("$EMPTY/cache", "EMPTY is not set"),
        ("~nobody-of-this-name/cache", "no home folder is known for ~nobody-of-this-name"),
    ],
)
def test_a_base_directory_that_cannot_be_meant_is_a_value_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv(name, value)
    for call in (lambda: nanocache.fetch(URL), nanocache.get_base_dir, lambda: nanocache.lookup(URL)):
        with pytest.raises(ValueError, match=f"{name} .*{said}"):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_without_a_home_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME, and a user without an entry
    with pytest.raises(ValueError, match="set NANOCACHE_DIR"):
        nanocache.fetch(URL)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_base_directory_is_in_the_platforms_cache_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    expected = Path(platformdirs.user_cache_dir("nanocache", appauthor=False))
    assert Cache().base_dir == expected
    assert expected.is_relative_to(Path.home())
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        assert Cache().base_dir == Path("/xdg/nanocache")


def test_get_base_dir_creates_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NANOCACHE_DIR", str(tmp_path / "a" / "b"))
    assert nanocache.get_base_dir() == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_get_base_dir_names_one_that_it_cannot_create(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANOCACHE_DIR", str(tmp_path / "file" / "b"))
    assert nanocache.get_base_dir() == tmp_path / "file" / "b"


def read(name: str) -> Any:
    """The setting that a variable decides."""
    if name == "NANOCACHE_PROGRESS":
        return config.progress()
    if name == "LOCAL_RANK":
        return config.local_rank()
    setting = {"LOCAL_WORLD_SIZE": "connections"}.get(name, name.removeprefix("NANOCACHE_").lower())
    return getattr(config.Settings.read(), setting)


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("NANOCACHE_OFFLINE", False),
        ("NANOCACHE_PROGRESS", None),
        ("NANOCACHE_CONNECTIONS", 16),
        ("NANOCACHE_TIMEOUT", 30.0),
        ("NANOCACHE_RETRIES", 5),
        ("NANOCACHE_LOCK_TIMEOUT", None),
        ("NANOCACHE_MAX_ARTIFACT", None),
        ("LOCAL_RANK", 0),
    ],
)
def test_a_variable_that_is_unset_or_empty_is_the_default(
    monkeypatch: pytest.MonkeyPatch, name: str, default: object
) -> None:
    assert read(name) == default
    for empty in ("", "  "):
        monkeypatch.setenv(name, empty)
        assert read(name) == default


@pytest.mark.parametrize(
    ("name", "value", "meaning"),
    [
        ("NANOCACHE_CONNECTIONS", "1", 1),
        ("NANOCACHE_CONNECTIONS", " 64 ", 64),
        ("NANOCACHE_TIMEOUT", "2.5", 2.5),
        ("NANOCACHE_RETRIES", "0", 0),
        ("NANOCACHE_LOCK_TIMEOUT", "0", 0.0),
        ("NANOCACHE_LOCK_TIMEOUT", "90", 90.0),
        ("NANOCACHE_MAX_ARTIFACT", "1000000", 1_000_000),
        ("NANOCACHE_PROGRESS", "AUTO", None),
        ("LOCAL_RANK", "3", 3),
        ("LOCAL_WORLD_SIZE", "1", 16),
        ("LOCAL_WORLD_SIZE", "4", 4),
        ("LOCAL_WORLD_SIZE", "64", 2),
    ],
)
def test_a_variable_means(monkeypatch: pytest.MonkeyPatch, name: str, value: str, meaning: object) -> None:
    monkeypatch.setenv(name, value)
    assert read(name) == meaning


@pytest.mark.parametrize("name", ["NANOCACHE_OFFLINE", "NANOCACHE_PROGRESS"])
def test_booleans_are_read_in_any_case(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for values, meaning in (("1 true yes on", True), ("0 false no off", False)):
        for value in values.split():
            for form in (value, value.upper(), value.title(), f" {value} "):
                monkeypatch.setenv(name, form)
                assert read(name) is meaning


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NANOCACHE_OFFLINE", "maybe"),
        ("NANOCACHE_OFFLINE", "2"),
        ("NANOCACHE_CONNECTIONS", "0"),
        ("NANOCACHE_CONNECTIONS", "many"),
        ("NANOCACHE_CONNECTIONS", "1.5"),
        ("NANOCACHE_TIMEOUT", "0"),
        ("NANOCACHE_TIMEOUT", "-1"),
        ("NANOCACHE_TIMEOUT", "nan"),
        ("NANOCACHE_TIMEOUT", "30s"),
        ("NANOCACHE_RETRIES", "-1"),
        ("NANOCACHE_LOCK_TIMEOUT", "-0.1"),
        ("NANOCACHE_MAX_ARTIFACT", "1GB"),
        ("NANOCACHE_MAX_ARTIFACT", "-1"),
    ],
)
def test_a_variable_that_cannot_be_read_is_a_value_error_that_names_it(
    fetch: Callable[..., Path],
    nowhere: Path,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"\A{name} must be .*{value}.*\Z"):
        fetch(origin.url("/bytes/4/1/f.bin"))
    assert not nowhere.exists()
    assert not origin.requests()


def test_a_progress_variable_that_cannot_be_read_is_a_value_error(
    monkeypatch: pytest.MonkeyPatch, fetch: Callable[..., Path], nowhere: Path, origin: Origin
) -> None:
    monkeypatch.setenv("NANOCACHE_PROGRESS", "fancy")
    with pytest.raises(ValueError, match=r"NANOCACHE_PROGRESS must be .*'fancy'"):
        fetch(origin.url("/bytes/4/1/f.bin"))
    assert not nowhere.exists()
