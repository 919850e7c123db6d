"""`nanocache env`: settings, where each comes from, and versions; and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanocache.cli.main import main
from nanocache.config import VARIABLES


def test_it_says_where_each_setting_comes_from(
    base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOCACHE_RETRIES", "7")
    assert main(["env"]) == 0
    lines = {line.split()[0]: line for line in capfd.readouterr().out.splitlines() if line.startswith("  ")}
    assert {name for name, _, _ in VARIABLES} <= set(lines)
    assert lines["NANOCACHE_RETRIES"].endswith("7 (environment)")
    assert lines["NANOCACHE_TIMEOUT"].endswith("30 (default)")
    assert lines["path"].endswith(str(base))
    assert lines["writable"].endswith("yes")
    assert {"nanocache", "python", "system", "httpx", "filelock"} <= set(lines)


def test_it_shows_no_secret(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hush")
    monkeypatch.setenv("https_proxy", "http://me:hush@proxy:3128")
    assert main(["env", "--json"]) == 0
    out = capfd.readouterr().out
    assert "hush" not in out
    facts = json.loads(out)
    assert facts["schema"] == 1
    assert facts["settings"]["HF_TOKEN"] == "set (environment)"


@pytest.mark.parametrize(("name", "value"), [("NANOCACHE_RETRIES", "many"), ("NANOCACHE_DIR", "$UNKNOWN/cache")])
def test_it_works_where_a_setting_is_wrong(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["env"]) == 0
    assert f"{name}" in capfd.readouterr().out


def test_a_base_that_is_not_there_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOCACHE_DIR", str(tmp_path / "none"))
    assert main(["env"]) == 0
    assert "not there" in capfd.readouterr().out
    assert not (tmp_path / "none").exists()
