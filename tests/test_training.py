"""Training: atomic files, checkpoints, divergence, early stopping; test_contract.py resumes every method."""

import dataclasses
import io
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure
from tiny_methods import TINY

from ganspect.data.arrays import write_atomically
from ganspect.data.patches import stack_images
from ganspect.evaluation import plots
from ganspect.models.fcbigan import FCBiGAN
from ganspect.training import run as run_module
from ganspect.training.callbacks import Diverged, EarlyStop, Recorder, StopOnSignal
from ganspect.training.checkpoint import CheckpointError, Position, load_state, position_of, save_state
from ganspect.training.files import atomic_write, read_json, remove_leftovers, write_json
from ganspect.training.fit import fit
from ganspect.training.run import ConfigMismatch, Run, make_manifest, write_csv


def numbers(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


QUICK = TINY["anogan"]  # compiles fastest; three steps an epoch


def trained(tiny, images, run, epochs, resume=False, callbacks=(), every=1, eagerly=False, steps=3):
    """A detector trained to `epochs` of `steps`, from the run's checkpoint if `resume`; built anew, as a process would.

    A few steps run `eagerly` sooner than they are compiled.
    """
    detector = tiny.build()
    detector.run_eagerly = eagerly
    stack, sizes = stack_images(tiny.photographs(images))
    sampler = tiny.sampler(sizes, detector.config)
    sampler = dataclasses.replace(sampler, count=steps * sampler.batch_size)
    start = load_state(run.checkpoint, detector.state) if resume else Position()
    fit(detector, stack, sampler, epochs, start, [Recorder(run, start.epoch, sampler.steps, every=every), *callbacks])
    return detector


def test_resume_restores_optimiser_slots_and_seeds(textures, tmp_path):
    run = Run(tmp_path)
    before = trained(TINY["fcbigan"], textures, run, 1, eagerly=True)
    fresh = TINY["fcbigan"].build()
    assert load_state(run.checkpoint, fresh.state) == Position(1)
    for name, optimizer in before.optimizers.items():
        assert int(optimizer.iterations) == 3
        for a, b in zip(numbers(optimizer.variables), numbers(fresh.optimizers[name].variables), strict=True):
            np.testing.assert_array_equal(a, b)
    seeds = [v for v in fresh.state if "seed_generator_state" in v.path]
    assert len(seeds) == 13 and all(keras.ops.convert_to_numpy(s)[1] > 0 for s in seeds)  # every one was drawn from


def test_checkpoints_every_few_epochs_resume_to_the_same(textures, tmp_path):
    """Every second epoch and the last have one; killed after the third, a training goes on from the second."""

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise Killed

    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    expected = trained(QUICK, textures, whole, 5, every=2, eagerly=True, steps=1)
    assert position_of(whole.checkpoint) == (5, 0)
    with pytest.raises(Killed):
        trained(QUICK, textures, parts, 5, callbacks=[Kill()], every=2, eagerly=True, steps=1)
    assert position_of(parts.checkpoint) == (2, 0) and len(parts.read_table("history.csv")) == 3
    found = trained(QUICK, textures, parts, 5, resume=True, every=2, eagerly=True, steps=1)
    for a, b in zip(numbers(expected.state), numbers(found.state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [row["epoch"] for row in parts.read_table("history.csv")] == list("12345")


# In the second epoch; in the first; behind the last batch of one.
@pytest.mark.parametrize("batches", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 6))])
def test_a_signal_leaves_a_checkpoint_of_its_batch(textures, tmp_path, batches):
    """Stopped there, again in the batch after it, and resumed, it equals an uninterrupted training to the bit."""

    class Signal(keras.callbacks.Callback):
        left = batches

        def on_train_batch_end(self, batch, logs=None):
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGTERM)

    straight, run = Run(tmp_path / "straight"), Run(tmp_path / "parts")
    expected = trained(QUICK, textures, straight, 3, eagerly=True)
    before = signal.getsignal(signal.SIGTERM)
    for done in (batches, batches + 1):
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            stops = [Signal(), StopOnSignal(run.checkpoint, 3)]
            trained(QUICK, textures, run, 3, run.checkpoint.exists(), stops, eagerly=True)
        assert position_of(run.checkpoint) == divmod(done, 3) and signal.getsignal(signal.SIGTERM) is before
        Signal.left = 1
    found = trained(QUICK, textures, run, 3, True, [StopOnSignal(run.checkpoint, 3)], eagerly=True)
    for a, b in zip(expected.state, found.state, strict=True):
        np.testing.assert_array_equal(*numbers([a, b]), err_msg=a.path)
    rows = [[{**row, "seconds": ""} for row in r.read_table("history.csv")] for r in (straight, run)]
    assert rows[0] == rows[1] and len(rows[0]) == 3


def test_weights_that_are_not_finite_are_not_stored(textures, tmp_path):
    """A last batch may spoil the weights behind finite losses."""
    run = Run(tmp_path)

    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2 and run.checkpoint.exists():
                self.model.generator.trainable_variables[0].assign(np.nan * self.model.generator.trainable_variables[0])

    with pytest.raises(Diverged, match="not finite after epoch 2; the checkpoint of epoch 1 is kept"):
        trained(QUICK, textures, run, 3, callbacks=[Poison()], eagerly=True)
    with np.load(run.checkpoint) as stored:
        assert stored["epoch"] == 1 and all(np.isfinite(stored[name]).all() for name in stored.files)


def test_a_row_beyond_the_checkpoint_is_cut_off(textures, tmp_path):
    run = Run(tmp_path)
    trained(QUICK, textures, run, 2, eagerly=True)
    rows = run.read_table("history.csv")
    run.write_table("history.csv", [*rows, {**rows[-1], "epoch": 3}])  # a kill before the third checkpoint
    assert [r["epoch"] for r in Recorder(run, 2, 3).rows] == ["1", "2"]


def test_a_checkpoint_of_another_model_is_refused(tiny_config, tmp_path):
    small, large = FCBiGAN(tiny_config), FCBiGAN(dataclasses.replace(tiny_config, width=8))
    save_state(tmp_path / "c.npz", small.variables, 1)
    with pytest.raises(CheckpointError, match="stored"):
        load_state(tmp_path / "c.npz", large.variables)
    with pytest.raises(CheckpointError, match="variables"):
        load_state(tmp_path / "c.npz", small.variables[:-1])


def test_atomic_write_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]
    assert read_json(tmp_path / "none.json", 5) == 5


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, {}),
        lambda path: write_atomically(path, b"pack"),
        lambda path: plots.save_figure(Figure(figsize=(1, 1)), path),
    ],
)
def test_what_a_kill_leaves_half_written_is_removed(tmp_path, monkeypatch, write):
    """The packages may not import one another: each names its temporary files so that they are found."""
    names = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: names.extend(path.name for path in tmp_path.iterdir()))
        write(tmp_path / "done")
    (tmp_path / names[0]).write_bytes(b"half")  # as after kill -9
    (tmp_path / ".mine").touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"done", ".mine"}


def test_non_finite_losses_stop_training_and_keep_the_last_checkpoint(textures, tmp_path):
    run = Run(tmp_path)

    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.generator.trainable_variables[0].assign(np.nan * self.model.generator.trainable_variables[0])

    with pytest.raises(Diverged, match="epoch 2"):
        trained(QUICK, textures, run, 3, callbacks=[Poison()], eagerly=True)
    detector = QUICK.build()
    assert load_state(run.checkpoint, detector.state) == Position(1)
    assert all(np.isfinite(v).all() for v in numbers(detector.variables))


def test_early_stopping_is_a_function_of_the_history(tmp_path):
    run = Run(tmp_path)
    errors = [0.1, 0.5, 0.4, 0.3, 0.35, 0.36, 0.37]
    write_csv(run.path / "history.csv", [{"epoch": i + 1, "held_out_mae": e} for i, e in enumerate(errors)])
    over = [EarlyStop(Recorder(run, n, 1), tmp_path / "best.npz", patience=3, start=2).is_over() for n in range(1, 8)]
    assert over == [False] * 6 + [True]  # the best that counts is epoch 4; epoch 1 is before the start


def test_early_stopping_keeps_the_best_weights_and_resumes_to_the_same_stop(textures, tmp_path):
    errors = {1: 0.9, 2: 0.3, 3: 0.2, 4: 0.4, 5: 0.5, 6: 0.6}
    ends = []
    for name, stops in (("straight", (9,)), ("resumed", (4, 9)), ("killed", (3, 9))):
        run = Run(tmp_path / name)
        for epochs in stops:
            detector = QUICK.build()
            detector.run_eagerly = True
            stack, sizes = stack_images(QUICK.photographs(textures))
            sampler = dataclasses.replace(QUICK.sampler(sizes, detector.config), count=detector.config.batch_size)
            start = load_state(run.checkpoint, detector.state) if run.checkpoint.exists() else Position()
            recorder = Recorder(run, start.epoch, 1, lambda epoch: {"held_out_mae": errors[epoch]})
            early = EarlyStop(recorder, run.path / "best.npz", patience=2, start=2)
            fit(detector, stack, sampler, epochs, start, [recorder, early])
            if (name, epochs) == ("killed", 3):  # behind the epoch's checkpoint, before its best one
                (run.path / "best.npz").unlink()
        assert [row["epoch"] for row in run.read_table("history.csv")] == ["1", "2", "3", "4", "5"]
        assert load_state(run.path / "best.npz", detector.state) == Position(3)
        ends.append(numbers(detector.state))
    for a, *others in zip(*ends, strict=True):
        for b in others:
            np.testing.assert_array_equal(a, b)


def test_a_machine_that_only_scores_did_not_train(tmp_path):
    """Trained in two parts on one, whole, then scored on another; or finished on the other."""
    for name, last, trained in (("scored", 6, ["gpu"] * 2), ("finished", 4, ["gpu", "gpu", "cpu"])):
        run = Run(tmp_path / name)
        for hardware, position in (("gpu", (0, 0)), ("gpu", (2, 5)), ("cpu", (last, 0))):
            remarks = run.open({"epochs": 6}, {"hardware": hardware, "threads": None}, position=position)
        assert [session["hardware"] for session in run.trained()] == trained
        assert bool(remarks) == (name == "finished")
    assert Run(tmp_path / "new").trained() == []


def test_another_config_is_refused_and_a_run_can_be_set_aside(tmp_path):
    run = Run(tmp_path / "seed_0")
    run.open({"width": 8, "seed": 0}, make_manifest(0, "f", None, "tensorflow"))
    run.open({"width": 8, "seed": 0}, {})
    with pytest.raises(ConfigMismatch, match="width: stored 8, asked 16"):
        run.open({"width": 16, "seed": 0}, {})
    run.restart()
    assert not run.path.exists() and (tmp_path / "seed_0.old1" / "config.json").exists()


def test_manifest_says_what_produced_a_run():
    manifest = make_manifest(7, "abc", 2, "tensorflow")
    assert manifest["seed"] == 7 and manifest["threads"] == 2 and manifest["data_fingerprint"] == "abc"
    assert {"keras", "tensorflow", "numpy", "python"} <= set(manifest["versions"])
    assert "cores" in manifest["hardware"]


def test_a_table_has_the_columns_of_all_its_rows(tmp_path):
    """As a history of two phases has: a column stands where it first occurs, and cells without a value are blank."""
    write_csv(tmp_path / "t.csv", [{"epoch": 1, "g_loss": 0.5}, {"epoch": 2, "e_loss": 0.25, "g_loss": 0.0}])
    assert (tmp_path / "t.csv").read_text() == "epoch,g_loss,e_loss\n1,0.5,\n2,0.0,0.25\n"
    with pytest.raises(ValueError, match="not in fieldnames"):
        write_csv(tmp_path / "t.csv", [{"epoch": 1, "other": 2}], ["epoch"])


def test_an_archive_of_a_commit_knows_it(tmp_path):
    """`git archive` writes the commit into training/commit.txt; a checkout's own file is a placeholder."""
    root = Path(run_module.__file__).parents[1]
    (tmp_path / "training").mkdir()
    (tmp_path / ".git").write_text("gitdir: nowhere")  # no checkout, wherever the temporary folder lies
    assert run_module.git_state(tmp_path / "training") == (None, None)
    shutil.copy(root / "training" / run_module.STAMP, tmp_path / "training")
    assert run_module.git_state(tmp_path / "training") == (None, None)
    archive = subprocess.run(("git", "-C", root, "archive", "HEAD", "training"), capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("not a git checkout")
    tarfile.open(fileobj=io.BytesIO(archive.stdout)).extractall(tmp_path, filter="data")
    head = subprocess.run(("git", "-C", root, "rev-parse", "HEAD"), capture_output=True, text=True, check=True)
    assert run_module.git_state(tmp_path / "training") == (head.stdout.strip(), None)


def test_changes_are_those_of_code(tmp_path):
    """Data or runs in a checkout, which git does not know, change no results; a changed or new module may."""

    def git(*arguments):
        line = ("git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments)
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (tmp_path / "training").mkdir()
    (tmp_path / "training/module.py").write_text("a = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    head = git("rev-parse", "HEAD")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").write_bytes(b"a")
    assert run_module.git_state(tmp_path / "training") == (head, False)
    installed = tmp_path / "venv/lib/training"
    installed.mkdir(parents=True)
    (installed / "module.py").write_text("a = 1\n")
    assert run_module.git_state(installed) == (None, None)  # a checkout of something else
    (installed / "module.py").unlink()
    (tmp_path / "new.py").write_text("")
    assert run_module.git_state(tmp_path / "training") == (head, True)
    (tmp_path / "new.py").unlink()
    (tmp_path / "training/module.py").write_text("a = 2\n")
    assert run_module.git_state(tmp_path / "training") == (head, True)


@pytest.mark.parametrize(
    ("backend", "refused", "before"),
    [
        ("tensorflow", None, ""),
        ("tensorflow", "0", "GANSPECT_WINOGRAD=0 "),
        ("tensorflow", "1", ""),
        ("jax", "0", "KERAS_BACKEND=jax "),
    ],
)
def test_the_command_says_what_the_environment_makes_of_numbers(backend, refused, before, monkeypatch):
    monkeypatch.setattr(run_module.sys, "argv", ["/usr/bin/ganspect", "reproduce", "grdnet", "--set", "width=4"])
    monkeypatch.delenv("GANSPECT_WINOGRAD", raising=False)
    if refused is not None:
        monkeypatch.setenv("GANSPECT_WINOGRAD", refused)
    assert run_module.command_line(backend) == before + "ganspect reproduce grdnet --set width=4"
