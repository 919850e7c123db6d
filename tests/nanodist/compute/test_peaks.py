"""Peak figures by device name."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import pytest
import torch

import nanodist
from nanodist.compute.peaks import PEAKS


@pytest.mark.parametrize(
    ("name", "flops", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12, 3.35e12),
        ("NVIDIA H100 PCIe", 756.5e12, 2.0e12),
        ("NVIDIA H100 NVL", 835.5e12, 3.9e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 2039e9),
        ("NVIDIA A100-PCIE-40GB", 312e12, 1555e9),
        ("NVIDIA A100 80GB PCIe", 312e12, 1935e9),
        ("NVIDIA L4", 121e12, 300e9),
        ("NVIDIA L40", 181e12, 864e9),
        ("NVIDIA L40S", 362e12, 864e9),
        ("NVIDIA GB200", 2500e12, 8e12),
        ("AMD Instinct MI300X", 1307.4e12, 5.3e12),
        ("AMD Instinct MI250X / MI250", 191.5e12, 1638.4e9),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 1008e9),
        ("NVIDIA A100X", 312e12, 2039e9),
        ("GRID A100D-80C", 312e12, 2039e9),
        ("NVIDIA H100L-94C", 835.5e12, 3.9e12),
        ("NVIDIA H200 PCIe", 835.5e12, 4.8e12),
        ("NVIDIA L40-S", 362e12, 864e9),
        ("AMD Instinct MI355", 2516.6e12, 8e12),
        ("AMD Instinct MI355X", 2516.6e12, 8e12),
        ("AMD Instinct MI325", 1307.4e12, 6e12),
    ],
)
def test_device_is_found_by_what_its_name_holds(name: str, flops: float, bandwidth: float) -> None:
    assert nanodist.get_peak_flops(name) == flops
    assert nanodist.get_peak_bandwidth(name) == bandwidth


def test_unknown_device_is_infinite_so_that_utilisation_shows_as_zero(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "nanodist"):
        assert math.isinf(nanodist.get_peak_flops("Some GPU 9000"))
        assert math.isinf(nanodist.get_peak_bandwidth("Some GPU 9000"))
    assert "MFU" in caplog.text
    assert "MBU" in caplog.text


@pytest.mark.parametrize("name", ["NVIDIA RTX A4000", "NVIDIA RTX A3000", "NVIDIA A10G", "NVIDIA A1000", "Tesla L400"])
def test_another_model_whose_name_begins_alike_is_unknown(name: str) -> None:
    assert math.isinf(nanodist.get_peak_flops(name))


def test_every_row_is_reachable() -> None:
    for peak in PEAKS:
        assert nanodist.get_peak_flops(f"NVIDIA {peak.words}") == peak.flops, peak.words


def test_ponte_vecchio_is_asked_for_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.xpu, "get_device_properties", lambda device: SimpleNamespace(max_compute_units=512), raising=False
    )
    assert nanodist.get_peak_flops("Intel(R) Data Center GPU Max 1550") == pytest.approx(340.8e12, rel=0.001)
    assert nanodist.get_peak_bandwidth("Intel(R) Data Center GPU Max 1550") > 1e12
