"""The grid: every cell in a process of its own, several side by side; crashes, other processes and Ctrl-C survived.

It knows nothing of papers: it takes tasks and the function that does one. Children are forked from a server process
that has imported the backend but never used it (`multiprocessing`'s forkserver), so a cell starts in milliseconds.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from pathlib import Path

from ganspect.training.locks import Lock, describe

RETRIES = 1  # of a cell whose process died without a word
WAIT = 2.0  # seconds until a cell that another process trains is looked at again
GOOD = ("finished", "kept")


@dataclass(frozen=True, eq=False)
class Task:
    """One cell.

    Args:
        name: shown, unique in the grid.
        key: of the lock; of two tasks with equal keys the second starts after the first.
        payload: what `work` takes; can be pickled.
        log: file that the output of the cell's process is appended to.
        minutes: about how long it takes.
    """

    name: str
    key: str
    payload: object
    log: Path
    minutes: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Args:
        task: `Task`.
        state: "finished", "kept" (finished before), "failed", "diverged", "refused", or "interrupted".
        message: the reason, on one line or several; "" where there is none.
        crashes: what each process of it that died without a word died of.
        seconds: from its start to its end.
    """

    task: Task
    state: str
    message: str = ""
    crashes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def good(self):
        return self.state in GOOD


class Channel:
    """What a cell tells the outside; here nobody listens.

    `say(text)` for a line to keep, `update(done, text)` for what the next update replaces: `done` in 0..1 of the whole
    training, or None where it is not known.
    """

    def say(self, text):
        """A line to keep."""

    def update(self, done, text=""):
        """Progress."""


class PipeChannel(Channel):
    """The channel from a child to the grid's process."""

    def __init__(self, pipe):
        self.pipe, self.mutex = pipe, threading.Lock()

    def say(self, text):
        self.send("say", text)

    def update(self, done, text=""):
        self.send("update", done, text)

    def send(self, *message):
        with self.mutex, contextlib.suppress(OSError):  # the grid's process may be gone
            self.pipe.send(message)


class Display(Channel):
    """What a grid tells the user; here nothing. `start` and `stop` frame a run."""

    def start(self, tasks):
        """The grid begins."""

    def begun(self, task, again):
        """A task's process has started; `again` after a crash."""

    def progress(self, task, done, text, left):
        """A task has come so far; `left` seconds of the whole grid, about."""

    def ended(self, outcome):
        """A task is over."""

    def stop(self):
        """The grid is over."""


class Interrupted(RuntimeError):
    """A signal ended the grid; `outcomes` are those of the tasks that had ended."""

    def __init__(self, received, outcomes):
        super().__init__(received)
        self.outcomes = outcomes


class Grid:
    """Runs tasks, each in its own process.

    Args:
        tasks: list of `Task`.
        work: `(payload, attempt, channel) -> (state, message)`, importable by name; it stores failures itself. What it
            raises, and what kills its process, is a crash: it is tried once more.
        locks: folder of the locks.
        jobs: processes at once.
        display: `Display`.
        preload: modules that the server imports, for every child.
        crashed: `(payload, message)`, called when a task is given up after a crash.
    """

    def __init__(self, tasks, work, locks, jobs=1, display=None, preload=(), crashed=lambda payload, message: None):
        self.tasks, self.work, self.locks, self.jobs = list(tasks), work, Path(locks), max(1, jobs)
        self.display, self.crashed = display or Display(), crashed
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(preload))  # of no effect where `start_server` has been called
        self.pending, self.running, self.outcomes = list(tasks), {}, []
        self.attempts, self.crashes, self.later, self.told = {}, {}, {}, set()
        self.signals = []

    def run(self):
        """Runs everything and returns the outcomes, in the order of the tasks.

        Raises:
            Interrupted: SIGINT or SIGTERM came. The cells have saved what they had, unless it came a second time.
        """
        before = self._catch_signals()
        self.display.start(self.tasks)
        try:
            while self.running or (self.pending and not self.signals):
                if not self.signals:
                    self._start()
                self._listen()
        finally:
            self.display.stop()
            for child in self.running.values():
                child.process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        order = {task: i for i, task in enumerate(self.tasks)}
        outcomes = sorted(self.outcomes, key=lambda found: order[found.task])
        if self.signals:
            raise Interrupted(self.signals[0], outcomes)
        return outcomes

    def _catch_signals(self):
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def _stop(self, number, frame):
        """The first signal lets the cells finish their batch and save; the next one kills them."""
        self.signals.append(signal.Signals(number).name)
        for child in self.running.values():
            self._tell(child)

    def _tell(self, child):
        """Passes on what came so far."""
        (child.process.terminate if len(self.signals) == 1 else child.process.kill)()

    def _start(self):
        """Starts tasks that may run, as far as there are free jobs."""
        now, busy = time.monotonic(), {child.task.key for child in self.running.values()}
        for task in list(self.pending):
            if len(self.running) >= self.jobs or self.signals:
                return
            if task.key in busy or self.later.get(task, 0) > now:
                continue
            self.pending.remove(task)
            busy.add(task.key)
            child = _Child(self, task, self.attempts.get(task, 0))
            self.running[task] = child
            if self.signals:  # one came while the process started, or two
                self._tell(child)

    def _listen(self):
        """Waits for news of the children, half a second at most."""
        ends = {end: child for child in self.running.values() for end in (child.pipe, child.process.sentinel)}
        if not ends:
            time.sleep(0.1)
            return
        for child in {id(ends[end]): ends[end] for end in connection.wait(list(ends), timeout=0.5)}.values():
            self._hear(child)
            if child.process.exitcode is not None:
                self._hear(child)  # what it said before it ended
                self._end(child)

    def _hear(self, child):
        with contextlib.suppress(EOFError, OSError):
            while child.pipe.poll():
                kind, *content = child.pipe.recv()
                if kind == "say":
                    self.display.say(content[0])
                elif kind == "update":
                    child.pace.reached(content[0])
                    self.display.progress(child.task, child.pace.done, content[1], self.left())
                elif kind == "begun":
                    self.display.begun(child.task, bool(child.attempt))
                else:
                    child.end = (kind, *content)

    def _end(self, child):
        """Takes note of a child that is gone."""
        task = child.task
        del self.running[task]
        child.pipe.close()
        kind, *content = child.end or ("crash", _cause(child.process.exitcode))
        child.process.close()
        if kind == "busy":
            if task not in self.told:
                self.told.add(task)
                self.display.say(f"{task.name}: waits for {content[0]}")
            self.later[task] = time.monotonic() + WAIT
            self.pending.append(task)
            return
        if kind == "end":
            self._take(task, child, *content)
            return
        if self.signals:
            self._take(task, child, "interrupted", content[0])
            return
        self.crashes.setdefault(task, []).append(content[0])
        self.attempts[task] = self.attempts.get(task, 0) + 1
        if self.attempts[task] <= RETRIES:
            self.display.say(f"{task.name}: crashed ({content[0]}); started again from its last checkpoint")
            self.pending.insert(0, task)
            return
        message = f"crashed {self.attempts[task]} times: {', '.join(self.crashes[task])}; its output: {task.log}"
        self.crashed(task.payload, message)
        self._take(task, child, "failed", message)

    def _take(self, task, child, state, message):
        crashes = tuple(self.crashes.get(task, ()))
        outcome = Outcome(task, state, message, crashes, time.monotonic() - child.pace.started)
        self.outcomes.append(outcome)
        self.display.ended(outcome)

    def left(self):
        """Seconds until the grid ends, about: what each child has shown so far, and the plan's minutes of the rest."""
        seconds = 60 * sum(task.minutes for task in self.pending)
        seconds += sum(child.pace.left(child.task.minutes) for child in self.running.values())
        return seconds / self.jobs


def start_server(preload):
    """Starts the server process of this process's grids, which imports these modules while the caller goes on."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))
    forkserver.ensure_running()


class Pace:
    """How far a cell has come since it was started, and how long it takes yet."""

    def __init__(self):
        self.started, self.since, self.first, self.done = time.monotonic(), 0.0, None, None

    def reached(self, done):
        """It has come to this share of its training, 0..1; None where it does not say."""
        if done is None:
            return
        self.done = done
        if self.first is None:
            self.first, self.since = done, time.monotonic()

    def left(self, minutes):
        """Seconds it takes yet, about: by its own pace, or while that is not known by the plan's minutes."""
        now = time.monotonic()
        if self.first is not None and self.done > self.first:
            return (now - self.since) / (self.done - self.first) * (1 - self.done)
        return max(0.0, 60 * minutes - (now - self.started))


class _Child:
    """A running task."""

    def __init__(self, grid, task, attempt):
        self.task, self.attempt = task, attempt
        self.pace, self.end = Pace(), None
        self.pipe, theirs = grid.context.Pipe()
        arguments = (grid.work, task, attempt, grid.locks, theirs)
        self.process = grid.context.Process(target=_child, args=arguments, name=task.name)
        with _without_main():
            self.process.start()
        theirs.close()


@contextlib.contextmanager
def _without_main():
    """Keeps `multiprocessing` from importing the main module again in a child: `work` is found by its name."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__spec__", "__file__") if hasattr(main, name)}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


def lock_of(locks, key):
    """The lock of a task's key."""
    return Lock(Path(locks) / f"{key}.lock")


def _child(work, task, attempt, locks, pipe):
    """A child's life: its output to the log, the lock, the work, the end."""
    channel = PipeChannel(pipe)
    log = redirect(task.log)
    faulthandler.enable(log)
    threading.Thread(target=_follow, args=(pipe,), daemon=True).start()
    interrupt = Interrupt()
    try:
        lock = lock_of(locks, task.key)
        if not lock.acquire():
            holder = lock.holder
            channel.send("busy", describe(holder) if holder else "another process")
            return
        try:
            channel.send("begun")
            state, message = work(task.payload, attempt, channel)
        finally:
            lock.release()
        channel.send("end", state, message)
    except KeyboardInterrupt:
        channel.send("end", "interrupted", interrupt.received or "")
    except Exception as error:
        import traceback

        traceback.print_exc()
        channel.send("crash", f"{type(error).__name__}: {error}")
    sys.stderr.flush()


class Interrupt:
    """SIGINT and SIGTERM raise KeyboardInterrupt, once: what follows is not disturbed while it is handled."""

    received = None

    def __init__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self)

    def __call__(self, number, frame):
        if self.received is None:
            self.received = signal.Signals(number).name
            raise KeyboardInterrupt(self.received)


@contextlib.contextmanager
def stoppable():
    """SIGTERM raises KeyboardInterrupt within, as SIGINT does, once; off the main thread, where none can, nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    if before:
        Interrupt()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def redirect(path):
    """Appends standard output and error, those of C libraries too, to a file; returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    return file


def _follow(pipe):
    """Ends this process in order when the grid's process is gone."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()  # nothing is ever sent this way
    os.kill(os.getpid(), signal.SIGTERM)


def _cause(code):
    """What a process died of."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"its process ended with code {code}"
