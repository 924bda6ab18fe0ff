"""One training for several papers: copied where everything agrees, trained where anything differs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ganspect.data.synthetic import make
from ganspect.models import ganomaly
from ganspect.reproduce import cbigan, cells, runner, work
from ganspect.training.checkpoint import save_state
from ganspect.training.devices import ONE
from ganspect.training.files import write_json
from ganspect.training.run import Run

OBJECT = next(s for s in cbigan.SYNTHETIC if s.category == "object")
SETTINGS = dict(channels=3, seed=0, image_size=32, width=2, batch_size=2, steps_per_epoch=2, epochs=4)


def script(**changes):
    """A paper's script that has CBiGAN's GANomaly, without its networks."""
    method = replace(
        cbigan.METHODS["ganomaly"],
        build=lambda config: SimpleNamespace(config=config, compile=lambda: None, trainable_variables=()),
    )
    fake = {name: getattr(cbigan, name) for name in dir(cbigan)} | {"METHODS": {"ganomaly": method}}
    return SimpleNamespace(**fake | {"NAME": "fcbigan"} | changes)


FIRST = script(NAME="cbigan")


class Grid:
    """Runs cells of one runs folder; what trains only notes that it was asked to."""

    def __init__(self, folder, monkeypatch):
        self.data = make(folder / "data", ("object",), size=32, train=6, good=2, per_defect=1) / "object"
        self.runs, self.trained, self.said = folder / "runs", [], []
        self.channel = SimpleNamespace(say=self.said.append)
        monkeypatch.setattr(runner, "train", lambda method, detector, images, measurements, run, *more: self.train(run))
        monkeypatch.setattr(runner, "score", lambda *arguments: None)

    def train(self, run):
        if run.status["state"] != "trained" or "copied_from" not in run.manifest:
            self.trained.append(run.path)
        for name in ("metrics.json", "history.csv", "figures/training.png"):
            (run.path / name).parent.mkdir(exist_ok=True)
            (run.path / name).write_text("{}")
        save_state(run.checkpoint, [], 4)
        run.set_status("finished")

    def run(self, paper, force=False, rescore=False, protocol="both", curve=0, **settings):
        """The run of one cell of GANomaly, and whether it was trained."""
        before, profile = len(self.trained), cells.Profile(curve=curve)
        cell = cells.Cell(paper.NAME, "ganomaly", OBJECT, 0, profile, SETTINGS | settings, protocol)
        run = Run(cell.folder(self.runs))
        options = SimpleNamespace(
            force=force,
            rescore=rescore,
            only_failed=False,
            no_export=True,
            threads=None,
            devices=ONE,
            precision="float32",
            xla=False,
            checkpoint_every=1,
        )
        runner.run_cell(paper, cell, self.data, run, self.channel, options, "a cell")
        return run, len(self.trained) > before


@pytest.fixture
def grid(tmp_path, monkeypatch):
    return Grid(tmp_path, monkeypatch)


def test_a_finished_run_of_another_paper_is_copied_whole(grid):
    first, _ = grid.run(FIRST)
    write_json(first.path / "manifest.json", first.manifest | {"command": "what trained it"})
    again, trained = grid.run(script())
    assert not trained and again.status["state"] == "finished" and again.config == first.config
    origin = "cbigan/synthetic/ganomaly/object/seed_0"
    assert again.manifest == {"copied_from": origin, **first.manifest} and "copied_from" not in first.manifest
    files = [sorted(p.relative_to(run.path) for p in run.path.rglob("*")) for run in (first, again)]
    assert files[0] == files[1] and not again.path.is_symlink()
    assert [p.name for p in again.path.parent.iterdir()] == ["seed_0"]
    assert f"copied from {origin}" in grid.said[-1]
    _, trained = grid.run(script())
    assert not trained and "kept" in grid.said[-1]


@pytest.mark.parametrize(
    "change",
    [dict(force=True), dict(protocol="paper"), dict(curve=2), dict(width=4), dict(seed=1)],
    ids=lambda change: next(iter(change)),
)
def test_anything_that_differs_is_trained(grid, change):
    grid.run(FIRST)
    assert grid.run(script(), **change)[1]


def test_other_data_are_trained_on(grid):
    grid.run(FIRST)
    next(iter((grid.data / "train" / "good").iterdir())).unlink()
    assert grid.run(script())[1]


def test_of_a_run_that_was_measured_otherwise_the_training_is_copied(grid, monkeypatch):
    first, _ = grid.run(FIRST)
    files = []
    monkeypatch.setattr(runner, "train", lambda *a: files.append(sorted(p.name for p in a[4].path.rglob("*.*"))))
    again, _ = grid.run(script(DRAWS=(100, 100, 200)))
    assert files == [["config.json", "history.csv", "last.npz", "manifest.json", "status.json"]]
    assert again.status["state"] == "trained" and again.checkpoint.read_bytes() == first.checkpoint.read_bytes()
    assert again.manifest["copied_from"] == "cbigan/synthetic/ganomaly/object/seed_0"
    assert again.manifest["trained_by"] == first.manifest["commit"]
    assert grid.said[-1] == "a cell: training copied from cbigan/synthetic/ganomaly/object/seed_0"


def test_a_run_that_lacks_an_epoch_that_is_measured_is_not_copied(grid):
    first, _ = grid.run(FIRST)
    tables = {"MILESTONES": {"auroc": (2, 4)}}
    assert grid.run(script(NAME="grdnet", **tables))[1]
    (first.path / "metrics_2.json").write_text("{}")
    assert not grid.run(script(NAME="anogan_ganomaly", **tables))[1]


@pytest.mark.parametrize("state", ["running", "failed", "interrupted", "trained"])
def test_only_finished_runs_are_copied_and_only_to_new_folders(grid, state):
    first, _ = grid.run(FIRST)
    first.set_status(state)
    again, trained = grid.run(script())
    assert trained
    first.set_status("finished")
    again.set_status(state)
    assert grid.run(script())[1] and "copied_from" not in again.manifest


def test_a_copy_that_fails_leaves_nothing(grid, monkeypatch):
    grid.run(FIRST)
    monkeypatch.setattr(runner.shared.os, "rename", lambda *paths: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        grid.run(script())
    assert not list((grid.runs / "fcbigan").rglob("*seed_0*"))


def test_a_copy_that_is_scored_again_says_where_it_is_from(grid):
    grid.run(FIRST)
    again, scored = grid.run(script(), rescore=True)
    assert scored and again.manifest["copied_from"] == "cbigan/synthetic/ganomaly/object/seed_0"
    assert json.loads((again.path / "config.json").read_text())["method"] == "ganomaly"
    assert ganomaly.GANomalyConfig(**SETTINGS).epochs == again.config["epochs"]


def test_a_finished_run_stays_finished_whatever_happens_to_its_cell(tmp_path):
    """As when its data can no longer be read, or Ctrl-C comes while it is looked at."""
    finished, running = Run(tmp_path / "finished"), Run(tmp_path / "running")
    finished.set_status("finished")
    running.set_status("running", epoch=3)
    for run in (finished, running):
        work.note(run, "failed", message="no such file")
    assert finished.status["state"] == "finished" and "message" not in finished.status
    assert (running.status["state"], running.status["epoch"], running.status["message"]) == (
        "failed",
        3,
        "no such file",
    )
