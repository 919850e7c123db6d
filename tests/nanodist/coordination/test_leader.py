"""leader_first on real processes: one runs, all have the result or the error, and nothing waits for the wrong thing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ranks = Callable[..., Any]


def test_one_rank_runs_and_all_have_the_result(ranks: Ranks) -> None:
    run = ranks(
        """
        def work():
            report(ran=True)
            return {"answer": [42, None, "text"]}
        report(value=nanodist.leader_first("work", work))
        report(value=nanodist.leader_first("work", lambda: "second call"))
        """
    )
    assert run.codes == [0] * 8, run.err
    assert sum("ran" in one for one in run.all()) == 1
    for rank in run.reports:
        assert [one["value"] for one in rank if "value" in one] == [{"answer": [42, None, "text"]}, "second call"]
    assert not run.err


@pytest.mark.alone
def test_error_reaches_every_rank_as_the_same_class_within_a_second(ranks: Ranks) -> None:
    run = ranks(
        """
        def refuse():
            time.sleep(0.5)
            report(raised=time.time())
            raise nanocache.NotCached(url="http://h/f", base_dir="/b", sha256="ab" * 32)
        failing(lambda: nanodist.leader_first("ours", refuse))
        def fail():
            time.sleep(0.5)
            report(raised=time.time())
            raise KeyError("boom")
        failing(lambda: nanodist.leader_first("theirs", fail))
        """
    )
    assert run.codes == [0] * 8, run.err
    ours = [next(one for one in rank if one.get("error") == "NotCached") for rank in run.reports]
    assert all("FileNotFoundError" in one["mro"] and one["facts"]["url"] == "http://h/f" for one in ours)
    theirs = [next(one for one in rank if one.get("error") == "LeaderError") for rank in run.reports]
    assert {one["facts"]["type"] for one in theirs} == {"KeyError"}
    assert all("in fail" in one["facts"]["traceback"] and "boom" in one["text"] for one in theirs)
    assert [one["cause"] for one in theirs].count("KeyError('boom')") == 1, "only the leader has the original"
    first, second = (one["raised"] for one in run.all() if "raised" in one)
    assert max(one["at"] for one in ours) - min(first, second) < 1  # 4 ms, says benchmarks/coordination.py
    assert max(one["at"] for one in theirs) - max(first, second) < 1


def test_result_that_cannot_travel_is_a_type_error_on_every_rank(ranks: Ranks) -> None:
    run = ranks(
        """
        for number, value in enumerate([(1, 2), {1: 2}, b"x", float("nan"), "x" * 70_000]):
            failing(lambda: nanodist.leader_first(f"value {number}", lambda: value))
        """,
        2,
    )
    assert run.codes == [0, 0], run.err
    assert [one["error"] for one in run.all()] == ["TypeError"] * 10
    assert run.reports[0][4]["text"] == run.reports[1][4]["text"]


@pytest.mark.parametrize("leave", ["sys.exit(3)", "raise KeyboardInterrupt"])
def test_leader_that_leaves_is_an_error_for_the_others(ranks: Ranks, leave: str) -> None:
    run = ranks(
        f"""
        def work():
            report(ran=True)
            {leave}
        failing(lambda: nanodist.leader_first("work", work))
        """,
        4,
    )
    leader = next(one["rank"] for one in run.all() if "ran" in one)
    for rank, error in enumerate(run.last("error")):
        expected = {"sys.exit(3)": "SystemExit"}.get(leave, "KeyboardInterrupt") if rank == leader else "LeaderError"
        assert error == expected


def test_killed_leader_is_named_on_every_rank_within_two_seconds(ranks: Ranks) -> None:
    run = ranks(
        """
        def work():
            report(killed=time.time(), pid=os.getpid())
            os.kill(os.getpid(), 9)
        failing(lambda: nanodist.leader_first("work", work))
        # A rank that comes later is told the same.
        """
    )
    killed = next(one for one in run.all() if "killed" in one)
    errors = [one for one in run.all() if "error" in one]
    assert sorted(run.codes) == [-9] + [0] * 7, run.err
    assert [one["error"] for one in errors] == ["LeaderLost"] * 7
    assert all(f"pid {killed['pid']}" in one["text"] and one["facts"]["rank"] == killed["rank"] for one in errors)
    assert max(one["at"] for one in errors) - killed["killed"] < 2


def test_leader_that_holds_the_gil_is_waited_for_on_its_host(ranks: Ranks) -> None:
    run = ranks(
        """
        import ctypes
        from nanodist.coordination import life
        life.STALE = 0.5
        def work():
            ctypes.PyDLL(None).sleep(2)  # a C function that is called with the GIL
            return "done"
        report(value=nanodist.leader_first("work", work))
        """,
        4,
        store="rank0",
    )
    assert run.codes == [0] * 4, run.err
    assert run.last("value") == ["done"] * 4


def test_leader_that_cannot_say_how_it_ended_is_lost_though_its_process_lives(ranks: Ranks) -> None:
    run = ranks(
        """
        from nanodist.coordination import coordinator, life
        life.STALE = 1.0
        def work():
            report(leads=True)
            place = coordinator.coordination()
            place.lost = nanodist.CoordinatorLost(address="a", reason="its own connection broke")
        failing(lambda: nanodist.leader_first("work", work))
        mark(f"ended {RANK}")
        until("ended 0", "ended 1", "ended 2")
        """,
        3,
    )
    assert run.codes == [0] * 3, run.err
    leader = next(one["rank"] for one in run.all() if "leads" in one)
    for rank, error in enumerate(run.last("error")):
        assert error == ("CoordinatorLost" if rank == leader else "LeaderLost")


# A pod that is restarted by itself: the other ranks, and the store, go on.
RESTARTED = """
    START = 0
    if RANK == 1:
        for START in (1, 2):
            if not (child := os.fork()):
                break
            assert os.waitpid(child, 0)[1] == 0
            open(folder + "/f", "w").close()
        else:
            sys.exit(0)
"""


def test_rank_that_is_started_anew_reads_no_old_result_as_its_own(ranks: Ranks, tmp_path: Path) -> None:
    code = (
        RESTARTED
        + """
    report(value=nanodist.leader_first("k", lambda: f"{RANK} {START}"))
    """
    )
    run = ranks(code, 2, folder=str(tmp_path))
    assert run.codes == [0, 0], run.err
    first, second = (one["value"] for one in run.reports[1])
    assert first == run.reports[0][0]["value"]
    assert second == "1 2"


def test_rank_that_is_started_anew_reads_no_old_error_as_its_own(ranks: Ranks, base: Path, tmp_path: Path) -> None:
    code = (
        RESTARTED
        + """
    failing(lambda: nanodist.fetch(f"file://{folder}/f", progress=False))
    """
    )
    run = ranks(code, 2, folder=str(tmp_path))
    assert run.codes == [0, 0], run.err
    assert ["error" in one for one in run.reports[1]] == [True, False]


def test_rank_whose_clock_is_hours_off_runs_nothing_again(ranks: Ranks) -> None:
    """Two agents count their restarts differently, so that what is older than a rank is of an attempt that died."""
    agents = [{"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}] * 4
    run = ranks(
        """
        real = time.time
        if RANK in (1, 2):
            time.time = lambda: real() + (5 if RANK == 1 else -5) * 3600
        if RANK:
            until("led")
        else:
            time.sleep(0.5)  # all ranks are there before the outcome is
        report(value=nanodist.leader_first("work", lambda: RANK))
        mark("led")
        """,
        4,
        env=agents,
    )
    assert run.codes == [0] * 4, run.err
    assert run.last("value") == [0] * 4


def test_rank_that_never_calls_or_calls_late_holds_up_nobody(ranks: Ranks) -> None:
    run = ranks(
        """
        if RANK == 1:
            until("has 2", "has 3")  # held up by this one, they would never have it
        if RANK:
            report(value=nanodist.leader_first("work", lambda: RANK))
            mark(f"has {RANK}")
        """,
        4,
        timeout=20,
    )
    assert run.codes == [0] * 4, run.err
    assert len(run.last("value")) == 3
    assert len(set(run.last("value"))) == 1


def test_host_of_the_store_stays_until_the_others_have_read(ranks: Ranks) -> None:
    run = ranks(
        """
        def work():
            mark("leads")
            time.sleep(0.5)
            raise nanocache.NotCached(url="http://h/f", base_dir="/b")
        if RANK:
            until("leads")
        failing(lambda: nanodist.leader_first("work", work))
        """,
        3,  # whoever is not given a processor for LINGER reads too late
        store="rank0",
    )
    assert run.codes == [0] * 3, run.err
    assert run.last("error") == ["NotCached"] * 3


def test_host_of_the_store_does_not_stay_long_for_one_who_died(ranks: Ranks) -> None:
    """Whoever asks a job to end may wait for two seconds, and not only for this."""
    run = ranks(
        """
        import atexit
        ended = []
        atexit.register(lambda: report(took=time.monotonic() - ended[0]))  # runs after what nanodist leaves
        def work():
            mark("leads")
            time.sleep(1)
        if RANK:
            until("leads")
            threading.Timer(0.3, os.kill, (os.getpid(), 9)).start()
        nanodist.leader_first("work", work)
        ended.append(time.monotonic())
        """,
        2,
        store="rank0",
    )
    assert run.codes == [0, -9], run.err
    assert run.last("took")[0] < 1.5


@pytest.mark.parametrize("store", ["agent", "rank0"])
def test_forked_child_that_ends_leaves_the_ranks_alone(ranks: Ranks, store: str) -> None:
    code = """
        nanodist.leader_first("a", lambda: 1)
        if not (child := os.fork()):
            try:
                nanodist.leader_first("b", lambda: 2)
            except nanodist.CoordinatorLost:
                pass
            sys.exit(0)
        time.sleep(0.2)
        report(child=os.waitpid(child, 0)[1], value=nanodist.leader_first("b", lambda: 3))
        time.sleep(0.5)  # a store in rank 0 ends with it
    """
    run = ranks(code, 2, store=store)
    assert run.codes == [0, 0], run.err
    assert run.last("child") == [0, 0]
    assert run.last("value") == [3, 3]


def test_killed_host_of_the_store_is_a_named_error(ranks: Ranks) -> None:
    run = ranks(
        """
        if RANK:
            until("leads")
        def work():
            mark("leads")
            time.sleep(0.5)  # until the others wait
            report(killed=time.time())
            os.kill(os.getpid(), 9)
        failing(lambda: nanodist.leader_first("work", work))
        """,
        4,
        store="rank0",
    )
    killed = next(one["killed"] for one in run.all() if "killed" in one)
    errors = [one for one in run.all() if "error" in one]
    assert [one["error"] for one in errors] == ["CoordinatorLost"] * 3
    assert all("ConnectionError" in one["mro"] for one in errors)
    assert max(one["at"] for one in errors) - killed < 2


def test_stopped_store_is_a_lost_one_and_holds_up_no_signal(ranks: Ranks) -> None:
    """A host that is stopped, or behind a network that drops: it answers nothing, and refuses nothing."""
    run = ranks(
        """
        import signal
        from nanodist.coordination import store_client
        store_client.ANSWER = 2.0
        def work():
            time.sleep(0.3)
            os.kill(int(os.environ["STORE_PID"]), signal.SIGSTOP)
            report(stopped=time.time())
            time.sleep(0.1)  # until it is
        if RANK == 0:
            signal.signal(signal.SIGALRM, lambda *_: report(alarm=time.time()))
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            rings = time.time() + 1.0
        failing(lambda: nanodist.leader_first("work", work))
        if RANK == 0:
            report(rings=rings)
        """,
        4,
        timeout=20,
    )
    errors = [one for one in run.all() if "error" in one]
    assert [one["error"] for one in errors] == ["CoordinatorLost"] * 4, run.err
    [stopped] = [one["stopped"] for one in run.all() if "stopped" in one]
    assert max(one["at"] for one in errors) - stopped < 5
    assert run.last("alarm")[0] - run.last("rings")[0] < 0.5
    assert run.codes == [0] * 4


def test_store_that_answers_slowly_is_none_that_is_lost(ranks: Ranks) -> None:
    """A leader's signs of life were taken away at its end, and one who was about to read them waited for a dead key."""
    run = ranks(
        """
        from nanodist.coordination import life
        from nanodist.coordination.coordinator import Coordinator
        def late(real):
            def ask(*args):
                answer = real(*args)
                time.sleep(0.05)
                return answer
            return ask
        for name in ("check", "get", "add", "compare_set"):
            setattr(Coordinator, name, late(getattr(Coordinator, name)))
        life.BEAT, life.STALE = 0.1, 1.0
        for number in range(8):
            report(value=nanodist.leader_first("work", lambda: (time.sleep(0.4), number)[1]))
        """,
        8,
        timeout=40,
    )
    assert run.codes == [0] * 8, run.err
    assert [[one["value"] for one in rank] for rank in run.reports] == [list(range(8))] * 8


def test_store_that_is_stopped_for_a_while_is_none_that_is_lost(ranks: Ranks) -> None:
    run = ranks(
        """
        import signal, subprocess
        def work():
            subprocess.Popen(["sh", "-c", f"sleep 1.5; kill -CONT {os.environ['STORE_PID']}"])
            os.kill(int(os.environ["STORE_PID"]), signal.SIGSTOP)
            return 5
        failing(lambda: nanodist.leader_first("work", work))
        """,
        4,
        timeout=20,
    )
    assert run.last("value") == ["5"] * 4, run.err


def test_without_a_store_there_is_an_error_and_not_several_runs(ranks: Ranks) -> None:
    run = ranks('failing(lambda: nanodist.leader_first("work", lambda: report(ran=True)))', 2, store="none")
    assert run.last("error") == ["CoordinatorLost"] * 2
    assert not any("ran" in one for one in run.all())
    assert run.err.count("no store to agree through") == 2


def test_alone_results_and_errors_are_those_of_many() -> None:
    import nanocache
    import nanodist

    assert nanodist.leader_first("work", lambda: {"a": 1}) == {"a": 1}
    with pytest.raises(TypeError):
        nanodist.leader_first("work", lambda: (1, 2))
    with pytest.raises(nanocache.NotCached):
        nanodist.leader_first("work", lambda: raises(nanocache.NotCached(url="u", base_dir="b")))
    with pytest.raises(nanodist.LeaderError) as caught:
        nanodist.leader_first("work", lambda: raises(OSError("disk")))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.type == "OSError"


def raises(error: Exception) -> None:
    raise error


def test_calls_leave_nothing_behind(ranks: Ranks) -> None:
    code = """
        from nanodist.coordination.coordinator import coordination
        def keys():
            return coordination().store.underlying_store.num_keys()
        def calls(count):
            for n in range(count):
                assert nanodist.leader_first("k", lambda: [RANK, n])[1] == n
        def together(comers):  # no rank is inside of a call
            coordination().add("together", 1)
            while coordination().add("together", 0) < comers:
                time.sleep(0.01)
        calls(20)
        together(4)
        before = keys()
        together(8)
        calls(200)
        together(12)
        report(grown=keys() - before, kept=len(coordination().last_outcome))
    """
    run = ranks(code, 4)
    assert run.codes == [0] * 4, run.err
    assert max(run.last("grown")) <= 4  # of calls that a slower rank is still at
    assert run.last("kept") == [0] * 4
