"""`ganspect predict` as a user runs it: files found, rows, exit codes, pictures, tiles, regions."""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import served_models
from PIL import Image
from served_models import FAILS, THRESHOLD

from ganspect.evaluation.tiles import Tiling
from ganspect.reproduce import inputs, pictures, score_files
from ganspect.reproduce.ahead import Ahead, Behind
from ganspect.reproduce.predict import add_predict


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """A model of a local method, gray."""
    return served_models.make(tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="session")
def resized(tmp_path_factory):
    """A model that resizes its input."""
    return served_models.make(tmp_path_factory.mktemp("resized"), resized=True)


def predict(*arguments):
    """Exit code, standard output and errors of the command, in this process."""
    parser = argparse.ArgumentParser()
    add_predict(parser.add_subparsers())
    options = parser.parse_args(["predict", *map(str, arguments)])
    with io.StringIO() as out, io.StringIO() as errors:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = options.run(options)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())


def rows_of(folder):
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def picture(path, spot=0, size=(24, 32), seed=0):
    """A gray image with faint noise and a bright pixel of height `spot`."""
    pixels = np.random.default_rng(seed).integers(100, 110, size).astype(np.uint8)
    pixels[size[0] // 2, size[1] // 2] += np.uint8(spot)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def loaded_map(folder, name):
    return np.load(folder / "maps" / f"{name}.npy")


def test_start_is_fast():
    line = (
        "import sys, ganspect.reproduce.predict; assert not {'tensorflow', 'keras', 'numpy', 'rich'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", line]).returncode == 0


def test_images_far_smaller_than_what_the_model_sees_are_named(resized, tmp_path):
    picture(tmp_path / "in" / "tiny.png", size=(3, 40))
    picture(tmp_path / "in" / "small.png", size=(4, 40))
    done = predict(resized, tmp_path / "in", "--output", tmp_path / "out")
    assert done.returncode == 0 and len(rows_of(tmp_path / "out")) == 2
    text = "a side is less than a quarter of the 16 pixels that the model sees: 1 files"
    assert text in done.stderr and "tiny.png" in done.stderr and "small.png" not in done.stderr


def test_pictures_of_an_earlier_run_are_named(local, tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "in" / f"{name}.png")
    done = predict(local, tmp_path / "in", "--output", tmp_path / "out")
    assert done.returncode == 0 and "scored before" not in done.stdout
    again = predict(local, tmp_path / "in" / "a.png", "--output", tmp_path / "out")
    assert again.returncode == 0 and "2 heat maps and overlays of images scored before are still there" in again.stdout
    done = predict(local, tmp_path / "in", "--output", "")
    assert done.returncode == 1 and "--output takes a folder" in done.stderr


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("predictions.csv", ("--no-images",)),
        ("heatmaps/a.png", ()),
        ("overlays/a.png", ()),
        ("maps/a.npy", ("--save-maps", "--no-images")),
        ("contact_sheet.png", ()),
        ("contact_sheet_2.png", ()),
    ],
)
def test_files_of_the_user_are_never_replaced(local, tmp_path, name, more):
    picture(tmp_path / "in" / "a.png")
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("path,score\nmine,1\n")
    before = snapshot(tmp_path / "out")
    done = predict(local, tmp_path / "in", "--output", tmp_path / "out", *more)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and snapshot(tmp_path / "out") == before
    assert f"{mine} is no result of predict" in done.stderr and "another --output" in done.stderr
    mine.rename(mine.with_name("kept"))
    for _ in range(2):  # the second in place of the first
        done = predict(local, tmp_path / "in", "--output", tmp_path / "out", *more)
        assert done.returncode == 0, done.stderr
    assert mine.with_name("kept").read_text() == "path,score\nmine,1\n"


def test_what_would_not_be_replaced_is_no_hindrance(local, tmp_path):
    picture(tmp_path / "in" / "a.png")
    for name in ("heatmaps/b.png", "maps/a.npy", "contact_sheet_old.png", "notes.csv"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("mine")
    before = snapshot(tmp_path / "out")
    done = predict(local, tmp_path / "in", "--output", tmp_path / "out")
    assert done.returncode == 0 and snapshot(tmp_path / "out").items() >= before.items(), done.stderr


def test_after_a_kill_the_pictures_are_known_as_ours(local, tmp_path, monkeypatch):
    """predictions.csv is written when all is done: a first one, of no rows, stands there from the beginning."""
    picture(tmp_path / "in" / "a.png")
    found = []
    monkeypatch.setattr(pictures.ContactSheets, "write", lambda self, folder: found.append(rows_of(folder)) or 0)
    real = score_files.FileScorer.run
    monkeypatch.setattr(
        score_files.FileScorer, "run", lambda self, *a: found.append(rows_of(self.output)) or real(self, *a)
    )
    assert predict(local, tmp_path / "in", "--output", tmp_path / "out").returncode == 0
    assert [len(rows) for rows in found] == [0, 1]
    assert inputs.in_the_way(tmp_path / "out", inputs.find([tmp_path / "in"], tmp_path / "out").items) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_rows_scored_so_far(local, tmp_path, monkeypatch, number):
    for i in range(5):
        picture(tmp_path / "in" / f"{i}.png", seed=i)
    real, before = score_files.FileScorer._note, signal.getsignal(number)

    def note(self, loaded, answer, milliseconds):
        real(self, loaded, answer, milliseconds)
        if loaded.index == 1:
            signal.raise_signal(number)

    monkeypatch.setattr(score_files.FileScorer, "_note", note)
    done = predict(local, tmp_path / "in", "--output", tmp_path / "out", "--batch-size", 1)
    assert done.returncode == 130 and done.stderr.count("\n") == 1 and "2 images scored so far" in done.stderr
    rows = rows_of(tmp_path / "out")
    assert [row["error"] for row in rows] == ["", ""] + ["not scored: interrupted"] * 3
    assert all(float(row["score"]) >= 0 for row in rows[:2]) and signal.getsignal(number) is before
    monkeypatch.setattr(score_files.FileScorer, "_note", real)
    assert predict(local, tmp_path / "in", "--output", tmp_path / "out").returncode == 0


def test_folder_to_rows_pictures_and_sheet(local, tmp_path):
    spots = {"a": 0, "b": 145, "c": 30, "sub/d": 100}
    for i, (name, spot) in enumerate(spots.items()):
        picture(tmp_path / "in" / f"{name}.png", spot, (24, 32) if i % 2 else (40, 20), i)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    picture(tmp_path / "in" / ".hidden.png")
    before = snapshot(tmp_path / "in")
    done = predict(local, tmp_path / "in", "--output", tmp_path / "out", "--save-maps")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    rows = {row["output"]: row for row in rows_of(tmp_path / "out")}
    assert list(rows) == list(spots) and snapshot(tmp_path / "in") == before
    for name, row in rows.items():
        heat = loaded_map(tmp_path / "out", name)
        with Image.open(tmp_path / "in" / f"{name}.png") as image:
            assert heat.dtype == np.float32 and heat.shape == image.size[::-1]
        score = float(row["score"])
        assert score == pytest.approx(heat.max()) and float(row["threshold"]) == THRESHOLD
        assert float(row["calibrated_score"]) == pytest.approx((score - 2) / 10, rel=1e-5)
        assert row["label"] == ("anomalous" if score >= THRESHOLD else "normal") and float(row["milliseconds"]) > 0
        assert row["path"] == str(tmp_path / "in" / f"{name}.png") and row["error"] == ""
        for kind in ("heatmaps", "overlays"):
            with Image.open(tmp_path / "out" / kind / f"{name}.png") as image:
                assert image.mode == "RGB" and image.size == heat.shape[::-1]
    labels = [row["label"] for row in rows.values()]
    assert set(labels) == {"normal", "anomalous"}
    assert f"4 images scored, {labels.count('anomalous')} anomalous, 0 failed" in done.stdout
    assert "1 files in the folders" in done.stdout and (tmp_path / "out" / "contact_sheet.png").exists()


def snapshot(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_batches_and_single_images_give_the_same(local, tmp_path):
    for i in range(7):
        picture(tmp_path / "in" / f"{i}.png", 10 * i, (24, 32) if i % 3 else (16, 16), i)
    for size in (1, 3, 100):
        assert (
            predict(local / "1", tmp_path / "in", "--output", tmp_path / f"{size}", "--batch-size", size).returncode
            == 0
        )
    ones, threes, hundreds = ([float(r["score"]) for r in rows_of(tmp_path / n)] for n in ("1", "3", "100"))
    assert ones == pytest.approx(threes) and ones == pytest.approx(hundreds)


def test_exit_codes_and_thresholds(local, tmp_path):
    good, bad = picture(tmp_path / "good.png", 5), picture(tmp_path / "bad.png", 145)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    broken = tmp_path / "broken.png"
    out = ("--output", tmp_path / "out", "--no-images")
    assert predict(local, good, *out, "--fail-on-anomaly").returncode == 0
    assert predict(local, good, bad, *out).returncode == 0
    assert predict(local, good, bad, broken, *out, "--fail-on-anomaly").returncode == 3
    done = predict(local, good, broken, tmp_path / "absent.png", *out, "--fail-on-anomaly")
    assert done.returncode == 2 and "2 of 3 files failed" in done.stderr
    assert "broken.png: not an image" in done.stderr and "absent.png: no such file" in done.stderr
    done = predict(local, broken, *out)
    assert done.returncode == 1 and "not an image" in rows_of(tmp_path / "out")[0]["error"]
    assert predict(local, good, *out, "--threshold", "0.5", "--fail-on-anomaly").returncode == 3
    row = rows_of(tmp_path / "out")[0]
    assert row["label"] == "anomalous" and float(row["threshold"]) == 0.5 and float(row["calibrated_score"]) < 1
    assert not any((tmp_path / "out" / name).exists() for name in ("heatmaps", "overlays", "contact_sheet.png"))
    assert predict(local, bad, *out, "--threshold", "1000", "--fail-on-anomaly").returncode == 0


def test_what_cannot_start_says_why(local, tmp_path):
    image = picture(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "1").mkdir(parents=True)
    shutil.copy(local / "metadata.json", tmp_path / "half")
    (tmp_path / "half" / "1" / "saved_model.pb").write_bytes(b"damaged")
    other = tmp_path / "other"
    shutil.copytree(local, other)
    (other / "metadata.json").write_text('{"format": 1}')
    no_region = tmp_path / "no_region"
    shutil.copytree(local, no_region)
    facts = json.loads((local / "metadata.json").read_text())
    (no_region / "metadata.json").write_text(json.dumps(facts | {"roi": False}))
    (tmp_path / "file").write_text("")
    wrong = {
        (tmp_path / "nowhere", image): "no exported model",
        (tmp_path / "half", image): "cannot be loaded",
        (other, image): "lacks method",
        (local, tmp_path / "empty"): "nothing to score",
        (local, image, "--threshold", "nan"): "--threshold takes a number",
        (local, image, "--overlap", "8"): "--overlap needs --tile",
        (local, image, "--batch-size", "0"): "1 or more",
        (local, image, "--tile", "0"): "1 or more",
        (local, image, "--tile", "32", "--overlap", "5"): "at least 6",
        (local, image, "--tile", "9"): "at least 11",
        (local, image, "--roi", tmp_path / "nowhere"): "no such file",
        (local, image, "--roi", tmp_path / "empty"): "no region of interest",
        (no_region, image, "--roi", image): "takes no region",
        (local, image, "--output", tmp_path / "file"): "--output",
    }
    for arguments, reason in wrong.items():
        out = () if "--output" in arguments else ("--output", tmp_path / "out")
        done = predict(*arguments, *out)
        assert done.returncode == 1 and reason in done.stderr, (arguments, done.stderr)


def test_equal_stems_do_not_overwrite_each_other(local, tmp_path):
    files = ["a/x.png", "b/x.png", "b/x.bmp", "b/x.tif", "b/X.PNG", "b/x.png.png"]
    for i, name in enumerate(files):
        picture(tmp_path / name, 20 * i, seed=i)
    out = tmp_path / "out"
    done = predict(local, tmp_path / "a", tmp_path / "b", "--output", out, "--save-maps")
    assert done.returncode == 0, done.stderr
    rows = rows_of(out)
    assert len({row["output"].casefold() for row in rows}) == len(files) == len(list((out / "heatmaps").rglob("*.png")))
    for row in rows:
        assert float(row["score"]) == pytest.approx(loaded_map(out, row["output"]).max())


def test_globs_links_and_own_results(local, tmp_path, monkeypatch):
    for name in ("in/a.png", "in/deep/er/b.png", "in/deep/c[1].png", "in/deep/c1.png", "in/deep/.no.png"):
        picture(tmp_path / name)
    (tmp_path / "in" / "deep" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "same.png").symlink_to(tmp_path / "in" / "a.png")
    monkeypatch.chdir(tmp_path)

    def found(*paths, out="in/results"):
        return [item.path for item in inputs.find(paths, out).items if not item.error]

    everything = ["in/a.png", "in/deep/c1.png", "in/deep/c[1].png", "in/deep/er/b.png"]
    assert found("in") == everything == sorted(found("in/**/*.png"))
    assert found("in/deep/c[1].png") == ["in/deep/c[1].png"] and found("in/deep/c?.png") == ["in/deep/c1.png"]
    assert found("in", "in/*", "in/a.png") == everything
    assert predict(local, "in", "--output", "in/results").returncode == 0
    assert found("in") == everything and len(found("in/*")) == 4
    assert predict(local, "in", "--output", "in/results").returncode == 0 and len(rows_of(tmp_path / "in/results")) == 4
    done = predict(local, "in/results/heatmaps", "--output", "in/results")
    assert done.returncode == 1 and "passed over" in done.stderr
    assert "passed over" in predict(local, "in", "--output", "in").stderr
    shutil.copytree(tmp_path / "in" / "results", tmp_path / "in" / "earlier")
    assert found("in", out="elsewhere") == everything  # no picture of either folder of results
    assert {os.path.basename(path) for path in inputs.find(["in"], "elsewhere").own} >= {"heatmaps", "overlays"}
    assert predict(local, "in/*.gif", "--output", "out").returncode == 1
    os.mkfifo(tmp_path / "in" / "pipe.png")
    assert {i.error for i in inputs.find(["in", "none.png"], "out").items} == {"", "not a regular file", "no such file"}


def test_too_small_and_failing_images_do_not_stop_others(local, tmp_path):
    for i in range(6):
        picture(tmp_path / "in" / f"{i}.png", seed=i)
    pixels = np.full((24, 32), FAILS, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / "3_fails.png")
    picture(tmp_path / "in" / "small.png", size=(7, 30))
    done = predict(local, tmp_path / "in", "--output", tmp_path / "out", "--no-images")
    assert done.returncode == 2
    bad = {row["path"][-9:]: row["error"] for row in rows_of(tmp_path / "out") if row["error"]}
    assert len(bad) == 2 and "the model failed (InvalidArgumentError" in bad["fails.png"]
    assert bad["small.png"] == "too small: 30x7 pixels, the model needs at least 8x8"


@pytest.mark.parametrize("tile, overlap", [(12, 6), (16, 6), (24, 10), (31, 20), (64, 6), (200, 6)])
def test_tiled_equals_whole(local, tile, overlap, tmp_path):
    sizes = [(97, 61), (12, 90), (64, 64), (8, 8)]
    for i, size in enumerate(sizes):
        picture(tmp_path / "in" / f"{i}.png", 120, size, i)
    options = ("--save-maps", "--no-images")
    assert predict(local, tmp_path / "in", "--output", tmp_path / "whole", *options).returncode == 0
    tiles = ("--tile", tile, "--overlap", overlap)
    assert predict(local, tmp_path / "in", "--output", tmp_path / "tiled", *options, *tiles).returncode == 0
    for whole, tiled in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "tiled"), strict=True):
        np.testing.assert_allclose(
            loaded_map(tmp_path / "tiled", tiled["output"]), loaded_map(tmp_path / "whole", whole["output"]), rtol=2e-6
        )
        for name in ("score", "calibrated_score"):
            assert float(tiled[name]) == pytest.approx(float(whole[name]), rel=1e-5)
        assert tiled["label"] == whole["label"]


def test_tiles_of_a_method_that_resizes(resized, tmp_path):
    picture(tmp_path / "in" / "a.png", 120, (64, 80))
    options = ("--save-maps", "--no-images", "--output", tmp_path / "out", "--tile", 32)
    assert predict(resized, tmp_path / "in", *options).returncode == 0
    row, heat = rows_of(tmp_path / "out")[0], loaded_map(tmp_path / "out", "a")
    assert heat.shape == (64, 80) and np.isfinite(heat).all() and float(row["score"]) >= heat.max() * 0.999
    assert predict(resized, tmp_path / "in", *options, "--roi", ring(tmp_path)).returncode == 0


@pytest.mark.parametrize("length", [8, 30, 63, 64, 65, 100, 257])
def test_weights_of_tiles(length):
    tiling = Tiling(40, 17, context=8, alignment=8, smallest=32)
    total = np.zeros(length)
    for span, weight in tiling.weights(length):
        size = span.stop - span.start
        total[span] += weight
        assert weight.min() >= 0 and span.start % 8 == 0 and (size >= 32 or length < 32)
        assert span.start == 0 or not weight[:8].any()
        assert span.stop == length or not weight[-8:].any()
    np.testing.assert_allclose(total, 1)


def ring(folder):
    """A region of interest: the left half."""
    region = np.zeros((12, 16), np.uint8)
    region[:, :8] = 255
    path = folder / "roi.png"
    Image.fromarray(region).save(path)
    return path


@pytest.mark.parametrize("tiles", [(), ("--tile", 16)])
def test_regions_of_interest(local, tiles, tmp_path):
    for name in ("a", "b"):
        pixels = np.full((24, 32), 100, np.uint8)
        pixels[12, 4 if name == "a" else 28] = 240
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "out"
    assert predict(local, tmp_path / "in", "--output", out, "--roi", ring(tmp_path), *tiles).returncode == 0
    a, b = (float(row["score"]) for row in rows_of(out))
    assert a > 10 and b == 0
    (tmp_path / "regions").mkdir()
    shutil.copy(tmp_path / "roi.png", tmp_path / "regions" / "a.png")
    done = predict(local, tmp_path / "in", "--output", out, "--roi", tmp_path / "regions", *tiles)
    assert done.returncode == 2 and "b.png: no region of interest named b" in done.stderr
    assert float(rows_of(out)[0]["score"]) == a
    Image.new("L", (5, 5)).save(tmp_path / "regions" / "b.png")
    done = predict(local, tmp_path / "in", "--output", out, "--roi", tmp_path / "regions", *tiles)
    assert done.returncode == 2 and "the region of interest is empty" in done.stderr


def test_contact_sheets_are_sorted_and_parted(local, tmp_path, monkeypatch):
    for i in range(7):
        picture(tmp_path / "in" / f"{i}.png", 20 * ((i * 3) % 7), seed=i)
    monkeypatch.setattr(pictures, "PER_SHEET", 3)
    sheets = []
    monkeypatch.setattr(
        pictures, "ContactSheets", lambda made=pictures.ContactSheets: sheets.append(made()) or sheets[-1]
    )
    assert predict(local, tmp_path / "in", "--output", tmp_path / "out").returncode == 0
    rows = sorted(rows_of(tmp_path / "out"), key=lambda row: -float(row["score"]))
    assert sheets[0].order() == [row["output"] for row in rows]
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {"contact_sheet.png", "contact_sheet_2.png", "contact_sheet_3.png"}
    assert predict(local, tmp_path / "in" / "1.png", "--output", tmp_path / "out").returncode == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"contact_sheet.png"}


def test_pictures_share_one_scale_and_outline_what_is_above_the_threshold(monkeypatch):
    assert pictures.scale_of(4.0) == (0, 8) and pictures.scale_of(-2.0) == (-4, 0) and pictures.scale_of(0.0) == (-1, 1)
    values = np.zeros((50, 40), np.float32)
    values[10:20, 10:30] = 5
    heat = pictures.heat_map(values, 0, 8)
    assert heat[0, 0].sum() < 20 < heat[15, 15].sum() and (heat[15, 15] == heat[10, 29]).all()
    image = np.full((50, 40, 1), 100, np.uint8)
    whole = pictures.overlay(image, values, 0, 8, 4.0)
    outline = (204, 60, 170)
    assert (whole[0, 0] == 100).all() and (whole[10, 10] == outline).all() and (whole[15, 15] != outline).any()
    monkeypatch.setattr(pictures, "_STRIP", 100)  # two rows at once
    np.testing.assert_array_equal(pictures.overlay(image, values, 0, 8, 4.0), whole)
    values[0, 0] = 100
    small = pictures.thumbnail(np.tile(image, (10, 10, 1)), np.kron(values, np.ones((10, 10))), 0, 8, 4.0)
    assert small.shape == (160, 128, 3) and [204, 60, 170] in small[:5, :5].reshape(-1, 3).tolist()


def test_work_ahead_and_behind_is_in_order_bounded_and_fails_loudly():
    held, most = set(), []

    def work(item):
        held.add(item)
        most.append(len(held))
        return item

    stream = Ahead(list(range(200)), work, lambda _: 10, limit=50)
    seen = []
    for item in stream:
        held.discard(item)
        seen.append(item)
    stream.close()
    assert seen == list(range(200)) and max(most) <= 10
    stream = Ahead([1, 0], lambda x: 1 // x, lambda _: 1)
    with pytest.raises(ZeroDivisionError):
        list(stream)
    stream.close()
    behind = Behind(limit=10)
    behind.add(lambda: 1 // 0, 20)
    with pytest.raises(ZeroDivisionError):
        behind.finish()
    behind.close()
