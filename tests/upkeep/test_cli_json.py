"""`--json` of every command: one object on stdout, `schema` first, and nothing else there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.cli import tables
from nanocache.cli.main import main
from tests.test_completion import commands
from tests.upkeep.conftest import Filled


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Any:
        capfd.readouterr()
        assert main([*map(str, arguments), "--json"]) in (0, 1)
        out = capfd.readouterr().out
        assert out.count("\n") == 1
        facts = json.loads(out)
        assert next(iter(facts)) == "schema"
        assert facts["schema"] == tables.SCHEMA
        return facts

    return run


@pytest.mark.parametrize("name", [*commands()])
def test_each_command_takes_it(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "-h"])
    assert "--json" in capfd.readouterr().out


def test_fetch_and_lookup_say_url_path_digest_and_size(filled: Filled, told: Callable[..., Any]) -> None:
    digest = filled.weights.parent.name
    expected = {"url": filled.url, "path": str(filled.weights), "sha256": digest, "size": 50_000}
    assert told("fetch", filled.url)["artifacts"] == [expected]
    facts = told("lookup", filled.url)
    assert {name: facts[name] for name in expected} == expected
    assert len(told("fetch", filled.url, filled.pinned_url)["artifacts"]) == 2


def test_a_file_of_the_callers_has_its_artifacts_digest(filled: Filled, told: Callable[..., Any]) -> None:
    [facts] = told("fetch", filled.url, "--into", "mine")["artifacts"]
    assert (facts["sha256"], Path(facts["path"]).name) == (filled.weights.parent.name, "weights.bin")
    assert "mine" in facts["path"]


def test_no_credential_is_in_it(filled: Filled, told: Callable[..., Any]) -> None:
    secret = filled.url.replace("http://", "http://me:hush@")
    assert "hush" not in json.dumps([told("fetch", secret), told("lookup", secret)])


def test_snapshot_says_its_folder(filled: Filled, told: Callable[..., Any]) -> None:
    assert told("snapshot", "hf://owner/name")["path"] == str(filled.folder)


def test_pins_and_removals_name_whole_digests(filled: Filled, told: Callable[..., Any]) -> None:
    digest = filled.weights.parent.name
    assert told("pin", digest[:8]) | {"schema": 1} == told("pin", filled.url)
    assert told("pin", filled.url)["digests"] == [digest]
    assert told("unpin", filled.url)["pinned"] is False
    assert told("rm", filled.url)["removed"] == [digest]


def test_lock_and_export_say_what_they_wrote(filled: Filled, told: Callable[..., Any]) -> None:
    assert told("lock", filled.url, "-q")["locked"] == {"weights.bin": filled.weights.parent.name}
    [path] = told("export", "nanocache.lock", "-o", "x.tar", "-q")["paths"]
    assert Path(path).name == "x.tar"


def test_dir_says_the_base(filled: Filled, told: Callable[..., Any], base: Path) -> None:
    assert told("dir")["base_dir"] == str(base) == str(nanocache.get_base_dir())
