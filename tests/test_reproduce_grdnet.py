"""GRD-Net's script: several epochs of one training in their tables, private data, regions, a tiny run."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from ganspect.data.corruption import CorruptedSampler
from ganspect.data.patches import stack_images
from ganspect.data.regions import with_regions
from ganspect.models.draem import DRAEMConfig
from ganspect.models.grdnet import GRDNet, GRDNetConfig
from ganspect.reproduce import cells, collect, committed, grdnet, milestones, report, tables
from ganspect.training.files import write_json
from ganspect.training.fit import fit
from ganspect.training.run import Run, write_csv

PILL = next(s for s in grdnet.SUBJECTS if s.category == "pill")


def views(method, epochs):
    found = milestones.views(grdnet, grdnet.METHODS[method], PILL, {"epochs": epochs})
    return [(v.epoch, v.tables, v.milestone, round(v.share, 3), v.listed) for v in found]


def longer(method, epochs):
    found = milestones.views(grdnet, grdnet.METHODS[method], PILL, {"epochs": epochs})
    return [(v.epoch, v.tables, v.milestone) for v in found if v.longer]


def test_which_tables_a_training_stands_in():
    others = ("roi", "bottleneck")
    assert views("grdnet", 35) == [(35, ("3",), 35, 1, False), (10, ("2",), 10, 1, False), (35, others, 0, 0.175, True)]
    assert views("grdnet", 4)[0] == (4, ("2",), 10, 0.4, False)
    assert views("grdnet", 60)[0] == (60, ("4",), 100, 0.6, False)
    assert [v[0] for v in views("grdnet", 200)] == [200, 100, 35, 10, 200]
    assert [v[:3] for v in views("grdnet", 300)[:2]] == [(300, ("5",), 300), (200, ("5",), 200)]
    assert [v[:3] for v in views("grdnet-case-2", 200)[:2]] == [(200, ("7",), 200), (100, ("7",), 100)]
    assert longer("grdnet", 300) == [(300, ("5",), 300)] and longer("grdnet-case-2", 200) == [(200, ("7",), 200)]
    assert longer("grdnet", 200) == longer("grdnet-case-2", 100) == []
    assert views("residual-ae", 500) == [(500, ("1",), 500, 1, False), (250, ("1",), 250, 1, False)]
    assert views("residual-ae", 60) == [(60, ("1",), 250, 0.24, False)]
    assert views("grdnet-case-3", 10) == [(10, ("7",), 100, 0.1, False), (10, ("roi",), 0, 0.1, True)]
    assert views("ganomaly", 200) == [(200, ("5",), 200, 1, False)]
    assert milestones.to_score(grdnet, grdnet.METHODS["draem"], PILL, 200) == {10, 35, 100}


def test_the_defaults_depart_in_nothing():
    for name, method in grdnet.METHODS.items():
        config = method.config(**{"channels": 3, "seed": 4, **method.settings_for(PILL)})
        assert cells.departures(method, PILL, vars(config)) == ([], [], [], [], []), name
    quick = vars(GRDNetConfig(**grdnet.QUICK))
    model, schedule, losses, scores, noise = cells.departures(grdnet.METHODS["grdnet"], PILL, quick)
    assert (model, schedule, losses, scores, noise) == (["width 16"], ["epochs 10"], [], [], [])
    gray = vars(GRDNetConfig(noise="gray"))
    assert cells.departures(grdnet.METHODS["grdnet"], PILL, gray)[-1] == ["noise gray"]


def test_other_noise_than_the_papers_is_named():
    def named(name, config):
        return grdnet.METHODS[name].variant_of(vars(config))

    assert named("grdnet", GRDNetConfig()) == "" and named("grdnet-case-2", GRDNetConfig()) == ""
    assert named("grdnet-perlin", GRDNetConfig(noise="perlin")) == "other noise"
    assert named("grdnet-gray", GRDNetConfig(noise="gray")) == "other noise"
    assert named("draem", DRAEMConfig()) == "other noise"  # textures made by a procedure, not DTD
    assert named("draem", DRAEMConfig(texture_folder="dtd")) == ""
    dtd = vars(DRAEMConfig(texture_folder="dtd", epochs=200, schedule_epochs=200))
    assert cells.departures(grdnet.METHODS["draem"], PILL, dtd) == ([], [], [], [], [])
    assert grdnet.METHODS["grdnet-case-3"].settings_for(PILL) == {"loss_case": 3, "epochs": 100}
    for profile in grdnet.PROFILES.values():
        assert set(profile) <= set(grdnet.METHODS)


def test_samplers_follow_the_notes():
    ours = grdnet.sampler(GRDNetConfig(), ((128, 128),) * 20)
    assert (ours.noise, ours.corrupted, ours.opacity, ours.turned, ours.batch_size) == ("rgb", 0.75, (0.5, 1.0), 1.0, 8)
    assert ours.rotation == pytest.approx(np.pi / 2) and ours.steps == 2
    draem = grdnet.draem_sampler(DRAEMConfig(textures=3), ((128, 128),) * 20)
    assert (draem.noise, draem.corrupted, draem.opacity, draem.turned) == ("texture", 0.5, (0.2, 1.0), 0.3)
    assert draem.sources.shape == (3, 128, 128, 3)
    textured = grdnet.sampler(GRDNetConfig(noise="texture", textures=3), ((128, 128),) * 20)
    assert (textured.corrupted, textured.opacity, textured.turned) == (0.75, (0.5, 1.0), 1.0)  # still GRD-Net's
    np.testing.assert_array_equal(textured.sources, draem.sources)
    assert grdnet.sampler(GRDNetConfig(image_size=256), ((256, 256),) * 8).stride == 64
    held = grdnet.sampler(GRDNetConfig(), ((128, 128),) * 40, held_out=True)
    assert held.steps == 1 and held.batch_size == 32 and not held.augment


def store(runs, method, epochs, values, seed=0, done=None, **config):
    """A run on `pill` with image AUROC `values` of `{epoch: value}`: finished, or stopped after `done` epochs."""
    ours = grdnet.METHODS[method]
    settings = {"channels": 3, **ours.settings_for(PILL), "epochs": epochs, **config}
    cell = cells.Cell("grdnet", method, PILL, seed, cells.Profile(), settings)
    run = Run(cell.folder(runs))
    manifest = {"command": "c", "commit": "0" * 40, "dirty": False, "hardware": "h", "threads": 2, "date": "2026-01-01"}
    write_json(run.path / "config.json", vars(ours.config(**settings)) | {"category": "pill"})
    write_json(run.path / "manifest.json", manifest)
    score = next(iter(ours.of(grdnet, "scores")))
    for epoch, value in values.items():
        found = {"image_auroc": value, "pixel_auroc": 0.5, "image_auroc_roi": value - 0.1, "undefined": {}}
        metrics = {"protocols": {"paper": {score: found}, "clean": {score: found}}, "seconds_per_image": 1.5}
        metrics |= {"image_shape": [128, 128, 3], "notes": [], "train_images": 240, "all_train_images": 267}
        write_json(run.metrics_path(epoch if epoch < epochs else None), metrics)
    losses = {"adversarial": 1e-3, "contextual": 0.5, "encoding": 1e-4, "dissimilarity": 0.4}
    rows = [
        {"epoch": e, "step": e} | losses | {f"held_out_{name}": 2 * value for name, value in losses.items()}
        for e in range(1, (done or epochs) + 1)
    ]
    run.write_table("history.csv", rows)
    run.set_status("interrupted" if done else "finished")
    return cell


def test_rows_of_every_epoch_beside_their_printed_values(tmp_path):
    cell = store(tmp_path, "grdnet", 35, {10: 0.775, 35: 0.80})
    rows = collect.measured(grdnet, [cell], tmp_path)
    found = {(r["table"], r["epochs"], r["metric"]): r for r in rows if r["protocol"] == "paper"}
    ten, thirty_five = found["2", "10", "image_auroc"], found["3", "35", "image_auroc"]
    assert (ten["verdict"], ten["schedule"], ten["model"]) == ("reproduced", "1", "paper")  # printed 77.5 percent
    assert thirty_five["verdict"] == "differs"  # 89.8
    assert found["roi", "", "image_auroc_roi"]["verdict"] == "reduced schedule (0.175)"
    assert ("2", "10", "image_auroc_roi") not in found and found["roi", "", "image_auroc_roi"][
        "value"
    ] == pytest.approx(0.7)
    assert found["bottleneck", "", "validation_contextual_loss"]["value"] == 1.0
    assert [key for key in found if key[2] == "seconds_per_image"] == [("3", "35", "seconds_per_image")]
    lines = {(x["category"], x["method"], x["metric"]): x for x in tables.joined(grdnet, rows)["2"]}
    line = lines["pill", "GRD-Net", "image_auroc"]
    assert (line["printed"], line["paper"], line["verdict"]) == ("0.775", "0.775", "reproduced")
    reduced = store(tmp_path, "grdnet", 4, {4: 0.775}, width=16)
    row = next(
        r for r in collect.measured(grdnet, [reduced], tmp_path) if r["table"] == "2" and r["metric"] == "image_auroc"
    )
    assert row["verdict"] == "reduced model (width 16), reduced schedule (0.4)"
    assert "after 4 of the 10 epochs" in row["note"] and cells.SOUGHT not in row["note"]
    gray = store(tmp_path, "grdnet-gray", 10, {10: 0.775}, noise="gray")
    found = [r for r in collect.measured(grdnet, [gray], tmp_path) if r["metric"] == "image_auroc"]
    assert {r["protocol"] for r in found} == {"paper", "clean"}
    assert all(cells.SOUGHT in r["note"] and "printed: GRD-Net" in r["note"] for r in found)


def test_rows_of_a_training_that_stopped_on_the_way(tmp_path):
    stopped = store(tmp_path, "grdnet", 100, {10: 0.775, 35: 0.80}, done=70)
    rows = [r for r in collect.measured(grdnet, [stopped], tmp_path) if r["protocol"] == "paper"]
    assert {(r["table"], r["epochs"], r["metric"]) for r in rows if r["metric"] in grdnet.AUROC} == {
        (table, epochs, metric) for table, epochs in (("2", "10"), ("3", "35")) for metric in grdnet.AUROC
    }
    assert all("a training of 100 epochs, stopped after 70" in r["note"] for r in rows)
    assert [r["verdict"] for r in rows if r["epochs"] == "10" and r["metric"] == "image_auroc"] == ["reproduced"]
    assert not [r for r in rows if r["metric"] == "seconds_per_image"]  # measured at the end
    whole = store(tmp_path, "grdnet", 10, {10: 0.6}, seed=1)
    rows = collect.measured(grdnet, [stopped, whole], tmp_path)
    found = {(r["epochs"], r["value"], r["seeds"]) for r in rows if r["metric"] == "image_auroc"}
    assert found == {("10", 0.6, 1), ("", 0.6, 1)}  # the latter of the last epoch, in the table of regions
    assert "stopped" not in "".join(r["note"] for r in rows)
    early = store(tmp_path, "draem", 100, {}, done=4)
    assert not collect.measured(grdnet, [early], tmp_path)


def test_committed_rows_give_way_to_those_of_a_training_that_stopped(tmp_path):
    old = store(tmp_path / "old", "grdnet", 10, {10: 0.6})
    write_csv(tmp_path / "grdnet.csv", collect.measured(grdnet, [old], tmp_path / "old"), collect.COLUMNS)
    cell = store(tmp_path / "new", "grdnet", 100, {10: 0.7}, done=12)
    found = committed.join(grdnet, [cell], tmp_path / "new", tmp_path / "grdnet.csv")
    assert {r["value"] for r in found.rows if r["metric"] == "image_auroc"} == {0.7} and not found.kept


@pytest.mark.parametrize("old, done", [((100, None), 70), ((100, 70), 35), ((35, None), 12)])
def test_committed_rows_of_more_epochs_stay_where_a_training_stopped(old, done, tmp_path):
    values = {10: 0.6, **({35: 0.65} if old[0] > 35 else {}), **({} if old[1] else {old[0]: 0.66})}
    before = store(tmp_path / "old", "grdnet", old[0], values, done=old[1])
    rows = collect.measured(grdnet, [before], tmp_path / "old")
    write_csv(tmp_path / "results" / "grdnet.csv", rows, collect.COLUMNS)
    kept = (tmp_path / "results" / "grdnet.csv").read_bytes()
    cell = store(tmp_path / "new", "grdnet", 100, {10: 0.7}, done=done)
    console = Console(width=160, record=True)
    (cell.folder(tmp_path / "new") / "curve.csv").write_text("epoch,step\n1,2\n")
    report.publish(grdnet, [cell], tmp_path / "new", tmp_path / "results", console)
    assert (tmp_path / "results" / "grdnet.csv").read_bytes() == kept
    assert "kept, as those here have fewer epochs: grdnet mvtec_ad/pill" in console.export_text()
    assert not (tmp_path / "results" / "curves").exists()


def test_committed_rows_after_more_epochs_stay_beside_those_of_a_shorter_training(tmp_path):
    old = store(tmp_path / "old", "grdnet", 100, {10: 0.6, 35: 0.65, 100: 0.7})
    write_csv(tmp_path / "grdnet.csv", collect.measured(grdnet, [old], tmp_path / "old"), collect.COLUMNS)
    cell = store(tmp_path / "new", "grdnet", 10, {10: 0.8})
    found = committed.join(grdnet, [cell], tmp_path / "new", tmp_path / "grdnet.csv")
    rows = [r for r in found.rows if (r["metric"], r["protocol"]) == ("image_auroc", "paper") and r["table"] != "roi"]
    values = {(r["epochs"], r["value"]) for r in rows}
    assert values == {("10", 0.8), ("35", 0.65), ("100", 0.7)}
    assert list(found.replaced) == list(found.longer) == [("grdnet", "mvtec_ad", "pill")]


@pytest.mark.parametrize("before, here, value", [(4, 4, 0.8), (4, 6, 0.8), (6, 4, 0.6), (10, 4, 0.6)])
def test_a_cell_has_one_row_of_a_reduced_schedule(before, here, value, tmp_path):
    """A training of 4 epochs gives the row of Table 2's 10 a second time: that of more epochs stands."""
    old = store(tmp_path / "old", "grdnet", before, {before: 0.6})
    write_csv(tmp_path / "grdnet.csv", collect.measured(grdnet, [old], tmp_path / "old"), collect.COLUMNS)
    cell = store(tmp_path / "new", "grdnet", here, {here: 0.8})
    for _ in range(2):
        found = committed.join(grdnet, [cell], tmp_path / "new", tmp_path / "grdnet.csv")
        keys = [tuple(r[name] for name in (*collect.KEYS, "protocol")) for r in found.rows]
        assert len(keys) == len(set(keys))
        wanted = {"table": "2", "epochs": "10", "metric": "image_auroc", "protocol": "paper"}
        assert [r["value"] for r in found.rows if wanted.items() <= r.items()] == [value]
        write_csv(tmp_path / "grdnet.csv", found.rows, collect.COLUMNS)


def test_rows_name_what_trained_and_what_scored(tmp_path):
    cell = store(tmp_path, "grdnet", 10, {10: 0.8})
    run, gpu = Run(cell.folder(tmp_path)), {"hardware": "gpu", "threads": None, "devices": "2"}
    for session, epoch, expected in ((gpu, 0, "gpu, 2 devices"), ({"hardware": "h", "threads": 2}, 10, None)):
        run.set_status("running")
        run.open(run.config, run.manifest | session, position=(epoch, 0))
        rows = [r for r in collect.measured(grdnet, [cell], tmp_path) if r["metric"] == "image_auroc"]
        assert not rows
        run.set_status("finished")
        rows = collect.measured(grdnet, [cell], tmp_path)
        assert {r["hardware"] for r in rows} == {expected or "gpu, 2 devices; scored on h, 2 threads, 2 devices"}


def test_rows_name_the_epoch_whose_weights_were_kept(tmp_path):
    cell = store(tmp_path, "grdnet", 10, {10: 0.8})
    Run(cell.folder(tmp_path)).set_status("finished", weights_of_epoch=7)
    rows = [r for r in collect.measured(grdnet, [cell], tmp_path) if r["metric"] == "image_auroc"]
    assert rows and all("weights of epoch 7, stopped after 10" in r["note"] for r in rows)


def test_losses_stand_beside_those_of_the_private_vials(tmp_path):
    cell = store(tmp_path, "residual-ae", 250, {250: 0.6})
    rows = collect.measured(grdnet, [cell], tmp_path)
    row = next(r for r in rows if r["metric"] == "validation_contextual_loss")
    assert (row["table"], row["epochs"], row["value"], row["verdict"]) == ("1", "250", 1.0, "other data")
    assert row["data"] == "mvtec_ad/pill in the place of bfs_vials/vials"
    lines = tables.joined(grdnet, rows)["1"]
    ours = next(x for x in lines if (x["category"], x["metric"]) == ("pill", "validation_contextual_loss"))
    assert ours["printed"] == "0.02782" and ours["method"] == "residual AE, 250 epochs" and ours["paper"] == "1"
    vials = next(x for x in lines if (x["category"], x["metric"]) == ("vials", "validation_contextual_loss"))
    assert vials["verdict"] == "not run (private data)"


def test_claims_compare_equal_epochs(tmp_path):
    some = [store(tmp_path, "grdnet", 10, {10: 0.8}), store(tmp_path, "draem", 10, {10: 0.7})]
    checked = {text: held for text, held, _ in grdnet.claims(collect.measured(grdnet, some, tmp_path))}
    assert checked["image_auroc, mvtec_ad/pill: GRD-Net is above DRAEM after 10 epochs"] is True
    assert checked["pixel_auroc, mvtec_ad/pill: GRD-Net is above DRAEM after 10 epochs"] is False
    assert grdnet.claims([])[0][1] is None


@pytest.mark.slow
@pytest.mark.parametrize("others", [[], ["grdnet-case-2"]])
def test_a_tiny_run_from_the_command_line(tmp_path, others):
    """Eleven epochs on the synthetic tablet: scored after ten as well, regions measured, pictures drawn."""
    line = [sys.executable, "-m", "ganspect.reproduce.grdnet", "--runs-dir", str(tmp_path), "--categories", "object"]
    line += ["--methods", *others, "grdnet"]
    line += "--set epochs=11 width=2 stages=2".split()
    line += "image_size=32 patch_size=32 patch_stride=32".split()
    line += ["--profile", "quick", "--data-root", str(tmp_path / "data")]
    from ganspect.data.synthetic import make

    make(tmp_path / "data", ("object",), size=32, train=10, good=2, per_defect=1)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "160"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    folder = tmp_path / "grdnet/synthetic/grdnet/object/seed_0"
    early, last = (json.loads((folder / name).read_text()) for name in ("metrics_10.json", "metrics.json"))
    assert early["protocols"]["paper"].keys() == last["protocols"]["paper"].keys() == {"anomaly", "residual"}
    assert {"image_auroc_roi", "marked_outside", "images_outside"} <= last["protocols"]["clean"]["anomaly"].keys()
    assert (folder / "scores_10.csv").exists() and (folder / "scores_11.csv").exists()
    assert {"corruption.png", "maps.png", "training.png"} <= {p.name for p in (folder / "figures").iterdir()}
    with open(tmp_path / "grdnet/results.csv", newline="") as file:
        rows = {(r["method"], r["table"], r["epochs"], r["metric"], r["protocol"]) for r in csv.DictReader(file)}
    assert ("GRD-Net", "2", "10", "image_auroc", "clean") in rows
    assert ("GRD-Net", "3", "35", "pixel_auroc", "paper") in rows
    assert (("GRD-Net loss case 2", "roi", "", "marked_outside", "paper") in rows) == bool(others)
    history = (folder / "history.csv").read_text().splitlines()
    assert {"held_out_contextual", "rate"} <= set(history[0].split(",")) and len(history) == 12


def scene(rng):
    """A bright disc on a dark ground, uint8 `[64, 64, 3]`, and the disc, which is the region of interest."""
    y, x = np.mgrid[:64, :64]
    disc = np.hypot(y - rng.uniform(26, 38), x - rng.uniform(26, 38)) < 20
    image = np.where(disc[..., None], [190, 170, 120], [50, 60, 80]) + rng.normal(0, 6, (64, 64, 3))
    return np.clip(image, 0, 255).astype("uint8"), disc


def marked(detector, attended, rng):
    """Share of the pixels with A > 1/2 in patches of random colours, in the middle of the disc or in a corner."""
    found = []
    for _ in range(20):
        image, disc = scene(rng)
        y, x = np.array(np.nonzero(disc)).mean(axis=1).round().astype(int) if attended else (6, 6)
        spoilt = np.s_[y - 5 : y + 5, x - 5 : x + 5]
        image[spoilt] = rng.integers(0, 255, (10, 10, 3))
        found.append(detector.anomaly_map(image)[spoilt] > 0.5)
    return float(np.mean(found))


@pytest.mark.slow
def test_a_defect_is_marked_inside_the_region_and_not_outside():
    """Section 4.2 on a synthetic set: trained with regions the U-Net marks inside alone, without them everywhere."""
    rng = np.random.default_rng(0)
    images, regions = zip(*(scene(rng) for _ in range(16)), strict=True)
    for seen in (list(regions), None):
        config = GRDNetConfig(
            image_size=64, patch_size=64, patch_stride=64, width=16, stages=4, latent_channels=16, rate=3e-4
        )
        detector = GRDNet(config)
        detector.compile()
        stack, sizes = stack_images(with_regions(list(images), seen))
        fit(detector, stack, CorruptedSampler(sizes, 64, 80, 8, highest_scale=4), 40)
        normal = np.mean([detector.anomaly_map(scene(rng)[0]) > 0.5 for _ in range(10)])
        inside, outside = (marked(detector, attended, np.random.default_rng(1)) for attended in (True, False))
        assert normal < 0.01 and inside > 0.8, (seen is None, normal, inside)
        assert outside < 0.05 if seen else outside > 0.8, (seen is None, outside)


def test_a_note_on_regions_stands_where_they_bear_on_the_value():
    note = "resized; regions of interest made (chosen by eye): a ring; regions of interest made empty: 1 image"
    attends, other = grdnet.METHODS["grdnet-case-2"], grdnet.METHODS["draem"]
    assert collect._that_bears_on(other, "image_auroc", note) == "resized"
    assert collect._that_bears_on(other, "image_auroc_roi", note) == note
    assert collect._that_bears_on(attends, "image_auroc", note) == note
