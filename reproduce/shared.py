"""One training for several papers: a run that another paper's tables already have is copied, not trained again."""

import dataclasses
import importlib
import os
import shutil

from ganspect.reproduce import milestones
from ganspect.reproduce.cli import PAPERS
from ganspect.training.files import write_json
from ganspect.training.run import Run

TRAINING = ("config.json", "history.csv", "curve.csv", "checkpoints/*")  # what scoring the last weights needs


def copy_finished(paper, cell, run, stored, defaults):
    """Copies the finished run of the same method, settings, data, seed and protocol that another paper has.

    Only to a run folder that does not exist yet. Of a run that was measured otherwise than this paper does, training
    alone is copied, if its last weights are all that this paper measures: it is then "trained" and has to be scored.
    The copy is made beside the run folder and renamed; its manifest is the other run's and names in `copied_from` the
    folder that was trained.

    Args:
        paper: the paper's script.
        cell: its `Cell`.
        run: the cell's `Run`.
        stored: the config that the run is to be opened with.
        defaults: as of `Run.matches`.

    Returns:
        The folder that was copied, below the runs folder, or None.
    """
    if run.path.exists():
        return None
    runs, last_alone = run.path.parents[4], []
    for name in PAPERS:
        source = Run(dataclasses.replace(cell, paper=name).folder(runs))
        if name == paper.NAME or source.status["state"] != "finished" or not source.matches(stored, defaults):
            continue
        origin = source.path.relative_to(runs).as_posix()
        if measured_alike(paper, importlib.import_module(PAPERS[name]), cell, source):
            _copy(source, run, origin)
            return origin
        if not epochs_to_score(paper, cell, source) and source.checkpoint.exists():
            last_alone.append((source, origin))
    for source, origin in last_alone[:1]:
        _copy(source, run, origin, TRAINING)
        return origin
    return None


def epochs_to_score(paper, cell, source):
    """The epochs before its last after which a paper measures a run."""
    return milestones.to_score(paper, paper.METHODS[cell.method], cell.subject, source.config.get("epochs", 0))


def measured_alike(paper, other, cell, source):
    """Whether another paper's run has what this paper measures: the same draws of test images, regions and epochs."""
    place = (cell.subject.dataset, cell.subject.category)
    draws = [getattr(script, "DRAWS", None) for script in (paper, other)]
    recipes = [getattr(script, "REGIONS", {}).get(place) for script in (paper, other)]
    epochs = epochs_to_score(paper, cell, source)
    return draws[0] == draws[1] and recipes[0] == recipes[1] and all(source.metrics_path(e).exists() for e in epochs)


def _copy(source, run, origin, parts=None):
    """Copies a run folder, or what training left in it, as a whole or not at all."""
    temporary = run.path.with_name(f".{run.path.name}.{os.getpid()}.tmp")
    try:
        if parts is None:
            shutil.copytree(source.path, temporary)
        else:
            for path in [found for part in parts for found in sorted(source.path.glob(part))]:
                target = temporary / path.relative_to(source.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
            write_json(temporary / "status.json", {**source.status, "state": "trained"})
        write_json(temporary / "manifest.json", {"copied_from": origin, **source.manifest})
        os.rename(temporary, run.path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
