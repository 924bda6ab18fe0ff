"""The AnoGAN and GANomaly script: cells, departures, draws of test images, claims, a tiny run from the command line."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from ganspect.data.arrays import draw_test, load_category
from ganspect.evaluation import metrics
from ganspect.models.anogan import AnoGANConfig
from ganspect.models.ganomaly import GANomalyConfig
from ganspect.reproduce import anogan_ganomaly as paper
from ganspect.reproduce import cells, plan, printed, scoring, verdicts
from ganspect.training.run import Run

CASTING, CLOUD = paper.SUBJECTS
_, SYNTHETIC_CLOUD = paper.SYNTHETIC


def chosen(profile, subjects=(CASTING, CLOUD), **options):
    return cells.expand(paper, profile, {(s.dataset, s.category): None for s in subjects}, **options)


def test_the_paper_profile_is_the_study_and_departs_in_nothing():
    for cell in chosen("paper", methods=list(paper.METHODS)):
        method = paper.METHODS[cell.method]
        config = method.config(**cell.settings)
        assert sum(cells.departures(method, cell.subject, asdict(config)), []) == []
        assert method.schedule_share(asdict(config)) == 1.0
    casting, cloud = (
        {c.method: c.settings for c in chosen("paper", (s,), methods=list(paper.METHODS))} for s in (CASTING, CLOUD)
    )
    assert AnoGANConfig(**casting["anogan"]) == AnoGANConfig()
    assert (cloud["anogan"]["layout"], cloud["anogan"]["image_size"], cloud["anogan"]["channels"]) == ("cloud", 64, 3)
    assert (casting["ganomaly"]["batch_size"], cloud["ganomaly"]["batch_size"]) == (32, 50)
    assert GANomalyConfig(**cloud["ganomaly"]).extra_layers == 1
    assert (casting["ganomaly-rgb"]["channels"], casting["ganomaly-gray"]["channels"]) == (3, 1)
    assert "ganomaly-rgb" not in cloud and casting["anogan-notebook"]["search"] == "dense"


def test_quick_trains_ganomaly_in_full_on_casting_and_says_what_it_reduces():
    quick = {c.method: c for c in chosen("quick", (CASTING,), methods=list(paper.METHODS))}
    full = paper.METHODS["ganomaly"].config(**quick["ganomaly"].settings)
    assert sum(cells.departures(paper.METHODS["ganomaly"], CASTING, asdict(full)), []) == []
    assert quick["anogan"].profile.drawn == (100, 100)
    assert {c.method for c in chosen("quick")} == {"anogan", "ganomaly", "ganomaly-notebook"}
    config = asdict(AnoGANConfig(**quick["anogan"].settings))
    assert paper.METHODS["anogan"].schedule_share(config) == pytest.approx(config["epochs"] / 100)
    small = asdict(AnoGANConfig(**chosen("quick", (SYNTHETIC_CLOUD,), methods=["anogan"])[0].settings))
    assert paper.METHODS["anogan"].schedule_share(small) == pytest.approx(1.0)  # 50 epochs of 28 batches of 50


def test_settings_reach_the_methods_that_have_them():
    some = {c.method: c.settings for c in chosen("quick", (CASTING,), overrides=["search_steps=7", "width=8"])}
    assert some["anogan"]["search_steps"] == 7 and "search_steps" not in some["ganomaly"]
    assert some["anogan"]["width"] == some["ganomaly"]["width"] == 8
    with pytest.raises(ValueError, match="wdith"):
        chosen("quick", (CASTING,), overrides=["wdith=8"])


class Scored:
    """A detector whose evidence is its score."""

    map_names = ()

    def score_from(self, evidence, name=None):
        return evidence


def test_draws_of_test_images_and_all_of_them():
    """Means over draws of 100 + 100, and all 262 + 453, by both protocols; the clean one without the repeats."""
    rng = np.random.default_rng(0)
    labels = np.r_[np.zeros(262, int), np.ones(453, int)]
    scores = list(rng.normal(labels.astype(float), 1.0))
    names = [f"{i}.png" for i in range(len(labels))]
    arrays = SimpleNamespace(labels=labels, masks=[None] * 715, test=[0] * 715, test_names=names, duplicates=names[:64])
    found, _, _ = scoring.measure(Scored(), arrays, scores, scores[:20], ["s"], draws=paper.DRAWS)
    whole, drawn = found["paper"]["s, all"], found["paper"]["s"]
    assert list(found["paper"]) == list(found["clean"]) == ["s", "s, all"]
    assert whole["image_auroc"] == metrics.image_auroc(labels, np.array(scores))
    assert drawn["image_auroc"] == pytest.approx(whole["image_auroc"], abs=0.01)
    assert drawn["image_auroc_low"] < drawn["image_auroc"] < drawn["image_auroc_high"]
    assert "200 draws of 100 + 100" in drawn["interval"] and "interval" not in whole
    assert whole["image_accuracy_oracle"] == metrics.accuracy_oracle(labels, scores)[0]
    assert "image_accuracy_oracle" not in found["clean"]["s, all"]
    assert found["clean"]["s, all"]["image_auroc"] == metrics.image_auroc(labels[64:], np.array(scores[64:]))
    few = scoring.measure(Scored(), arrays, scores, scores[:20], ["s"], draws=(500, 500, 9))[0]["paper"]
    assert few["s"] == few["s, all"]


def test_one_draw_of_a_category(tmp_path):
    from ganspect.data.synthetic import make

    arrays = load_category(make(tmp_path, ("disc",), size=32, train=4, good=5, per_defect=2) / "disc", channels=1)
    drawn = draw_test(arrays, 3, 4)
    assert (
        (drawn.labels == 0).sum() == 3
        and (drawn.labels == 1).sum() == 4
        and drawn.notes[-1].startswith("one draw of 3 + 4")
    )
    kept = [arrays.test_names.index(name) for name in drawn.test_names]
    assert kept == sorted(kept)
    for i, k in enumerate(kept):
        assert np.array_equal(drawn.test[i], arrays.test[k]) and drawn.defects[i] == arrays.defects[k]
        assert np.array_equal(drawn.masks[i], arrays.masks[k])
    assert draw_test(arrays, 3, 4).test_names == drawn.test_names
    assert draw_test(arrays, 3, 4, seed=1).test_names != drawn.test_names
    assert draw_test(arrays, 99, 99) is arrays


def row(method, value, metric="image_auroc", dataset="casting", category="casting", table="figures", **more):
    return dict(table=table, method=method, dataset=dataset, category=category, metric=metric, value=value) | {
        "protocol": "paper", "schedule": "0.5", "low": None, "high": None, **more
    }  # fmt: skip


def test_claims_are_stated_either_way():
    rows = [row("GANomaly", 0.93), row("AnoGAN", 0.56), row("GANomaly", 0.7, "image_accuracy_oracle")]
    rows += [row("GANomaly", 0.6, dataset="synthetic", category="cloud")]
    rows += [row("AnoGAN", 0.9, dataset="synthetic", category="cloud")]
    held = [holds for _, holds, _ in paper.claims(rows)]
    assert held == [True, False, None, None, None, False] and "synthetic" in paper.claims(rows)[1][0]
    rows += [
        row("GANomaly", 0.71, dataset="cloud", category="cloud"),
        row("AnoGAN", 0.7, dataset="cloud", category="cloud"),
    ]
    rows += [row(paper.METHODS[f"ganomaly-{n}"].label, v, table="colour") for n, v in (("gray", 0.9), ("rgb", 0.7))]
    rows += [
        row(paper.METHODS[f"ganomaly-{n}"].label, v, dataset="cloud", category="cloud", table="size")
        for n, v in (("64", 0.6), ("256", 0.8))
    ]
    held = [holds for _, holds, _ in paper.claims(rows)]
    assert held == [True, True, None, True, False, False] and "synthetic" not in paper.claims(rows)[1][0]
    near = [row("GANomaly", 0.6), row("AnoGAN", 0.56), row("GANomaly", 0.81, "image_accuracy_oracle", protocol="clean")]
    assert [holds for _, holds, _ in paper.claims(near)] == [False, *[None] * 5]


def test_a_claim_within_the_intervals_is_undecided():
    wide = [row("GANomaly", 0.6, low=0.1, high=0.9), row("AnoGAN", 0.2, low=0.15, high=0.25)]
    _, held, evidence = paper.claims(wide)[0]
    assert held == "undecided" and "0.600 (0.100 to 0.900) against 0.200 (0.150 to 0.250)" in evidence
    against = [row("GANomaly", 0.2, low=0.1, high=0.9), row("AnoGAN", 0.21, low=0.15, high=0.25)]
    assert paper.claims(against)[0][1] == "undecided"
    below = [row("GANomaly", 0.1, low=0.05, high=0.12), wide[1]]
    assert paper.claims(below)[0][1] is False
    apart = [row("GANomaly", 0.6, low=0.3, high=0.9), wide[1]]
    assert paper.claims(apart)[0][1] is True
    accuracy = row("GANomaly", 0.86, "image_accuracy_oracle", low=0.79, high=0.9)
    assert paper.claims([accuracy])[-1][1] == "undecided"
    assert paper.claims([accuracy | {"low": 0.81}])[-1][1] is True
    cloud = dict(dataset="cloud", category="cloud", low=0.5, high=0.9)
    equal = [row("GANomaly", 0.71, **cloud), row("AnoGAN", 0.7, **cloud)]
    assert paper.claims(equal)[1][1] is True  # overlapping intervals do not speak against equality


def test_a_bound_in_the_text_is_judged_as_one():
    line = next(x for x in printed.published("anogan_ganomaly") if x["relation"] == ">")
    found = dict(metric="image_accuracy_oracle", low=None, high=None, seeds=1)
    assert verdicts.verdict(found | {"value": 0.81}, line, verdicts.Limits()) == "close"
    assert verdicts.verdict(found | {"value": 0.79}, line, verdicts.Limits()) == "differs"
    assert verdicts.verdict(found | {"value": 0.9}, line, verdicts.Limits(other_data=True)) == "other data"


@pytest.mark.slow
def test_a_tiny_run_from_the_command_line(tmp_path):
    """Both methods on the synthetic clouds: rows, scores of training images, plots, nothing trained again."""
    line = [sys.executable, "-m", "ganspect.reproduce.cli", "reproduce", "anogan_ganomaly", "--categories", "cloud"]
    line += "--set width=2 latent_size=5 epochs=1 steps_per_epoch=2 batch_size=2 search_steps=3".split()
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "anogan_ganomaly"
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["method"] for r in rows} >= {"AnoGAN", "GANomaly", "GANomaly, G_E twice", "AnoGAN, L_R alone"}
    assert {r["verdict"].split(",")[0] for r in rows} <= {"other data", ""}
    run = folder / "synthetic" / "anogan" / "cloud" / "seed_0"
    assert len((run / "scores_train.csv").read_text().splitlines()) == 11
    assert {"histogram_scatter.png", "pairs.png", "generated.png"} <= {p.name for p in (run / "figures").iterdir()}
    found = json.loads((run / "metrics.json").read_text())
    assert found["held_out"] == {} and found["protocols"]["paper"]["anomaly"]["image_accuracy_oracle"] > 0.5
    assert "about equal on synthetic clouds" in done.stdout
    weights = (run / "checkpoints" / "last.npz").read_bytes()
    config = json.loads((run / "config.json").read_text())
    config.pop("restarts")  # a run from before there was this setting
    (run / "config.json").write_text(json.dumps(config))
    again = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert again.returncode == 0 and "2 cells: 2 kept" in again.stdout
    (run / "metrics.json").unlink()
    line += ["--rescore", "--methods", "anogan"]
    again = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert again.returncode == 0 and "kept" not in again.stdout
    rescored = json.loads((run / "metrics.json").read_text())
    assert rescored["protocols"] == found["protocols"] and (run / "checkpoints" / "last.npz").read_bytes() == weights
    manifest = json.loads((run / "manifest.json").read_text())
    assert "--rescore" not in manifest["command"] and manifest["trained_by"] == manifest["commit"]


@pytest.mark.slow
def test_packs_train_and_score_on_jax_without_tensorflow(tmp_path, without_tensorflow):
    """The way to a GPU machine that has JAX alone, both methods."""
    from ganspect.data.commands import pack
    from ganspect.data.synthetic import make

    made = make(tmp_path / "data", ("disc",), size=32, train=8, good=2, per_defect=1)
    pack(made / "disc", tmp_path / "packs", size=None)
    line = [sys.executable, "-m", "ganspect.reproduce.cli", "reproduce", "anogan_ganomaly", "--profile", "smoke"]
    line += [
        "--data-root",
        str(tmp_path / "packs"),
        "--runs-dir",
        str(tmp_path / "runs"),
        "--set",
        "width=2",
        "epochs=2",
    ]
    line += ["steps_per_epoch=2", "batch_size=2", "search_steps=5", "latent_size=5"]
    done = subprocess.run(line, env=without_tensorflow, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = plan.every_cell(paper, tmp_path / "runs")
    assert {cell.method for cell in found} == {"anogan", "ganomaly"}
    for cell in found:
        run = Run(cell.folder(tmp_path / "runs"))
        assert run.manifest["backend"] == "jax" and run.metrics["image_shape"] == [32, 32, 1]
        assert len(run.read_table("history.csv")) == 2 and "disc" in done.stdout
