"""The run folder: everything that is known about one trained cell, in small files that outlive the process.

config.json     resolved settings; a run is continued only with the same ones
manifest.json   commit, versions, hardware, threads, devices, seed, command, data fingerprint
status.json     state (running, interrupted, trained, finished, failed, diverged), epochs, seconds, message
history.csv     one row for each epoch
scores_<epoch>.csv, metrics.json, metrics_<epoch>.json of earlier epochs, maps/, figures/, checkpoints/
gallery.json, gallery/, curves.json, truth.npz (masks), export/ (the SavedModel): what reports and users take
"""

import csv
import datetime
import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ganspect.training.devices import ONE
from ganspect.training.files import Damaged, atomic_write, read_json, write_json

PACKAGES = ("ganspect", "tensorflow", "keras", "jax", "numpy", "scipy", "scikit-image", "pillow")

STAMP = "commit.txt"  # beside this file; `git archive` writes the commit into it
OVER = ("trained", "finished")
SESSION = ("date", "commit", "dirty", "threads", "devices", "backend", "hardware")  # of the manifest, for each process
ABSENT = {"devices": "1"}  # what a session is that does not say


class ConfigMismatch(RuntimeError):
    """A run folder that was started with other settings."""


@dataclass(frozen=True)
class Run:
    """One run folder.

    Args:
        path: `<runs>/<paper>/<dataset>/<method>/<category>/seed_<n>`.
    """

    path: Path

    @property
    def checkpoint(self):
        return self.path / "checkpoints" / "last.npz"

    @property
    def status(self):
        """What status.json says, its state at least.

        Raises:
            Damaged: it is no JSON or names no state.
        """
        path = self.path / "status.json"
        found = read_json(path, {"state": "new"})
        if not isinstance(found, dict) or not isinstance(found.get("state"), str):
            raise Damaged(f"{path} names no state")
        return found

    @property
    def metrics(self):
        return read_json(self.metrics_path(), {})

    def metrics_path(self, epoch=None):
        """Where the metrics after the last epoch are stored, or after an earlier one."""
        return self.path / ("metrics.json" if epoch is None else f"metrics_{epoch}.json")

    def metrics_at(self, epoch):
        """The metrics after an epoch, the last one included; empty where it was not measured."""
        return self.metrics if epoch == self.config.get("epochs", 0) else read_json(self.metrics_path(epoch), {})

    def scored_before(self):
        """The epochs before the last after which the run was scored, ascending."""
        epochs = [path.stem.removeprefix("metrics_") for path in self.path.glob("metrics_*.json")]
        return sorted(int(epoch) for epoch in epochs if epoch.isdigit())

    def epochs_done(self):
        """Finished epochs, by history.csv."""
        return max((int(row["epoch"]) for row in self.read_table("history.csv")), default=0)

    @property
    def scores(self):
        """The rows of scores_<epoch>.csv after the last epoch that was scored; empty where none was."""
        epochs = [path.stem.removeprefix("scores_") for path in self.path.glob("scores_*.csv")]
        epochs = [int(epoch) for epoch in epochs if epoch.isdigit()]
        return self.read_table(f"scores_{max(epochs)}.csv") if epochs else []

    @property
    def manifest(self):
        return read_json(self.path / "manifest.json", {})

    @property
    def config(self):
        return read_json(self.path / "config.json", {})

    def set_status(self, state, **details):
        """Replaces status.json; earlier details that are not named again are kept."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(self.path / "status.json", {**self.status, "state": state, "updated": now, **details})

    def matches(self, config, defaults=None):
        """Whether the run was started with these settings; `defaults` are of settings that may be newer than it."""
        return {**(defaults or {}), **self.config} == config

    def open(self, config, manifest, defaults=None, position=(0, 0)):
        """Starts the run, or continues it if its settings are the same.

        Args:
            config, manifest: stored as JSON; the manifest with one entry in "sessions" for each process.
            defaults: as of `matches`.
            position: epochs, and steps of the next one, that are trained.

        Returns:
            Lines on what differs from how the run was trained before: the bits may not be those of one go.

        Raises:
            ConfigMismatch: the folder was started with other settings; the message names each difference.
        """
        stored = self.config and {**(defaults or {}), **self.config}
        if stored and stored != config:
            names = sorted(k for k in {*stored, *config} if stored.get(k) != config.get(k))
            differences = "; ".join(f"{k}: stored {stored.get(k)!r}, asked {config.get(k)!r}" for k in names)
            raise ConfigMismatch(
                f"{self.path} was started with other settings ({differences}). "
                "Use --force to train it anew, or another folder."
            )
        session = {name: manifest[name] for name in SESSION if name in manifest}
        trains = self.status["state"] not in OVER and position[0] < config.get("epochs", math.inf)
        session |= {"epoch": position[0], "step": position[1], "trains": trains}
        sessions = [*self.manifest.get("sessions", []), session]
        write_json(self.path / "config.json", config)
        write_json(self.path / "manifest.json", {**manifest, "sessions": sessions})
        return self.remarks()

    def trained(self):
        """The sessions of the manifest that trained the run; empty where it has none."""
        sessions = self.manifest.get("sessions", [])
        if not sessions:
            return []
        places = [(session["epoch"], session["step"]) for session in sessions]
        ended = [*places[1:], (math.inf, 0)]
        return [s for s, start, end in zip(sessions, places, ended, strict=True) if s["trains"] and end > start]

    def remarks(self):
        """What differs between the sessions that trained the run and changes its bits: a list of texts."""
        trained, found = self.trained(), []
        for name in ("threads", "devices", "backend", "hardware"):
            values = list(dict.fromkeys(str(session.get(name, ABSENT.get(name))) for session in trained))
            if len(values) > 1:
                found.append(f"trained in parts with {name} {' and '.join(values)}")
        return found

    def damage(self):
        """What keeps a stored run from being reported, with the file's name; empty where nothing does.

        A run that is not finished needs a status alone, a finished one settings, manifest and metrics; a history with
        rows, where there is one.
        """
        try:
            finished = self.status["state"] == "finished"
            config, manifest, metrics = self.config, self.manifest, self.metrics
            for name in ("curves.json", "gallery.json"):
                read_json(self.path / name)
            rows = self.read_table("history.csv")
        except (Damaged, OSError, csv.Error, UnicodeDecodeError) as error:
            return str(error)
        if not finished:
            return ""
        numbered = all("epoch" in row and str(row["epoch"]).isdigit() for row in rows)
        needed = (
            ("config.json", isinstance(config, dict) and bool(config)),
            ("manifest.json", isinstance(manifest, dict) and "command" in manifest),
            ("history.csv", numbered and (bool(rows) or not (self.path / "history.csv").exists())),
            ("metrics.json", isinstance(metrics, dict) and "protocols" in metrics),
        )
        return next((f"{self.path / name} is missing or damaged" for name, sound in needed if not sound), "")

    def restart(self):
        """Sets a stored run aside under the next free name `<path>.old<n>`: nothing is deleted."""
        path = self.path.resolve()
        if path.exists():
            n = next(n for n in range(1, 10_000) if not path.with_name(f"{path.name}.old{n}").exists())
            os.rename(path, path.with_name(f"{path.name}.old{n}"))

    def read_table(self, name):
        """Rows of a CSV file of the run as dicts of strings; empty if there is none."""
        path = self.path / name
        if not path.exists():
            return []
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def write_table(self, name, rows):
        """Writes rows (dicts) as CSV, atomically; a cell that a row lacks is blank."""
        write_csv(self.path / name, rows)


def write_csv(path, rows, columns=None):
    """Writes dicts as CSV, atomically; floats in full precision.

    Args:
        path: file to replace.
        rows: list of dicts; a cell that a row lacks is blank.
        columns: order of the columns; by default that in which they first occur in the rows.
    """
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def git_state(folder):
    """Commit and whether the checkout differs from it; of an archive of a commit the commit alone, else neither.

    Files that git does not know differ only if they are Python: data and runs may lie in a checkout. The checkout of
    something else, which this project is merely installed in, is none.
    """

    def git(*arguments):
        done = subprocess.run(("git", "-C", str(folder), *arguments), capture_output=True, text=True, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit = git("rev-parse", "HEAD") if git("ls-files", "--", ".") else None
        changes = git("status", "--porcelain", "--untracked-files=no")
        changes = changes or git("ls-files", "--others", "--exclude-standard", "--", ":/*.py")
    except (OSError, subprocess.TimeoutExpired):
        commit = changes = None
    if commit is None and (folder / STAMP).exists():
        stamp = (folder / STAMP).read_text(encoding="utf-8").strip()
        return (None if stamp.startswith("$") else stamp), None
    return commit, None if commit is None or changes is None else bool(changes)


def processor():
    """Name of the processor, or of the accelerator that the backend sees, and the number of cores of this process."""
    names = [platform.processor() or platform.machine()]
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")][:1] or names
    except OSError:
        pass
    if "jax" in sys.modules:
        names = [d.device_kind for d in sys.modules["jax"].devices() if d.platform != "cpu"][:1] or names
    elif "tensorflow" in sys.modules:
        config = sys.modules["tensorflow"].config
        gpus = [config.experimental.get_device_details(gpu) for gpu in config.list_physical_devices("GPU")]
        names = [gpu.get("device_name", "GPU") for gpu in gpus][:1] or names
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores"


def make_manifest(seed, fingerprint, threads, backend, devices=ONE):
    """What produced a run: code, versions, hardware, command, data.

    Args:
        seed: of the run.
        fingerprint: SHA-256 of the data.
        threads: number of threads asked for, or None for the backend's choice.
        backend: name of the Keras backend.
        devices: `training.devices.Devices`.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit, dirty = git_state(Path(__file__).resolve().parent)
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **versions},
        "backend": backend,
        "hardware": processor(),
        "threads": threads,
        "devices": str(devices),
        "seed": seed,
        "command": command_line(backend),
        "data_fingerprint": fingerprint,
        "date": datetime.date.today().isoformat(),
    }


def command_line(backend="tensorflow"):
    """The command as a user would type it, quoted for a shell, behind what the environment says of the numbers.

    That is a backend other than TensorFlow and `GANSPECT_WINOGRAD=0` (`models/convolutions.py`).

    A script of this project's is named as a module, any other by its file's name alone.
    """
    script = Path(sys.argv[0])
    package = Path(__file__).resolve().parents[1]
    program = ["python", script.name]
    if script.name in ("ganspect", "cli.py"):
        program = ["ganspect"]
    elif script.resolve().is_relative_to(package / "reproduce"):
        program = ["python", "-m", f"ganspect.reproduce.{script.stem}"]
    setting = "" if backend == "tensorflow" else f"KERAS_BACKEND={backend} "
    if backend == "tensorflow" and os.environ.get("GANSPECT_WINOGRAD") == "0":
        setting = "GANSPECT_WINOGRAD=0 "
    return setting + shlex.join([*program, *sys.argv[1:]])
