"""What a URL, a file name and a digest are: the same for everybody, safe on every system, and never a secret.

Pure: nothing here touches a disk or a network.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import string
import subprocess
import sys
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanocache import Artifact
from nanocache.artifact import digest, filenames, urls

often = settings(deadline=None, max_examples=150)  # no deadline: a busy machine is no bug

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
WINDOWS_FORBIDS = set('<>:"/\\|?*') | {chr(c) for c in range(32)}
WINDOWS_DEVICES = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³"}

text = st.text(max_size=300)
segments = text.map(lambda segment: quote(segment, safe="", errors="replace"))
hosts = st.sampled_from(["host", "sub.host.org", "10.0.0.1", "[::1]", "host:8080", "[::1]:8080"])
word = st.text(string.ascii_letters + string.digits + "-_.~", min_size=1, max_size=8)


# --- the name on disk -------------------------------------------------------------------------------------------------


@often
@given(segments | text)
@example("CON")
@example("lpt1.tar.gz")
@example("com%C2%B9.txt")
@example("%2e%2e")
@example("..%2F..%2Fetc%2Fpasswd")
@example("a%00b")
@example("%C3%A9" * 100)
@example("-rf")
@example("name.")
@example("%ff%fe")
def test_a_url_gives_one_segment_that_is_legal_everywhere(segment: str) -> None:
    name = filenames.from_url(f"https://host/folder/{segment}")
    assert name == filenames.check(name)
    assert 0 < len(name.encode()) <= 120
    assert not set(name) & WINDOWS_FORBIDS
    assert name[0] not in ".-"
    assert name[-1] not in ". "
    assert name.split(".")[0].lower() not in WINDOWS_DEVICES
    assert unicodedata.is_normalized("NFC", name)
    assert not any(c.isspace() for c in name)


@often
@given(segments)
def test_a_name_is_a_function_of_the_last_segment_alone(segment: str) -> None:
    names_of = {
        filenames.from_url(url)
        for url in (
            f"https://host/{segment}",
            f"http://user:secret@other:8080/a/b/{segment}",
            f"https://host/{segment}?filename=evil.bin&X-Amz-Signature=1#fragment",
        )
    }
    assert len(names_of) == 1


@often
@given(text)
def test_what_is_spelled_differently_and_looks_the_same_has_one_name(segment: str) -> None:
    def name(form: str) -> str:
        return filenames.from_url(
            "https://host/" + quote(unicodedata.normalize(form, segment), safe="", errors="replace")
        )

    assert name("NFC") == name("NFD")


@often
@given(st.text(string.ascii_letters + string.digits + "._+=@-", min_size=1, max_size=120))
def test_a_plain_name_stays_as_it_is(segment: str) -> None:
    name = segment.lstrip(".-").rstrip(".")
    if name and name.split(".")[0].lower() not in WINDOWS_DEVICES:
        assert filenames.from_url(f"https://host/{segment}") == name


@often
@given(st.integers(121, 2000), st.sampled_from([".tar.gz", ".safetensors", ".npy"]))
def test_long_names_keep_their_extension_and_stay_apart(length: int, suffix: str) -> None:
    one, other = (filenames.from_url(f"https://host/{'x' * length}{c}{'x' * 60}{suffix}") for c in "ab")
    assert one != other
    assert one.endswith(suffix)
    assert len(one) == len(other) == 120


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host", "artifact"),
        ("https://host/", "artifact"),
        ("https://host/..", "artifact"),
        ("https://host/folder/", "artifact"),
        ("https://host/a/weights.safetensors", "weights.safetensors"),
        ("https://host/a/weights.safetensors;v=1", "weights.safetensors_v=1"),
        ("https://host/hello%20world.txt", "hello_world.txt"),
        ("https://host/gr%C3%BC%C3%9Fe.txt", "grüße.txt"),
        ("https://host/gru%CC%88%C3%9Fe.txt", "grüße.txt"),
        ("https://host/nul.txt", "_nul.txt"),
        ("https://host/.hidden", "hidden"),
        ("file:///data/x.bin", "x.bin"),
    ],
)
def test_names_are_pinned_because_they_decide_for_ever_where_an_artifact_lies(url: str, name: str) -> None:
    assert filenames.from_url(url) == name


@often
@given(text)
@example("")
@example("..")
@example("a/b")
@example("a\\b")
@example("a\nb")
@example("\ud800")
@example("ü" * 101)
def test_a_given_filename_is_one_segment_or_a_value_error(name: str) -> None:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = None
    bad = (
        encoded is None
        or name in ("", ".", "..")
        or len(encoded) > 200
        or any(c in "/\\" or unicodedata.category(c) == "Cc" for c in name)
    )
    if not bad:
        assert Artifact("https://host/x", filename=name).name == name
        return
    with pytest.raises(ValueError, match=r"\Afilename .*\Z"):
        Artifact("https://host/x", filename=name)


@pytest.mark.parametrize("name", [b"x", 7, True])
def test_a_filename_is_a_str(name: object) -> None:
    with pytest.raises(ValueError, match="filename must be a str"):
        filenames.check(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("corpus.tar.gz", "corpus"),
        ("corpus.TGZ", "corpus"),
        ("corpus.txt.zst", "corpus.txt"),
        ("corpus.zip", "corpus"),
        ("corpus.tar.zip", "corpus.tar"),
        ("corpus.npy", "corpus.npy"),
        (".gz", ".gz"),
        (".tar.gz", ".tar"),
    ],
)
def test_what_is_unpacked_loses_the_suffix_of_its_packing(name: str, stem: str) -> None:
    assert filenames.stem(name) == stem


# --- what two URLs have in common ------------------------------------------------------------------------------------

SIGNING = [
    *("X-Amz-Signature", "X-Amz-Credential", "x-amz-security-token", "X-Goog-Signature", "X-Goog-Expires"),
    *("Signature", "Expires", "Key-Pair-Id", "Policy", "se", "sp", "sv", "sig"),
]


@often
@given(hosts, segments, st.lists(st.tuples(word, word), max_size=3), st.lists(st.sampled_from(SIGNING), max_size=3))
def test_the_key_knows_no_credential_and_no_signature(
    host: str, segment: str, query: list[tuple[str, str]], signing: list[str]
) -> None:
    query = [(name, value) for name, value in query if name not in SIGNING and not name.lower().startswith("x-")]
    plain = "&".join(f"{name}={value}" for name, value in query)
    signed = "&".join([f"{name}=s3cret{i}" for i, name in enumerate(signing)] + plain.split("&"))
    key = urls.url_key(f"https://{host}/{segment}?{plain}")
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert urls.url_key(f"HTTPS://user:s3cret@{host.upper()}/{segment}?{signed}#s3cret") == key


@pytest.mark.parametrize(
    "same",
    [
        "http://host/a",
        "HTTP://HOST/a",
        "http://host:80/a",
        "http://host./a",
        "http://user@host/a",
        "http://user:password@host:80/a",
        "http://host/a#fragment",
        "http://host/a?",
        "http://host/a?sig=1&se=2",
        "http://host/a?X-Amz%2DSignature=1",
    ],
)
def test_one_resource_has_one_key(same: str) -> None:
    assert urls.url_key(same) == urls.url_key("http://host/a")


@pytest.mark.parametrize(
    "other",
    [
        "https://host/a",
        "http://host:8080/a",
        "http://other/a",
        "http://host/A",
        "http://host/a/",
        "http://host/a?v=1",
        "http://host/a?SIG=1",
        "http://host/a?signature_version=1",
        "http://host/a?v=1&v=2",
    ],
)
def test_another_resource_has_another_key(other: str) -> None:
    assert urls.url_key(other) != urls.url_key("http://host/a")


def test_accept_is_part_of_the_key_and_no_other_header_is() -> None:
    url = "https://host/asset"
    plain = urls.url_key(url)
    assert urls.url_key(url, [("Authorization", "Bearer x"), ("Cookie", "y")]) == plain
    binary = urls.url_key(url, [("Accept", "application/octet-stream")])
    assert binary == urls.url_key(url, [("Authorization", "Bearer x"), ("accept", "application/octet-stream")])
    assert len({plain, binary, urls.url_key(url, [("Accept", "application/json")])}) == 3


def test_keys_and_names_are_the_same_in_every_process() -> None:
    code = (
        "from nanocache.artifact import filenames, urls; u = 'https://h/%C3%A9?b=1&a=2'; "
        "print(urls.url_key(u), filenames.from_url(u))"
    )
    environments = [os.environ | {"PYTHONUTF8": "1", "PYTHONHASHSEED": seed} for seed in "12"]
    told = {subprocess.check_output([sys.executable, "-c", code], env=environment) for environment in environments}
    assert len(told) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://host/a", "https://HOST:443/b", True),
        ("https://host/a", "https://user:x@host./b", True),
        ("https://host/a", "http://host/a", False),
        ("https://host/a", "https://host:444/a", False),
        ("https://host/a", "https://host.evil/a", False),
        ("https://host/a", "https://evil/@host/a", False),
        ("https://host/a", "https://host@evil/a", False),
    ],
)
def test_credentials_belong_to_one_origin(one: str, other: str, same: bool) -> None:
    assert (urls.origin(one) == urls.origin(other)) is same


# --- what is accepted, and what of it is shown ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "weights.bin",
        "/data/weights.bin",
        "ftp://host/a",
        "s3://bucket/key",
        "https://",
        "https:///path",
        "https://host:port/a",
        "https://host:99999/a",
        "https://[::1/a",
        "https://host/a b",
        "https://host/a\nb",
        "file://host/a",
        "file:relative",
        None,
    ],
)
def test_what_is_no_url_is_a_value_error_that_says_so(bad: object) -> None:
    with pytest.raises(ValueError, match=r"\A(not a URL|cannot fetch).*\Z"):
        urls.check(bad)


def test_whatever_prints_as_a_url_is_one() -> None:
    class Url:
        def __str__(self) -> str:
            return "https://host/a"

    assert urls.check(Url()) == "https://host/a"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///data/a.bin", b"/data/a.bin"),
        ("file://localhost/data/a.bin", b"/data/a.bin"),
        ("FILE:///data/a%20b%23.bin?x#y", b"/data/a b#.bin"),
        ("file:///data/%FF%C3%BC", b"/data/\xff\xc3\xbc"),  # a name need not be Unicode
    ],
)
def test_a_file_url_names_a_path_of_this_machine(url: str, path: bytes) -> None:
    assert os.fsencode(urls.file_path(url)) == path


SECRET = "s3cr3t"
secret_userinfo = st.sampled_from(["", "s3cr3t@", "me:s3cr3t@", "s3cr3t:s3cr3t@", "s3cr3t@s3cr3t@", ":s3cr3t@"])
secret_query = st.lists(
    st.sampled_from(["s3cr3t", "a=s3cr3t", "X-Amz-Signature=s3cr3t", "a=b=s3cr3t", "=s3cr3t", "a=b;c=s3cr3t", "", "&"])
)
broken_hosts = hosts | st.sampled_from(["", "host:port", "host:99999", "[::1", "::1]", "host name", "host:", "\thost"])


@often
@given(
    st.sampled_from(["https", "http", "HTTPS", "ftp", "file", "s3"]),
    secret_userinfo,
    broken_hosts,
    segments,
    secret_query,
    st.sampled_from(["", "#s3cr3t", "#a?s3cr3t", "#access_token=s3cr3t"]),
)
def test_no_secret_leaves_the_redactor_or_an_error(
    scheme: str, userinfo: str, host: str, segment: str, query: list[str], fragment: str
) -> None:
    url = f"{scheme}://{userinfo}{host}/{segment}{'?' if query else ''}{'&'.join(query)}{fragment}"
    assert SECRET not in urls.redact(url)
    try:
        shown = repr(Artifact(url, mirrors=[url], headers={"Authorization": SECRET}))
    except ValueError as e:
        shown = str(e)
        assert "\n" not in shown
    assert SECRET not in shown


@often
@given(st.text())
@example("https://me:s3cr3t@host:port/")
def test_the_redactor_never_raises(anything: str) -> None:
    assert isinstance(urls.redact(anything), str)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:s3/cr3t@host/a",  # a password that should have been percent-encoded
        "https://me:s3#cr3t@host/a",
        "https://me:s3?cr3t@host/a",
        "https://host:port/a?sig=x@s3#cr3t",
        "me:s3cr3t@host/a",  # the scheme was forgotten
    ],
)
def test_no_piece_of_a_password_is_shown_when_the_url_is_malformed(url: str) -> None:
    with pytest.raises(ValueError) as raised:
        urls.check(url)
    assert "s3" not in str(raised.value)
    assert "cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/b.bin", "https://host/a/b.bin"),
        ("https://me:pw@host:8080/a?v=1&sig=2#x", "https://host:8080/a?v=...&sig=..."),
        ("https://host/a?token", "https://host/a?..."),
        ("file:///a/me@home.bin", "file:///a/me@home.bin"),
    ],
)
def test_what_is_shown_still_names_the_resource(url: str, shown: str) -> None:
    assert urls.redact(url) == shown


# --- digests ----------------------------------------------------------------------------------------------------------


@often
@given(st.binary(max_size=64))
def test_a_digest_may_be_written_in_four_ways(data: bytes) -> None:
    raw = hashlib.sha256(data).digest()
    forms = [raw.hex(), raw.hex().upper(), f"sha256:{raw.hex()}", f"sha256-{base64.b64encode(raw).decode()}"]
    assert {digest.parse(form) for form in forms} == {raw.hex()}
    assert len({Artifact("https://host/a", sha256=form) for form in forms}) == 1


@often
@given(text | st.text(string.hexdigits + ":-", max_size=80))
@example("")
@example("9f86d081")
@example("9f86d081" * 7)
@example("9f86d081" * 9)
@example("9f86d081" * 8 + "\n")
@example(" " + "9f86d081" * 8)
@example("sha256:")
@example("sha256-9f86d081")
@example("SHA256:" + "9f86d081" * 8)
@example("\uff19" * 64)  # digits, but not ours
def test_anything_else_is_no_digest(form: str) -> None:
    if not re.fullmatch(r"(sha256:)?[0-9a-fA-F]{64}", form):
        with pytest.raises(ValueError, match=r"\Asha256 must be .*\Z"):
            digest.parse(form)


@pytest.mark.parametrize("form", ["md5:" + "0" * 32, "md5-" + "0" * 32, "SHA1:" + "0" * 40, "crc32c=00000000"])
def test_another_hash_is_told_how_to_get_a_sha256(form: str) -> None:
    with pytest.raises(ValueError, match="nanocache fetch URL"):
        digest.parse(form)


@pytest.mark.parametrize("form", [b"0" * 64, 0, None])
def test_a_digest_is_a_str(form: object) -> None:
    with pytest.raises(ValueError, match="sha256 must be a str"):
        digest.parse(form)  # type: ignore[arg-type]
