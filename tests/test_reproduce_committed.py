"""Committed results joined with the runs here: nothing is lost, nothing else changes."""

import csv
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from ganspect.models.cbigan import CBiGANConfig
from ganspect.reproduce import (
    anogan_ganomaly,
    cbigan,
    cells,
    collect,
    committed,
    fcbigan,
    grdnet,
    plan,
    report,
    verdicts,
)
from ganspect.training.files import write_json
from ganspect.training.run import Run, write_csv

RESULTS = Path(report.__file__).parent / "results"
PAPERS = (cbigan, fcbigan, anogan_ganomaly, grdnet)
MEANS = tuple(cbigan.GROUPS)


@pytest.fixture
def results(tmp_path):
    """A copy of the committed results."""
    return shutil.copytree(RESULTS, tmp_path / "results")


def store(runs, method, category, value, seed=0):
    """A finished run of CBiGAN's script, and its cell."""
    subject = next(s for s in cbigan.SUBJECTS if s.category == category)
    cell = cells.Cell("cbigan", method, subject, seed, cells.Profile(), {})
    run = Run(cell.folder(runs))
    config = CBiGANConfig(**subject.settings | cbigan.METHODS[method].settings, seed=seed)
    write_json(run.path / "config.json", asdict(config) | {"category": category, "dataset": "mvtec_ad"})
    score = {"image_auroc": value, "undefined": {}}
    protocols = {
        "paper": {name: score | {"image_balanced_accuracy_oracle": value - 0.1} for name in cbigan.SCORES},
        "clean": {name: score | {"image_balanced_accuracy": value - 0.2} for name in cbigan.SCORES},
    }
    manifest = {"command": "c", "commit": "0" * 40, "dirty": False, "hardware": "h", "threads": 2, "date": "2030-01-01"}
    write_json(run.path / "manifest.json", manifest)
    found = {"protocols": protocols, "seconds_per_image": 1.5, "image_shape": [512, 512, 3], "notes": []}
    write_json(run.path / "metrics.json", found | {"train_images": 252, "all_train_images": 280})
    run.set_status("finished")
    return cell


def publish(paper, runs, folder):
    """`report --results` without pages and pictures of runs; returns what the terminal says."""
    console = Console(width=160, record=True)
    report.publish(paper, plan.every_cell(paper, runs), runs, folder, console)
    return console.export_text()


def lines_of(path, *without):
    """Lines of a CSV file but those of some categories."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [row for row in rows if row[4] not in without]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.NAME)
def test_without_runs_the_committed_files_stay_as_they_are(paper, results, tmp_path):
    text = publish(paper, tmp_path / "runs", results)
    assert (results / f"{paper.NAME}.csv").read_bytes() == (RESULTS / f"{paper.NAME}.csv").read_bytes()
    assert (results / f"{paper.NAME}.md").read_bytes() == (RESULTS / f"{paper.NAME}.md").read_bytes()
    assert "kept, as no run of theirs here is finished or was scored" in text and "dropped" not in text


def test_means_made_anew_from_rows_are_those_made_from_runs(results, tmp_path):
    path = results / "cbigan.csv"
    write_csv(path, [row for row in committed.read(path) if row["category"] not in MEANS], collect.COLUMNS)
    assert path.read_bytes() != (RESULTS / "cbigan.csv").read_bytes()
    publish(cbigan, tmp_path / "runs", results)

    def known(row):
        """A row without the interval of a mean over seeds: their single values are in no row."""
        if row["category"] in MEANS and row["seeds"] >= 3:
            return row | {"low": None, "high": None, "note": row["note"].removesuffix("; interval over seeds")}
        return row

    found, expected = ([known(row) for row in committed.read(p)] for p in (path, RESULTS / "cbigan.csv"))
    assert found == expected


def test_a_new_cell_joins_the_committed_ones(results, tmp_path):
    store(tmp_path / "runs", "cbigan", "carpet", 0.75)
    before = {row["category"]: row for row in headline(RESULTS / "cbigan.csv")}
    text = publish(cbigan, tmp_path / "runs", results)
    path = results / "cbigan.csv"
    assert lines_of(path, "carpet", *MEANS) == lines_of(RESULTS / "cbigan.csv", *MEANS)
    after = {row["category"]: row for row in headline(path)}
    assert after["carpet"]["value"] == 0.75 and after["objects"] == before["objects"]
    assert after["textures"]["value"] == (0.75 + before["grid"]["value"]) / 2
    assert after["textures"]["verdict"].startswith("other data, partial (2 of 5 categories), reduced schedule (0.0025)")
    assert after["textures"]["note"] == ("mean of 2 of 5 categories: carpet, grid; trained on 471 of 523 normal images")
    assert "partial (4 of 15 categories)" in after["overall"]["verdict"] and after["overall"]["low"] is None
    methods = committed.methods_by_label(cbigan)
    rows = [row for row in committed.read(RESULTS / "cbigan.csv") if row["category"] not in MEANS]
    kept = {(methods[row["method"]], row["dataset"], row["category"]) for row in rows}
    assert f"{len(kept)} cells kept" in text and "cbigan mvtec_ad/grid, mvtec_ad/bottle" in text
    markdown = (results / "cbigan.md").read_text()
    assert "| carpet | CBiGAN | image_auroc |" in markdown and "| grid | CBiGAN | image_auroc |" in markdown
    assert "mean of 4 of 15 categories: carpet, grid, bottle, pill" in markdown
    claims = markdown.split("## Claims of the paper")[1]
    assert "CBiGAN is above its BiGAN limit: **not checked**" in claims and "of other categories or budgets" in claims
    first = path.read_bytes(), markdown
    publish(cbigan, tmp_path / "runs", results)
    assert (path.read_bytes(), (results / "cbigan.md").read_text()) == first
    publish(cbigan, tmp_path / "elsewhere", results)  # where none of the runs is
    assert (path.read_bytes(), (results / "cbigan.md").read_text()) == first


def headline(path):
    """Rows of CBiGAN's own score, AUROC, paper protocol."""
    wanted = {"table": "auroc", "method": "CBiGAN", "metric": "image_auroc", "protocol": "paper"}
    return [row for row in committed.read(path) if wanted.items() <= row.items()]


def test_a_run_here_replaces_every_row_of_its_cell_and_no_other(results, tmp_path):
    curve = Run(store(tmp_path / "runs", "bigan", "pill", 0.6).folder(tmp_path / "runs")).path / "curve.csv"
    curve.write_text("epoch,step\n1,2\n")
    (curve.parent / "history.csv").write_text("epoch,step,d_loss\n1,2,0.5\n")
    unfinished = store(tmp_path / "runs", "cbigan", "pill", 0.6)
    Run(unfinished.folder(tmp_path / "runs")).set_status("running")
    text = publish(cbigan, tmp_path / "runs", results)
    for name, source in (("", "curve.csv"), ("_history", "history.csv")):
        copy = results / "curves" / f"cbigan_bigan_pill_seed_0{name}.csv"
        assert copy.read_bytes() == (curve.parent / source).read_bytes()
    label = cbigan.METHODS["bigan"].label
    old, new = ([r for r in committed.read(f / "cbigan.csv") if r["category"] == "pill"] for f in (RESULTS, results))
    ours = [r for r in new if committed.methods_by_label(cbigan)[r["method"]] == "bigan"]
    assert len(ours) < sum(r["method"].startswith(label) for r in old) and {r["date"] for r in ours} == {"2030-01-01"}
    assert [r for r in new if r not in ours] == [r for r in old if not r["method"].startswith(label)]
    assert f"{len(old) - len(new) + len(ours)} rows of 1 cells replaced by the runs here: bigan mvtec_ad/pill" in text


def test_an_interval_over_seeds_needs_every_seeds_value_and_stays_where_nothing_is_new(tmp_path):
    path, runs = tmp_path / "cbigan.csv", tmp_path / "runs"
    for category in cbigan.TEXTURES:
        for seed in range(3):
            store(runs / "old", "cbigan", category, 0.8 + seed / 100, seed)
    publish(cbigan, runs / "old", tmp_path)
    first, (wood, textures) = (
        path.read_bytes(),
        [{r["category"]: r for r in headline(path)}[name] for name in ("wood", "textures")],
    )
    assert "interval over seeds (0.8, 0.81, 0.82)" in wood["note"]
    assert textures["low"] is not None and textures["seeds"] == 3 and textures["note"].endswith("interval over seeds")
    publish(cbigan, runs / "none", tmp_path)
    assert path.read_bytes() == first
    for seed in range(3):
        store(runs / "new", "cbigan", "wood", 0.9, seed)
    publish(cbigan, runs / "new", tmp_path)
    textures = {r["category"]: r for r in headline(path)}["textures"]
    assert textures["low"] is None and textures["value"] == pytest.approx((4 * 0.81 + 0.9) / 5)


def test_rows_that_the_script_does_not_have_are_dropped_aloud(results, tmp_path):
    path = results / "fcbigan.csv"
    rows = committed.read(path)
    others = [rows[0] | {"method": "FCBiGAN, renamed"}] * 2 + [rows[0] | {"category": "gone"}]
    write_csv(path, rows + others, collect.COLUMNS)
    text = publish(fcbigan, tmp_path / "runs", results)
    assert path.read_bytes() == (RESULTS / "fcbigan.csv").read_bytes()
    assert "2 rows dropped, as the script does not have them: FCBiGAN, renamed, nanotwice/nanofibres, table 1" in text
    assert "1 rows dropped, as the script does not have them: FCBiGAN, nanotwice/gone, table 1" in text


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.NAME)
def test_a_label_names_one_method(paper):
    labels = [m.label + suffix for m in paper.METHODS.values() for suffix in {"", *m.of(paper, "scores").values()}]
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize(
    "limits",
    [
        verdicts.Limits(),
        verdicts.Limits(True, "2 of 5 categories", True, True, False, True, True, True, 0.0025),
        verdicts.Limits(noise=True, share=0.5),
        verdicts.Limits(schedule=True),
        verdicts.Limits(share=0.99999),
    ],
)
def test_limits_are_read_back_from_a_verdict(limits):
    assert verdicts.Limits.read(", ".join(limits.texts())).texts() == limits.texts()
    assert not verdicts.Limits.read("reproduced").texts()


def test_curves_with_points_that_are_not_here_stay(tmp_path):
    folder, runs, out = tmp_path / "runs" / "cbigan" / "figures", tmp_path / "runs", tmp_path / "results"
    for name, alphas in (("some", (0.0, 1e-3)), ("all", (0.0, 1e-3, 1.0))):
        points = [{"category": "pill", "alpha": alpha, "image_auroc": len(alphas)} for alpha in alphas]
        write_csv(out / "cbigan_curve_some.csv" if name == "all" else folder / "curve_some.csv", points)
        write_csv(folder / "curve_all.csv" if name == "all" else out / "cbigan_curve_all.csv", points)
    for name in ("some", "all"):
        (folder / f"curve_{name}.png").write_bytes(b"png")
    text = publish(cbigan, runs, out)
    assert len((out / "cbigan_curve_some.csv").read_text().splitlines()) == 4
    assert len((out / "cbigan_curve_all.csv").read_text().splitlines()) == 4
    assert [p.name for p in (out / "figures").iterdir()] == ["cbigan_curve_all.png"]
    assert "cbigan_curve_some.csv: kept" in text


def test_each_committed_value_stands_once():
    for path in sorted(RESULTS.rglob("*.csv")):
        rows = committed.read(path) if path.stem in {paper.__name__.rpartition(".")[2] for paper in PAPERS} else []
        keys = [tuple(row[name] for name in (*collect.KEYS, "protocol")) for row in rows]
        assert len(keys) == len(set(keys)), path


def test_a_training_that_was_scored_again_names_the_commit_that_trained_it(tmp_path):
    cell = store(tmp_path, "cbigan", "pill", 0.6)
    run = Run(cell.folder(tmp_path))
    for trained, said in ((run.manifest["commit"], False), ("0123456789abcdef", True)):
        write_json(run.path / "manifest.json", run.manifest | {"trained_by": trained})
        rows = collect.measured(cbigan, [cell], tmp_path)
        notes = [row["note"] for row in rows if row["metric"] == "image_auroc" and row["category"] == "pill"]
        assert notes and all(("trained by commit 0123456789ab" in note) == said for note in notes)
