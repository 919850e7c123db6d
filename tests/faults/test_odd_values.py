"""Whatever an argument or a variable holds, the error is one of ours, on one line: never a bare UnicodeError, say.

Values are put together by chance from pieces that some parser below us stumbles over.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest

import nanocache
from tests.faults.checks import rounds

PIECES = (
    *(
        "http://",
        "https://",
        "socks5://",
        "ftp://",
        "file:",
        "127.0.0.1",
        "[::1]",
        "[",
        "]",
        ":1",
        ":99999",
        ":",
        ":80",
    ),
    *("/", "//", "..", ".", "%", "%zz", "%00", "\n", "\x7f", " ", "\\", "u:p@", "@", "#", "?", "a=b", "*", "_", "-"),
    *("a" * 64, "a", "b.c", "xn--", "é", "☃", "\u3002", "\ufb00", "\u202e", "\u0663", "\udcff", "localhost", "0x7f.1"),
    *("1e5", "nan", "inf", "-1", "9" * 30, "true", "~", "$X", "'", '"'),
)
ARGUMENT_PIECES = (*PIECES, "\0", "\ud800")  # no variable can hold these
HARMLESS = tuple(piece for piece in ARGUMENT_PIECES if not set(piece) & set("/.~"))  # in the current folder
VARIABLES = (
    *("http_proxy", "https_proxy", "ALL_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC", "HOME"),
    *("NANOCACHE_TIMEOUT", "NANOCACHE_CONNECTIONS", "NANOCACHE_MAX_ARTIFACT", "NANOCACHE_LOCK_TIMEOUT"),
    *("NANOCACHE_PROGRESS", "NANOCACHE_OFFLINE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
)


class Chance(random.Random):
    def text(self, most: int, pieces: tuple[str, ...] = ARGUMENT_PIECES) -> str:
        return "".join(self.choices(pieces, k=self.randint(0, most)))

    def url(self) -> str:
        return self.choice(["http://127.0.0.1:1/", "https://127.0.0.1:1/", "http://", "https://", ""]) + self.text(4)

    def options(self) -> dict[str, Any]:
        options = {
            "headers": {self.text(2): self.text(3)},
            "filename": self.text(3),
            "sha256": self.text(2),
            "mirrors": [self.text(4)],
            "max_age": self.choice([1e400, -1, True, "1", 10**30, None, float("nan")]),
            "base_dir": self.text(3, HARMLESS),
        }
        return {name: value for name, value in options.items() if self.random() < 0.15}

    def environment(self) -> dict[str, str]:
        chosen = {self.choice(VARIABLES): self.text(4, PIECES) for _ in range(self.randint(0, 2))}
        proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:1") if self.random() < 0.3 else {}
        return {"NANOCACHE_TIMEOUT": "0.2", "NANOCACHE_RETRIES": "0"} | proxies | chosen


@pytest.fixture(autouse=True)
def _no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def known_hosts_only(host: Any, *more: Any, **options: Any) -> Any:
        if host in ("127.0.0.1", "::1"):
            return look_up(host, *more, **options)
        host.encode("idna") if isinstance(host, str) else host.decode("ascii")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", known_hosts_only)


@pytest.mark.parametrize("seed", range(4))
def test_every_odd_value_is_an_error_of_ours(
    seed: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Chance(seed)
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    for _ in range(rounds(150, 20_000)):
        url, options, environment = chance.url(), chance.options(), chance.environment()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setitem(os.environ, name, value)
            with pytest.raises((nanocache.NanocacheError, ValueError)) as e:
                nanocache.fetch(url, **options)
        assert not isinstance(e.value, UnicodeError), (url, options, environment)
        assert "\n" not in str(e.value), (url, options, environment)
