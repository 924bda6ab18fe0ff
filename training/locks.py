"""Locks between processes that share a runs folder, on one machine or on several.

A lock is a small JSON file that names its holder: host, boot, process, start of the process, time. It is read and
written only under an advisory lock of the file system (`fcntl.flock`, released by the kernel whatever happens), so two
processes never both take it. A holder that is gone is recognised: on its own machine by its process, from another one
by the age of the file, which the holder touches every few seconds.
"""

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

BEAT = 10.0  # seconds between two touches
STALE = 90.0  # seconds without a touch after which a holder on another machine is taken for dead


class Lock:
    """One lock; a context manager that raises `Held` where it cannot be taken.

    Args:
        path: the lock's file; made with its folders, and never removed.
        stale: seconds without a sign of life after which a holder on another machine is taken for dead.
    """

    def __init__(self, path, stale=STALE):
        self.path, self.stale = Path(path), stale
        self._stop = None

    def acquire(self):
        """Takes the lock if it is free, or its holder is gone; returns whether it did."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._file() as file:
            holder = _read(file)
            if holder and self._is_alive(holder):
                return False
            self._mine = _this_process()
            _write(file, self._mine)
        self._stop = threading.Event()
        threading.Thread(target=self._beat, args=(self._stop,), daemon=True).start()
        return True

    def release(self):
        """Gives the lock back; does nothing if it is not held."""
        if self._stop is None:
            return
        self._stop.set()
        self._stop = None
        with self._file() as file:
            if _read(file) == self._mine:
                _write(file, {})

    @property
    def holder(self):
        """`{"host", "pid", "since", ...}` of a living holder, or None."""
        if not self.path.exists():
            return None
        with self._file() as file:
            holder = _read(file)
            return holder if holder and self._is_alive(holder) else None

    def __enter__(self):
        if not self.acquire():
            raise Held(self.holder)
        return self

    def __exit__(self, *error):
        self.release()

    @contextlib.contextmanager
    def _file(self):
        """The open file, under the file system's lock."""
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _is_alive(self, holder):
        mine = _this_process()
        if holder.get("host") == mine["host"] and holder.get("space") == mine["space"]:
            # Another boot of this machine has other processes under the same numbers.
            started = _started(holder.get("pid"))
            return holder.get("boot") == mine["boot"] and started is not None and holder.get("started") == started
        return self._age() < self.stale

    def _age(self):
        """Seconds since the holder's last touch, by the clock of the file system, not by this machine's."""
        with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=".clock", suffix=".tmp") as now:
            return os.stat(now.name).st_mtime - os.stat(self.path).st_mtime

    def _beat(self, stop):
        """Touches the file; ends this process if another one has taken the lock, lest both write."""
        while not stop.wait(BEAT):
            with contextlib.suppress(OSError), self._file() as file:
                if stop.is_set():
                    return
                if _read(file) != self._mine:
                    os._exit(LOST)
                os.utime(self.path)


LOST = 75  # exit code of a process that was taken for dead (EX_TEMPFAIL)


class Held(RuntimeError):
    """Another living process holds the lock."""

    def __init__(self, holder):
        super().__init__(describe(holder) if holder else "another process")
        self.holder = holder


def describe(holder):
    """A holder as text: process, host and for how long."""
    minutes = max(0, (time.time() - holder["since"]) / 60)
    return f"process {holder['pid']} on {holder['host']}, since {minutes:.0f} minutes"


def _read(file):
    """The holder in the file; none in a new one, or in one that a power cut has left half-written."""
    file.seek(0)
    try:
        found = json.loads(file.read() or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(file, holder):
    file.seek(0)
    file.truncate()
    json.dump(holder, file)
    file.flush()
    os.fsync(file.fileno())


def _this_process():
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "space": _link("/proc/self/ns/pid"),
        "pid": pid,
        "started": _started(pid),
        "since": _SINCE.setdefault(pid, round(time.time(), 3)),
    }


_SINCE = {}


def _started(pid):
    """When a process started, in ticks since the boot; None where there is none, or a zombie."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in "ZX" else None


def _text(path):
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""
