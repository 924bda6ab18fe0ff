"""CBiGAN's script: recipes, cells, schedule, claims, pictures across runs, one tiny run from the command line."""

import csv
import dataclasses
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ganspect.models.cbigan import WEIGHTS, CBiGANConfig
from ganspect.reproduce import cbigan, cbigan_figures, cells, plan
from ganspect.training.files import write_json
from ganspect.training.run import Run

GRID, PILL = (next(s for s in cbigan.SUBJECTS if s.category == name) for name in ("grid", "pill"))


def test_recipes_follow_the_decisions():
    texture = cbigan.sampler(CBiGANConfig(**GRID.settings), ((512, 512),) * 3)
    assert (texture.fill, texture.patch_size, texture.rotation) == ("crop", 64, math.pi)
    whole = cbigan.sampler(CBiGANConfig(), ((128, 128),) * 3)
    assert (whole.fill, whole.patch_size, whole.rotates) == ("edge", 128, False)
    for sampler in (texture, whole):
        assert sampler.batch_size == 6 * 32 and sampler.steps == 1000  # whole cycles of five and one batches
    held = cbigan.sampler(CBiGANConfig(**GRID.settings), ((512, 512),) * 3, held_out=True)
    assert held.steps == 1 and held.batch_size == 12 and not held.rotates
    assert cbigan.sampler(CBiGANConfig(), ((128, 128),) * 3, held_out=True).draws(0)["image"].tolist() == [[0, 1, 2]]


def test_the_defaults_are_the_authors_schedule_and_depart_in_nothing():
    assert cbigan.schedule_share(vars(CBiGANConfig())) == 1.0
    for subject in (GRID, PILL):
        for name in ("cbigan", "bigan", "autoencoder"):
            method = cbigan.METHODS[name]
            config = vars(CBiGANConfig(**subject.settings, **method.settings, seed=4))
            assert cells.departures(method, subject, config) == ([], [], [], [], [])
    quick = vars(CBiGANConfig(**cbigan.quick(PILL)))
    model, schedule, losses, scores, noise = cells.departures(cbigan.METHODS["cbigan"], PILL, quick)
    assert model == ["image_size 64", "patch_size 64"] and losses == ["alpha 0.001"] and not scores and not noise
    assert {"critic_steps 1", "rate 0.0005"} <= set(schedule)
    assert cbigan.schedule_share(quick) == pytest.approx(3000 * 2 * 16 / (1.2e6 * 32))


def chosen(profile, **options):
    found = {("mvtec_ad", "pill"): None, ("mvtec_ad", "grid"): None}
    return cells.expand(cbigan, profile, found, **options)


def test_cells_of_the_tables_the_alpha_study_and_the_presets():
    assert {c.method for c in chosen("quick")} == {"cbigan", "bigan", "autoencoder", "ganomaly"}
    assert len(chosen("quick")) == 8
    assert "ganomaly" in {c.method for c in chosen("quick", tables=["auroc"])}
    assert {c.method for c in chosen("quick", tables=["f-anogan"])} >= {"f-anogan"}
    alphas = [c.settings.get("alpha", 1e-5) for c in chosen("quick", tables=["alpha"], categories=["pill"])]
    assert sorted(alphas) == [0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1.0]
    full = [c.settings.get("alpha", 1e-5) for c in chosen("paper", tables=["alpha"], categories=["pill"])]
    assert sorted(set(full)) == [0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1.0] and len(full) == 12  # both protocols
    assert [c.method for c in chosen("quick", methods=["cbigan-wide"], categories=["grid"])] == ["cbigan-wide"]
    (cell,) = chosen("quick", methods=["cbigan-2020"], categories=["grid"])
    config = CBiGANConfig(**cell.settings)
    assert (config.alpha, config.penalty_weight, config.image_size, config.epochs) == (1e-4, 2.5, 512, 12)


def test_claims_are_stated_either_way():
    def row(method, category, value, metric="image_auroc", protocol="paper"):
        label = cbigan.METHODS[method].label
        note = "mean of 2 of 15 categories: grid, pill; more"
        found = dict(method=label, category=category, metric=metric, value=value, protocol=protocol, note=note, seeds=1)
        return found | {"schedule": "1", "low": None, "high": None}

    rows = [row("cbigan", "overall", 0.6), row("bigan", "overall", 0.5), row("cbigan", "textures", 0.4)]
    rows += [row("cbigan", "objects", 0.7), row("bigan", "overall", 0.9, protocol="clean")]
    found = {text: (holds, evidence) for text, holds, evidence in cbigan.claims(rows)}
    above, evidence = found["image_auroc: CBiGAN is above its BiGAN limit"]
    assert above is True and "0.600" in evidence and "2 of 15 categories: grid, pill" in evidence
    assert found["image_auroc: textures are CBiGAN's strength"][0] is False
    assert found["image_auroc: CBiGAN is above its autoencoder limit on textures"][0] is None
    assert found["image_balanced_accuracy_oracle: CBiGAN is above its BiGAN limit"][0] is None
    other = [row("cbigan", "overall", 0.6), row("bigan", "overall", 0.5) | {"note": "mean of 1 of 15 categories: pill"}]
    assert next((holds, text) for _, holds, text in cbigan.claims(other))[0] is None
    nearly = [row("cbigan", "overall", 0.515), row("bigan", "overall", 0.5)]
    assert next(holds for _, holds, _ in cbigan.claims(nearly)) is False  # equal as far as verdicts go


def stored(runs, method, seed=0, **settings):
    """A finished run folder with the files that the pictures across runs read."""
    config = dataclasses.asdict(CBiGANConfig(**cbigan.METHODS[method].settings | settings, seed=seed))
    cell = cells.Cell("cbigan", method, PILL, seed, cells.Profile(), {})
    run = Run(cell.folder(runs))
    write_json(run.path / "config.json", config | {"method": method, "category": "pill"})
    scores = {f"lambda_{w}": {"image_auroc": 0.5 + w / 10 + config["alpha"] / 10} for w in WEIGHTS}
    held_out = {"held_out_mae": 0.1, "latent_mae": 0.8 - config["alpha"]}
    write_json(run.path / "metrics.json", {"protocols": {"paper": scores}, "held_out": held_out})
    images = np.zeros((3, 8, 8, 3), "uint8")
    names = np.array([f"test/crack/{i}.png" for i in range(3)])
    np.savez(run.path / "reconstructions.npz", names=names, images=images, reconstructions=images + 10)
    run.set_status("finished")
    return cell


def test_pictures_across_runs(tmp_path):
    members = [stored(tmp_path, name) for name in ("cbigan", "bigan", "autoencoder", "alpha-0.01")]
    members.append(stored(tmp_path, "cbigan", seed=1))
    members.append(stored(tmp_path, "cbigan-wide", width=32))  # another network: in no picture
    cbigan_figures.draw(members, tmp_path, tmp_path)
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "curve_alpha_pill.png", "curve_lambda_pill.png", "comparison_pill.png"
    }  # fmt: skip
    with open(tmp_path / "curve_alpha_pill.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["alpha"]) for r in rows] == [0.0, 1e-5, 1e-2, 1.0]
    assert [r["seeds"] for r in rows] == ["1", "2", "1", "1"]
    assert [float(r["image_auroc"]) for r in rows] == pytest.approx([0.51, 0.510001, 0.511, 0.61])
    assert float(rows[-1]["latent_mae"]) == pytest.approx(-0.2)
    with open(tmp_path / "curve_lambda_pill.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4 * len(WEIGHTS)


def test_no_run_draws_nothing(tmp_path):
    cbigan_figures.draw([], tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())


TINY = "--set width=1 batch_size=2 cycles_per_epoch=3 epochs=2 latent_size=4 critic_steps=1".split()


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("cbigan",), ("bigan", "cbigan", "autoencoder")], ids=["one method", "all three"])
def test_from_the_command_line(methods, tmp_path):
    """Tables, thresholds, curves and pictures of real (tiny) trainings."""
    from ganspect.data.synthetic import make

    make(tmp_path / "data", ("object",), size=64, train=8, good=2, per_defect=1)
    line = [sys.executable, "-m", "ganspect.reproduce.cli", "reproduce", "cbigan", "--profile", "smoke"]
    line += ["--data-root", tmp_path / "data", "--runs-dir", tmp_path / "runs", "--methods", *methods, *TINY]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(list(map(str, line)), env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    cell = SimpleNamespace(method=methods[0], subject=cbigan.SYNTHETIC[1], protocol="both", seed=0, paper="cbigan")
    run = Run(cells.Cell.folder(cell, tmp_path / "runs"))
    found = run.metrics["protocols"]
    assert set(found["paper"]) == {f"lambda_{w}" for w in WEIGHTS}
    for score in found["paper"]:
        assert "image_balanced_accuracy_oracle" in found["paper"][score]
        assert "image_balanced_accuracy_oracle" not in found["clean"][score]
        assert "image_balanced_accuracy" in found["clean"][score]
    assert "pixel_auroc" in found["paper"]["lambda_0.1"] and "pixel_auroc" not in found["paper"]["lambda_0.2"]
    rows = run.read_table("scores_2.csv")
    threshold = run.metrics["image_thresholds"]["lambda_0.1"]["value"]
    called = [float(r["lambda_0.1"]) >= threshold for r in rows]
    labels = np.array([int(r["label"]) for r in rows])
    rates = [np.mean(np.array(called)[labels == k] == k) for k in (0, 1)]
    assert found["clean"]["lambda_0.1"]["image_balanced_accuracy"] == pytest.approx(np.mean(rates))
    assert {"held_out_mae", "latent_mae"} <= set(run.read_table("history.csv")[0])
    page = (tmp_path / "runs" / "cbigan" / "report.html").read_text()
    assert "not checked" in page and "lambda" in page
    figures = {p.name for p in (tmp_path / "runs" / "cbigan" / "figures").glob("*.png")}
    expected = {"curve_lambda_object.png"}
    assert figures == (
        expected if len(methods) == 1 else expected | {"curve_alpha_object.png", "comparison_object.png"}
    )
    assert plan.every_cell(cbigan, tmp_path / "runs")
    assert json.loads((run.path / "status.json").read_text())["state"] == "finished"


@pytest.mark.slow
def test_packs_train_and_score_on_jax_without_tensorflow(tmp_path, without_tensorflow):
    """The way to a GPU machine that has JAX alone: packed larger than the network's images, resized when loaded."""
    from ganspect.data.commands import pack
    from ganspect.data.synthetic import make

    made = make(tmp_path / "data", ("object",), size=64, train=8, good=2, per_defect=1)
    pack(made / "object", tmp_path / "packs", size=None)
    line = [
        sys.executable,
        "-m",
        "ganspect.reproduce.cli",
        "reproduce",
        "cbigan",
        "--profile",
        "smoke",
        "--methods",
        "cbigan",
    ]
    line += ["--data-root", str(tmp_path / "packs"), "--runs-dir", str(tmp_path / "runs"), *TINY]
    done = subprocess.run(line, env=without_tensorflow, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (cell,) = plan.every_cell(cbigan, tmp_path / "runs")
    run = Run(cell.folder(tmp_path / "runs"))
    assert run.manifest["backend"] == "jax" and run.metrics["source_shape"] == [64, 64]
    assert run.metrics["image_shape"] == [32, 32, 3] and len(run.read_table("history.csv")) == 2
