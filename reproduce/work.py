"""What a process of the grid does with its cell, and the tasks that a command's cells make."""

import dataclasses
import importlib
import traceback
from dataclasses import dataclass
from pathlib import Path

from ganspect.data.images import DataError
from ganspect.reproduce.cells import Cell
from ganspect.training.devices import ONE, Devices
from ganspect.training.files import remove_leftovers
from ganspect.training.grid import Task, lock_of
from ganspect.training.run import Run

LOCKS = ".locks"  # below the runs folder


@dataclass(frozen=True)
class Order:
    """What the process of a cell is told.

    Args:
        paper: name of the paper's module.
        cell: `Cell`; the functions of its profile are left behind.
        path: of the category's data.
        runs: the runs folder.
        title: of its lines.
        force, only_failed, rescore, no_export, threads, devices, precision, xla, checkpoint_every: of the
            command.
    """

    paper: str
    cell: Cell
    path: Path
    runs: Path
    title: str
    force: bool = False
    only_failed: bool = False
    rescore: bool = False
    no_export: bool = False
    threads: int | None = None
    devices: Devices = ONE
    precision: str = "float32"
    xla: bool = False
    checkpoint_every: int = 1

    @property
    def run(self):
        """The cell's run folder."""
        return Run(self.cell.folder(self.runs))


def order(paper, cell, path, runs, title, options):
    """The `Order` of a cell under the options of a command; paths are made absolute."""
    bare = dataclasses.replace(cell, profile=dataclasses.replace(cell.profile, settings={}))
    flags = {f.name: getattr(options, f.name) for f in dataclasses.fields(Order) if hasattr(options, f.name)}
    return Order(paper.__name__, bare, Path(path).resolve(), Path(runs).resolve(), title, **flags)


def task(told, minutes):
    """The grid's task of an `Order`: the cells of several papers that may share a training have one key."""
    cell = told.cell
    parts = (cell.subject.dataset, cell.subject.category, cell.method, f"seed_{cell.seed}", cell.protocol)
    # Outside the run folder, which is not to exist before a copy or a training begins.
    log = told.runs / ".logs" / Path(*cell.folder(".").parts).with_suffix(".log")
    return Task(f"{cell.paper}: {cell.name}", "-".join(parts), told, log, minutes)


def work(told, attempt, channel):
    """Runs a cell and stores what became of it.

    Args:
        told: `Order`.
        attempt: 0, or how often its process has crashed.
        channel: `training.grid.Channel`.

    Returns:
        `(state, message)` as of `training.grid.Outcome`.
    """
    from ganspect.reproduce import runner
    from ganspect.training.callbacks import Diverged
    from ganspect.training.run import ConfigMismatch

    run = told.run
    if told.force and not attempt:
        run.restart()
    remove_leftovers(run.path)
    try:
        paper = importlib.import_module(told.paper)
        return runner.run_cell(paper, told.cell, told.path, run, channel, told, told.title), ""
    except KeyboardInterrupt as signal:
        note(run, "interrupted", message=str(signal) or "interrupted")
        return "interrupted", str(signal)
    except ConfigMismatch as error:
        return "refused", str(error)
    except Diverged as error:
        note(run, "diverged", message=str(error), traceback=traceback.format_exc())
        return "diverged", str(error)
    except Exception as error:
        message = str(error) or type(error).__name__
        note(run, "failed", message=message, traceback=traceback.format_exc())
        return "failed", message


def crashed(told, message):
    """Stores that a cell was given up after its process had died without a word."""
    note(told.run, "failed", message=message, traceback="")


def unusable(told, message):
    """Stores that a cell's data cannot be used; of one at work elsewhere nothing is stored."""
    lock = lock_of(told.runs / LOCKS, task(told, 0.0).key)
    if lock.acquire():
        try:
            raise DataError(told.path, message)
        except DataError:
            note(told.run, "failed", message=message, traceback=traceback.format_exc())
        lock.release()


def note(run, state, **details):
    """Sets a run's status. A finished one stays finished: what it left is whole; so does any on a full disk."""
    if run.status["state"] == "finished":
        return
    try:
        run.set_status(state, **details)
    except OSError as error:
        print(f"status of {run.path} not stored: {error}")
