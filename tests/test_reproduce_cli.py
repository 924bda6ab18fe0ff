"""The command line as a user runs it: plans, bad data, kill and resume, report."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ganspect.reproduce import fcbigan
from ganspect.training.checkpoint import position_of
from ganspect.training.files import write_json
from ganspect.training.grid import lock_of
from ganspect.training.run import Run

TINY = (
    "--set width=4 patch_size=16 batch_size=4 patches_per_epoch=40 latent_size=8 filter_size=8 map_stride=8 "
    "reconstruction_weight=0.1"
).split()


def command(*arguments, **options):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "160"}
    line = [sys.executable, "-m", "ganspect.reproduce.cli", *map(str, arguments)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=400, **options)


def inline(*arguments, cwd=None):
    """As `command` in this process, which has TensorFlow loaded, with one server for the trainings of all commands."""
    from ganspect.reproduce.cli import main

    with pytest.MonkeyPatch.context() as patch, io.StringIO() as out, io.StringIO() as errors:
        patch.setenv("COLUMNS", "160")
        for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):  # what --threads sets ends with the command
            patch.setenv(name, os.environ.get(name, "1"))
        if cwd:
            patch.chdir(cwd)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                code = main([str(a) for a in arguments])
            except SystemExit as stop:
                code = stop.code
        return subprocess.CompletedProcess(arguments, code or 0, out.getvalue(), errors.getvalue())


SMOKE = "reproduce fcbigan --profile smoke --no-export --data-root".split()


def make_category(root, *names):
    """Synthetic categories in MVTec layout, small enough for seconds."""
    from ganspect.data.synthetic import make

    return make(root, names, size=64, train=6, good=2, per_defect=1)


def small_set(root):
    """One of them."""
    return make_category(root, "fibres")


def run_folder(runs, seed=0):
    return runs / "fcbigan" / "synthetic" / "fcbigan" / "fibres" / f"seed_{seed}"


def stored(runs, seed=0):
    """Everything of a finished run that must not depend on being interrupted."""
    folder = run_folder(runs, seed)
    with np.load(folder / "checkpoints" / "last.npz") as checkpoint:
        arrays = {name: checkpoint[name] for name in checkpoint.files}
    scores = sorted(p.read_text() for p in folder.glob("scores_*.csv"))
    with open(folder / "history.csv", newline="") as file:
        scores.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("seconds_per_image")
    return arrays, scores, metrics


def test_help_is_fast_and_loads_no_tensorflow():
    line = "import sys, ganspect.reproduce.cli as c; c.build_parser().format_help(); assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"  # noqa: E501
    assert subprocess.run([sys.executable, "-c", line]).returncode == 0
    assert command("--version").stdout.startswith("ganspect ")


@pytest.mark.parametrize(
    "arguments",
    [(), ("reproduce",), ("reproduce", "other"), ("data", "check"), ("report", "fcbigan", "--runs-dir", "none")],
)
def test_usage_errors_exit_with_1(arguments, tmp_path):
    done = inline(*arguments, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr


def test_unknown_names_and_settings_are_refused(tmp_path):
    for wrong in (("--categories", "hazelnut"), ("--methods", "gan"), ("--set", "widht=3"), ("--data-root", "missing")):
        done = inline("reproduce", "fcbigan", "--runs-dir", tmp_path / "runs", *wrong, cwd=tmp_path)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr


def test_ray_is_refused_where_it_is_not_installed_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    reasons = {
        ("--ray", "local"): "Ray is not installed: pip install '.[ray]' in ganspect's folder",
        ("--gpus-per-cell", "1"): "--gpus-per-cell needs --ray",
        ("--ray", "local", "--gpus-per-cell", "1.5"): "a whole number of them",
    }
    for wrong, reason in reasons.items():
        done = inline("reproduce", "fcbigan", "--runs-dir", tmp_path / "runs", *wrong, cwd=tmp_path)
        assert done.returncode == 1 and reason in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_plan_prints_and_stops(tmp_path):
    small_set(tmp_path)
    done = inline("reproduce", "fcbigan", "--data-root", tmp_path, "--runs-dir", tmp_path / "runs", "--plan")
    assert done.returncode == 0 and "fibres seed 0" in done.stdout and "width 16" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_plan_reckons_with_the_epochs_and_with_runs_of_the_same_settings(tmp_path):
    small_set(tmp_path)

    def planned(*options):
        places = ("--data-root", tmp_path, "--runs-dir", tmp_path / "runs")
        done = inline("reproduce", "fcbigan", *places, "--plan", "--methods", "fcbigan", *options)
        assert done.returncode == 0, done.stderr
        words = " ".join(done.stdout.split())  # long lines are broken
        assert ("GB of memory (measured with width 16)" in words) == ("width=8" in options)
        return re.search(r"fibres seed 0: .*; new, (about .*) about \d+ minutes \(here", words)[1]

    assert planned() == "about 40 minutes"
    assert planned("--set", "epochs=30") == "about 80 minutes"
    assert planned("--set", "epochs=30", "width=8") == "about 80 minutes at the profile's width"
    settings = {**fcbigan.PROFILES["quick"]["fcbigan"].settings, "channels": 1, "seed": 1, "epochs": 9}
    stored = Run(tmp_path / "runs/fcbigan/synthetic/fcbigan/fibres/seed_1")
    stored.path.mkdir(parents=True)
    write_json(stored.path / "config.json", {**vars(fcbigan.METHODS["fcbigan"].config(**settings)), "curve": 8})
    stored.write_table("history.csv", [{"epoch": 1, "seconds": 600}])
    assert planned() == "about 150 minutes"
    assert planned("--set", "width=8") == "about 40 minutes at the profile's width"


def test_five_bad_files_in_one_message_and_nothing_trained(tmp_path):
    category = small_set(tmp_path) / "fibres"
    train = sorted((category / "train" / "good").glob("*.png"))
    test = sorted(p for p in (category / "test").rglob("*.png"))
    train[0].write_bytes(train[0].read_bytes()[:200])
    train[1].write_bytes(b"")
    train[2].write_text("not an image")
    mask = next((category / "ground_truth").rglob("*.png"))
    Image.new("L", (9, 9)).save(mask)
    good = next(p for p in test if p.parent.name == "good")
    (category / "train" / "good" / "copy.png").write_bytes(good.read_bytes())
    names = [train[0].name, train[1].name, train[2].name, mask.name, "copy.png"]
    for done in (
        inline("data", "check", category),
        inline("reproduce", "fcbigan", "--data-root", tmp_path, "--runs-dir", tmp_path / "runs", "--profile", "smoke"),
    ):
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert all(name in done.stderr for name in names), done.stderr
    assert not run_folder(tmp_path / "runs").exists()


def test_regions_of_interest_are_written_and_found(tmp_path):
    category = small_set(tmp_path) / "fibres"
    for ring, inside in (("0.5,0.5,0.4", "50.2 %"), ("0.5,0.5,0.4,0.1", "47.2 %")):
        done = inline("data", "roi", category, tmp_path / ring, "--ring", ring, "--single")
        assert done.returncode == 0 and inside in done.stdout, done.stderr
        assert (tmp_path / ring / "roi.png").stat().st_size > 0
    for kind in (("--threshold",), ("--threshold", "otsu", "--dark"), ("--threshold", "30.5", "--margin", "-1")):
        done = inline("data", "roi", category, tmp_path / "".join(kind), *kind)
        assert done.returncode == 0 and "recipe   pixels" in done.stdout, done.stderr
    done = inline("data", "roi", category, "--polygon", "0,0 1,0 0.5,0.9")
    assert done.returncode == 0 and "(12 written, 0 there already)" in done.stdout, done.stderr
    assert "12 regions of interest" in inline("data", "check", category).stdout


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "--threshold --ring 0.5,0.5,0.4",
        "--threshold=bright",
        "--threshold=300",
        "--threshold --single",
        "--ring 0.5,0.5",
        "--ring 0.5,0.5,0.4 --margin 2",
        "--ring 0.5,0.5,0.4 --dark",
        "--polygon 0,0",
        "--polygon 1,2,3",
    ],
)
def test_wrong_regions_of_interest_are_refused(wrong, tmp_path):
    category = small_set(tmp_path) / "fibres"
    done = inline("data", "roi", category, tmp_path / "out", *wrong.split())
    assert done.returncode == 1 and done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny run, uninterrupted: its data root and its runs folder."""
    root = tmp_path_factory.mktemp("grid")
    small_set(root)
    arguments = (*"reproduce fcbigan --profile smoke --threads 1 --data-root".split(), root, *TINY, "epochs=6")
    done = inline(*arguments, "--runs-dir", root / "runs")
    assert done.returncode == 0, done.stderr
    return root, arguments, done


@pytest.mark.parametrize("content", [None, "{"])
def test_a_finished_run_whose_metrics_are_damaged_is_scored_again(finished, tmp_path, content):
    root, arguments, _ = finished
    shutil.copytree(root / "runs", tmp_path / "runs")
    path = run_folder(tmp_path / "runs") / "metrics.json"
    whole, weights = json.loads(path.read_text()), (path.parent / "checkpoints" / "last.npz").read_bytes()
    path.unlink() if content is None else path.write_text(content)
    again = inline(*arguments, "--runs-dir", tmp_path / "runs")
    assert again.returncode == 0 and "scored again from the last checkpoint" in again.stdout, again.stderr
    assert json.loads(path.read_text())["protocols"] == whole["protocols"]
    assert (path.parent / "checkpoints" / "last.npz").read_bytes() == weights


def test_a_run_leaves_tables_figures_and_evidence(finished):
    root, _, done = finished
    folder = run_folder(root / "runs")
    for name in ("config.json", "manifest.json", "status.json", "history.csv", "curve.csv", "metrics.json"):
        assert (folder / name).stat().st_size > 0, name
    saved = sorted(
        p.relative_to(folder / "maps").with_suffix(".png").as_posix() for p in (folder / "maps").rglob("*.npy")
    )
    with open(folder / "scores_6.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert saved == sorted(r["image"] for r in rows)
    highest = np.load(folder / "maps" / rows[0]["image"].replace(".png", ".npy")).max()
    assert highest == pytest.approx(float(rows[0]["max"]), rel=1e-3)
    figures = {p.name for p in (folder / "figures").glob("*.png")}
    assert {"training.png", "generated.png", "histogram_max.png"} <= figures
    assert sum(name.startswith("panel_") for name in figures) == 3
    assert (root / "runs" / "fcbigan" / "tables.md").exists()
    page = (root / "runs" / "fcbigan" / "report.html").read_text()
    assert "other data" in page and "data:image/png;base64," in page and "data:image/webp;base64," in page
    assert "<svg" in page and (root / "runs" / "index.html").exists()
    assert "other data" in done.stdout and "0.95" in done.stdout


def test_scores_on_disk_give_the_metrics(finished):
    from sklearn.metrics import roc_auc_score

    root, _, _ = finished
    with open(run_folder(root / "runs") / "scores_6.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [int(r["label"]) for r in rows]
    metrics = json.loads((run_folder(root / "runs") / "metrics.json").read_text())
    for name, found in metrics["protocols"]["paper"].items():
        assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, [float(r[name]) for r in rows]))


def test_a_run_leaves_the_model_that_scored(finished):
    import tensorflow as tf

    root, _, _ = finished
    folder = run_folder(root / "runs")
    metadata, metrics = (json.loads((folder / f).read_text()) for f in ("export/metadata.json", "metrics.json"))
    assert metadata["threshold"] == metrics["image_thresholds"]["max"]["value"]
    assert metadata["evaluation"]["image_auroc"] == metrics["protocols"]["clean"]["max"]["image_auroc"]
    assert metadata["held_out"] == 1 and metadata["rate_bound"] > 0.5  # one image says little
    card = (folder / "export" / "README.md").read_text()
    assert metadata["command"] in card and "`docs/methods/fcbigan.md`" in card and "MSc thesis" in card
    assert "width 4" in metadata["departures"] and "; ".join(metadata["departures"]) in card
    model = tf.saved_model.load(str(folder / "export" / "1"))
    with open(folder / "scores_6.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in (rows[0], rows[-1]):
        pixels = np.asarray(Image.open(root / "synthetic" / "fibres" / row["image"]).convert("L"))[None, ..., None]
        answer = model.signatures["serving_default"](images=tf.constant(pixels))
        score = float(answer["score"][0])
        assert score == pytest.approx(float(row["max"]), rel=1e-5)
        assert int(answer["label"][0]) == (score >= np.float32(metadata["threshold"]))


def test_finished_cells_are_kept_and_other_settings_refused(finished):
    root, arguments, _ = finished
    before = (run_folder(root / "runs") / "history.csv").stat().st_mtime_ns
    again = inline(*arguments, "--runs-dir", root / "runs")
    assert again.returncode == 0 and "kept" in again.stdout
    other = inline(*arguments, "reconstruction_weight=1", "--runs-dir", root / "runs")
    assert other.returncode == 1 and "reconstruction_weight: stored 0.1, asked 1.0" in other.stderr
    assert (run_folder(root / "runs") / "history.csv").stat().st_mtime_ns == before
    assert inline("report", "fcbigan", "--runs-dir", root / "runs").returncode == 0


def child_of(runs):
    """The process that trains the one cell of a runs folder, as its lock names it; None where there is none."""
    locks = list((runs / ".locks").glob("*.lock"))
    holder = lock_of(runs / ".locks", locks[0].stem).holder if locks else None
    return holder and holder["pid"]


def started(arguments, runs):
    """The same command in a process of its own."""
    line = [sys.executable, "-m", "ganspect.reproduce.cli", *map(str, (*arguments, "--runs-dir", runs))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def has_begun(runs, rows=3):
    """Waits until the cell has so many lines in its history, and no result yet."""
    history, deadline = run_folder(runs) / "history.csv", time.monotonic() + 300
    while not (history.exists() and history.read_text().count("\n") >= rows):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert not (run_folder(runs) / "metrics.json").exists()


def test_killed_and_started_again_equals_uninterrupted(finished, tmp_path):
    """The cell's process, in the middle of an epoch: the grid starts it again."""
    root, arguments, _ = finished
    runs = tmp_path / "runs"

    def kill():
        has_begun(runs)
        os.kill(child_of(runs), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = inline(arguments[0], "--no-export", *arguments[1:], "--runs-dir", runs)
    killer.join()
    assert done.returncode == 0 and "crashed (killed by SIGKILL" in done.stdout, done.stderr
    assert len(json.loads((run_folder(runs) / "manifest.json").read_text())["sessions"]) == 2
    assert_as_stored(runs, root / "runs")


@pytest.mark.slow
def test_interrupted_and_started_again_equals_uninterrupted(finished, tmp_path):
    """Ctrl-C in the middle of an epoch leaves a checkpoint of it, however seldom they are written."""
    root, arguments, _ = finished
    runs = tmp_path / "runs"
    arguments = (arguments[0], "--no-export", "--checkpoint-every", "100", *arguments[1:])
    process = started(arguments, runs)
    has_begun(runs)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    epoch, step = position_of(run_folder(runs) / "checkpoints" / "last.npz")
    status = json.loads((run_folder(runs) / "status.json").read_text())
    assert 2 <= epoch < 6 and (status["state"], status["epoch"]) == ("interrupted", epoch)
    again = command(*arguments, "--runs-dir", runs)
    place = f"epoch {epoch} and {step} steps of 6" if step else f"epoch {epoch} of 6"
    assert again.returncode == 0 and f"continues after {place}" in again.stdout
    assert_as_stored(runs, root / "runs")


def assert_as_stored(runs, straight):
    """Two runs folders hold equal results, to the bit."""
    (arrays, scores, metrics), (expected, rows, right) = stored(runs), stored(straight)
    assert set(arrays) == set(expected)
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)
    assert scores == rows and metrics == right


def test_settings_that_a_method_refuses_start_nothing(tmp_path):
    make_category(tmp_path, "fibres", "weave")
    refused = inline(*SMOKE, tmp_path, *TINY, "--runs-dir", tmp_path / "runs")  # f-AnoGAN takes no such patches
    assert refused.returncode == 1 and "f-anogan" in refused.stderr and "patch_size must be 32 or 64" in refused.stderr
    assert "Traceback" not in refused.stderr and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_failed_cell_does_not_stop_the_others(tmp_path):
    make_category(tmp_path, "fibres", "weave")
    bad = tmp_path / "synthetic" / "fibres" / "train" / "good" / "000.png"
    bad.write_bytes(bad.read_bytes()[:99])
    arguments = (*SMOKE, tmp_path, *TINY, "epochs=1", "--methods", "fcbigan", "--runs-dir", tmp_path / "runs")
    done = command(*arguments)
    assert done.returncode == 2 and "000.png" in done.stderr and "weave seed 0: done" in done.stdout
    status = json.loads((run_folder(tmp_path / "runs") / "status.json").read_text())
    assert status["state"] == "failed" and "000.png" in status["message"] and "Traceback" in status["traceback"]


@pytest.mark.slow
def test_packs_give_the_same_scores_as_folders(finished, tmp_path):
    root, arguments, _ = finished
    done = command("data", "pack", root / "synthetic" / "fibres", tmp_path / "packs")
    assert done.returncode == 0, done.stderr
    packed = [tmp_path / "packs" if a == root else a for a in arguments]
    done = command(*packed, "--runs-dir", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path / "runs")[1] == stored(root / "runs")[1]


@pytest.mark.slow
def test_packs_train_and_score_on_jax_without_tensorflow(finished, tmp_path, without_tensorflow):
    """The way to a GPU machine that has JAX alone: pack here, reproduce there; killed and resumed as well."""
    root, arguments, _ = finished
    assert command("data", "pack", root / "synthetic" / "fibres", tmp_path / "packs").returncode == 0
    packed = [str(tmp_path / "packs" if a == root else a) for a in arguments]
    line = [sys.executable, "-m", "ganspect.reproduce.cli", *packed, "--runs-dir", str(tmp_path / "runs")]
    process = subprocess.Popen(line, env=without_tensorflow, stdout=subprocess.DEVNULL)
    history = run_folder(tmp_path / "runs") / "history.csv"
    while not (history.exists() and history.read_text().count("\n") > 2):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    done = subprocess.run(line, env=without_tensorflow, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "continues after epoch" in done.stdout, done.stderr
    straight = [a if a != str(tmp_path / "runs") else str(tmp_path / "straight") for a in line]
    assert subprocess.run(straight, env=without_tensorflow, capture_output=True, timeout=600).returncode == 0
    (arrays, scores, _), (expected, right, _) = stored(tmp_path / "runs"), stored(tmp_path / "straight")
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)
    assert scores == right
    manifest = json.loads((run_folder(tmp_path / "runs") / "manifest.json").read_text())
    assert manifest["backend"] == "jax"
