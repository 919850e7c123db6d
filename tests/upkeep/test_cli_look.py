"""`nanocache ls`, `du`, `info`: a table that fits 80 columns, and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.cli import tables
from nanocache.cli.main import main
from nanocache.coordination.process import me
from tests.servers.origin import Origin
from tests.upkeep.conftest import Filled, made_old

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run_command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return run_command


def test_a_list_has_a_line_for_each_digest_and_fits_80_columns(filled: Filled, run: Run, origin: Origin) -> None:
    nanocache.fetch(origin.add("/a/" + "long-" * 30 + ".bin", b"1"))
    nanocache.fetch(origin.add("/a/wide.bin", b"2"), filename="幅" * 60)
    code, out, _ = run("ls")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["DIGEST", "SIZE", "USED", "KEPT", "NAME"]
    assert len(lines) == 1 + len(list(filled.cache.entries()))
    assert max(tables._width(line) for line in lines) <= 80
    assert f"{filled.weights.parent.name[:12]}  50.0 kB" in out


@pytest.mark.parametrize(("order", "first"), [("size", "model.safetensors"), ("name", "config.json")])
def test_a_list_is_sorted_as_asked(filled: Filled, run: Run, order: str, first: str) -> None:
    assert run("ls", "--sort", order)[1].splitlines()[1].split()[-1] == first


def test_json_has_a_schema_whole_digests_and_sizes_in_bytes(filled: Filled, run: Run, base: Path) -> None:
    facts: dict[str, Any] = json.loads(run("ls", "--json")[1])
    assert list(facts)[:2] == ["schema", "base_dir"]
    assert facts["schema"] == 1
    assert facts["base_dir"] == str(base)
    entry = next(e for e in facts["entries"] if e["urls"] == [filled.url])
    assert (entry["digest"], entry["size"]) == (filled.weights.parent.name, 50_000)


def test_du_says_what_is_taken_and_for_what(filled: Filled, run: Run) -> None:
    code, out, _ = run("du")
    assert code == 0
    assert out.splitlines()[1].split()[-1] == "blobs"
    assert out.splitlines()[-1].split()[-1] == "all"
    facts = json.loads(run("du", "--json")[1])
    assert facts["size"] == sum(kind["size"] for kind in facts["kinds"])


def test_info_says_what_it_is_from_where_and_what_keeps_it(filled: Filled, run: Run) -> None:
    code, out, _ = run("info", filled.weights)
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert facts["sha256"] == filled.weights.parent.name
    assert facts["size"] == "50.0 kB (50,000 bytes)"
    assert facts["path"] == str(filled.weights)
    assert facts["from"] == filled.url
    assert facts["built"] == str(filled.copied)
    assert "ago" in facts["since"]
    assert "ago" in facts["used"]
    assert "ago" in facts["verified"]
    assert "kept" in facts
    assert json.loads(run("info", "--json", filled.url)[1])["digest"] == facts["sha256"]


def test_info_of_the_unknown_exits_3(filled: Filled, run: Run) -> None:
    code, out, err = run("info", "0123456789abcdef")
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert "not cached" in err


def test_a_name_shows_no_control_character(base: Path, run: Run) -> None:
    folder = base / "blobs-v1" / "sha256" / "ab" / ("ab" * 32)
    folder.mkdir(parents=True)
    (folder / "evil\x1b[31m\n.bin").touch()
    (folder / os.fsdecode(b"latin\xe9.bin")).touch()
    assert "\x1b" not in run("ls")[1]
    assert len(run("ls")[1].splitlines()) == 2


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (50_000, "50.0 kB"), (999_900, "1.00 MB"), (123e9, "123 GB")],
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert tables.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (119, "119 s"), (121, "2 min"), (7201, "2 h"), (172_801, "2 days"), (3e8, "9.5 years")],
)
def test_ages_are_in_words(seconds: float, text: str) -> None:
    assert tables.age(1e9 - seconds, 1e9) == text


@pytest.mark.parametrize("name", ["ls", "du", "info", "verify", "pin", "unpin", "prune", "rm", "env"])
def test_help_fits_80_columns_and_has_an_example(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "-h"])
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert f"\n  nanocache {name}" in out


def test_info_says_what_it_is_who_uses_it_and_why_it_is_still_here(filled: Filled, run: Run, base: Path) -> None:
    def facts(target: object) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in run("info", target)[1].splitlines():
            name, text = line.split(maxsplit=1)
            found.setdefault(name, []).append(text)
        return found

    assert facts(filled.weights)["what"] == ["an artifact, and what was built of it"]
    assert "snapshot" in facts(filled.folder)["what"][0]
    shown = facts((filled.folder / "config.json").resolve())
    assert "snapshot" in shown["what"][0]
    made_old(base, 48)
    assert facts(filled.weights)["kept"] == ["by nothing: a prune that needs the room takes it"]
    blob = next(base.glob("blobs-v1/*/*/*/config.json"))
    assert facts(blob)["kept"] == [f"a snapshot shows it: {filled.folder}"]
    filled.cache.pin(filled.weights, "the baseline")
    with filled.cache.hold(filled.weights):
        assert facts(filled.weights)["kept"] == ["it is pinned: the baseline", f"{me()} holds it"]
        told = json.loads(run("info", "--json", filled.weights)[1])
        assert (told["holders"], told["snapshots"]) == ([str(me())], [])


def test_a_list_names_snapshots_and_what_was_written_to(filled: Filled, run: Run) -> None:
    filled.weights.chmod(0o644)
    filled.weights.write_bytes(b"evil")
    out = run("ls")[1]
    assert f"{filled.folder.name}/ (a snapshot)" in out
    assert "weights.bin (written to since)" in out
    assert "tree.json" not in out


def test_verify_says_once_what_is_damaged(filled: Filled, run: Run) -> None:
    filled.weights.chmod(0o644)
    filled.weights.write_bytes(b"evil")
    code, out, err = run("verify", "-q")
    assert code == 1
    assert (out + err).count(str(filled.weights)) == 1


def test_what_was_just_fetched_was_not_verified_long_ago(filled: Filled) -> None:
    entry = filled.cache.info(filled.weights)
    assert entry.verified is not None
    assert abs(entry.verified - entry.created) < 2


def test_an_error_of_the_disk_says_what_and_where(filled: Filled, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    code, out, err = run("prune")
    assert (code, out) == (1, "")
    assert "Errno" not in err
    assert str(filled.cache.base_dir) in err
