"""Under the real torchrun: agents as nodes, elastic restart, teardown, and a clean end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nanodist.conftest import Job, outcome
from tests.servers.origin import Origin, content, digest

Torchrun = Callable[..., list[Job]]
SIZE = 100_000

pytestmark = [pytest.mark.timeout(180), pytest.mark.alone]


def test_two_agents_one_disk_each_then_one_for_both(torchrun: Torchrun, origin: Origin, tmp_path: Path) -> None:
    """Auto asks the origin once for two disks, and once for one that both see."""
    code = """
        where = nanodist.topology()
        report(node=where.node_rank, nodes=where.node_count, local=where.local_world_size, launcher=where.launcher)
        apart = nanodist.fetch(url, sha256=sha256, base_dir=f"{folder}/disk{where.node_rank}")
        shared = nanodist.fetch(url, base_dir=f"{folder}/shared")
        failing(lambda: nanodist.fetch(other, base_dir=f"{folder}/disk{where.node_rank}", scope="job"))
        time.sleep(0.5)  # a thread may outlive its work by a second
        report(apart=str(apart), shared=str(shared), threads=[t.name for t in threading.enumerate()])
    """
    frames = 10_000_000  # bytes: three frames between the disks
    url, other = origin.url(f"/bytes/{frames}/1/f.bin?delay=0.5"), origin.url(f"/bytes/{SIZE}/2/f.bin?delay=0.5")
    options = {"url": url, "sha256": digest(frames, 1), "other": other, "folder": str(tmp_path)}
    run = outcome(torchrun(code, agents=2, each=2, **options))
    assert run.codes == [0, 0], run.err
    assert sorted(run.last("node")) == [0, 0, 1, 1]
    assert (run.last("nodes"), run.last("local"), run.last("launcher")) == ([2] * 4, [2] * 4, ["torchrun"] * 4)
    assert len(set(run.last("apart"))) == 2
    assert len(set(run.last("shared"))) == 1
    assert all(Path(path).read_bytes() == content(frames, 1) for path in run.last("apart") + run.last("shared"))
    assert origin.downloads(f"/bytes/{frames}/1/f.bin") == 2, "one for both disks, one for the shared one"
    assert origin.gets(f"/bytes/{SIZE}/2/f.bin") == 1
    assert run.last("error") == ["NotVisible"] * 2
    assert run.last("threads") == [["MainThread"]] * 4


def test_second_attempt_after_a_death_initialises_gloo_and_fetches(
    torchrun: Torchrun, origin: Origin, base: Path
) -> None:
    code = """
        import torch, torch.distributed as dist
        attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        nanodist.compute_init("cpu", timeout=30)
        try:
            nanodist.fetch(broken, sha256="ab" * 32)
        except nanocache.ChecksumMismatch:
            report(attempt=attempt)
        if RANK == 1 and attempt == 0:
            os._exit(7)
        path = nanodist.fetch(url, sha256=sha256)
        total = torch.ones(1)
        dist.all_reduce(total)
        report(path=str(path), total=total.item())
        nanodist.compute_cleanup()
    """
    url, broken = origin.url(f"/bytes/{SIZE}/1/f.bin"), origin.url(f"/bytes/{SIZE}/2/f.bin")
    run = outcome(
        torchrun(code, "--max-restarts=1", each=2, url=url, broken=broken, sha256=digest(SIZE, 1)), timeout=120
    )
    assert run.codes == [0], run.err
    assert run.last("total") == [2.0] * 2
    assert len(set(run.last("path"))) == 1
    assert run.last("attempt") == [1] * 2
    tries = origin.gets(f"/bytes/{SIZE}/2/f.bin")
    assert tries >= 2, "an outcome of the dead attempt binds nobody"


def test_teardown_after_sigterm_is_quick(torchrun: Torchrun, origin: Origin, base: Path) -> None:
    code = """
        import atexit, signal
        told = []
        atexit.register(lambda: report(took=time.monotonic() - told[0]))  # runs after what nanodist leaves
        def stop(*_):
            told.append(time.monotonic())
            sys.exit(1)
        signal.signal(signal.SIGTERM, stop)
        report(ready=True)
        nanodist.fetch(url)
    """
    [job] = torchrun(code, each=3, url=origin.url("/bytes/100000000/1/f.bin?rate=1000000"))
    deadline = time.monotonic() + 60
    while job.out.read_text().count("ready") < 3 or not origin.gets():
        assert time.monotonic() < deadline, job.err.read_text()
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(job.process.pid, signal.SIGTERM)
    run = outcome([job], timeout=25)  # torchrun's own patience before SIGKILL is 30 s
    assert len(run.last("took")) == 3, run.err
    assert max(run.last("took")) < 2


def test_virtual_local_ranks_inside_a_slurm_job(torchrun: Torchrun, origin: Origin, base: Path) -> None:
    code = """
        where = nanodist.topology()
        report(size=where.world_size, local=where.local_rank, launcher=where.launcher)
        report(path=str(nanodist.fetch(url)))
    """
    slurm = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "5", "SLURM_LOCALID": "0"}
    url = origin.url(f"/bytes/{SIZE}/1/f.bin?delay=0.5")
    run = outcome(torchrun(code, "--virtual-local-rank", each=2, env=slurm, url=url))
    assert run.codes == [0], run.err
    assert (run.last("size"), run.last("local"), run.last("launcher")) == ([2] * 2, [0] * 2, ["torchrun"] * 2)
    assert origin.gets() == 1


def test_two_agents_that_count_restarts_differently_take_no_old_outcome(
    torchrun: Torchrun, origin: Origin, base: Path
) -> None:
    code = """
        marker = f"{folder}/died"
        first = not os.path.exists(marker)
        failing(lambda: nanodist.fetch(broken, sha256="ab" * 32))
        failing(lambda: nanodist.leader_first("k", lambda: os.getpid()))
        nanodist.compute_init("cpu", timeout=30)
        if first and RANK == 1:
            open(marker, "w").close()
            os._exit(7)
        if first:
            time.sleep(60)  # until the agent ends this attempt
        report(done=True, group=nanodist.is_ddp_initialized())
        nanodist.compute_cleanup()
    """
    broken = origin.url(f"/bytes/{SIZE}/2/f.bin")
    jobs = torchrun(code, "--max-restarts=2", agents=2, each=1, broken=broken, folder=str(base.parent))
    run = outcome(jobs, timeout=120)
    assert run.codes == [0, 0], run.err
    assert run.last("done") == [True, True]
    for rank in run.reports:
        values = [one["value"] for one in rank if "value" in one]
        assert len(values) >= 2
        assert len(set(values)) == len(values), "each attempt ran it anew"
    assert len(set(run.last("value"))) == 1


def test_static_rendezvous_and_a_clean_end(torchrun: Torchrun, origin: Origin, base: Path) -> None:
    code = """
        import atexit, stat, warnings
        warnings.simplefilter("error")
        def sockets():
            links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:-1]]
            return [link for link in links if link.startswith("socket")]
        atexit.register(lambda: report(sockets=sockets()))  # runs after what nanodist leaves
        nanodist.compute_init("cpu")
        report(path=str(nanodist.fetch(url)), value=nanodist.leader_first("k", lambda: 1))
        time.sleep(1.2)  # a beat would have come
        report(threads=[t.name for t in threading.enumerate()])
        nanodist.compute_cleanup()
    """
    url = origin.url(f"/bytes/{SIZE}/1/f.bin")
    run = outcome(torchrun(code, "--rdzv-backend=static", "--master-port=0", each=2, url=url))
    assert run.codes == [0], run.err
    assert run.last("threads") == [["MainThread"]] * 2
    assert run.last("sockets") == [[]] * 2
    assert not [line for line in run.err.splitlines() if "***" not in line and "OMP_NUM" not in line], run.err
