"""The grid: processes that die, raise, wait for one another or for a signal; and its locks."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grid_jobs
import pytest

from ganspect.reproduce.display import clock, summary
from ganspect.training import grid as engine
from ganspect.training import locks
from ganspect.training.grid import Display, Grid, Interrupted, Task, lock_of
from ganspect.training.locks import Held, Lock


class Noted(Display):
    """A display that keeps what it is told."""

    def __init__(self):
        self.lines, self.ends, self.updates = [], [], []

    def say(self, text):
        self.lines.append(text)

    def progress(self, task, done, text, left):
        self.updates.append((task.name, done, text, left))

    def ended(self, outcome):
        self.ends.append(outcome.task.name)


def grid(tmp_path, *whats, keys=None, engine=Grid, **options):
    """A grid of one task for each of `whats`, and its display."""
    display = Noted()
    tasks = [
        Task(f"{i} {what}", keys[i] if keys else str(i), (tmp_path / "notes.txt", what), tmp_path / f"{i}.log")
        for i, what in enumerate(whats)
    ]
    return engine(tasks, grid_jobs.do, tmp_path / "locks", display=display, **options), display


def holder_of(path):
    """A process that holds a lock until it is told a line."""
    line = f"""
import sys
from ganspect.training.locks import Lock
with Lock({str(path)!r}):
    print("held", flush=True)
    sys.stdin.readline()
"""
    holder = subprocess.Popen([sys.executable, "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    return holder


def notes(tmp_path):
    return (tmp_path / "notes.txt").read_text().splitlines()


def test_cells_that_die_raise_or_fail_do_not_stop_the_others(tmp_path):
    given_up = []
    run, display = grid(
        tmp_path, "die", "go", "die once", "raise", "fail", "exit", crashed=lambda *told: given_up.append(told)
    )
    found = run.run()
    assert [o.state for o in found] == ["failed", "finished", "finished", "failed", "failed", "failed"]
    died, _, again, raised, failed, left = found
    assert "crashed 2 times: killed by SIGKILL" in died.message and died.message.endswith("0.log")
    assert again.crashes == ("killed by SIGKILL, perhaps for want of memory",) and not died.good and again.good
    assert "RuntimeError: no such thing" in raised.message and failed.message == "two\nlines"
    assert "its process ended with code 3" in left.message and len(left.crashes) == 2
    assert [message for _, message in given_up] == [died.message, raised.message, left.message]
    starts = [line.split()[1:-2] for line in notes(tmp_path) if line.startswith("start")]
    assert starts.count(["die"]) == 2 and starts.count(["fail"]) == 1
    assert (tmp_path / "0.log").read_text().count("last words") == 2
    assert "Traceback" in (tmp_path / "3.log").read_text()
    assert ("1 go", 0.5, "half") in [update[:3] for update in display.updates]
    assert "6 cells: 4 failed, 2 finished" in summary(found) and "2 die once: finished after a crash" in summary(found)


def test_jobs_run_side_by_side_but_those_of_one_key_in_turn(tmp_path):
    run, _ = grid(tmp_path, "sleep", "sleep", jobs=2)
    run.run()
    assert [line.split()[0] for line in notes(tmp_path)] == ["start", "start", "end", "end"]
    (tmp_path / "notes.txt").unlink()
    run, _ = grid(tmp_path, "sleep", "sleep", keys=["one", "one"], jobs=2)
    run.run()
    assert [line.split()[0] for line in notes(tmp_path)] == ["start", "end", "start", "end"]


def test_a_cell_that_another_process_trains_is_waited_for(tmp_path):
    other = lock_of(tmp_path / "locks", "0")
    holder = holder_of(other.path)
    run, display = grid(tmp_path, "go", "go")
    threading.Timer(1.0, lambda: holder.communicate(b"\n")).start()
    found = run.run()
    assert [o.state for o in found] == ["finished", "finished"]
    assert display.ends == ["1 go", "0 go"]
    assert display.lines == [f"0 go: waits for process {holder.pid} on {socket.gethostname()}, since 0 minutes"]


def interrupted(tmp_path, signals, *whats):
    """Runs a grid in this process and sends it signals half a second apart; what `Interrupted` says, and seconds."""
    run, _ = grid(tmp_path, *whats, jobs=len(whats))

    def send():
        while not (tmp_path / "notes.txt").exists() or len(notes(tmp_path)) < len(whats):
            time.sleep(0.01)
        for number in signals:
            time.sleep(0.5)
            os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    started = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        run.run()
    return caught.value, time.monotonic() - started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_cells_save(tmp_path, number):
    before = signal.getsignal(number)
    caught, seconds = interrupted(tmp_path, [number], "wait", "wait")
    assert seconds < 20 and str(caught) == number.name and notes(tmp_path)[-2:] == ["saved", "saved"]
    assert [o.state for o in caught.outcomes] == ["interrupted", "interrupted"]
    assert signal.getsignal(number) is before


def test_a_second_signal_kills_them(tmp_path):
    caught, seconds = interrupted(tmp_path, [signal.SIGINT, signal.SIGINT], "deaf")
    assert seconds < 20 and [o.state for o in caught.outcomes] == ["interrupted"]


def test_a_second_signal_kills_a_cell_whose_process_is_still_being_started(tmp_path, monkeypatch):
    class Slow(engine._Child):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            while not (tmp_path / "notes.txt").exists():
                time.sleep(0.01)
            time.sleep(0.5)  # it no longer listens to the first signal
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)

    monkeypatch.setattr(engine, "_Child", Slow)
    run, _ = grid(tmp_path, "deaf")
    started = time.monotonic()
    with pytest.raises(Interrupted):
        run.run()
    assert time.monotonic() - started < 20


def test_cells_end_in_order_when_the_grids_process_is_killed(tmp_path):
    line = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import grid_jobs
from pathlib import Path
from ganspect.training.grid import Grid, Task
folder = Path({str(tmp_path)!r})
task = Task("0", "0", (folder / "notes.txt", "wait"), folder / "0.log")
Grid([task], grid_jobs.do, folder / "locks").run()
"""
    parent = subprocess.Popen([sys.executable, "-c", line])
    while not (tmp_path / "notes.txt").exists() or not notes(tmp_path):
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    lock = lock_of(tmp_path / "locks", "0")
    deadline = time.monotonic() + 20
    while not lock.acquire():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lock.release()
    assert notes(tmp_path)[-1] == "saved"


def test_a_lock_is_held_once_and_freed(tmp_path):
    one, other = Lock(tmp_path / "a.lock"), Lock(tmp_path / "a.lock")
    assert one.holder is None and one.acquire() and not other.acquire()
    assert other.holder["pid"] == os.getpid() and other.holder["host"] == socket.gethostname()
    with pytest.raises(Held, match=f"process {os.getpid()} on"), other:
        pass
    one.release()
    one.release()
    with other:
        assert not one.acquire()
    assert one.acquire()
    one.release()


def held_by(path, **changes):
    """Leaves the lock of another process at `path`, as this one's but for `changes`."""
    mine = Lock(path)
    assert mine.acquire()
    content = json.loads(path.read_text()) | changes
    mine.release()
    path.write_text(json.dumps(content))


def test_a_stale_lock_is_taken_over(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for changes in ({"pid": gone.pid}, {"started": "1"}, {"boot": "before"}):  # dead, its number reused, a reboot
        held_by(path, **changes)
        assert Lock(path).holder is None
        with Lock(path) as lock:
            assert lock.holder["pid"] == os.getpid()
    held_by(path, host="elsewhere", pid=gone.pid)
    assert not Lock(path).acquire()  # it was touched just now
    os.utime(path, (time.time() - 30,) * 2)
    assert not Lock(path).acquire()
    with Lock(path, stale=20) as lock:
        assert lock.holder["pid"] == os.getpid()
    path.write_text('{"host": "el')  # a power cut
    assert Lock(path).holder is None


def test_a_zombie_holds_no_lock(tmp_path):
    path = tmp_path / "a.lock"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    held_by(path, pid=child.pid, started=locks._started(child.pid))
    assert Lock(path).holder["pid"] == child.pid
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    assert Lock(path).holder is None
    child.wait()


def test_of_many_processes_one_takes_a_stale_lock(tmp_path):
    path = tmp_path / "a.lock"
    held_by(path, started="1")
    line = f"""
import sys, time
from ganspect.training.locks import Lock
lock = Lock({str(path)!r})
while time.time() < {time.time() + 2!r}:
    pass
print(int(lock.acquire()), flush=True)
sys.stdin.readline()
"""
    many = [
        subprocess.Popen([sys.executable, "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(6)
    ]
    taken = [int(process.stdout.readline()) for process in many]
    for process in many:
        process.communicate(b"\n")
    assert sum(taken) == 1


def test_who_was_taken_for_dead_ends_lest_two_write(tmp_path):
    path = tmp_path / "a.lock"
    line = f"""
import time
from ganspect.training import locks
locks.BEAT = 0.05
locks.Lock({str(path)!r}).acquire()
print("held", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", line], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        touched = path.stat().st_mtime
        time.sleep(0.3)
        assert path.stat().st_mtime > touched
        path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))
        assert process.wait(20) == locks.LOST


def test_times_left_are_shown_as_clocks():
    assert clock(3661.4) == "1:01:01" and clock(0.2) == "0:00:00"
