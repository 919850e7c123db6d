"""The command line: the path alone on stdout, all else on stderr, and exit codes that scripts can use."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import nanocache
from nanocache import config
from nanocache.cli import arguments as exits
from nanocache.cli.main import main
from tests.servers.misbehave import Misbehaving, html, redirect, serve, status
from tests.servers.origin import MIB, Origin, content

BODY = b"test"
DIGEST = hashlib.sha256(BODY).hexdigest()


class Said(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`nanocache ARGUMENTS`, in this process."""

    def run_command(*arguments: object) -> Said:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as e:  # argparse's way
            code = int(e.code or 0)
        return Said(code, *capfd.readouterr())

    return run_command


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.add("/a/weights.bin", BODY)


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m nanocache ARGUMENTS`, in a process of its own."""
    line = [sys.executable, "-W", "error", "-m", "nanocache", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, **options)


# --- fetch ------------------------------------------------------------------------------------------------------------


def test_fetch_prints_the_path_alone_and_the_digest_to_pin_on_stderr(run: Run, base: Path, url: str) -> None:
    code, out, err = run("fetch", url)
    assert code == 0
    assert out == f"{nanocache.lookup(url)}\n"
    assert Path(out.strip()).read_bytes() == BODY
    assert err == f"to pin it: nanocache fetch {url} --sha256 {DIGEST}\n"


def test_the_line_to_pin_can_be_run_as_it_is(run: Run, base: Path, origin: Origin) -> None:
    url = origin.add("/it's here.bin".replace(" ", "%20"), b"x")  # a quote that the shell would mind
    origin.add("/it's%20here.bin", BODY)
    first = run("fetch", url)
    line = shlex.split(first.err.removeprefix("to pin it: "))
    assert line[0] == "nanocache"
    assert run(*line[1:]) == Said(0, first.out, "")


@pytest.mark.parametrize("name", ["0" * 64, "x" * 64, "weights.bin"])
def test_the_digest_to_pin_is_the_contents_whatever_the_name(run: Run, base: Path, origin: Origin, name: str) -> None:
    url = origin.add(f"/{name}", gzip.compress(BODY, mtime=0))
    digest = hashlib.sha256(gzip.compress(BODY, mtime=0)).hexdigest()
    assert digest in run("fetch", url).err
    assert digest in run("fetch", url, "--decompress").err
    assert digest in run("lookup", url).err
    assert digest in run("lookup", url, "--decompress").err


def test_nothing_is_on_stderr_when_there_is_nothing_to_say(run: Run, base: Path, url: str) -> None:
    assert run("fetch", url, "--sha256", DIGEST).err == ""
    assert run("fetch", url, "--quiet").err == ""
    assert run("fetch", url, "-q").out == run("fetch", url, "--sha256", f"sha256:{DIGEST.upper()}").out


def test_fetch_takes_several_urls(run: Run, base: Path, origin: Origin) -> None:
    urls = [origin.add(f"/{name}.bin", name.encode()) for name in "abc"]
    said = run("fetch", *urls)
    assert (said.code, said.out) == (0, "".join(f"{nanocache.lookup(url)}\n" for url in urls))
    assert [Path(line).read_text() for line in said.out.splitlines()] == ["a", "b", "c"]
    assert said.err.count("to pin it") == 3
    pinned = f"{urls[0]}#sha256={hashlib.sha256(b'a').hexdigest()}"
    assert run("fetch", pinned, urls[1], "-q").out.splitlines() == said.out.splitlines()[:2]
    assert run("fetch", f"{urls[0]}#sha256={DIGEST}").code == 4


@pytest.mark.parametrize("option", [("--sha256", DIGEST), ("--filename", "x"), ("--mirror", "https://host/b")])
def test_what_is_said_of_one_url_is_refused_for_several(
    run: Run, base: Path, origin: Origin, url: str, option: tuple[str, str]
) -> None:
    said = run("fetch", url, "https://host/c", *option)
    assert said.code == 2
    assert f"{option[0]} is said of one URL" in said.err
    assert run("fetch", url, "ftp://host/a").code == 2
    assert not origin.requests()


def test_lookup_takes_headers(run: Run, base: Path, origin: Origin, url: str) -> None:
    fetched = run("fetch", url, "--header", "Accept: text/plain")
    assert run("lookup", url).code == 3
    assert run("lookup", url, "--header", "Accept: text/plain").out == fetched.out


def test_fetch_takes_what_the_function_takes(run: Run, base: Path, origin: Origin, tmp_path: Path, url: str) -> None:
    mirrored = run("fetch", origin.url("/missing"), "--mirror", url, "--filename", "m.bin", "--sha256", DIGEST)
    assert (mirrored.code, Path(mirrored.out.strip()).name) == (0, "m.bin")
    elsewhere = run("fetch", url, "--dir", tmp_path / "other")
    assert Path(elsewhere.out.strip()).is_relative_to(tmp_path / "other")
    with_headers = run("fetch", origin.add("/b", BODY), "--header", "X-One: 1", "--header", "X-Two:a:b")
    assert with_headers.code == 0
    assert origin.requests("/b")[0].headers.items() >= {("x-one", "1"), ("x-two", "a:b")}


def test_max_age_asks_again_and_rehash_reads_again(run: Run, base: Path, origin: Origin, url: str) -> None:
    run("fetch", url)
    assert run("fetch", url, "--max-age", "0").code == 0
    assert origin.requests("/a/weights.bin")[-1].status == 304
    path = Path(run("fetch", url).out.strip())
    st = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"evil")
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))  # as no honest writer would
    assert Path(run("fetch", url, "--rehash").out.strip()).read_bytes() == BODY


def test_unpack_and_decompress_print_the_product(run: Run, base: Path, origin: Origin) -> None:
    data = BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a.txt", BODY)
    folder = run("fetch", origin.add("/set.zip", data.getvalue()), "--unpack")
    assert (Path(folder.out.strip()) / "a.txt").read_bytes() == BODY
    file = run("fetch", origin.add("/a.txt.gz", gzip.compress(BODY)), "--decompress")
    assert Path(file.out.strip()).read_bytes() == BODY
    assert run("lookup", origin.url("/a.txt.gz"), "--decompress").out == file.out


# --- lookup and dir ---------------------------------------------------------------------------------------------------


def test_lookup_prints_the_path_and_never_asks_the_network(run: Run, base: Path, origin: Origin, url: str) -> None:
    missing = run("lookup", url)
    assert missing == Said(3, "", f"nanocache: {url} is not cached in {base}\n")
    path = run("fetch", url).out
    gets = origin.gets()
    assert run("lookup", url) == Said(0, path, f"sha256 {DIGEST}, 4 bytes\n")
    assert run("lookup", url, "--sha256", DIGEST).out == path
    assert run("lookup", url, "--sha256", "0" * 64).code == 3
    assert origin.gets() == gets


def test_dir_prints_the_base_directory_and_makes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCACHE_DIR", str(tmp_path / "base"))
    assert run("dir") == Said(0, f"{tmp_path / 'base'}\n", "")
    assert run("dir", "--dir", "~/cache") == Said(0, f"{Path.home() / 'cache'}\n", "")
    monkeypatch.chdir(tmp_path)
    assert run("dir", "--dir", "cache").out == f"{tmp_path / 'cache'}\n"
    assert not (tmp_path / "base").exists()


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["fetch", "URL/weights.bin"], 0, "to pin it"),
        (["fetch", "URL/missing"], 1, "404"),
        (["fetch", "URL/page"], 1, "a web page came"),
        (["fetch", "URL/loop"], 1, "redirect"),
        (["fetch", "URL/weights.bin", "--unpack"], 1, "refused to unpack weights.bin"),
        (["fetch", "URL/weights.bin", "--dir", "/dev/null/x"], 1, "a folder should be there"),
        (["fetch", "not-a-url"], 2, "the scheme must be"),
        (["fetch", "URL/weights.bin", "--sha256", "9f86"], 2, "64 hex digits"),
        (["fetch", "URL/weights.bin", "--sha256", "md5:" + "0" * 32], 2, "prints the SHA-256"),
        (["fetch", "URL/weights.bin", "--filename", "a/b"], 2, "one path segment"),
        (["fetch", "URL/weights.bin", "--header", "nothing"], 2, "a header is 'Name: value'"),
        (["fetch", "URL/weights.bin", "--max-age", "1", "--sha256", DIGEST], 2, "give one of them"),
        (["fetch", "URL/weights.bin", "--max-age", "soon"], 2, "invalid float value"),
        (["fetch", "URL/weights.bin", "--unpack", "--decompress"], 2, "not allowed with"),
        (["fetch"], 2, "usage:"),
        (["fetsch", "URL"], 2, "invalid choice"),
        ([], 2, "usage:"),
        (["fetch", "URL/weights.bin", "--offline"], 3, "is not cached in"),
        (["lookup", "URL/weights.bin"], 3, "is not cached in"),
        (["fetch", "URL/weights.bin", "--sha256", "0" * 64], 4, "sha256 mismatch"),
    ],
)
def test_exit_codes(
    run: Run,
    base: Path,
    misbehaving: Callable[..., Misbehaving],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    server = misbehaving()
    server.route("/weights.bin", serve(BODY))
    server.route("/missing", status(404))
    server.route("/page", html())
    server.route("/loop", redirect("/loop"))
    got = run(*(argument.replace("URL", server.url("")) for argument in arguments))
    assert (got.code, said in got.err) == (code, True), got.err
    assert bool(got.out) is (code == 0)
    if code and not got.err.startswith("usage:"):
        assert re.fullmatch(r"nanocache: [^\n]+\n", got.err)


def test_the_environment_can_be_wrong_too(run: Run, base: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCACHE_OFFLINE", "1")
    assert run("fetch", url).code == 3
    monkeypatch.setenv("NANOCACHE_OFFLINE", "maybe")
    assert run("fetch", url)[::2] == (
        2,
        "nanocache: NANOCACHE_OFFLINE must be one of 1, true, yes, on, 0, false, no, off; got 'maybe'\n",
    )


def test_an_interruption_is_130_and_the_next_call_goes_on(base: Path, origin: Origin) -> None:
    body = content(8 * MIB, 1)
    url = origin.add("/weights.bin", body, rate=2 * MIB)
    line = [sys.executable, "-m", "nanocache", "fetch", url]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while sum(request.sent for request in origin.requests()) < 2 * MIB:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "nanocache: interrupted; what had come is kept, and the next call goes on from there\n"
    origin.reset()
    origin.add("/weights.bin", body)
    assert main(["fetch", url]) == 0
    assert all(request.range for request in origin.requests())
    assert sum(request.sent for request in origin.requests()) < len(body)


# --- as a program -----------------------------------------------------------------------------------------------------


def test_it_runs_as_a_module(base: Path, url: str) -> None:
    ended = command("fetch", url)
    assert (ended.returncode, ended.stdout) == (0, f"{nanocache.lookup(url)}\n")
    assert command("lookup", "https://host/nothing").returncode == 3
    assert command("dir").stdout == f"{base}\n"
    assert re.fullmatch(r"nanocache \S+\n", command("--version").stdout)


def test_the_installed_command_is_the_same(base: Path) -> None:
    found = [entry for entry in _entry_points() if entry.name == "nanocache"]
    if not found:
        pytest.skip("nanocache is not installed here, only on the path")
    assert found[0].load() is main


def _entry_points() -> Any:
    from importlib.metadata import entry_points

    return entry_points(group="console_scripts")


@pytest.mark.parametrize(
    "arguments", [["fetch", "URL"], ["fetch", "URL", "-q"], ["lookup", "URL"], ["dir"], ["--help"]]
)
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| true", ">/dev/full", "2>/dev/full"])
def test_no_stream_that_is_closed_or_full_makes_a_traceback(
    base: Path, url: str, tmp_path: Path, arguments: list[str], streams: str
) -> None:
    path = nanocache.fetch(url)
    words = [url if word == "URL" else word for word in arguments]
    line = f"{shlex.join([sys.executable, '-m', 'nanocache', *words])} {streams}"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    lost = streams == ">/dev/full"
    assert ended.returncode == (1 if lost else 0)
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_name_is_printed_as_its_bytes_whatever_the_encoding(base: Path, origin: Origin, encoding: str) -> None:
    url = origin.add("/gr%C3%BC%C3%9Fe-%E2%82%AC.bin", BODY)
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(
        [sys.executable, "-m", "nanocache", "fetch", url], capture_output=True, env=environment, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, os.fsencode(f"{nanocache.lookup(url)}\n"))
    assert b"to pin it" in ended.stderr


def test_a_reader_that_has_gone_is_no_traceback(base: Path, url: str) -> None:
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, "-m", "nanocache", "fetch", url, "--quiet"]
    with subprocess.Popen(line, stdout=write, stderr=subprocess.PIPE, text=True) as process:
        os.close(write)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Exception ignored" not in err


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_ever_shown(run: Run, base: Path, origin: Origin) -> None:
    origin.add("/a.bin", BODY)
    host = origin.url("").removeprefix("http://")
    secret = f"http://me:s3cret@{host}/a.bin?X-Amz-Signature=s3cret&token=s3cret"
    gone = secret.replace("a.bin", "gone.bin")
    header = ("--header", "Authorization: Bearer s3cret")
    runs = [
        run("lookup", secret),
        run("fetch", secret, "--offline"),
        run("fetch", secret, "--sha256", "0" * 64),
        run("fetch", gone),
        run("fetch", gone, "--mirror", gone, *header),
        run("fetch", secret, *header),
        run("lookup", secret),
        run("fetch", secret.replace("http:", "ftp:")),
        run("fetch", f"http://me:s3cret@host:port/a.bin?{secret}"),
        run("fetch", secret, "--header", "Bearer s3cret"),
        run("fetch", f"{secret}#access_token=s3cret"),
    ]
    assert [one.code for one in runs] == [3, 3, 4, 1, 1, 0, 0, 2, 2, 2, 2]
    for one in runs:
        assert "s3cret" not in one.out + one.err
    for folder, _, names in os.walk(base):
        assert not any(b"s3cret" in (Path(folder) / name).read_bytes() for name in names)


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "fetch", "lookup", "dir"])
def test_help_says_what_each_option_is_for(run: Run, command: str) -> None:
    code, out, err = run(*filter(None, [command, "--help"]))
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: nanocache {command}".rstrip())
    lines = out.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.match(r"  \S", line):
            assert re.search(r"\S {2,}\S", line) or following.startswith("   "), f"{line} says nothing"


def test_help_names_every_exit_code_and_variable(run: Run) -> None:
    out = run("--help").out
    named = ("OK", "FAILED", "USAGE", "NOT_CACHED", "MISMATCH", "INTERRUPTED")
    codes = [getattr(exits, name) for name in named]
    assert [int(code) for code in re.findall(r"^  (\d+) ", out, re.MULTILINE)] == codes
    assert re.findall(r"^  (NANOCACHE_\w+)", out, re.MULTILINE) == [name for name, _, _ in config.VARIABLES]
    assert max(map(len, run("--help").out.splitlines())) <= 80


def test_the_readme_says_of_the_environment_what_the_library_says() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    rows = re.findall(r"^\| `(NANOCACHE_\w+)` \| (.*) \| (.*) \|$", readme, re.MULTILINE)
    assert tuple(rows) == config.VARIABLES


def test_the_library_reads_no_variable_that_is_not_in_its_table() -> None:
    folder = Path(nanocache.__file__).parent
    read = {name for path in folder.glob("**/*.py") for name in re.findall(r'"(NANOCACHE_[A-Z_]+)"', path.read_text())}
    assert read == {name for name, _, _ in config.VARIABLES}


def test_into_prints_the_path_in_that_folder_and_still_the_digest(
    run: Run, base: Path, origin: Origin, tmp_path: Path, url: str
) -> None:
    said = run("fetch", url, "--into", tmp_path / "mine")
    assert said.out == f"{tmp_path / 'mine' / Path(url).name}\n"
    assert "--sha256" in said.err
    other = origin.add(f"/other/{Path(url).name}", b"other")
    said = run("fetch", url, other, "--into", tmp_path / "mine")
    assert said.code == 2
    assert "one name" in said.err
