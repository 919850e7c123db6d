"""What a run shows: colours where they belong, and nobody's logging disturbed."""

from __future__ import annotations

import io
import logging

import pytest

import nanodist
from nanodist.compute.console import FORMAT, wants_color


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def bare_root(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The root logger without the handlers that pytest gives it for the call."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    return root


def formatted(level: int, text: str) -> str:
    record = logging.LogRecord("name", level, "file", 1, text, None, None)
    line = nanodist.ColoredFormatter("%(levelname)s %(message)s").format(record)
    assert record.levelname == logging.getLevelName(level), "other handlers see the record as it was"
    return line


@pytest.mark.parametrize(("level", "color"), [(logging.INFO, "32"), (logging.WARNING, "33"), (logging.ERROR, "31")])
def test_levels_have_the_seeds_colours(level: int, color: str) -> None:
    assert formatted(level, "text").startswith(f"\033[{color}m\033[1m")


def test_amounts_are_bold_and_shards_green_in_info_lines() -> None:
    line = formatted(logging.INFO, "Shard 12: 3.5 GB, 40%, 100 docs")
    assert "\033[32m\033[1mShard 12\033[0m" in line
    assert all(f"\033[1m{amount}\033[0m" in line for amount in ("3.5 GB", "40%", "100 docs"))
    assert "\033[1m3.5 GB" not in formatted(logging.WARNING, "3.5 GB")


def test_default_logging_is_plain_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    root = bare_root(monkeypatch)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    nanodist.setup_default_logging()
    nanodist.setup_default_logging()
    assert len(root.handlers) == 1
    assert root.level == logging.INFO
    assert type(root.handlers[0].formatter) is logging.Formatter


def test_default_logging_is_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    root = bare_root(monkeypatch)
    monkeypatch.setattr("sys.stderr", Terminal())
    nanodist.setup_default_logging()
    assert isinstance(root.handlers[0].formatter, nanodist.ColoredFormatter)
    assert root.handlers[0].formatter._fmt == FORMAT


def test_default_logging_leaves_an_applications_handlers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    root = bare_root(monkeypatch)
    own = logging.NullHandler()
    root.addHandler(own)
    level = root.level
    nanodist.setup_default_logging()
    assert root.handlers == [own]
    assert root.level == level


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wants_color(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color(Terminal())


def test_banner_is_printed_by_rank_0_without_codes_off_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nanodist.print_banner()
    out = capsys.readouterr().out
    assert len(out.splitlines()) > 3
    assert "\033" not in out
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    nanodist.print_banner()
    assert not capsys.readouterr().out


def test_dummy_wandb_takes_the_calls() -> None:
    run = nanodist.DummyWandb()
    run.log({"loss": 1.0}, step=3)
    run.finish()
