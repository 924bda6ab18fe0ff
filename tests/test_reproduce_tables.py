"""Verdicts, printed values, joined tables."""

import csv
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ganspect.models.fcbigan import FCBiGANConfig
from ganspect.reproduce import cells, collect, fcbigan, formats, plan, printed, tables, verdicts
from ganspect.training.files import write_json
from ganspect.training.run import Run, write_csv


@pytest.mark.parametrize(
    ("metric", "value", "printed", "interval", "seeds", "expected"),
    [
        ("pixel_auroc", 0.931, 0.95, (None, None), 1, "reproduced"),
        ("pixel_auroc", 0.93, 0.95, (None, None), 1, "reproduced"),
        ("pixel_auroc", 0.901, 0.95, (None, None), 1, "close"),
        ("pixel_auroc", 0.89, 0.95, (None, None), 1, "differs"),
        ("pixel_auroc", 0.92, 0.95, (0.895, 0.951), 3, "reproduced"),  # inside a narrow interval over seeds
        ("pixel_auroc", 0.92, 0.95, (0.88, 0.96), 3, "close"),  # the interval is too wide to count
        ("pixel_auroc", 0.92, 0.95, (0.895, 0.951), 1, "close"),  # one seed: a bootstrap interval does not count
        ("pixel_aupr", 0.085, 0.098, (None, None), 1, "reproduced"),
        ("pixel_aupr", 0.14, 0.098, (None, None), 1, "close"),
        ("pixel_aupr", 0.20, 0.098, (None, None), 1, "differs"),
    ],
)
def test_agreement(metric, value, printed, interval, seeds, expected):
    assert verdicts.agreement(metric, value, printed, *interval, seeds) == expected


def test_an_interval_that_was_cut_is_as_wide_as_it_was():
    """0.97 +- 0.05 and 0.975 +- 0.029, both cut at 1."""
    assert verdicts.agreement("image_auroc", 0.97, 0.945, 0.92, 1.0, 3) == "close"
    assert verdicts.agreement("image_auroc", 0.975, 0.95, 0.946, 1.0, 3) == "reproduced"


def row(**changes):
    return {"metric": "pixel_auroc", "value": 0.95, "low": None, "high": None, "seeds": 1} | changes


def test_verdicts_name_every_reduction():
    printed = {"value": "0.95", "unit": "fraction", "provenance": "reported"}
    percent = printed | {"value": "95.0", "unit": "percent"}
    verdict, limits = verdicts.verdict, verdicts.Limits
    assert verdict(row(), printed, limits()) == "reproduced"
    assert verdict(row(), printed | {"provenance": "digitised"}, limits()) == "close"
    assert verdict(row(), percent, limits()) == "reproduced"
    assert verdict(row(), printed, limits(model="width 16")) == "reduced model (width 16)"
    assert verdict(row(), printed, limits(schedule=True, share=0.2)) == "reduced schedule (0.2)"
    assert verdict(row(), printed, limits(schedule=True)) == "other schedule"
    assert verdict(row(), printed, limits(True, "3 of 15 categories", True, "a; b", True, True, True, share=0.2)) == (
        "other data, partial (3 of 15 categories), other architecture, reduced model (a; b), reduced schedule (0.2), "
        "other losses, other scoring"
    )
    assert verdict(row(metric="seconds_per_image"), printed, limits(model="a")) == ""
    assert verdict(row(value=None), printed, limits(model="a")) == ""
    assert verdict(row(), None, limits()) == ""
    assert verdict(row(), printed, limits(noise=True, share=0.2)) == "reduced schedule (0.2), other noise"


def test_a_judgement_of_a_variant_names_it():
    printed = {"value": "0.95", "unit": "fraction", "relation": "=", "provenance": "printed"}
    row = dict(metric="pixel_auroc", value=0.94, low=None, high=None, seeds=1)
    ours = verdicts.Limits(variant="other noise")
    assert verdicts.verdict(row, printed, ours) == "reproduced with other noise"
    assert verdicts.verdict(row | {"value": 0.6}, printed, ours) == "differs with other noise"
    assert verdicts.verdict(row, None, ours) == "" and not ours.texts()
    reduced = verdicts.Limits(model="width 16; stages 3", variant="other noise")
    text = verdicts.verdict(row, printed, reduced)
    assert text == "reduced model (width 16; stages 3), other noise"
    assert verdicts.Limits.read(text).model == reduced.model
    both = verdicts.Limits(noise=True, variant="other noise")
    assert verdicts.verdict(row, printed, both) == "other noise"
    assert verdicts.Limits.read("reproduced with other noise") == ours


def test_departures_are_sorted_by_what_they_change():
    config = vars(FCBiGANConfig(width=16, epochs=10, reconstruction_weight=1.0, channels=3, seed=5, map_stride=8))
    method, subject = fcbigan.METHODS["fcbigan"], fcbigan.SUBJECTS[0]
    assert cells.departures(method, subject, config) == (
        ["channels 3", "width 16"],
        ["epochs 10"],
        ["reconstruction_weight 1.0"],
        ["map_stride 8"],
        [],
    )
    assert cells.departures(method, subject, vars(FCBiGANConfig())) == ([], [], [], [], [])
    assert fcbigan.schedule_share(config) == pytest.approx(0.1)


def test_what_a_method_or_category_sets_is_no_departure():
    method = replace(fcbigan.METHODS["fcbigan"], settings={"width": 16})
    subject = replace(fcbigan.SUBJECTS[0], settings={"patch_size": 32})
    assert cells.departures(method, subject, vars(FCBiGANConfig(width=16, patch_size=32))) == ([], [], [], [], [])
    assert cells.departures(method, subject, vars(FCBiGANConfig(patch_size=32)))[0] == ["width 64"]


def test_printed_values_cover_every_subject():
    lines = printed.published("fcbigan")
    assert {line["category"] for line in lines} == {s.category for s in fcbigan.SUBJECTS}
    assert {line["table"] for line in lines} == set(fcbigan.TABLES)


def test_the_papers_sampler_and_curves():
    config = FCBiGANConfig(seed=3)
    drawn, fixed = fcbigan.sampler(config, ((128, 128),)), fcbigan.sampler(config, ((128, 128),), held_out=True)
    assert (drawn.steps, drawn.batch_size, drawn.seed) == (12_000 // config.batch_size, config.batch_size, 3)
    assert (fixed.steps, fixed.batch_size, fixed.augment) == (1, 256, False)
    assert fcbigan.curves(fcbigan.SUBJECTS[0])[0] == ("max", "pixel_auroc")
    assert fcbigan.curves(fcbigan.SUBJECTS[1])[2] == ("discriminator", "pixel_aupr")


def test_settings_are_typed_and_checked():
    parse = cells.parse_settings
    assert parse(["width=8", "generator_rate=1e-3", "early_stopping=true", "aggregation=linear"], FCBiGANConfig) == {
        "width": 8, "generator_rate": 1e-3, "early_stopping": True, "aggregation": "linear"
    }  # fmt: skip
    for wrong in ("widht=8", "width=x", "width", "early_stopping=2"):
        with pytest.raises(ValueError, match="--set"):
            parse([wrong], FCBiGANConfig)


def stored_run(tmp_path, seed, value, protocol="both", width=64):
    """A finished run folder as training leaves it."""
    subject = fcbigan.SUBJECTS[0]
    config = vars(FCBiGANConfig(seed=seed, width=width)) | {"category": "nanofibres"}
    cell = cells.Cell("fcbigan", "fcbigan", subject, seed, cells.Profile(), {}, protocol)
    run = Run(cell.folder(tmp_path))
    score = {
        "pixel_auroc": value,
        "pixel_aupr": 0.5,
        "image_auroc": None,
        "image_ap": None,
        "undefined": {"image": "why"},
    }
    scores = {name: score for name in fcbigan.SCORES}
    write_json(run.path / "config.json", config)
    manifest = {"command": "c", "commit": "0" * 40, "dirty": False, "hardware": "h", "threads": 2, "date": "2026-01-01"}
    write_json(run.path / "manifest.json", manifest)
    found = {"protocols": {"paper": scores, "clean": scores}, "seconds_per_image": 1.5, "image_shape": [696, 1024, 1]}
    write_json(run.path / "metrics.json", found | {"notes": [], "train_images": 4, "all_train_images": 5})
    run.set_status("finished")
    return run


def test_rows_join_seeds_and_protocols(tmp_path):
    for seed, value in enumerate((0.94, 0.95, 0.96)):
        stored_run(tmp_path, seed, value)
    rows = collect.measured(fcbigan, plan.every_cell(fcbigan, tmp_path), tmp_path)
    main = [r for r in rows if r["method"] == "FCBiGAN" and r["metric"] == "pixel_auroc"]
    assert [r["protocol"] for r in main] == ["paper", "clean"]
    assert main[0]["value"] == pytest.approx(0.95) and main[0]["seeds"] == 3 and main[0]["verdict"] == "reproduced"
    assert main[0]["low"] == pytest.approx(0.95 - 4.302653 * 0.01 / 3**0.5, abs=1e-6)
    assert all(set(r) == set(collect.COLUMNS) for r in rows)
    undefined = next(r for r in rows if r["metric"] == "image_auroc")
    assert undefined["value"] is None and "undefined: why" in undefined["note"] and undefined["verdict"] == ""
    write_csv(tmp_path / "r.csv", rows, collect.COLUMNS)
    with open(tmp_path / "r.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_seeds_of_other_settings_are_no_seeds_of_a_row(tmp_path):
    """Two seeds at width 64 and one at width 8: the row is of the two, and says which is left out."""
    stored_run(tmp_path, 0, 0.50, width=8)
    for seed, value in ((1, 0.94), (2, 0.96)):
        run = stored_run(tmp_path, seed, value)
        write_json(run.path / "manifest.json", run.manifest | {"command": f"c{seed}"})
    rows = collect.measured(fcbigan, plan.every_cell(fcbigan, tmp_path), tmp_path)
    main = next(r for r in rows if r["method"] == "FCBiGAN" and r["metric"] == "pixel_auroc")
    assert (main["value"], main["seeds"], main["model"], main["command"]) == (0.95, 2, "paper", "c1; c2")
    assert main["note"].endswith("seeds of other settings left out: 0")


def test_a_training_on_all_normals_speaks_for_the_paper_protocol(tmp_path):
    stored_run(tmp_path, 0, 0.90)
    stored_run(tmp_path, 0, 0.95, protocol="paper")
    rows = collect.measured(fcbigan, plan.every_cell(fcbigan, tmp_path), tmp_path)
    main = {r["protocol"]: r["value"] for r in rows if r["method"] == "FCBiGAN" and r["metric"] == "pixel_auroc"}
    assert main == {"clean": 0.90, "paper": 0.95}


def test_tables_print_every_cell_with_a_reason(tmp_path):
    stored_run(tmp_path, 0, 0.80, width=16)
    joined = tables.joined(fcbigan, collect.measured(fcbigan, plan.every_cell(fcbigan, tmp_path), tmp_path))
    first = {(x["method"], x["metric"]): x for x in joined["1"]}
    ours = first["FCBiGAN", "pixel_auroc"]
    assert (ours["printed"], ours["paper"], ours["clean"], ours["verdict"]) == (
        "0.95",
        "0.800",
        "0.800",
        "reduced model (width 16)",
    )
    assert first["Sparse Dictionary", "pixel_auroc"]["verdict"] == "quoted"
    assert first["FCBiGAN", "seconds_per_image"]["paper"] == "1.50 s"
    assert "FCBiGAN, L_R alone" in {x["method"] for x in joined["1"]}
    second = {(x["category"], x["method"]): x["verdict"] for x in joined["2"]}
    assert second["grid", "f-AnoGAN"] == "not run (no finished run here)"
    assert second["grid", "FCBiGAN"] == "not run (no finished run here)"
    text = formats.markdown(fcbigan, joined)
    assert all(line["value"] in text for line in printed.published("fcbigan"))


def test_copies_smaller_than_the_papers_are_other_data():
    subject = SimpleNamespace(dataset="mvtec_ad", pixels=(1024, 1024))
    found = {"image_shape": [512, 512, 3], "notes": ["substitute normals: 21 of 21"]}
    data, _ = collect.describe_data(subject, found)
    assert data == "copy of 512x512 pixels, the paper's 1024x1024; substitute normals: 21 of 21"
    assert collect.describe_data(subject, {"image_shape": [1024, 1024, 3], "notes": []})[0] == "paper"


def test_the_score_that_the_settings_chose_is_the_headline(tmp_path):
    run = stored_run(tmp_path, 0, 0.9)
    found = run.metrics
    for protocol, scores in found["protocols"].items():
        linear = scores.pop("linear") | {"pixel_auroc": 0.7}
        found["protocols"][protocol] = {"linear": linear, **scores}
    write_json(run.path / "metrics.json", found)
    write_json(run.path / "config.json", run.config | {"aggregation": "linear"})
    rows = collect.measured(fcbigan, plan.every_cell(fcbigan, tmp_path), tmp_path)
    main = {r["method"]: r for r in rows if r["metric"] == "pixel_auroc" and r["protocol"] == "paper"}
    assert main["FCBiGAN"]["value"] == 0.7 and main["FCBiGAN"]["verdict"] == "other scoring"
    assert main["FCBiGAN, L_R alone"]["value"] == 0.9 and "FCBiGAN, linear" not in main
