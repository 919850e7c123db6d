"""facts: the same on like machines, without touching a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanodist
from nanodist.compute import facts


def test_facts_are_texts_and_the_same_each_time() -> None:
    known = nanodist.facts()
    assert all(isinstance(fact, str) for fact in known)
    assert known == nanodist.facts()
    assert {"python", "system", "torch", "cpu"} <= {fact.split()[0] for fact in known}


def test_no_device_is_touched(ranks: Callable[..., Any]) -> None:
    run = ranks("import torch; nanodist.facts(); report(touched=torch.cuda.is_initialized())", 1)
    assert run.last("touched") == [False]


def test_without_torch_the_others_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert {"python", "system"} <= {fact.split()[0] for fact in nanodist.facts()}
    assert not [fact for fact in nanodist.facts() if fact.startswith("torch")]


def test_gpus_and_their_driver_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(facts, "NVIDIA", str(tmp_path))
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build  (builder@host)\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    for n in range(2):
        (tmp_path / "gpus" / f"0000:0{n}:00.0").mkdir(parents=True)
        (tmp_path / "gpus" / f"0000:0{n}:00.0" / "information").write_text(
            "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n"
        )
    assert nanodist.facts()[-2:] == ("driver 570.133.20", "gpu NVIDIA H100 80GB HBM3")
