"""Means over groups of categories, limits beside other networks, claims: what a paper with groups prints."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from ganspect.evaluation.statistics import seed_interval
from ganspect.reproduce import cells, collect, formats, report, tables
from ganspect.training.files import write_json
from ganspect.training.run import Run

TEXTURES, OBJECTS = ("carpet", "grid"), ("bottle", "pill", "zipper")


@dataclass(frozen=True)
class Config:
    alpha: float = 0.5
    width: int = 3
    steps: int = 100
    channels: int = 3
    seed: int = 0


def method(label, **details):
    return cells.Method(label, None, Config, None, ("width",), ("alpha",), (), **details)


def paper(**changes):
    """A script with CBiGAN's printed values and no networks."""
    names = (*TEXTURES, *OBJECTS)
    fake = {
        "NAME": "cbigan",
        "TITLE": "A paper",
        "METHODS": {
            "cbigan": method("CBiGAN"),
            "bigan": method("BiGAN limit", settings={"alpha": 0.0}, beside="EGBAD"),
            "swept": method("Swept", tables=("alpha",)),
        },
        "SUBJECTS": tuple(cells.Subject("mvtec_ad", name, ("balanced-accuracy", "auroc"), 3) for name in names),
        "SYNTHETIC": (cells.Subject(cells.SYNTHETIC, "weave", ("balanced-accuracy", "auroc"), 3),),
        "GROUPS": {
            "textures": ("mvtec_ad", TEXTURES),
            "objects": ("mvtec_ad", OBJECTS),
            "overall": ("mvtec_ad", names),
        },
        "TABLES": {
            "balanced-accuracy": {
                "title": "Balanced accuracy",
                "metrics": ("image_balanced_accuracy_oracle", "image_balanced_accuracy"),
            },
            "auroc": {"title": "AUROC", "metrics": ("image_auroc",)},
            "alpha": {"title": "Sweep", "metrics": ("image_auroc",)},
        },
        "SCORES": {"anomaly": "", "reconstruction": ", L_R alone"},
        "BEYOND": ("pixel_auroc",),
        "QUOTED": ("EGBAD",),
        "NOT_RUN": {"GANomaly": "method not built yet"},
        "schedule_share": lambda config: config["steps"] / 100,
    }
    return SimpleNamespace(**fake | changes)


def store(fake, runs, name, category, value, seed=0, **config):
    """A finished run folder, and its cell."""
    subject = next(s for s in (*fake.SUBJECTS, *fake.SYNTHETIC) if s.category == category)
    settings = fake.METHODS[name].settings | {"seed": seed} | config
    cell = cells.Cell("cbigan", name, subject, seed, cells.Profile(), settings)
    run = Run(cell.folder(runs))
    score = {"image_auroc": value, "pixel_auroc": 0.5, "undefined": {}}
    protocols = {
        "paper": {"anomaly": score | {"image_balanced_accuracy_oracle": value - 0.1}},
        "clean": {"anomaly": score | {"image_balanced_accuracy": value - 0.2}},
    }
    manifest = {"command": "c", "commit": "0" * 40, "dirty": False, "hardware": "h", "threads": 2, "date": "2026-01-01"}
    write_json(run.path / "config.json", vars(Config(**settings)) | {"category": category})
    write_json(run.path / "manifest.json", manifest)
    found = {"protocols": protocols, "seconds_per_image": 1.5, "image_shape": [128, 128, 3], "notes": []}
    write_json(run.path / "metrics.json", found | {"train_images": 40, "all_train_images": 50})
    run.set_status("finished")
    return cell


def rows_by_key(rows):
    return {(r["table"], r["method"], r["category"], r["metric"], r["protocol"]): r for r in rows}


def lines_by_key(lines):
    return {(x["method"], x["category"], x["metric"]): x for x in lines}


def test_metrics_go_to_the_table_that_lists_them(tmp_path):
    fake = paper()
    some = [store(fake, tmp_path, "cbigan", "grid", 0.9), store(fake, tmp_path, "swept", "grid", 0.8)]
    rows = rows_by_key(collect.measured(fake, some, tmp_path))
    ours = {
        (table, metric, protocol)
        for table, label, name, metric, protocol in rows
        if (label, name) == ("CBiGAN", "grid")
    }
    assert ours == {
        ("balanced-accuracy", "image_balanced_accuracy_oracle", "paper"),
        ("balanced-accuracy", "image_balanced_accuracy", "clean"),
        ("balanced-accuracy", "pixel_auroc", "paper"),
        ("balanced-accuracy", "pixel_auroc", "clean"),
        ("balanced-accuracy", "seconds_per_image", "paper"),
        ("auroc", "image_auroc", "paper"),
        ("auroc", "image_auroc", "clean"),
    }
    assert {table for table, label, *_ in rows if label == "Swept"} == {"alpha"}
    assert all(set(r) == set(collect.COLUMNS) for r in rows.values())
    beyond = rows["balanced-accuracy", "CBiGAN", "grid", "pixel_auroc", "paper"]
    assert beyond["note"] == "trained on 40 of 50 normal images; beyond the paper"
    assert "beyond" not in rows["auroc", "CBiGAN", "grid", "image_auroc", "paper"]["note"]


def test_a_part_of_a_group_says_so(tmp_path):
    fake = paper()
    some = [
        store(fake, tmp_path, "cbigan", "grid", 0.9, steps=50),
        store(fake, tmp_path, "cbigan", "pill", 0.6, steps=20),
    ]
    rows = rows_by_key(collect.measured(fake, some, tmp_path))
    overall = rows["auroc", "CBiGAN", "overall", "image_auroc", "paper"]
    assert overall["value"] == pytest.approx(0.75) and overall["low"] is None and overall["seeds"] == 1
    assert overall["verdict"] == "partial (2 of 5 categories), reduced schedule (0.2)"
    assert overall["note"] == "mean of 2 of 5 categories: grid, pill; trained on 80 of 100 normal images"
    assert (overall["schedule"], overall["model"], overall["data"]) == ("0.5; 0.2", "steps 50; steps 20", "paper")
    assert ("balanced-accuracy", "CBiGAN", "overall", "pixel_auroc", "paper") not in rows
    objects = rows["balanced-accuracy", "CBiGAN", "objects", "image_balanced_accuracy", "clean"]
    assert objects["value"] == pytest.approx(0.4)
    line = lines_by_key(tables.joined(fake, list(rows.values()))["auroc"])["CBiGAN", "overall", "image_auroc"]
    assert line["printed"] == "0.77" and line["budget"].startswith("50 %, 20 % of the schedule")


def test_a_group_of_which_nothing_ran_has_no_row(tmp_path):
    fake = paper()
    some = [store(fake, tmp_path, "cbigan", "grid", 0.9), store(fake, tmp_path, "cbigan", "weave", 0.9)]
    rows = collect.measured(fake, some, tmp_path)
    assert "objects" not in {r["category"] for r in rows}
    assert {r["note"].split("; ")[0] for r in rows if r["category"] == "textures"} == {
        "mean of 1 of 2 categories: grid"
    }
    lines = lines_by_key(tables.joined(fake, rows)["auroc"])
    assert lines["CBiGAN", "objects", "image_auroc"]["verdict"] == "not run (no finished run here)"


def test_a_whole_group_is_judged_with_its_interval_over_seeds(tmp_path):
    fake = paper()
    values = {"carpet": (0.84, 0.85, 0.86), "grid": (0.86, 0.86, 0.87)}
    some = [store(fake, tmp_path, "cbigan", c, v, seed) for c, vs in values.items() for seed, v in enumerate(vs)]
    rows = rows_by_key(collect.measured(fake, some, tmp_path))
    textures = rows["auroc", "CBiGAN", "textures", "image_auroc", "clean"]
    expected = seed_interval(np.mean(list(values.values()), axis=0))
    assert (textures["value"], textures["low"], textures["high"]) == pytest.approx(expected)
    assert textures["seeds"] == 3 and textures["verdict"] == "reproduced"
    assert textures["note"].endswith("interval over seeds")
    assert rows["auroc", "CBiGAN", "overall", "image_auroc", "clean"]["verdict"] == "partial (2 of 5 categories)"
    some[-1] = store(fake, tmp_path, "cbigan", "grid", 0.87, seed=7)
    textures = rows_by_key(collect.measured(fake, some, tmp_path))[
        "auroc", "CBiGAN", "textures", "image_auroc", "clean"
    ]
    assert textures["low"] is None and textures["value"] == pytest.approx(expected[0])


def test_a_limit_stands_beside_the_printed_network(tmp_path):
    fake = paper()
    some = [store(fake, tmp_path, "bigan", name, 0.66, width=2) for name in TEXTURES]
    joined = tables.joined(fake, collect.measured(fake, some, tmp_path))
    lines = lines_by_key(joined["auroc"])
    ours = lines["BiGAN limit", "textures", "image_auroc"]
    assert (ours["printed"], ours["paper"], ours["verdict"]) == (
        "0.66 [r] (EGBAD)",
        "0.660",
        "other architecture, reduced model (width 2)",
    )
    assert lines["EGBAD", "textures", "image_auroc"]["verdict"] == "quoted"
    assert lines["GANomaly", "textures", "image_auroc"]["verdict"] == "not run (method not built yet)"
    order = [x["method"] for x in joined["auroc"] if x["category"] == "textures"]
    assert order == ["AE-L2", "GeoTrans", "GANomaly", "EGBAD", "BiGAN limit", "CBiGAN"]
    categories = list(dict.fromkeys(x["category"] for x in joined["auroc"]))
    assert categories == ["textures", "objects", "overall", *TEXTURES]
    assert "alpha" not in joined
    first = [x["metric"] for x in joined["balanced-accuracy"] if x["category"] == "carpet"]
    assert first[:2] == ["image_balanced_accuracy_oracle", "image_balanced_accuracy"]
    alone = paper(QUOTED=())
    assert lines_by_key(tables.joined(alone, [])["auroc"])["EGBAD", "overall", "image_auroc"]["verdict"] == (
        "not run (method not built)"
    )


def test_claims_hold_or_not_or_cannot_be_checked(tmp_path):
    def claims(rows):
        best = max(r["value"] for r in rows if r["metric"] == "image_auroc")
        return [("grid is easy", best > 0.8, "0.90"), ("pill is hard", False, "0.90"), ("both", None, "no pill")] + [
            ("nearly", "undecided", "0.90")
        ]

    fake = paper(claims=claims)
    rows = collect.measured(fake, [store(fake, tmp_path, "cbigan", "grid", 0.9)], tmp_path)
    checked = tables.claims(fake, rows)
    assert [state for _, state, _ in checked] == ["holds", "does not hold", "not checked", "undecided"]
    assert tables.claims(paper(), rows) == []
    text = formats.markdown(fake, tables.joined(fake, rows), checked)
    assert "## Claims of the paper" in text and "- both: **not checked** (no pill)" in text


def test_claims_and_pictures_across_runs_reach_every_report(tmp_path, monkeypatch):
    def draw(cells, runs, folder):
        for name in ("curve_alpha", "reconstructions"):
            (folder / f"{name}.png").write_bytes(b"png")

    monkeypatch.setattr(report.figures, "draw_curves", lambda paper, run: None)
    fake = paper(claims=lambda rows: [("pill is hard", False, "0.90")], draw=draw)
    some = [store(fake, tmp_path, "cbigan", name, 0.9) for name in ("weave", "grid")]
    console = Console(width=160, record=True)
    report.write(fake, some, tmp_path, console)
    assert "claim: pill is hard: does not hold (0.90)" in console.export_text()
    assert "## Claims of the paper" in (tmp_path / "cbigan" / "tables.md").read_text()
    page = (tmp_path / "cbigan" / "report.html").read_text()
    places = [page.index(text) for text in ('id="claims"', 'id="across"', 'id="category-')]
    assert places == sorted(places)
    assert "pill is hard: <b>does not hold</b>" in page and page.count("data:image/png") == 2
    report.publish(fake, some, tmp_path, tmp_path / "all", console)
    secret = [replace(some[0], subject=replace(some[0].subject, dataset="nanotwice"))]
    report.publish(fake, some + secret, tmp_path, tmp_path / "plots", console)
    names = {kind: sorted(p.name for p in (tmp_path / kind / "figures").iterdir()) for kind in ("all", "plots")}
    assert names["all"] == ["cbigan_curve_alpha.png", "cbigan_reconstructions.png"]
    assert names["plots"] == ["cbigan_curve_alpha.png"]
