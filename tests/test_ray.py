"""The grid on Ray: lost workers, errors, signals, and the same trainings to the bit with a worker or a machine lost."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read at import; a cluster of this test has no other users
ray = pytest.importorskip("ray")

import test_grid  # noqa: E402
from test_grid import holder_of, notes  # noqa: E402
from test_reproduce_cli import TINY, command, run_folder, small_set, started, stored  # noqa: E402

from ganspect.training.grid import Interrupted, lock_of  # noqa: E402
from ganspect.training.ray_grid import RETRIES, NoRay, RayGrid  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*", "ignore::DeprecationWarning:ray.*"),
    # Ray leaves files and processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch):
    """Ray's workers find the tests' work."""
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def grid(tmp_path, *whats, **options):
    """A grid on Ray of one task for each of `whats`, and its display."""
    return test_grid.grid(tmp_path, *whats, engine=RayGrid, **options)


def test_cells_that_die_raise_or_fail_do_not_stop_the_others(tmp_path):
    given_up = []
    run, display = grid(
        *(tmp_path, "raise", "die once", "fail", "go"), jobs=2, crashed=lambda *told: given_up.append(told)
    )
    found = run.run()
    assert [o.task.name for o in found] == ["0 raise", "1 die once", "2 fail", "3 go"]
    assert [o.state for o in found] == ["failed", "finished", "failed", "finished"]
    raised, again, failed, _ = found
    assert f"crashed {RETRIES + 1} times: RuntimeError: no such thing" in raised.message
    assert [message for _, message in given_up] == [raised.message] and failed.message == "two\nlines"
    assert len(again.crashes) == 1 and again.crashes[0].endswith("was lost") and not failed.crashes
    starts = [line.split()[1:-1] for line in notes(tmp_path) if line.startswith("start")]
    assert sorted(starts) == sorted(
        [["raise", "0"], ["raise", "1"], ["raise", "2"], ["die", "once", "0"], ["die", "once", "1"]]
        + [["fail", "0"], ["go", "0"]]
    )
    assert "last words" in (tmp_path / "1.log").read_text() and "Traceback" in (tmp_path / "0.log").read_text()
    assert ("3 go", 0.5, "half") in [update[:3] for update in display.updates]
    assert any("1 die once: crashed" in line and "from its last checkpoint" in line for line in display.lines)
    assert not list((tmp_path / "locks").glob("ray_*")) and not ray.is_initialized()


def test_cells_wait_for_one_key_and_for_another_process(tmp_path):
    other = lock_of(tmp_path / "locks", "other")
    holder = holder_of(other.path)
    run, display = grid(tmp_path, "sleep", "sleep", "go", keys=["one", "one", "other"], jobs=3)
    display.say = lambda text: (display.lines.append(text), holder.communicate(b"\n"))
    assert [o.state for o in run.run()] == ["finished"] * 3
    assert len(display.lines) == 1 and f"2 go: waits for process {holder.pid} on" in display.lines[0]
    slept = [line.split()[0] for line in notes(tmp_path) if "sleep" in line]
    assert slept == ["start", "end", "start", "end"]


def test_a_signal_lets_the_cells_save(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run, _ = grid(tmp_path, "wait", "wait", jobs=1)

    def send():
        while not (tmp_path / "notes.txt").exists() or not notes(tmp_path):
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send).start()
    begun = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM") as caught:
        run.run()
    assert time.monotonic() - begun < 50 and notes(tmp_path)[1:] == ["saved"]
    assert [o.state for o in caught.value.outcomes] == ["interrupted", "interrupted"]
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_machine_that_is_told_to_stop_is_no_end_of_a_cell(tmp_path):
    """SIGTERM to the worker alone: the work saves, and is started again."""
    run, display = grid(tmp_path, "wait once")

    def send():
        while not (tmp_path / "notes.txt").exists() or not notes(tmp_path):
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(int(notes(tmp_path)[0].split()[-1]), signal.SIGTERM)

    threading.Thread(target=send).start()
    (outcome,) = run.run()
    assert outcome.state == "finished" and outcome.crashes == ("stopped by SIGTERM",)
    assert [line.split()[0] for line in notes(tmp_path)] == ["start", "saved", "start", "end"]


def test_what_cannot_be_is_said(tmp_path):
    with pytest.raises(NoRay, match="no machine of Ray has 1 processors and 64 GPUs"):
        grid(tmp_path, "go", gpus=64)[0].run()
    done = command(
        *("reproduce", "fcbigan", "--profile", "smoke", "--methods", "fcbigan", "--runs-dir", tmp_path / "runs"),
        *("--ray", "local", "--gpus-per-cell", 64),
    )
    assert done.returncode == 1 and "64 GPUs" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Two tiny trainings without Ray: their data root and runs folder, and the command."""
    root = tmp_path_factory.mktemp("ray")
    small_set(root)
    choice = ("--methods", "fcbigan", "--seeds", 0, 1)
    arguments = ("reproduce", "fcbigan", "--profile", "smoke", "--threads", 1, *choice, "--data-root", root)
    arguments += (*TINY, "epochs=14")
    done = command(*arguments, "--jobs", 2, "--runs-dir", root / "runs")
    assert done.returncode == 0, done.stderr
    return root, arguments


def half_way(runs, raylet):
    """`(seed, pid)` of a cell that a machine trains and that has some epochs behind it; None where there is none."""
    for seed in (0, 1):
        history, locks = run_folder(runs, seed) / "history.csv", list((runs / ".locks").glob(f"*seed_{seed}*.lock"))
        holder = lock_of(runs / ".locks", locks[0].stem).holder if locks else None
        if holder and history.exists() and history.read_text().count("\n") > 6:
            parent = Path(f"/proc/{holder['pid']}/stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == raylet:
                return seed, holder["pid"]
    return None


@pytest.mark.parametrize("what", ["worker", "machine"])
def test_on_a_cluster_that_loses_one_half_way_everything_is_as_without_ray(straight, what, tmp_path):
    """Two machines of one processor: the lost cell goes on from its checkpoint, and both equal those without Ray."""
    from ray.cluster_utils import Cluster

    root, arguments = straight
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = cluster.add_node(num_cpus=1)
        raylet = lost.all_processes["raylet"][0].process.pid
        process = started((*arguments, "--ray", cluster.address), tmp_path)
        deadline = time.monotonic() + 200
        while not (found := half_way(tmp_path, raylet)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        seed, pid = found
        assert not (run_folder(tmp_path, seed) / "metrics.json").exists()
        if what == "worker":
            os.kill(pid, signal.SIGKILL)
        else:
            cluster.remove_node(lost, allow_graceful=False)
        assert process.wait(300) == 0
    finally:
        cluster.shutdown()
    sessions = json.loads((run_folder(tmp_path, seed) / "manifest.json").read_text())["sessions"]
    assert len(sessions) == 2 and sessions[1]["epoch"] >= 5  # the history is written before the checkpoint
    for number in (0, 1):
        (arrays, scores, metrics), (expected, right, measured) = stored(tmp_path, number), stored(root / "runs", number)
        assert set(arrays) == set(expected) and scores == right and metrics == measured
        assert all((arrays[name] == expected[name]).all() for name in arrays)
