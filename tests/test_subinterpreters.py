"""An isolated subinterpreter, which allows no daemon threads: all of it works, and nothing keeps it from ending."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from tests.servers.origin import MIB, Origin

CALLS = {
    "fetch": "nanocache.fetch(urls[0])",
    "fetch_many": "nanocache.fetch_many(urls)[0]",
    "afetch": "asyncio.run(nanocache.afetch(urls[0]))",
    "hook": "nanocache.fetch(urls[0], postprocess=copy)",
}


@pytest.fixture
def urls(origin: Origin) -> list[str]:
    return [origin.url(f"/bytes/{3 * MIB}/{n}/a.bin") for n in range(3)]


def copy(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes())


@pytest.fixture
def no_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[..., None] = threading.Thread.__init__

    def refuse(thread: threading.Thread, *arguments: Any, daemon: bool | None = None, **options: Any) -> None:
        if daemon and str(options.get("name")).startswith("nanocache"):
            raise RuntimeError("daemon threads are disabled in this (sub)interpreter")
        make(thread, *arguments, daemon=daemon, **options)

    monkeypatch.setattr(threading.Thread, "__init__", refuse)


@pytest.mark.parametrize("call", CALLS)
def test_no_daemon_thread_is_needed(base: Path, urls: list[str], no_daemons: None, call: str) -> None:
    names = {"nanocache": nanocache, "asyncio": asyncio, "urls": urls, "copy": copy}
    path = eval(CALLS[call], names)
    assert path.stat().st_size == 3 * MIB


REAL = """
import asyncio, sys, nanocache
def copy(src, dst):
    dst.write_bytes(src.read_bytes())
copy.key = "copy"
with open(result, "w") as file:
    try:
        print(({call}).stat().st_size, file=file)
    except BaseException as e:
        print(repr(e), file=file)
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="older subinterpreters allow daemons")
@pytest.mark.parametrize("call", CALLS)
def test_a_real_one_gets_the_file_and_ends(base: Path, urls: list[str], tmp_path: Path, spawn: Any, call: str) -> None:
    result = tmp_path / "result"
    text = f"import sys\nsys.path[:] = {sys.path!r}\nurls, result = {urls!r}, {str(result)!r}\n"
    text += REAL.replace("{call}", CALLS[call])
    module = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    # One that imported hashlib takes the process down with it on 3.12: then it is left to the end of the process.
    end = "interpreters.destroy(one)" if sys.version_info >= (3, 13) else "import os"
    code = f"one = interpreters.create()\ninterpreters.run_string(one, text)\n{end}\nprint('ended', flush=True)\n"
    code += "import os; os._exit(0)"
    assert spawn(code, setup=f"import {module} as interpreters", text=text).outputs() == ["ended"]
    assert result.read_text().strip() == str(3 * MIB)
