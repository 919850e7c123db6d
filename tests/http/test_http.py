# ruff: noqa: F401, F811  # fixtures are imported by name
"""What is sent to whom: redirects, credentials, proxies, certificates; and connections: kept, called off, forked."""

from __future__ import annotations

import base64
import logging
import os
import select
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanocache.cancel import Cancel, Cancelled
from nanocache.download.download import Target
from nanocache.errors import DownloadFailed
from nanocache.http import exchange, redirects
from nanocache.http.failure import Failure
from tests.download.downloads import MIB, Download, body, download, sha, slept
from tests.servers import misbehave as m
from tests.servers.misbehave import CERTIFICATE, Misbehaving
from tests.servers.origin import Origin, Request

Servers = Callable[..., Misbehaving]
DATA = body(10_000)
TOKEN = (("X-Token", "hunter2"), ("Authorization", "Bearer hunter2"))


def sent(server: Misbehaving, path: str) -> dict[str, str]:
    """The headers of the last request for `path`."""
    return server.requests(path)[-1].headers


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# --- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_to_another_origin(misbehaving: Servers, download: Download, code: int) -> None:
    here, there = misbehaving(), misbehaving()
    url = here.route("/f", m.redirect(there.route("/real", m.serve(DATA)), code=code))
    assert download(url) == DATA
    assert download.got.url == url


@pytest.mark.parametrize("location", ["/real", "real", "?x=1", "//{host}/real", "/r%65al", "/ré al"])
def test_a_location_may_be_relative_and_odd(misbehaving: Servers, download: Download, location: str) -> None:
    server = misbehaving()
    for path in ("/real", "/r%65al", "/r%C3%A9%20al"):
        server.route(path, m.serve(DATA))
    target = location.format(host=f"127.0.0.1:{server.port}")
    redirect = m.raw(f"HTTP/1.1 302 F\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
    first = m.in_turn(redirect, m.serve(DATA))
    assert download(server.route("/f", first)) == DATA


def moved(location: bytes, *more: bytes) -> m.Handler:
    """A redirect whose head is what it is, byte by byte."""
    lines = [b"HTTP/1.1 302 Found", b"Content-Length: 0", b"Location: " + location, *more, b"", b""]
    return lambda _: iter([b"\r\n".join(lines)])


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (b"/caf\xe9.bin", "/caf%E9.bin"),
        ("/café ☃.bin".encode(), "/caf%C3%A9%20%E2%98%83.bin"),
        (b"/\xff\xfe?x=\xe9%20#\xe9", "/%FF%FE?x=%E9%20"),
        (b"/other?\xe9", "/other?%E9"),
        (b"/a%E9%zz", "/a%E9%zz"),
    ],
)
def test_the_very_bytes_of_a_location_are_asked_for(
    misbehaving: Servers, download: Download, location: bytes, path: str
) -> None:
    server = misbehaving()
    server.route(path.partition("?")[0], m.serve(DATA))
    assert download(server.route("/start", moved(location))) == DATA
    request = server.requests()[-1]
    assert "?".join(filter(None, (request.path, request.query))) == path


@pytest.mark.parametrize("host", [b"b\xfccher.invalid", b"a..b", b"x" * 64, b"\xe9", "☃".encode(), b".a", b"256.1.1.1"])
@pytest.mark.parametrize("scheme", [b"http", b"https"])
def test_a_location_that_no_server_can_be_at_fails_at_once(
    misbehaving: Servers, download: Download, slept: list[float], host: bytes, scheme: bytes
) -> None:
    with pytest.raises(DownloadFailed, match=r"no server can be at|names no host that can be asked"):
        download(misbehaving().route("/f", moved(scheme + b"://" + host + b"/x")))
    assert slept == []


@pytest.mark.parametrize("end", ["loop", "page", "forbidden", "gone"])
def test_a_site_that_wants_a_cookie_is_named_as_such_and_the_cookie_not_shown(
    misbehaving: Servers, download: Download, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    server = misbehaving()
    handlers = {
        "page": m.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nxx"),
        "gone": m.status(404),
    }
    server.route("/end", handlers.get(end, m.status(403)))
    url = server.route("/f", moved(b"/f" if end == "loop" else b"/end", b"Set-Cookie: session=hunter2"))
    with pytest.raises(DownloadFailed) as e:
        download(url)
    said = f"{e.value} {caplog.text}"
    assert "a redirect set a cookie" in said
    assert "headers={'Cookie'" in said
    assert "hunter2" not in said


def test_a_cookie_that_nothing_failed_for_is_not_mentioned(
    misbehaving: Servers, download: Download, caplog: pytest.LogCaptureFixture
) -> None:
    server = misbehaving()
    server.route("/end", m.serve(DATA))
    assert download(server.route("/f", moved(b"/end", b"Set-Cookie: a=b"))) == DATA
    assert not caplog.records


def test_ten_redirects_are_enough_and_eleven_too_many(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    file = server.route("/file", m.serve(DATA))
    assert download(m.redirect_chain(server, 10, file)) == DATA
    with pytest.raises(DownloadFailed, match="more than 10 redirects"):
        download(m.redirect_chain(server, 11, file))
    with pytest.raises(DownloadFailed, match="more than 10 redirects"):
        download(server.route("/loop", m.redirect(server.url("/loop"))))
    assert server.gets("/loop") == 11


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/f", "data:,x", "gopher://h/f"])
def test_a_redirect_leads_to_http_and_https_only(misbehaving: Servers, download: Download, target: str) -> None:
    server = misbehaving()
    with pytest.raises(DownloadFailed, match="neither http nor https"):
        download(server.route("/f", m.redirect(target)))
    assert server.gets() == 1


@pytest.mark.parametrize("target", ["http://[::1", "http://host:port/"])
def test_a_redirect_to_what_is_no_url_says_so(misbehaving: Servers, download: Download, target: str) -> None:
    with pytest.raises(DownloadFailed, match="not a URL"):
        download(misbehaving().route("/f", m.redirect(target)))


def test_https_is_never_left_for_http(
    misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    secure, plain = misbehaving(tls=True), misbehaving()
    with pytest.raises(DownloadFailed, match="from https to http"):
        download(secure.route("/f", m.redirect(plain.route("/f", m.serve(DATA)))))
    assert plain.gets() == 0
    assert download(plain.route("/up", m.redirect(secure.route("/real", m.serve(DATA))))) == DATA


def test_the_body_of_a_redirect_is_not_read(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    url = server.route("/f", m.redirect_with_endless_body(server.route("/real", m.serve(DATA))))
    assert download(url) == DATA
    assert server.requests("/f")[0].sent < 16 * MIB  # what the sockets took


def test_a_redirect_without_a_location_is_an_error(misbehaving: Servers, download: Download) -> None:
    with pytest.raises(DownloadFailed, match="302"):
        download(misbehaving().route("/f", m.status(302)))


# --- who gets the credentials -----------------------------------------------------------------------------------------


def test_headers_go_to_the_url_s_own_origin_and_along_a_redirect_within_it(
    misbehaving: Servers, download: Download
) -> None:
    server = misbehaving()
    server.route("/real", m.serve(DATA))
    assert download(Target(server.route("/f", m.redirect("/real")), TOKEN)) == DATA
    assert sent(server, "/f")["x-token"] == "hunter2"
    assert sent(server, "/real")["authorization"] == "Bearer hunter2"


def test_no_credential_crosses_to_another_origin_nor_comes_back(misbehaving: Servers, download: Download) -> None:
    here, there = misbehaving(), misbehaving()  # another port is another origin
    here.route("/back", m.serve(DATA))
    there.route("/there", m.redirect(here.url("/back")))
    url = here.route("/f", m.redirect(there.url("/there")))
    assert download(Target(url, TOKEN)) == DATA
    assert download(Target(url.replace("://", "://me:hunter2@"))) == DATA
    assert "hunter2" in str(here.requests("/f")[0])
    for server, path in ((there, "/there"), (here, "/back")):
        for request in server.requests(path):
            assert "x-token" not in request.headers
            assert "authorization" not in request.headers
            assert "hunter2" not in str(request)


def test_userinfo_in_a_redirect_is_not_sent(misbehaving: Servers, download: Download) -> None:
    """A server must not choose the login that this process shows to another one."""
    here, there = misbehaving(), misbehaving()
    elsewhere = there.route("/real", m.serve(DATA)).replace("://", "://me:hunter2@")
    within = here.route("/own", m.serve(DATA)).replace("://", "://me:hunter2@")
    assert download(here.route("/f", m.redirect(elsewhere))) == DATA
    assert download(here.route("/g", m.redirect(within))) == DATA
    assert "authorization" not in sent(there, "/real")
    assert "authorization" not in sent(here, "/own")


def test_userinfo_in_the_url_is_sent_decoded_and_never_shown(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    url = server.route("/f", m.serve(DATA)).replace("://", "://m%40e:p%3Aw%C3%A9@")
    assert download(url) == DATA
    assert sent(server, "/f")["authorization"] == basic("m@e", "p:wé")
    server.route("/g", m.status(403))
    with pytest.raises(DownloadFailed) as e:
        download(url.replace("/f", "/g"))
    assert "p%3Aw" not in str(e.value)
    assert "p:w" not in str(e.value)


def test_the_caller_cannot_ask_for_another_encoding_or_range(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    mine = (("Accept-Encoding", "gzip"), ("range", "bytes=5-"), ("If-None-Match", "*"), ("User-Agent", "mine/1"))
    assert download(Target(server.route("/f", m.serve(DATA)), mine)) == DATA
    assert sent(server, "/f")["accept-encoding"] == "identity"
    assert "range" not in sent(server, "/f")
    assert sent(server, "/f")["user-agent"] == "mine/1"


@pytest.mark.parametrize("bad", [("X-Token", "hunter2\r\nX: y"), ("X Token", "hunter2"), ("X-Tökén", "hunter2")])
def test_a_header_that_is_none_is_an_error_that_does_not_show_it(
    misbehaving: Servers, download: Download, bad: tuple[str, str]
) -> None:
    server = misbehaving()
    with pytest.raises(DownloadFailed, match="not valid") as e:
        download(Target(server.route("/f", m.serve(DATA)), (bad,)))
    assert "hunter2" not in str(e.value)
    assert server.gets() == 0


@pytest.fixture
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str, name: str = ".netrc") -> Path:
        path = Path(os.environ["HOME"]) / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


def test_netrc_is_for_exactly_its_host_and_comes_last(
    misbehaving: Servers, download: Download, netrc: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = misbehaving()
    url = server.route("/f", m.serve(DATA))
    netrc("machine 127.0.0.1 login me password hunter2\n")
    download(url)
    assert sent(server, "/f")["authorization"] == basic("me", "hunter2")
    download(url.replace("://", "://other:pw@"))
    assert sent(server, "/f")["authorization"] == basic("other", "pw")
    download(Target(url, TOKEN))
    assert sent(server, "/f")["authorization"] == "Bearer hunter2"
    netrc("machine 127.0.0 login me password hunter2\ndefault login me password hunter2\n")
    download(url)
    assert "authorization" not in sent(server, "/f")
    download(url.replace("127.0.0.1", "localhost"))
    assert "authorization" not in sent(server, "/f")
    other = netrc("machine 127.0.0.1 login you password pw\n", "other")
    monkeypatch.setenv("NETRC", str(other))
    download(url)
    assert sent(server, "/f")["authorization"] == basic("you", "pw")


def test_a_netrc_that_cannot_be_read_is_one_warning_without_its_text(
    misbehaving: Servers, download: Download, netrc: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    netrc("machine 127.0.0.1 login me\nhunter2\n")
    url = misbehaving().route("/f", m.serve(DATA))
    assert download(url) == download(url) == DATA
    (record,) = [r for r in caplog.records if r.name == "nanocache"]
    assert ".netrc" in record.getMessage()
    assert "hunter2" not in caplog.text


def test_a_401_says_where_credentials_come_from_and_names_the_host_for_netrc(
    misbehaving: Servers, download: Download
) -> None:
    here, there = misbehaving(), misbehaving()
    with pytest.raises(DownloadFailed, match=r"headers=.*user:password@.*\.netrc.*exactly 127\.0\.0\.1"):
        download(here.route("/f", m.status(401)))
    with pytest.raises(DownloadFailed, match=r"another origin.*\.netrc") as e:
        download(here.route("/g", m.redirect(there.route("/real", m.status(401)) + "?sig=hunter2")))
    assert "hunter2" not in str(e.value)


# --- nothing is told to anybody ---------------------------------------------------------------------------------------


def test_no_secret_is_in_any_log_line_of_any_level(
    misbehaving: Servers, download: Download, caplog: pytest.LogCaptureFixture, slept: list[float]
) -> None:
    here, there = misbehaving(), misbehaving()
    there.route("/real", m.in_turn(m.truncated(DATA, 100), m.serve(DATA)))
    location = there.url("/real") + "?X-Amz-Signature=hunter2"
    url = here.route("/f", m.redirect(location, headers={"Set-Cookie": "a=hunter2"}))
    with caplog.at_level(logging.DEBUG):
        assert download(Target(url.replace("://", "://me:hunter2@") + "?token=hunter2", TOKEN)) == DATA
    assert "httpcore" in {r.name.split(".")[0] for r in caplog.records}  # it was listened to
    assert "hunter2" not in caplog.text
    assert basic("me", "hunter2")[6:] not in caplog.text


def test_the_log_lines_of_others_are_left_as_they_are(misbehaving: Servers, caplog: pytest.LogCaptureFixture) -> None:
    import httpx

    url = misbehaving().route("/f", m.status(200, headers={"X-Mine": "shown"}))
    with caplog.at_level(logging.DEBUG), httpx.Client(trust_env=False) as client:
        client.get(url)
    assert "shown" in caplog.text


def test_cookies_are_neither_kept_nor_sent(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    server.route("/real", m.serve(DATA))
    url = server.route("/f", m.redirect("/real", headers={"Set-Cookie": "a=b"}))
    assert download(url) == download(url) == DATA
    assert all("cookie" not in r.headers for r in server.requests())


# --- proxies and certificates -----------------------------------------------------------------------------------------


class Tunnels(Misbehaving):
    """A proxy: absolute URLs are answered by its own handlers, CONNECT is tunnelled."""

    def answer(self, connection: socket.socket, request: Request) -> bool:
        if request.method != "CONNECT":
            return super().answer(connection, request)
        self.record(request)
        host, port = request.path.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as target:
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            self._pump(connection, target)
        return False

    def _pump(self, a: socket.socket, b: socket.socket) -> None:
        def one_way(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65_536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=one_way, args=(b, a))
        back.start()
        one_way(a, b)
        back.join()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_used_with_its_own_credentials(
    misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    proxy = misbehaving()
    proxy.route("/f", m.serve(DATA))
    monkeypatch.setenv(variable, f"http://proxy:hunter2@127.0.0.1:{proxy.port}")
    assert download(Target("http://no.such.host.invalid/f", TOKEN)) == DATA
    assert sent(proxy, "/f")["host"] == "no.such.host.invalid"
    assert sent(proxy, "/f")["proxy-authorization"] == basic("proxy", "hunter2")


def test_no_proxy_is_heeded(misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    server = misbehaving()
    monkeypatch.setenv("HTTP_PROXY", m.unreachable())
    monkeypatch.setenv("NO_PROXY", "example.org, 127.0.0.1")
    assert download(server.route("/f", m.serve(DATA))) == DATA


def test_https_goes_through_a_proxy_in_a_tunnel(
    misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    server = misbehaving(tls=True)
    url = server.route("/f", m.serve(DATA))
    for tls in (False, True):
        with Tunnels(tls=tls) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"{proxy.scheme}://127.0.0.1:{proxy.port}")
            assert download(Target(url, TOKEN)) == DATA
            assert [r.method for r in proxy.requests()] == ["CONNECT"]
            assert "hunter2" not in str(proxy.requests())


@pytest.mark.parametrize("content", [None, b"no certificate"], ids=["missing", "no PEM"])
def test_certificates_that_cannot_be_read_are_an_error_that_names_the_variable(
    misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(DownloadFailed, match=f"SSL_CERT_FILE .{file}. cannot be used.*unset it"):
        download(misbehaving(tls=True).route("/f", m.serve(DATA)))


def test_a_socks_proxy_without_its_package_is_an_error_that_names_it(
    download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("ALL_PROXY", "socks5://me:hunter2@127.0.0.1:9")
    with pytest.raises(DownloadFailed, match=r"SOCKS.*pip install socksio") as e:
        download("http://127.0.0.1/f")
    assert "hunter2" not in str(e.value)


def test_no_poll_is_needed(misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    """eventlet removes select.poll."""
    monkeypatch.delattr(select, "poll")
    assert download(misbehaving().route("/f", m.serve(DATA))) == DATA


NO_PROXIES = (
    *(
        "http://me:hunter2@h:port",
        "ftp://me:hunter2@h",
        "http://me:hunter2@h:99999",
        "socks4://h:1",
        "me:hunter2@:",
        "//",
    ),
    *(
        "http://",
        "[::1",
        "http://me:hunter2@[bad",
        "\udcff",
        "http://me:hunter2@h:-1",
        "://me:hunter2@h",
        "http://me:hun/ter2",
    ),
)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy", NO_PROXIES)
def test_a_proxy_that_makes_no_sense_is_an_error_that_names_its_variable_and_no_password(
    download: Download, monkeypatch: pytest.MonkeyPatch, slept: list[float], proxy: str, scheme: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(DownloadFailed, match=r"the proxy .*\(ALL_PROXY\)( names no host| is not a valid URL)") as e:
        download(f"{scheme}://127.0.0.1/f")
    assert "hun" not in str(e.value)
    assert slept == []


ODD_PROXIES = (
    *("http://a..b:1", f"http://{'x' * 64}:1", "http://xn--zzzzz99999:1", "h x:1", "http://me:%zz@127.0.0.1:1"),
    *(
        "http://127.0.0.1:1/path?x#y",
        "http://me:hun/ter2@127.0.0.1:1",
        "http://me:1/hunter2@h:1",
        "http://me:hun#ter2@h",
    ),
)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy", ODD_PROXIES)
def test_whatever_stands_for_a_proxy_the_error_is_ours(
    download: Download, monkeypatch: pytest.MonkeyPatch, slept: list[float], proxy: str, scheme: str
) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    with pytest.raises(
        DownloadFailed, match=f"the proxy http://.*\\({scheme}_proxy\\).*; set {scheme}_proxy right"
    ) as e:
        download(f"{scheme}://127.0.0.1/f")
    assert "ter2" not in str(e.value)


@pytest.fixture(params=["refuses", "is unknown", "is full", "is silent", "hangs up"])
def dead(request: pytest.FixtureRequest, misbehaving: Servers) -> Iterator[str]:
    """The host and port of a proxy that is of no use."""
    match request.param:
        case "refuses":
            yield "127.0.0.1:1"
        case "is unknown":
            yield "no-such-proxy.invalid:3128"
        case "is silent" | "hangs up":
            with Silent() if request.param == "is silent" else HangingUp() as server:
                yield f"127.0.0.1:{server.port}"
        case _:
            with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
                waiting = [socket.socket() for _ in range(4)]
                for one in waiting:
                    one.setblocking(False)
                    one.connect_ex(server.getsockname())
                yield f"127.0.0.1:{server.getsockname()[1]}"
                for one in waiting:
                    one.close()


class Silent(Misbehaving):
    def answer(self, connection: socket.socket, request: Request) -> bool:
        self._unless_closing(10)
        return False


class WantsLogin(Misbehaving):
    def answer(self, connection: socket.socket, request: Request) -> bool:
        self.record(request)
        connection.sendall(b"HTTP/1.1 407 hunter2\r\nContent-Length: 0\r\n\r\n")
        return False


class HangingUp(Misbehaving):
    def answer(self, connection: socket.socket, request: Request) -> bool:
        return False


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_dead_proxy_is_named_without_its_password(
    download: Download, monkeypatch: pytest.MonkeyPatch, dead: str, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://me:hunter2@{dead}")
    scheme = "https" if "HTTPS" in variable else "http"
    with pytest.raises(
        DownloadFailed, match=f"through the proxy http://{dead} .{variable}.; set {variable} right"
    ) as e:
        download(f"{scheme}://example.invalid/f", retries=0, timeout=0.5)
    assert "hunter2" not in str(e.value)


def test_the_lower_case_variable_is_named_where_both_are_set(
    download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:2")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(DownloadFailed, match=r"127.0.0.1:1 \(http_proxy\)"):
        download("http://example.invalid/f", retries=0)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_login_says_where_to_write_it(
    download: Download, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    with WantsLogin() as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(DownloadFailed, match="407") as e:
            download(f"{scheme}://example.invalid/f")
        assert f"127.0.0.1:{proxy.port} (ALL_PROXY)" in str(e.value)
        assert "write user:password@ before the host in ALL_PROXY" in str(e.value)
        assert "hunter2" not in str(e.value)
        assert len(proxy.requests()) == 1


def test_a_proxy_that_refuses_is_named(
    misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = misbehaving()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(DownloadFailed, match=rf"the proxy http://127.0.0.1:{proxy.port} .HTTPS_PROXY. refused: 404"):
        download("https://no.such.host.invalid/f")
    assert len(proxy.requests()) == 1


def test_a_certificate_is_trusted_if_the_environment_names_it_and_refused_at_once_if_not(
    misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    server = misbehaving(tls=True)
    url = server.route("/f", m.serve(DATA))
    with pytest.raises(DownloadFailed, match=r"certificate is not trusted.*SSL_CERT_FILE"):
        download(url)
    assert slept == []
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    assert download(url) == DATA


@pytest.mark.parametrize("size", [0, 10_000, 20 * MIB])
def test_tls_brings_the_same_bytes(
    misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    server, data = misbehaving(tls=True), body(size)
    assert download(server.route("/f", m.serve(data)), digest=sha(data)) == data


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_connection_is_used_again(origin: Origin, download: Download) -> None:
    for i in range(5):
        download(origin.add(f"/{i}", DATA))
    assert len({r.connection for r in origin.requests()}) == 1


def test_a_connection_that_the_server_closed_meanwhile_is_not_a_failure(
    misbehaving: Servers, download: Download, slept: list[float]
) -> None:
    server = misbehaving()
    url = server.route("/f", m.in_turn(m.serve(DATA), m.raw(m.FIN), m.serve(DATA), m.raw(m.RST), m.serve(DATA)))
    for _ in range(3):
        assert download(url, retries=0) == DATA
    assert slept == []


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    origin: Origin, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = origin.add("/f", DATA)
    download(url)
    monkeypatch.setattr(exchange, "IDLE", 0.0)
    download(url)
    assert len({r.connection for r in origin.requests()}) == 2


def test_a_stalled_server_costs_its_own_transfer_only(misbehaving: Servers, tmp_path: Path) -> None:
    server = misbehaving()
    slow, fast = server.route("/slow", m.stalled(DATA, 10)), server.route("/fast", m.serve(DATA))
    one, two = Download(tmp_path / "one"), Download(tmp_path / "two")
    for each in (one, two):
        each.base.mkdir()
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        stalled = pool.submit(lambda: one(slow, cancel=cancel))
        time.sleep(0.1)
        assert two(fast) == DATA
        cancel.set()
        with pytest.raises(Cancelled):
            stalled.result()


@contextmanager
def deaf() -> Iterator[str]:
    """A host that takes no more connections, nor refuses them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/f"
        finally:
            for each in waiting:
                each.close()


@contextmanager
def mute() -> Iterator[str]:
    """A host that accepts connections and says nothing: TLS never begins."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/f"


@pytest.mark.parametrize("host", [deaf, mute], ids=["connecting", "TLS handshake"])
def test_what_is_called_off_while_connecting_ends_at_once(download: Download, host: Any) -> None:
    cancel = Cancel()
    timer = threading.Timer(0.2, cancel.set)
    with host() as url:
        start = time.monotonic()
        timer.start()
        with pytest.raises(Cancelled):
            download(url, cancel=cancel, timeout=30)
        assert time.monotonic() - start < 1.2
    timer.join()


@pytest.mark.parametrize("host", [deaf, mute], ids=["connecting", "TLS handshake"])
def test_connecting_takes_no_longer_than_its_timeout(download: Download, host: Any) -> None:
    with host() as url:
        start = time.monotonic()
        with pytest.raises(DownloadFailed, match=r"no connection within 0.3 s"):
            download(url, timeout=0.3, retries=0)
        assert time.monotonic() - start < 2


def test_a_host_that_does_not_exist_is_named_as_such(download: Download, slept: list[float]) -> None:
    with pytest.raises(DownloadFailed, match="cannot connect"):
        download("http://no.such.host.invalid/f", retries=0)


# --- fork and exit ----------------------------------------------------------------------------------------------------


def in_fork(check: Callable[[], bool]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the servers of the test are threads
        pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    ok = False
    try:
        ok = check()
    finally:
        os._exit(0 if ok else 1)


def test_a_forked_child_uses_no_connection_of_its_parent_and_leaves_it_intact(
    origin: Origin, download: Download, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "IDLE", 600.0)
    url = origin.add("/f", DATA)
    download(url)
    child = Download(tmp_path / "child")
    child.base.mkdir()
    assert in_fork(lambda: not exchange._idle and child(url) == DATA)
    download(url)
    first, forked, last = (r.connection for r in origin.requests())
    assert first == last != forked


def test_a_child_forked_during_a_download_can_download(misbehaving: Servers, tmp_path: Path) -> None:
    server, release = misbehaving(), threading.Event()
    slow = server.route("/slow", m.stalled(DATA, 10, release))
    fast = server.route("/fast", m.serve(DATA))
    parent, child = Download(tmp_path / "parent"), Download(tmp_path / "child")
    for each in (parent, child):
        each.base.mkdir()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: parent(slow, connections=1))
        while not server.gets("/slow"):
            time.sleep(0.01)
        assert in_fork(lambda: child(fast, connections=1) == DATA)  # the parent's request takes no place here
        release.set()
        assert running.result() == DATA


def test_a_process_that_ends_closes_what_it_kept_without_a_warning(
    origin: Origin, base: Path, spawn: Callable[..., Any]
) -> None:
    code = "print(len(Download(Path(base))(url)))"
    setup = "from pathlib import Path; from tests.download.downloads import Download"
    (ended,) = spawn(code, setup=setup, url=origin.add("/f", DATA), base=str(base)).finish()
    assert (ended.out, ended.err, ended.code) == (str(len(DATA)), "", 0)


def test_the_transfer_loads_no_http_library_before_it_asks(spawn: Callable[..., Any]) -> None:
    code = "import sys; print(sorted(m for m in ('httpx', 'httpcore', 'ssl', 'netrc') if m in sys.modules))"
    assert spawn(code, setup="import nanocache.download.download", fresh=True).outputs() == ["[]"]


@given(
    server=st.sampled_from(
        ["http://h", "https://H.x:443", "http://u:p@h:8080", "http://h.", "http://[::1]:80", "x://h"]
    ),
    rest=st.text("aZ09-._~!$&'()*+,;=:@%/?#[]{}|\\^`\"<> \x00é", max_size=12),
)
def test_an_address_that_needs_no_parser_is_asked_for_as_httpx_would(server: str, rest: str) -> None:
    try:
        url = httpx.URL(server + rest)
    except httpx.InvalidURL:
        with pytest.raises(Failure):
            exchange._request("GET", server + rest, (), 1.0)
        return
    request = exchange._request("GET", server + rest, (), 1.0)
    asked = request.url
    assert (asked.scheme, asked.host, asked.port) == (url.raw_scheme, url.raw_host, url.port)
    assert asked.target == (url.raw_path or b"/")
    assert request.headers == [(b"Host", url.netloc)]
