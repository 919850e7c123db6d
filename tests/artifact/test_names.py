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
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

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
        filenames.check(name)


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

# signature -> what belongs to it
SCHEMES = {
    "X-Amz-Signature": ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "x-amz-signedheaders", "X-Amz-Expires"],
    "X-Goog-Signature": ["X-Goog-Algorithm", "X-Goog-Credential", "X-Goog-SignedHeaders"],
    "Signature": ["Expires", "Key-Pair-Id", "Policy", "AWSAccessKeyId", "GoogleAccessId", "OSSAccessKeyId"],
    "sig": [
        "sv",
        "ss",
        "sr",
        "srt",
        "st",
        "se",
        "sp",
        "si",
        "sip",
        "spr",
        "skoid",
        "sktid",
        "skt",
        "sks",
        "saoid",
        "sdd",
    ],
    "x-oss-signature": ["x-oss-credential", "x-oss-date", "x-oss-expires", "x-oss-signature-version"],
    "X-Tos-Signature": ["X-Tos-Algorithm", "X-Tos-Credential"],
    "q-signature": ["q-ak", "q-sign-time", "q-key-time", "q-header-list", "q-sign-algorithm"],
}
SIGNING = [(name, signature) for signature, names in SCHEMES.items() for name in (signature, *names)]


@often
@given(
    hosts,
    segments,
    st.lists(st.tuples(word, word), max_size=3),
    st.sampled_from(sorted(SCHEMES)).flatmap(
        lambda signature: st.lists(st.sampled_from(SCHEMES[signature]), max_size=3).map(
            lambda names: [signature, *names]
        )
    ),
)
def test_the_key_knows_no_credential_and_no_signature(
    host: str, segment: str, query: list[tuple[str, str]], signing: list[str]
) -> None:
    words = {name.lower() for name, _ in SIGNING}
    plain = "&".join(f"{name}={value}" for name, value in query if name.lower() not in words)
    signed = "&".join([f"{name}=s3cret{i}" for i, name in enumerate(signing)] + plain.split("&"))
    key = urls.url_key(f"https://{host}/{segment}?{plain}")
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert urls.url_key(f"HTTPS://user:s3cret@{host.upper()}/{segment}?{signed}#s3cret") == key


@pytest.mark.parametrize(("name", "signature"), [row for row in SIGNING if row[0] != row[1]])
def test_a_word_of_a_signing_scheme_without_its_signature_chooses_the_file(name: str, signature: str) -> None:
    def key(value: str, query: str = "") -> str:
        return urls.url_key(f"https://host/genome.csv?{name}={value}{query}")

    assert key("human") != key("mouse") != urls.url_key("https://host/genome.csv")
    others = "".join(f"&{other}=1" for other in SCHEMES if other.lower()[:6] != signature.lower()[:6])
    assert key("human", others) != key("mouse", others)
    assert key("human", f"&{signature}=1") == key("mouse", f"&{signature}=2")


@pytest.mark.parametrize("name", ["versionId", "snapshot", "response-content-type", "x-oss-process", "tn", "v"])
def test_what_chooses_the_file_stays_beside_a_signature(name: str) -> None:
    signed = "&".join(f"{signature}=1" for signature in SCHEMES)
    assert urls.url_key(f"https://host/a?{name}=1&{signed}") != urls.url_key(f"https://host/a?{name}=2&{signed}")


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


@pytest.mark.parametrize("name", ["Accept", "Accept-Language", "X-Version", "User-Agent"])
def test_headers_are_part_of_the_key(name: str) -> None:
    url = "https://host/asset"
    first = urls.url_key(url, [(name, "one")])
    assert first == urls.url_key(url, [("Authorization", "Bearer x"), (name.lower(), "one")])
    assert len({urls.url_key(url), first, urls.url_key(url, [(name, "two")])}) == 3


@pytest.mark.parametrize(
    "name", ["Authorization", "Proxy-Authorization", "Cookie", "PRIVATE-TOKEN", "X-Api-Key", "x-secret", "X-Auth"]
)
def test_credentials_are_no_part_of_the_key(name: str) -> None:
    url = "https://host/asset"
    assert urls.url_key(url, [(name, "s3cret")]) == urls.url_key(url)


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
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/key?part=1",
        "gs://bucket/key?versionId=1",
        "s4://bucket/key",
        "https://",
        "https:///path",
        "https://host:port/a",
        "https://host:99999/a",
        "https://[::1/a",
        "https://host/a b",
        "https://host/a\nb",
        "file://host/a",
        "file:relative",
        "www.host/a",
        "hf://owner/name",
        "hf://owner",
        "hf://datasets/owner/name",
        "hf://owner/name@rev@rev/file",
        None,
        b"https://host/a",
        Path("/data/weights.bin"),
        ["https://host/a"],
        urlsplit("https://host/a"),
        "https://host/a#part",
        "https://host/a#",
        "https://host/a#md5=098f6bcd4621d373cade4e832627b4f6",
        "file:///data/take#2.csv",
        "file:///data/take?2.csv",
        "file:///data/take?",
        "file:///data/take#",
    ],
)
def test_what_is_no_url_is_a_value_error_that_says_so(bad: object) -> None:
    with pytest.raises(ValueError, match=r"\A(not a URL|cannot fetch).*\Z"):
        urls.check(bad)


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        (b"https://host/a", r"decode\(\)"),
        (Path("/data/a"), r"as_uri\(\)"),
        (["https://host/a"], "fetch_many"),
        (urlsplit("https://host/a"), r"geturl\(\)"),
        ("/data/a", "file:///"),
        ("~/a", "file:///"),
        ("www.host/a", "https:// before it"),
        ("s3://bucket", "s3://BUCKET/KEY"),
        ("s3://bucket/key?part=1", r"\?versionId="),
        ("hf://owner/name", r"snapshot\(\)"),
        ("ftp://host/a", "https address"),
        ("https://host/a#part", "#sha256=<64 hex digits>"),
        ("file:///data/take#2.csv", "# in a file's name is written %23"),
        ("file:///data/take?2.csv", "%3F"),
    ],
)
def test_what_is_no_url_is_told_what_was_meant(wrong: object, cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        urls.check(wrong)


def test_a_digest_at_the_end_of_a_url_is_the_digest() -> None:
    digests = ["9f86d081" * 8, "60303ae2" * 8]
    artifact = Artifact(f"https://host/a#sha256={digests[0].upper()}")
    assert artifact == Artifact("https://host/a", sha256=digests[0])
    assert (
        artifact
        == Artifact("https://host/a", sha256=digests[0], mirrors=[])
        == Artifact(artifact.url, sha256=digests[0])
    )
    assert Artifact("https://host/a", mirrors=[f"https://mirror/a#sha256={digests[0]}"]).sha256 == digests[0]
    assert Artifact(f"file:///data/a#sha256={digests[0]}").url == "file:///data/a"
    for wrong in ("", "9f86", f"{digests[0]}&egg=a"):
        with pytest.raises(ValueError, match="sha256 must be"):
            Artifact(f"https://host/a#sha256={wrong}")
    with pytest.raises(ValueError, match="one digest"):
        Artifact(f"https://host/a#sha256={digests[0]}", sha256=digests[1])


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
        ("FILE:///data/a%20b%23%3F.bin", b"/data/a b#?.bin"),
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
        "https://me:p4/cr3t@host/a",  # a password that should have been percent-encoded
        "https://me:p4#cr3t@host/a",
        "https://me:p4?cr3t@host/a",
        "https://host:port/a?sig=x@p4#cr3t",
        "me:p4cr3t@host/a",  # the scheme was forgotten
    ],
)
def test_no_piece_of_a_password_is_shown_when_the_url_is_malformed(url: str) -> None:
    with pytest.raises(ValueError) as raised:
        urls.check(url)
    assert "p4" not in str(raised.value)
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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("0" * 32, "got md5"),
        ("0" * 40, "got sha1"),
        ("F" * 128, "got sha512"),
        (bytes(32), r"hex\(\)"),
        (b"0" * 64, r"decode\(\)"),
        (hashlib.sha256(), r"hexdigest\(\)"),
    ],
)
def test_another_form_of_a_digest_is_told_what_was_meant(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        digest.parse(wrong)


@pytest.mark.parametrize("form", [b"0" * 64, 0, None])
def test_a_digest_is_a_str(form: object) -> None:
    with pytest.raises(ValueError, match="sha256 must be a str"):
        digest.parse(form)  # type: ignore[arg-type]


def test_a_refused_fragment_is_not_shown() -> None:
    with pytest.raises(ValueError, match="#") as refused:
        Artifact("https://host/a.bin#s3cret")
    assert "s3cret" not in str(refused.value)
