"""One training for several papers: a run that another paper's tables already have is copied, not trained again."""

import dataclasses
import importlib
import os
import shutil

from ganspect.reproduce import milestones
from ganspect.reproduce.cli import PAPERS
from ganspect.training.files import write_json
from ganspect.training.run import Run


def copy_finished(paper, cell, run, stored, defaults):
    """Copies the finished run of the same method, settings, data, seed and protocol that another paper has.

    Only to a run folder that does not exist yet, and not from a run that was measured otherwise than this paper does.
    The copy is made beside the run folder and renamed; its manifest is the other run's and names in
    `copied_from` the folder that was trained.

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
    runs = run.path.parents[4]
    for name in PAPERS:
        source = Run(dataclasses.replace(cell, paper=name).folder(runs))
        if name == paper.NAME or source.status["state"] != "finished" or not source.matches(stored, defaults):
            continue
        if measured_alike(paper, importlib.import_module(PAPERS[name]), cell, source):
            origin = source.path.relative_to(runs).as_posix()
            _copy(source, run, origin)
            return origin
    return None


def measured_alike(paper, other, cell, source):
    """Whether another paper's run has what this paper measures: the same draws of test images, regions and epochs."""
    place = (cell.subject.dataset, cell.subject.category)
    draws = [getattr(script, "DRAWS", None) for script in (paper, other)]
    recipes = [getattr(script, "REGIONS", {}).get(place) for script in (paper, other)]
    epochs = milestones.to_score(paper, paper.METHODS[cell.method], cell.subject, source.config.get("epochs", 0))
    return draws[0] == draws[1] and recipes[0] == recipes[1] and all(source.metrics_path(e).exists() for e in epochs)


def _copy(source, run, origin):
    """Copies a run folder as a whole or not at all."""
    temporary = run.path.with_name(f".{run.path.name}.{os.getpid()}.tmp")
    try:
        shutil.copytree(source.path, temporary)
        write_json(temporary / "manifest.json", {"copied_from": origin, **source.manifest})
        os.rename(temporary, run.path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
