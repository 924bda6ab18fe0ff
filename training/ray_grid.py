"""The grid on Ray: the same cells on the machines of a cluster, each a Ray task with processors, GPUs and retries.

Ray places the tasks, finds out that a worker or a machine is lost and starts its task elsewhere; locks, checkpoints and
logs are those of `training.grid`. The runs folder is shared, the data and the runs folder have the same path on every
machine, and ganspect is installed there. What a task tells the grid goes through a small file beside the locks.
"""

import contextlib
import faulthandler
import json
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from ganspect.training.grid import WAIT, Channel, Display, Interrupt, Interrupted, Outcome, Pace, lock_of, redirect
from ganspect.training.locks import describe

RETRIES = 2  # of a cell whose worker was lost, or whose work raised
GRACE = 120.0  # seconds that cells have to save after the first signal
POLL = 0.5  # seconds between two looks at the tasks
BEAT = 1.0  # seconds between two updates of a task
CARRIED = (  # of this process to the workers: they change the bits of a training, or what it prints
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "KERAS_BACKEND"),
    *("TF_ENABLE_ONEDNN_OPTS", "GANSPECT_WINOGRAD", "TF_CPP_MIN_LOG_LEVEL", "XLA_FLAGS"),
)


class NoRay(RuntimeError):
    """Ray is not installed, or not to be reached, or has no machine for a cell."""


class RayGrid:
    """Runs tasks on Ray, as `training.grid.Grid` does in processes of this machine.

    Args:
        tasks: list of `training.grid.Task`; their paths are absolute, and the same on every machine.
        work: `(payload, attempt, channel) -> (state, message)`, importable by name on every machine; it stores failures
            itself. What it raises, and what kills its process, is a crash: it is tried again `RETRIES` times, on
            whatever machine is free. `attempt` is 0, or how often `work` has begun before.
        locks: folder of the locks, shared by the machines.
        address: "local" to start Ray on this machine, or what `ray.init` takes.
        jobs: cells at once where Ray is started here; on a cluster as many run as it has room for.
        cpus, gpus: of one cell.
        display: `training.grid.Display`.
        crashed: `(payload, message)`, called here when a task is given up after a crash.
    """

    def __init__(
        self,
        tasks,
        work,
        locks,
        address="local",
        jobs=1,
        cpus=1,
        gpus=0,
        display=None,
        crashed=lambda payload, message: None,
    ):
        self.tasks, self.work, self.locks, self.address = list(tasks), work, Path(locks).resolve(), address
        self.jobs, self.cpus, self.gpus = max(1, jobs), cpus, gpus
        self.display, self.crashed = display or Display(), crashed
        self.pending, self.running, self.outcomes = list(tasks), {}, []
        self.signals = []

    def run(self):
        """Runs everything and returns the outcomes, in the order of the tasks.

        Raises:
            NoRay: nothing was run.
            Interrupted: SIGINT or SIGTERM came. The cells have saved what they had, unless it came a second time or
                they took longer than `GRACE` seconds.
        """
        if not self.tasks:
            return []
        self.ray = import_ray()
        signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        with contextlib.ExitStack() as stack:
            for number in signals:
                stack.callback(signal.signal, number, signal.getsignal(number))
            self._connect(stack)  # which sets a handler as well
            self._check_room()
            self.news = self._news_folder(stack)
            for number in signals:
                signal.signal(number, self._stop)
            stack.callback(self.display.stop)
            self.display.start(self.tasks)
            self._loop()
        order = {task: i for i, task in enumerate(self.tasks)}
        outcomes = sorted(self.outcomes, key=lambda found: order[found.task])
        if self.signals:
            raise Interrupted(self.signals[0], outcomes)
        return outcomes

    def _connect(self, stack):
        """Starts Ray or joins the cluster, without its dashboard, its usage statistics and the workers' output."""
        if self.ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"address": self.address, "log_to_driver": False, "logging_level": "ERROR"}
        if self.address == "local":
            # Nothing but a cell's end travels through the object store: its default takes a third of the memory.
            options |= {"num_cpus": self.jobs * self.cpus, "include_dashboard": False, "object_store_memory": 10**8}
        try:
            self.ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise NoRay(f"no Ray at {self.address}: {error}") from error
        stack.callback(self.ray.shutdown)

    def _check_room(self):
        """Says so where no machine is large enough for a cell.

        Raises:
            NoRay: and there will be none, as Ray runs on this machine alone.
        """
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if any(m.get("CPU", 0) >= self.cpus and m.get("GPU", 0) >= self.gpus for m in machines):
            return
        message = f"no machine of Ray has {self.cpus} processors and {self.gpus:g} GPUs for a cell"
        if self.address == "local":
            raise NoRay(message)
        self.display.say(f"{message}: they wait for one")

    def _news_folder(self, stack):
        """A folder on the shared disk for what the tasks tell; removed at the end."""
        self.locks.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="ray_", dir=self.locks))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _stop(self, number, frame):
        self.signals.append(signal.Signals(number).name)

    def _loop(self):
        """Submits, listens and stops until nothing runs."""
        remote = self.ray.remote(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_calls=1,
            max_retries=RETRIES,
            retry_exceptions=True,
            runtime_env={"env_vars": {name: os.environ[name] for name in CARRIED if name in os.environ}},
        )(_cell)
        stopped, deadline = 0, math.inf
        while self.running or (self.pending and not self.signals):
            if not self.signals:
                self._submit(remote)
            elif len(self.signals) > stopped:
                stopped = len(self.signals)
                deadline = time.monotonic() + GRACE if stopped == 1 else -math.inf
                for cell in self.running.values():
                    self.ray.cancel(cell.reference, force=False)
            if time.monotonic() > deadline:
                self._kill()
                return
            if self.running:
                references = {cell.reference: cell for cell in self.running.values()}
                ended, _ = self.ray.wait(list(references), num_returns=1, timeout=POLL)
                for cell in list(self.running.values()):
                    self._hear(cell)
                for reference in ended:
                    self._end(references[reference])

    def _submit(self, remote):
        """Hands all tasks to Ray but those whose key is at work: the second would hold processors while it waits."""
        busy = {task.key for task in self.running}
        for task in list(self.pending):
            if task.key not in busy:
                busy.add(task.key)
                self.pending.remove(task)
                cell = self.running[task] = _Running(task, self.news / f"{self.tasks.index(task)}.jsonl")
                cell.reference = remote.options(name=task.name).remote(
                    self.work, task, str(self.locks), str(cell.news), sys.argv
                )

    def _kill(self):
        """Ends cells that did not end by themselves."""
        for cell in list(self.running.values()):
            with contextlib.suppress(Exception):  # Ray's own errors: the task may have ended just now
                self.ray.cancel(cell.reference, force=True)
            self._take(cell, "interrupted", self.signals[0])

    def _hear(self, cell):
        """Takes note of what a task has told since the last time."""
        for kind, *content in cell.read():
            if kind == "say":
                self.display.say(content[0])
            elif kind == "busy":
                self.display.say(f"{cell.task.name}: waits for {content[0]}")
            elif kind == "crash":
                cell.cause = content[0]
            elif kind == "begun":
                if cell.begun:
                    cell.crashes.append(cell.cause)
                    again = f"{cell.task.name}: crashed ({cell.cause}); started again from its last checkpoint"
                    self.display.say(f"{again} by process {content[1]} on {content[0]}")
                cell.start(*content)
                self.display.begun(cell.task, bool(cell.crashes))
            elif kind == "update":
                cell.pace.reached(content[0])
                self.display.progress(cell.task, cell.pace.done, content[1], self.left())

    def _end(self, cell):
        """Takes the end of a task: what its work returned, or that Ray has given it up."""
        try:
            state, message = self.ray.get(cell.reference)
        except self.ray.exceptions.RayError as error:
            if self.signals:
                self._take(cell, "interrupted", self.signals[0])
                return
            # Of a task that never came to its work the last line says why.
            cell.crashes.append(cell.cause or f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
            causes = ", ".join(cell.crashes)
            message = f"crashed {len(cell.crashes)} times: {causes}; its output: {cell.task.log}"
            self.crashed(cell.task.payload, message)
            self._take(cell, "failed", message)
        else:
            self._take(cell, state, message)

    def _take(self, cell, state, message):
        del self.running[cell.task]
        seconds = time.monotonic() - cell.started if cell.begun else 0.0
        outcome = Outcome(cell.task, state, message, tuple(cell.crashes), seconds)
        self.outcomes.append(outcome)
        self.display.ended(outcome)

    def left(self):
        """Seconds until the grid ends, about, if as many cells as now run side by side."""
        cells = [cell for cell in self.running.values() if cell.begun]
        waiting = [*self.pending, *(cell.task for cell in self.running.values() if not cell.begun)]
        seconds = 60 * sum(task.minutes for task in waiting) + sum(cell.pace.left(cell.task.minutes) for cell in cells)
        return seconds / max(1, len(cells))


class _Running:
    """A task that Ray has, and what is known of it."""

    def __init__(self, task, news):
        self.task, self.news, self.reference, self.offset = task, news, None, 0
        self.begun, self.crashes, self.cause = False, [], ""
        self.started, self.pace = 0.0, None

    def read(self):
        """The new lines of its news; a line that a worker was lost in the middle of is passed over."""
        found = []
        with contextlib.suppress(OSError), open(self.news, "rb") as file:
            file.seek(self.offset)
            text = file.read()
            text = text[: text.rfind(b"\n") + 1]
            self.offset += len(text)
            for line in text.splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def start(self, host, process):
        """Its work has begun."""
        self.started = self.started if self.begun else time.monotonic()
        self.begun, self.cause = True, f"process {process} on {host} was lost"
        self.pace = Pace()


class FileChannel(Channel):
    """The channel from a task to the grid: lines of JSON at the end of a file, which is opened for each of them.

    Args:
        path: of the file, on a disk that both see.
    """

    def __init__(self, path):
        self.path, self.mutex, self.updated = Path(path), threading.Lock(), -math.inf

    def say(self, text):
        self.send("say", text)

    def update(self, done, text=""):
        now = time.monotonic()
        if now - self.updated >= BEAT:
            self.updated = now
            self.send("update", None if done is None else float(done), text)

    def send(self, *message):
        # The grid may be gone, and its folder with it; the last line may have no end, if its writer was lost.
        with self.mutex, contextlib.suppress(OSError), open(self.path, "ab") as file:
            file.write(b"\n" + json.dumps(message).encode() + b"\n")

    def count(self, kind):
        """How many messages of a kind the file has."""
        start = json.dumps([kind])[:-1].encode()
        with contextlib.suppress(OSError):
            return sum(line.startswith(start) for line in self.path.read_bytes().splitlines())
        return 0


def import_ray():
    """The package `ray`.

    Raises:
        NoRay: it is not installed.
    """
    try:
        import ray
        from ray.exceptions import RayError  # noqa: F401  a folder named "ray" is a package as well
    except ImportError as error:
        raise NoRay("Ray is not installed: pip install '.[ray]' in ganspect's folder") from error
    return ray


def _cell(work, task, locks, news, arguments):
    """A Ray task's life, in a worker of its own: its output to the log, the lock, the work."""
    channel = FileChannel(news)
    sys.argv = arguments  # the command that a run's manifest names
    log = redirect(task.log)
    faulthandler.enable(log)
    interrupt = Interrupt()
    try:
        lock = _wait_for(lock_of(locks, task.key), channel)
        try:
            attempt = channel.count("begun")
            channel.send("begun", socket.gethostname(), os.getpid())
            state, message = work(task.payload, attempt, channel)
        finally:
            lock.release()
    except KeyboardInterrupt:
        state, message = "interrupted", interrupt.received or ""
    except Exception as error:
        import traceback

        traceback.print_exc()
        cause = f"{type(error).__name__}: {error}"
        channel.send("crash", cause)
        raise RuntimeError(cause) from None  # the error itself may be of a class that cannot be pickled
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    if state == "interrupted" and not import_ray().get_runtime_context().is_canceled():
        # The machine was told to stop, not the grid: Ray is to start the cell elsewhere.
        cause = f"stopped by {message or 'a signal'}"
        channel.send("crash", cause)
        raise RuntimeError(cause)
    return state, message


def _wait_for(lock, channel):
    """Takes a lock once its holder has released it, or is known to be dead."""
    told = False
    while not lock.acquire():
        if not told:
            holder = lock.holder
            channel.send("busy", describe(holder) if holder else "another process")
            told = True
        time.sleep(WAIT)
    return lock
