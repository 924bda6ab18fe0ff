"""Two runs folders compared: which test, and what it finds."""

import csv

import numpy as np
import pytest
from rich.console import Console
from stored_runs import store

from ganspect.evaluation import comparison
from ganspect.reproduce import cbigan, compare, formats
from ganspect.reproduce.cli import main
from ganspect.training.run import write_csv


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One seed of a poor and of a good detector; another category in one folder alone."""
    root = tmp_path_factory.mktemp("compare")
    store(root / "a", skill=0.0, shown=True)
    store(root / "b", skill=0.6, shown=True)
    store(root / "b", category="object", shown=False)
    return root / "a", root / "b"


def by_metric(rows):
    return {row["metric"]: row for row in rows if row["protocol"] == "paper"}


def test_one_training_each_is_tested_over_the_images(folders):
    rows, missing = compare.compare([cbigan], *folders)
    found = by_metric(rows)
    auroc = found["image_auroc"]
    assert auroc["test"] == "DeLong, one training each" and auroc["difference"] == auroc["b"] - auroc["a"] > 0
    assert auroc["low"] < auroc["difference"] < auroc["high"]
    assert found["pixel_auroc"]["verdict"] == "B better" and "bootstrap" in found["pixel_auroc"]["test"]
    assert found["pixel_aupro_0.30"]["verdict"] == "not tested"
    assert missing == [f"cbigan: cbigan synthetic/object: finished in {folders[1]} alone"]
    assert all(row["p"] <= row["p_adjusted"] for row in rows if np.isfinite(row["p"]))


def test_a_folder_does_not_differ_from_itself(folders):
    rows, _ = compare.compare([cbigan], folders[0], folders[0])
    assert rows and all(row["difference"] == 0 for row in rows)
    assert not [row for row in rows if row["verdict"].endswith("better")]
    assert by_metric(rows)["image_auroc"]["p"] == 1


def test_the_order_of_the_folders_is_the_sign(folders):
    forth, back = (by_metric(compare.compare([cbigan], *pair)[0]) for pair in (folders, folders[::-1]))
    assert forth["image_auroc"]["difference"] == -back["image_auroc"]["difference"]
    assert forth["image_auroc"]["p"] == pytest.approx(back["image_auroc"]["p"])
    assert back["pixel_auroc"]["verdict"] == "A better"


def test_three_seeds_each_are_tested_by_their_spread(tmp_path):
    from scipy import stats

    for seed in range(3):
        store(tmp_path / "a", seed=seed, skill=0.05 * seed, shown=False)
        store(tmp_path / "b", seed=seed, skill=0.3 + 0.1 * seed, shown=False)
    found = by_metric(compare.compare([cbigan], tmp_path / "a", tmp_path / "b")[0])
    row = found["pixel_auroc"]
    assert row["test"] == "Welch's t over 3 and 3 seeds" and row["seeds_a"] == 3
    values = [
        [compare._values(run, "paper")["pixel_auroc"] for run in runs.values()]
        for side in "ab"
        for runs in compare._finished(cbigan, tmp_path / side).values()
    ]
    assert row["p"] == pytest.approx(stats.ttest_ind(values[1], values[0], equal_var=False).pvalue)


def test_two_seeds_are_not_tested(tmp_path):
    """The mean over seeds stands beside no test of one of them."""
    for seed in range(2):
        store(tmp_path / "a", seed=seed, skill=0.1, shown=False)
        store(tmp_path / "b", seed=seed, skill=0.6, shown=False)
    rows = by_metric(compare.compare([cbigan], tmp_path / "a", tmp_path / "b")[0])
    assert all(row["verdict"] == "not tested" and np.isnan(row["low"]) for row in rows.values())
    assert rows["image_auroc"]["test"].startswith("none: 2 and 2 seeds")


def test_other_test_images_are_not_compared(folders, tmp_path):
    run = store(tmp_path / "c", skill=0.3)
    rows = run.read_table("scores_4.csv")
    run.write_table("scores_4.csv", rows[1:])
    found = by_metric(compare.compare([cbigan], folders[0], tmp_path / "c")[0])
    assert found["image_auroc"]["verdict"] == "not tested" and "other test images" in found["image_auroc"]["test"]


def test_pixels_are_not_compared_where_maps_are_missing(folders, tmp_path):
    run = store(tmp_path / "c", skill=0.3)
    next(iter(sorted((run.path / "maps").rglob("*.npy")))).unlink()
    found = by_metric(compare.compare([cbigan], folders[0], tmp_path / "c")[0])
    assert "no stored maps" in found["pixel_auroc"]["test"] and found["pixel_auroc"]["verdict"] == "not tested"
    assert "DeLong" in found["image_auroc"]["test"]


def test_rivals_are_tested_on_the_images_that_both_scored(tmp_path):
    store(tmp_path, "cbigan", skill=0.6)
    rival = store(tmp_path, "bigan", skill=0.0)
    found = {row["metric"]: row for row in compare.rivals(cbigan, tmp_path)}
    row = found["image_auroc"]
    assert (row["first"], row["second"], row["category"]) == ("CBiGAN", "CBiGAN at alpha 0 (BiGAN)", "weave")
    assert row["difference"] == pytest.approx(row["a"] - row["b"]) and row["low"] <= row["difference"] <= row["high"]
    assert row["test"] == "DeLong, one training each, 18 images" and row["a"] > row["b"]
    rows = rival.read_table("scores_4.csv")
    rival.write_table("scores_4.csv", rows[::2])
    fewer = {row["metric"]: row for row in compare.rivals(cbigan, tmp_path)}["image_auroc"]
    assert fewer["test"].endswith("9 images")
    rival.set_status("failed")
    assert compare.rivals(cbigan, tmp_path) == []


def test_committed_tests_of_rivals_stay_until_runs_here_give_them(tmp_path):
    store(tmp_path / "runs", "cbigan", skill=0.6)
    store(tmp_path / "runs", "bigan", skill=0.0)
    rows, file = compare.rivals(cbigan, tmp_path / "runs"), tmp_path / "rivals.csv"
    assert compare.with_committed(rows, file) == rows and {row["epochs"] for row in rows} == {"4 and 4"}
    elsewhere = rows[0] | {"category": "grid", "p": float("nan"), "low": float("nan"), "high": float("nan")}
    write_csv(file, [elsewhere, rows[0] | {"a": 0.5}], compare.RIVAL_COLUMNS)
    grid, *others = compare.with_committed(rows, file)
    assert grid["category"] == "grid" and grid["a"] == rows[0]["a"] and others == rows
    text = formats.markdown(cbigan, {}, (), [grid, *others])
    start = "| ".join(("", "weave ", f"{rows[0]['metric']} ", "CBiGAN ", f"{rows[0]['a']:.3f} ", rows[0]["second"]))
    assert start in text and f"| no variance |  | {rows[0]['test']} |" in text


def test_the_command_writes_every_difference(folders, tmp_path, capsys):
    code = main(["report", "cbigan", "--compare", *map(str, folders), "--output", str(tmp_path)])
    assert code == 0 and "B minus A" in capsys.readouterr().out
    with open(tmp_path / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == compare.COLUMNS and {row["protocol"] for row in rows} >= {"paper"}
    assert main(["report", "--compare", str(folders[0]), str(tmp_path)]) == 1
    assert main(["report", "--compare", str(folders[0]), "nowhere"]) == 1
    assert comparison.delong([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], [0.1, 0.9, 0.2, 0.8]).p_value == 1
    assert compare.write([cbigan], *folders, tmp_path, Console(quiet=True)) == len(rows)


def test_a_compare_csv_that_is_something_else_stays(folders, tmp_path, capsys):
    (tmp_path / "compare.csv").write_text("mine\n")
    assert main(["report", "cbigan", "--compare", *map(str, folders), "--output", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert f"{tmp_path / 'compare.csv'} is no comparison" in errors and errors.count("\n") == 1
    assert (tmp_path / "compare.csv").read_text() == "mine\n"
