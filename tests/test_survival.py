"""What survives kills, full disks, corrupt data and Ctrl-C, with real processes; minutes, so before a release."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ganspect.data.synthetic import make
from ganspect.training.checkpoint import position_of
from ganspect.training.grid import lock_of
from ganspect.training.run import Run

pytestmark = pytest.mark.slow

GRDNET = "epochs=30 width=2 image_size=32 patch_size=32 patch_stride=32"
TINY = {  # method: its paper, a category, settings of many short epochs
    "cbigan": ("cbigan", "weave", "epochs=120 cycles_per_epoch=10"),
    "ganomaly": ("cbigan", "object", "epochs=30 steps_per_epoch=5"),
    "fcbigan": ("fcbigan", "fibres", "epochs=30 width=4 patch_size=16 batch_size=4 patches_per_epoch=40 map_stride=8"),
    "f-anogan": ("fcbigan", "weave", "generator_steps_per_epoch=4 gan_epochs=15 encoder_epochs=15"),
    "grdnet": ("grdnet", "object", GRDNET + " stages=2"),
    "draem": ("grdnet", "object", GRDNET + " textures=8"),
    "anogan": ("anogan_ganomaly", "disc", "epochs=30 steps_per_epoch=5 search_steps=5"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make(root, ("weave", "object", "fibres", "disc"), size=64, train=8, good=2, per_defect=1)
    return root


def start(arguments, limit=None, **options):
    """The command line in a process of its own, where files may not be longer than `limit` bytes."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "160"}
    limited = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    line = [sys.executable, "-m", "ganspect.reproduce.cli", *map(str, arguments)]
    return subprocess.Popen(line, env=environment, preexec_fn=limited, text=True, **options)


def finish(arguments, limit=None):
    """The same, until it ends: exit code, standard output, standard error."""
    with start(arguments, limit, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, errors = process.communicate(timeout=1200)
    return process.returncode, out, errors


def tiny(method, data, runs):
    """Arguments of a tiny training, and its run folder."""
    paper, category, settings = TINY[method]
    arguments = ["reproduce", paper, "--profile", "smoke", "--threads", 1, "--data-root", data, "--methods", method]
    arguments += ["--categories", category, "--runs-dir", runs, "--set", *settings.split()]
    return arguments, runs / paper / "synthetic" / method / category / "seed_0"


def stored(folder):
    """Everything of a finished run that must not depend on what happened to its processes."""
    with np.load(folder / "checkpoints" / "last.npz") as checkpoint:
        arrays = {name: checkpoint[name] for name in checkpoint.files}
    rest = {p.name: p.read_text() for p in folder.glob("scores_*.csv")}
    rest |= {p.name: json.loads(p.read_text()) | {"seconds_per_image": 0} for p in folder.glob("metrics*.json")}
    rest["history"] = [{**row, "seconds": ""} for row in rows(folder / "history.csv")]
    rest |= {p.relative_to(folder).as_posix(): np.load(p).tobytes() for p in folder.glob("maps/**/*.npy")}
    return arrays, rest


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_equal(found, expected):
    assert found[0].keys() == expected[0].keys() and found[1].keys() == expected[1].keys()
    for name, array in expected[0].items():
        np.testing.assert_array_equal(found[0][name], array, err_msg=name)
    for name, content in expected[1].items():
        assert found[1][name] == content, name


def child_of(locks, key="*"):
    """The process that holds the lock of a cell; None where there is none."""
    for path in locks.glob(f"{key}.lock"):
        holder = lock_of(locks, path.stem).holder
        if holder:
            return holder["pid"]
    return None


def wait_for(condition, process):
    """Waits until the condition holds, and returns what it gave; None where the process ends before."""
    while not (found := condition()):
        if process.poll() is not None:
            return None
        time.sleep(0.0002)
    return found


def half_written(folder):
    """Names of the checkpoints that are being written, or were when their process was killed."""
    return {name for name in os.listdir(folder) if name.endswith(".tmp")} if folder.exists() else set()


def kill_at(moment, arguments, folder, runs, rng):
    """Starts the command and kills it, with the cell's process, at a moment; returns whether it was that moment."""
    with start(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        child = wait_for(lambda: child_of(runs / ".locks"), process)
        history, writing = folder / "history.csv", folder / "checkpoints"
        before = history.stat().st_mtime_ns if history.exists() else 0
        left = half_written(writing)  # by one that was killed before

        def epoch_ended():
            return history.exists() and history.stat().st_mtime_ns != before

        if moment == "mid-epoch":
            wait_for(epoch_ended, process)
            time.sleep(rng.uniform(0.1, 0.9) * float(rows(history)[-1]["seconds"]))
        elif moment == "checkpoint":
            wait_for(lambda: half_written(writing) - left, process)
        else:
            wait_for(epoch_ended, process)
        assert child_of(runs / ".locks") == child, f"the training ended before it could be killed: {moment}"
        os.kill(child, signal.SIGKILL)
        process.kill()
    deadline = time.monotonic() + 60
    while child_of(runs / ".locks"):  # or the next command finds it, dying
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if moment == "checkpoint":
        return bool(half_written(writing) - left)
    reached = position_of(writing / "last.npz")[0]
    return moment == "mid-epoch" or len(rows(history)) == reached + 1


@pytest.mark.parametrize("method", TINY)
def test_killed_at_three_moments_and_resumed_equals_uninterrupted(method, data, tmp_path):
    """In an epoch, in the writing of a checkpoint, between an epoch's row and its checkpoint: not a bit differs."""
    arguments, expected = tiny(method, data, tmp_path / "straight")
    code, _, errors = finish(arguments)
    assert code == 0, errors
    arguments, folder = tiny(method, data, tmp_path / "killed")
    rng = np.random.default_rng(len(method))
    for moment in rng.permutation(["mid-epoch", "checkpoint", "between"]):
        tries = 0
        while not kill_at(moment, arguments, folder, tmp_path / "killed", rng):
            tries += 1
            assert tries < 8, f"never killed {moment}"
    code, out, errors = finish(arguments)
    assert code == 0 and "continues after" in out, errors
    assert_equal(stored(folder), stored(expected))
    assert not list(folder.rglob("*.tmp"))
    sessions = json.loads((folder / "manifest.json").read_text())["sessions"]
    assert len(sessions) >= 4 and sessions[-1]["epoch"] > 0


def test_a_full_disk_leaves_the_checkpoint_before_it(data, tmp_path):
    """Files may not grow beyond half a checkpoint: the cell fails by name, and goes on when there is room again."""
    straight, expected = tiny("fcbigan", data, tmp_path / "straight")
    assert finish(straight)[0] == 0
    arguments, folder = tiny("fcbigan", data, tmp_path / "full")
    with start(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        checkpoint = folder / "checkpoints" / "last.npz"
        wait_for(lambda: position_of(checkpoint)[0] >= 3, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    before, place = checkpoint.read_bytes(), position_of(checkpoint)
    assert place[0] < 30
    code, _, errors = finish(arguments, limit=len(before) // 2)
    assert code == 2 and "File too large" in errors and "Traceback" not in errors
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "failed" and "OSError" in status["traceback"]
    assert checkpoint.read_bytes() == before and not list(folder.rglob("*.tmp"))
    code, out, errors = finish(arguments)
    assert code == 0 and f"continues after epoch {place[0]}" in out, errors
    assert_equal(stored(folder), stored(expected))


def test_a_grid_of_twelve_with_a_kill_two_that_diverge_and_corrupt_data(tmp_path):
    """The others finish, the summary names each with its reason, the next command finishes what can be finished."""
    make(tmp_path, ("weave", "object", "fibres"), size=64, train=8, good=2, per_defect=1)
    bad = tmp_path / "synthetic" / "fibres" / "train" / "good" / "000.png"
    bad.write_bytes(bad.read_bytes()[:99])
    runs = tmp_path / "runs"
    arguments = ["reproduce", "cbigan", "fcbigan", "--profile", "smoke", "--jobs", 2, "--seeds", 0, 1]
    arguments += ["--data-root", tmp_path, "--runs-dir", runs, "--methods", "cbigan", "bigan", "fcbigan", "--set"]
    arguments += ["epochs=4", "cycles_per_epoch=20", "patches_per_epoch=64", "discriminator_rate=1e30"]
    with start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        killed = set()
        while len(killed) < 2 and process.poll() is None:
            child = child_of(runs / ".locks", "synthetic-object-bigan-seed_1-both")
            if child and child not in killed:
                os.kill(child, signal.SIGKILL)
                killed.add(child)
            time.sleep(0.01)
        out, errors = process.communicate(timeout=1200)
    assert process.returncode == 2 and len(killed) == 2, errors
    assert "12 cells: 3 failed, 7 finished, 2 diverged" in out
    named = [line for line in errors.splitlines() if re.match("(failed|diverged): ", line)]
    assert len(named) == 5 and "Traceback" not in errors
    assert sum("fibres seed" in line and "cannot be used" in line for line in named) == 2 and "000.png" in errors
    assert sum(line.startswith("diverged: fcbigan: fcbigan synthetic/weave") for line in named) == 2
    assert any("bigan synthetic/object seed 1: crashed 2 times: killed by SIGKILL" in line for line in named)
    finished = {p: p.stat().st_mtime_ns for p in runs.rglob("last.npz")}
    code, out, errors = finish(arguments)
    assert code == 2 and "12 cells: 2 failed, 7 kept, 1 finished, 2 diverged" in out, errors
    assert all(p.stat().st_mtime_ns == time for p, time in finished.items() if "bigan/object/seed_1" not in str(p))


def test_everything_interrupted_and_started_again_loses_and_repeats_nothing(tmp_path):
    """`reproduce all --profile smoke`, Ctrl-C in the middle, the same command again."""
    runs = tmp_path / "runs"
    arguments = ["reproduce", "all", "--profile", "smoke", "--jobs", 2, "--runs-dir", runs]
    with start(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        cells = "cbigan/synthetic/*/*/seed_0/metrics.json"  # the first paper's; other folders come and go meanwhile
        wait_for(lambda: len(list(runs.glob(cells))) >= 3, process)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command continues" in errors and "Traceback" not in errors
    # a cell that was stopped between its metrics and its model is scored again, and not trained
    measured = {p.parent: p.stat().st_mtime_ns for p in runs.rglob("metrics.json")}
    finished = {p: time for p, time in measured.items() if Run(p).status["state"] == "finished"}
    begun = {p.parents[1]: position_of(p) for p in runs.rglob("last.npz") if p.parents[1] not in finished}
    assert len(finished) >= 1 and child_of(runs / ".locks") is None
    code, out, errors = finish(arguments)
    copied = len(re.findall("finished on .*, copied from", out))  # of what another paper has
    assert code == 0 and f" {len(finished) + copied} kept" in out, errors
    for folder, written in finished.items():  # untouched
        assert (folder / "metrics.json").stat().st_mtime_ns == written
    for folder, (epoch, step) in begun.items():
        last = json.loads((folder / "manifest.json").read_text())["sessions"][-1]
        assert (last["epoch"], last["step"]) == (epoch, step)
    trained = [p.parent for p in runs.rglob("history.csv")]
    sessions = {p: json.loads((p / "manifest.json").read_text())["sessions"] for p in trained}
    assert all(len(s) == 1 + (p in begun) for p, s in sessions.items())


def test_thread_counts_agree_to_rounding_and_the_same_count_to_the_bit(data, tmp_path):
    """The losses of a first epoch within 1e-4 of each other; what a GAN makes of that later is not bounded."""
    histories = []
    for name, threads in (("one", 1), ("two", 2), ("again", 2)):
        arguments, folder = tiny("fcbigan", data, tmp_path / name)
        arguments[arguments.index("--threads") + 1] = threads
        assert finish(arguments)[0] == 0
        assert json.loads((folder / "manifest.json").read_text())["sessions"][0]["threads"] == threads
        histories.append([{**row, "seconds": ""} for row in rows(folder / "history.csv")])
    one, two, again = histories
    assert two == again
    for name in one[0].keys() - {"seconds", "d_auroc", "diversity"}:
        assert float(one[0][name]) == pytest.approx(float(two[0][name]), rel=1e-4)
