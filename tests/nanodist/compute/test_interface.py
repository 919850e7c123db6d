"""A host whose name means loopback: gloo is told the interface that reaches the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanodist.coordination import interface

GROUP = """
import nanodist, torch, torch.distributed as dist
nanodist.compute_init("cpu", timeout=20)
ones = torch.ones(1)
dist.all_reduce(ones)
print("sum", ones.item())
nanodist.compute_cleanup()
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[list[str]]]:
    """Two hosts, joined by a cable, whose names mean loopback: what starts a process on each."""
    tag = f"q{os.getpid() % 10_000}"
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root can make hosts, with ip(8)")

    def ip(*words: str) -> int:
        return subprocess.run(["ip", *words], stderr=subprocess.DEVNULL).returncode

    try:
        if ip("netns", "add", f"{tag}0") or ip("netns", "add", f"{tag}1"):
            pytest.skip("no network namespaces here")
        ip("link", "add", f"{tag}a", "netns", f"{tag}0", "type", "veth", "peer", "name", f"{tag}b", "netns", f"{tag}1")
        (tmp_path / "hosts").write_text("127.0.0.1 localhost qa-node-0 qa-node-1\n")
        started = []
        for n, end in enumerate("ab"):
            ip("-n", f"{tag}{n}", "link", "set", "lo", "up")
            ip("-n", f"{tag}{n}", "addr", "add", f"10.77.9.{n + 1}/24", "dev", f"{tag}{end}")
            ip("-n", f"{tag}{n}", "link", "set", f"{tag}{end}", "up")
            inside = f'hostname qa-node-{n}; mount --bind {tmp_path}/hosts /etc/hosts; exec "$0" "$@"'
            started.append(["ip", "netns", "exec", f"{tag}{n}", "unshare", "--uts", "--mount", "sh", "-c", inside])
        yield started
    finally:
        for n in range(2):
            ip("netns", "del", f"{tag}{n}")


def test_two_hosts_whose_names_mean_loopback_make_a_group(hosts: list[list[str]]) -> None:
    ranks = []
    for rank, start in enumerate(hosts):
        job = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
        job |= {"MASTER_ADDR": "10.77.9.1", "MASTER_PORT": "29500", "OMP_NUM_THREADS": "1"}
        line = [*start, sys.executable, "-c", GROUP]
        ranks.append(subprocess.Popen(line, env=os.environ | job, stdout=subprocess.PIPE, text=True))
    assert [rank.communicate(timeout=60)[0].strip() for rank in ranks] == ["sum 2.0"] * 2


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    monkeypatch.setattr(interface, "_named", lambda: "127.0.1.1")
    interface.choose_interface("10.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"


@pytest.mark.parametrize(
    ("named", "host"), [("10.0.0.1", "127.0.0.1"), ("127.0.1.1", "127.0.0.1"), (None, "no.such.invalid")]
)
def test_where_nothing_is_wrong_gloo_chooses(monkeypatch: pytest.MonkeyPatch, named: str | None, host: str) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(interface, "_named", lambda: named)
    interface.choose_interface(host)
    assert "GLOO_SOCKET_IFNAME" not in os.environ
