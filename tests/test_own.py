"""A detector for the user's own images, from a folder to a model, each command on what the one before left."""

import csv
import json
import re
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_reproduce_cli import inline

from ganspect.evaluation import metrics
from ganspect.evaluation.thresholds import rate_threshold
from ganspect.models import convert, precision
from ganspect.models.ganomaly import GANomalyConfig
from ganspect.reproduce import own, own_commands, own_detector
from ganspect.reproduce.cells import departure_texts
from ganspect.reproduce.model_card import card_of, citation
from ganspect.reproduce.own_commands import METHODS
from ganspect.training.locks import Lock

SMALL = "--set image_size=32 width=4 batch_size=4 epochs=3 steps_per_epoch=2 latent_size=6".split()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A plain folder of 24 normal images, and a labelled one: discs with a dark stripe in the anomalous ones."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)

    def picture(striped):
        y, x = np.mgrid[:40, :48]
        image = 60 + 120 * (np.hypot(y - 20, x - 24) < 15) + rng.normal(0, 3, (40, 48))
        image[18:22] -= 100 * striped
        return Image.fromarray(np.clip(image, 0, 255).astype("uint8"))

    for place, striped, count in (("normal", 0, 24), ("test/OK", 0, 5), ("test/stripe", 1, 4)):
        (root / place).mkdir(parents=True)
        for i in range(count):
            picture(striped).save(root / place / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def trained(folders):
    done = inline("train", "--method", "ganomaly", "--data", folders / "normal", "--output", folders / "det", *SMALL)
    assert done.returncode == 0, done.stderr
    return folders, done


def test_training_says_what_it_chose_and_the_next_command(trained):
    root, done = trained
    assert "16 images to train on, 8 held out for the threshold; gray" in done.stdout
    text = "other than in the method's paper: image_size 32; width 4; latent_size 6; batch_size 4; steps_per_epoch 2"
    assert text in done.stdout
    measured = r"MB of checkpoints \(\d+ GB free\), about 2.1 GB of memory \(measured with width 64, image_size 64, "
    assert re.search(r"\d+ " + measured + r"batch_size 64\)", done.stdout)
    assert "image_size 32" in done.stdout and re.search(r"about \d+ minutes? on two cores", done.stdout)
    assert f"next: ganspect calibrate {root / 'det'}" in done.stdout
    data = json.loads((root / "det" / "data.json").read_text())
    assert len(data["train"]) == 16 and data["held_out"] == [f"{i:02d}.png" for i in range(16, 24)]
    again = inline("train", "--method", "ganomaly", "--data", root / "normal", "--output", root / "det", *SMALL)
    assert again.returncode == 0
    other = [x.replace("width=4", "width=8") for x in SMALL]
    refused = inline("train", "--method", "ganomaly", "--data", root / "normal", "--output", root / "det", *other)
    assert refused.returncode == 1 and "width: stored 4, asked 8" in refused.stderr


def test_a_training_in_bfloat16_is_one_of_its_own(folders, tmp_path, monkeypatch):
    """Its losses differ from those of float32, in which it is not continued; a processor slow at it is named."""

    def first_loss():
        with open(tmp_path / "det" / "history.csv", newline="") as file:
            return float(next(csv.DictReader(file))["g_loss"])

    monkeypatch.setattr(precision, "instructions", lambda: frozenset({"avx2"}))
    command = ("train", "--method", "ganomaly", "--data", folders / "normal", "--output", tmp_path / "det", *SMALL)
    done = inline(*command, "--precision", "bfloat16")
    assert done.returncode == 0 and "no instructions for bfloat16" in done.stdout, done.stderr
    assert json.loads((tmp_path / "det" / "config.json").read_text())["precision"] == "bfloat16"
    refused = inline(*command)
    assert refused.returncode == 1 and "precision: stored 'bfloat16', asked None" in refused.stderr
    half = first_loss()
    assert inline("calibrate", tmp_path / "det").returncode == 0
    assert inline(*command, "--force").returncode == 0
    assert half != first_loss() and half == pytest.approx(first_loss(), rel=0.05)


def test_each_command_on_what_the_one_before_left(trained, tmp_path):
    root, _ = trained
    detector = root / "det"
    assert "is not calibrated: ganspect calibrate" in inline("export", detector).stderr
    done = inline("calibrate", detector, "--rate", "0.2")
    assert done.returncode == 0 and "next: ganspect evaluate" in done.stdout, done.stderr
    stored = json.loads((detector / "calibration.json").read_text())
    assert stored["held_out"] == 8 and sum(s >= stored["threshold"] for s in stored["scores"]) == 0
    done = inline("evaluate", detector, "--data", root / "test")
    assert done.returncode == 0 and "5 normal images" in done.stdout and "stripe: " in done.stdout, done.stderr
    with open(detector / "evaluation" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = json.loads((detector / "evaluation" / "metrics.json").read_text())
    labels, scores = np.array([int(r["label"]) for r in rows]), np.array([float(r["score"]) for r in rows])
    assert found["image_f1_max"] == metrics.f1_max(labels, scores)[0]
    assert found["image_accuracy_oracle"] == metrics.accuracy_oracle(labels, scores)[0]
    assert found["image_balanced_accuracy_oracle"] == metrics.balanced_accuracy_oracle(labels, scores)[0]
    rates = [np.mean((scores >= stored["threshold"]) == bool(kind), where=labels == kind) for kind in (0, 1)]
    assert found["image_balanced_accuracy"] == pytest.approx(np.mean(rates))
    text = f"balanced accuracy at the threshold {found['image_balanced_accuracy']:.3f}; best threshold on these images"
    assert text in done.stdout and f"F1 {found['image_f1_max']:.3f}" in done.stdout
    for name in ("pixel_auroc", "pixel_aupr", "pixel_aupro_0.30", "pixel_f1_max"):
        assert found[name] is None and "there are no masks" in found["undefined"][name]
    assert [r["label"] for r in rows] == ["0"] * 5 + ["1"] * 4 and (detector / "evaluation" / "histogram.png").exists()
    done = inline("export", detector)
    assert done.returncode == 0 and "next: ganspect predict" in done.stdout, done.stderr
    told = re.search(r"exports \S+ million parameters: a model of at most about (\d+) MB", done.stdout)
    size = sum(path.stat().st_size for path in (detector / "export" / "1").rglob("*") if path.is_file())
    assert told and 0 < size / 1e6 < int(told[1]) + 0.5
    metadata = json.loads((detector / "export" / "metadata.json").read_text())
    assert metadata["threshold"] == stored["threshold"] and metadata["evaluation"]["anomalous"] == 4
    assert str(root) not in (detector / "export" / "metadata.json").read_text()
    loaded = tf.saved_model.load(detector / "export" / "1")
    for row in rows:
        image = np.asarray(Image.open(root / "test" / row["image"]))[None, ..., None]
        answer = loaded.signatures["serving_default"](images=tf.constant(image))
        assert float(answer["score"][0]) == pytest.approx(float(row["score"]), rel=0.05)  # resized inside
        assert answer["anomaly_map"].shape == (1, 40, 48)
    card = (detector / "export" / "README.md").read_text()
    assert f"{metadata['threshold']:.6g}" in card and text in card and "pixel_f1_max" in card
    assert {*found} - {"data"} == {*metadata["evaluation"]}
    assert "`docs/methods/ganomaly.md` of ganspect" in card and "ACCV 2018 (arXiv 1805.06725)" in card
    assert f"other than the paper's: {'; '.join(metadata['departures'])}." in card and "width 4" in card
    assert inline("export", detector).returncode == 0  # over the model before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    refused = inline("export", detector, "--output", tmp_path / "mine")
    assert refused.returncode == 1 and (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    model = tmp_path / "model"
    shutil.copytree(detector / "export", model)
    assert inline("export", detector, "--output", model).returncode == 0 and not (tmp_path / ".model.old").exists()
    (model / "notes.txt").write_text("keep")
    refused = inline("export", detector, "--output", model)
    assert refused.returncode == 1 and "notes.txt" in refused.stderr and (model / "notes.txt").read_text() == "keep"
    (model / "notes.txt").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metadata.json").write_text("{}")
    refused = inline("export", detector, "--output", tmp_path / "other")
    assert refused.returncode == 1 and "not a model's folder" in refused.stderr
    model.rename(tmp_path / ".model.old")  # killed between the two renames
    (model.with_name(".model.part")).mkdir()
    assert inline("export", detector, "--output", model).returncode == 0 and model.exists()
    assert not list(tmp_path.glob(".model*"))


def test_the_commands_offer_what_there_is():
    """Their lists are their own, so that `ganspect --help` loads no methods."""
    assert sorted(own_commands.METHODS) == sorted(own.OFFERS)
    assert sorted(own_commands.FORMATS) == sorted(convert.FORMATS)
    assert sorted(own_commands.CHOICES) == sorted(own_detector.CHOICES)


def test_a_threshold_from_labelled_images_says_so(trained):
    root, _ = trained
    for choice in own_detector.CHOICES:
        done = inline("calibrate", root / "det", "--labelled", root / "test", "--choose", choice)
        assert done.returncode == 0 and "optimistic for others" in done.stdout, done.stderr
    alone = inline("calibrate", root / "det", "--labelled", root / "normal")
    assert alone.returncode == 1 and "no test images" in alone.stderr
    other = inline("calibrate", root / "det", "--normals", root / "test" / "OK")
    assert other.returncode == 0 and "from 5 held-out images" in other.stdout


def test_an_interrupted_training_goes_on(folders, tmp_path):
    class Signal(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                signal.raise_signal(signal.SIGINT)

    arguments = ("train", "--method", "ganomaly", "--data", folders / "normal", "--output", tmp_path / "d", *SMALL)
    with pytest.MonkeyPatch.context() as patch:
        real = own.runner.fit
        patch.setattr(own.runner, "fit", lambda *a: real(*a[:5], [Signal(), *a[5]], *a[6:]))
        stopped = inline(*arguments)
    assert stopped.returncode == 130 and "the same command continues" in stopped.stderr
    refused = inline("calibrate", tmp_path / "d")
    assert refused.returncode == 1 and "its training is interrupted" in refused.stderr
    done = inline(*arguments)
    assert done.returncode == 0 and "continues after epoch 1 of 3" in done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_other_commands_in_one_line(trained, tmp_path, monkeypatch, number):
    root, detector = copied(trained, tmp_path)
    stored, before = (detector / "calibration.json").read_bytes(), signal.getsignal(number)
    monkeypatch.setattr(own_detector.scoring, "examined", lambda *a, **k: signal.raise_signal(number))
    monkeypatch.setattr(own_detector.model_folder, "write", lambda *a: signal.raise_signal(number))
    for arguments in (("calibrate", detector), ("evaluate", detector, "--data", root / "test"), ("export", detector)):
        done = inline(*arguments)
        assert done.returncode == 130 and done.stderr == "interrupted: give the same command again\n", arguments
    assert (detector / "calibration.json").read_bytes() == stored and not (detector / "evaluation").exists()
    assert signal.getsignal(number) is before


def test_what_cannot_be_done_is_one_line(folders, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for i in range(5):
        Image.new("L", (40, 40), i).save(few / f"{i}.png")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (("train", "--data", few), "5 normal images; 8 are the least"),
        (("train", "--data", tmp_path / "empty"), "empty"),
        (("train", "--data", tmp_path / "none"), "none"),
        (("train", "--data", folders / "normal", "--set", "widht=3"), "widht"),
        (("train", "--data", folders / "normal", "--set", "width=5"), "width must be a multiple of 4"),
        (("train", "--data", folders / "normal", "--set", "channels=2"), "channels must be 1 or 3"),
        (("train", "--data", folders / "normal", "--seed", str(2**32)), "seed must lie in 0 to 4294967295"),
        (("train", "--data", folders / "normal", "--set", "encoder_rate=nan"), "encoder_rate must be a number"),
        (("train", "--data", folders / "normal", "--held-out", "23"), "--held-out 23 of 24"),
        (("train", "--data", folders / "normal", "--devices", "x"), "--devices"),
        (("calibrate", tmp_path / "none"), "there is no detector"),
        (("calibrate", tmp_path / "none", "--rate", "2"), "--rate must lie in (0, 1)"),
        (("evaluate", tmp_path / "none", "--data", few), "there is no detector"),
        (("export", tmp_path / "none"), "there is no detector"),
    ):
        done = inline(*arguments, *(("--output", tmp_path / "d") if arguments[0] == "train" else ()))
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, (
            arguments,
            done.stderr,
        )
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count, size", [(9, (64, 64)), (300, (700, 1024)), (60, (256, 256))])
def test_settings_are_chosen_for_every_method_and_size(method, count, size):
    offer = own.OFFERS[method]
    fixed = offer.method.settings if isinstance(offer.method.settings, dict) else {}
    config = offer.method.config(**{**offer.settings(count, size), **fixed, "channels": 3})
    assert 0 < own.estimate(offer, config, count) < 240


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("grdnet", {"noise gray", "statistics_batches 12", "width 16", "epochs 25"}),
        ("fcbigan", {"latent_overlap mean", "reconstruction_weight 10.0", "map_stride 4"}),
        ("cbigan", {"alpha 0.001", "image_size 64"}),
        ("draem", {"other noise", "width 16"}),
        ("ganomaly", {"epochs 600"}),
    ],
)
def test_departures_from_the_paper_are_named(method, settings):
    offer = own.OFFERS[method]
    config = offer.method.config(**{**offer.settings(100, (256, 256)), "channels": 3})
    found = departure_texts(offer.method, vars(config))
    assert settings <= {*found} and len(found) == len({*found}), found
    assert "channels 3" not in found and not [text for text in found if text.startswith("seed")]
    assert departure_texts(own.OFFERS["ganomaly"].method, vars(GANomalyConfig())) == []


def test_every_paper_is_cited_from_its_card():
    for method in METHODS:
        text = citation(card_of(method))
        assert re.search(r"\*[^*]{30,}\*", text) and re.search(r"\b20[12]\d\b", text), (method, text)
        assert text.endswith(".") and "Code" not in text and "\n" not in text
    assert card_of("grdnet-case-2") == card_of("residual-ae") == "grdnet" and citation("mine") == ""


def test_a_threshold_keeps_its_rate():
    """Over many draws of held-out images: the mean rate is `expected`, 95 % of the rates are within the bound."""
    rng = np.random.default_rng(0)
    for n, rate in ((19, 0.05), (40, 0.1), (99, 0.05)):
        found = [rate_threshold(rng.random(n), rate) for _ in range(2000)]
        rates = np.array([1 - one.value for one in found])  # of uniform scores
        assert all(one.reached for one in found) and found[0].expected <= rate + 1e-9
        assert rates.mean() == pytest.approx(found[0].expected, abs=0.004)
        assert np.mean(rates <= found[0].bound) == pytest.approx(0.95, abs=0.02)
    few = rate_threshold([1.0, 2.0, 3.0], 0.05)
    assert not few.reached and few.value > 3 and few.needed == 19 and "19 or more" in few.note
    for wrong in ([], [np.nan], [1.0, np.inf]):
        with pytest.raises(ValueError, match="finite"):
            rate_threshold(wrong)
    with pytest.raises(ValueError, match="rate"):
        rate_threshold([1.0], 1.0)


def copied(trained, tmp_path):
    """A calibrated detector of the trained one's files, which a test may spoil, and the root of the images."""
    root, _ = trained
    detector = tmp_path / "det"
    shutil.copytree(root / "det", detector, ignore=shutil.ignore_patterns("evaluation", "export"))
    own_detector.calibrate(detector)
    return root, detector


def test_images_that_the_detector_has_seen_are_left_out(trained, tmp_path):
    root, detector = copied(trained, tmp_path)
    shutil.copytree(root / "test", tmp_path / "test")
    shutil.copy(root / "normal" / "00.png", tmp_path / "test" / "OK" / "trained.png")
    shutil.copy(root / "normal" / "20.png", tmp_path / "test" / "OK" / "held_out.png")
    found = own_detector.evaluate(detector, tmp_path / "test")
    assert found["normal"] == 5 and found["anomalous"] == 4
    assert found["remarks"] == [
        "2 images that the detector was trained or calibrated on are left out",
        "the AUROC's interval is too narrow: there are only 4 images of one kind",
        "no pixel AUROC: there are no masks (ground_truth/<kind>/<stem>_mask.png)",
    ]
    stored = own_detector.calibrate(detector, normals=root / "normal")
    assert stored["held_out"] == 8 and stored["remarks"] == ["16 images that the detector was trained on are left out"]
    with pytest.raises(own.OwnError, match="no test image that the detector has not seen"):
        (tmp_path / "seen").mkdir()
        shutil.copytree(root / "normal", tmp_path / "seen" / "good")
        own_detector.evaluate(detector, tmp_path / "seen")


def test_held_out_images_must_be_those_of_the_training(trained, tmp_path):
    _, detector = copied(trained, tmp_path)
    data = json.loads((detector / "data.json").read_text())
    data["digests"][data["held_out"][0]] = "0" * 64
    (detector / "data.json").write_text(json.dumps(data))
    with pytest.raises(own.OwnError, match=r"held-out images have changed since the training: 16\.png"):
        own_detector.calibrate(detector)


def test_what_repeats_a_held_out_image_is_not_trained_on(folders, tmp_path):
    shutil.copytree(folders / "normal", tmp_path / "twice")
    for i in (22, 23):
        shutil.copy(folders / "normal" / f"{i}.png", tmp_path / "twice" / f"0{i}.png")
    plan = own.plan("ganomaly", tmp_path / "twice", held_out=4)
    names = [plan.arrays.train_names[i] for i in plan.kept]
    assert len(names) == 20 and not {"022.png", "023.png"} & set(names)
    assert "2 images that repeat a held-out one byte for byte are left out" in plan.text()
    assert "2 training images repeat another one byte for byte" in plan.text()


def test_missing_masks_and_folders_of_masks_are_no_silent_zeros(trained, tmp_path):
    root, detector = copied(trained, tmp_path)
    shutil.copytree(root / "test", tmp_path / "kinds")
    masks = tmp_path / "kinds" / "masks"
    masks.mkdir()
    Image.new("L", (48, 40), 255).save(masks / "00.png")
    found = own_detector.evaluate(detector, tmp_path / "kinds")
    assert found["anomalous"] == 4 and "masks are expected in ground_truth/<kind> (masks)" in found["remarks"][0]
    assert any("no pixel AUROC: there are no masks" in text for text in found["remarks"])
    assert any("there are only 4 images of one kind" in text for text in found["remarks"])
    masks.rename(tmp_path / "kinds" / "ground_truth")
    (tmp_path / "kinds" / "ground_truth" / "stripe").mkdir()
    (tmp_path / "kinds" / "ground_truth" / "00.png").rename(tmp_path / "kinds" / "ground_truth" / "stripe" / "00.png")
    done = inline("evaluate", detector, "--data", tmp_path / "kinds")
    assert done.returncode == 1 and "stripe/01.png: no mask of this stem" in done.stderr
    for i in range(1, 4):
        Image.new("L", (48, 40), 0).save(tmp_path / "kinds" / "ground_truth" / "stripe" / f"{i:02d}.png")
    found = own_detector.evaluate(detector, tmp_path / "kinds")
    empty = "masks of anomalous images are empty (stripe/01.png, stripe/02.png, stripe/03.png)"
    assert any(empty in text for text in found["remarks"]), found["remarks"]
    pixels = ("pixel_auroc", "pixel_aupr", "pixel_aupro_0.30", "pixel_f1_max")
    assert all(0 <= found[name] <= 1 for name in pixels) and found["undefined"] == {}
    shown = inline("evaluate", detector, "--data", tmp_path / "kinds").stdout
    assert f"AUPRO up to a false positive rate of 0.30 {found['pixel_aupro_0.30']:.3f}" in shown
    assert f"F1 at the best threshold on these images {found['pixel_f1_max']:.3f}" in shown
    with pytest.raises(own.OwnError, match="no such folder"):
        own_detector.evaluate(detector, tmp_path / "nowhere")


def test_a_threshold_inside_regions_is_not_used_outside(trained, tmp_path):
    root, detector = copied(trained, tmp_path)
    calibration = json.loads((detector / "calibration.json").read_text())
    (detector / "calibration.json").write_text(json.dumps(calibration | {"regions": True}))
    done = inline("evaluate", detector, "--data", root / "test")
    assert done.returncode == 1 and "no regions of interest" in done.stderr


def test_inside_regions_what_lies_outside_does_not_count(trained, tmp_path):
    """Of four striped images one has its stripe outside its region, and one an empty region."""
    root, detector = copied(trained, tmp_path)
    calibration = json.loads((detector / "calibration.json").read_text())
    (detector / "calibration.json").write_text(json.dumps(calibration | {"regions": True}))
    place = tmp_path / "part"
    for kind, own_name in (("good", "OK"), ("stripe", "stripe")):
        shutil.copytree(root / "test" / own_name, place / "test" / kind)
        for image in (place / "test" / kind).iterdir():
            region, mask = np.zeros((40, 48), np.uint8), np.zeros((40, 48), np.uint8)
            region[:15] = 255
            region[15:] = 255 * (image.stem != "01" or kind == "good")
            region *= image.stem != "02" or kind == "good"
            mask[18:22] = 255
            (place / "roi" / "test" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(region).save(place / "roi" / "test" / kind / image.name)
            if kind == "stripe":
                (place / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(place / "ground_truth" / kind / f"{image.stem}_mask.png")
    done = inline("evaluate", detector, "--data", place)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "note: 1 images with an empty region of interest are left out" in words and "3 anomalous images" in words
    assert "inside the regions of interest: 7 images (left out: 1 with defects wholly outside, 0 with" in words
    found = json.loads((detector / "evaluation" / "metrics.json").read_text())["inside"]
    assert found["images_outside"] == 1 and 0 <= found["image_balanced_accuracy_roi"] <= 1


def test_what_the_threshold_rests_on_is_said(trained, tmp_path):
    """A threshold from labelled images has a rate with a bound; measured on these images again, it says so."""
    root, detector = copied(trained, tmp_path)
    done = inline("calibrate", detector, "--labelled", root / "test")
    stored = json.loads((detector / "calibration.json").read_text())
    assert 0 < stored["expected_rate"] < stored["rate_bound"] < 1 and stored["false_alarm_rate"] is None
    assert "at most" in done.stdout
    done = inline("evaluate", detector, "--data", root / "test")
    assert "9 of these images chose the threshold" in done.stdout, done.stderr
    assert inline("export", detector).returncode == 0
    assert "9 of them chose the threshold." in (detector / "export" / "README.md").read_text()
    assert inline("calibrate", detector, "--normals", root / "test" / "OK").returncode == 0
    done = inline("evaluate", detector, "--data", root / "test")
    assert "5 images that the detector was trained or calibrated on are left out" in done.stdout, done.stderr


def test_a_folder_of_something_else_is_not_trained_in(folders, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "manifest.json").write_text("mine")
    for more in ((), ("--force",)):
        line = ("train", "--method", "ganomaly", "--data", folders / "normal", "--output", tmp_path / "photos", *SMALL)
        done = inline(*line, *more)
        assert done.returncode == 1 and "holds no detector" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["photos"]
    assert (tmp_path / "photos" / "manifest.json").read_text() == "mine"


def test_an_evaluation_of_another_threshold_is_not_exported(trained, tmp_path):
    root, detector = copied(trained, tmp_path)
    own_detector.evaluate(detector, root / "test")
    own_detector.calibrate(detector, rate=0.5)
    done = inline("export", detector)
    assert done.returncode == 0 and "evaluate again, then export" in done.stdout
    assert json.loads((detector / "export" / "metadata.json").read_text())["evaluation"] is None


def test_of_one_class_the_reason_is_said(trained, tmp_path):
    root, detector = copied(trained, tmp_path)
    shutil.copytree(root / "test" / "OK", tmp_path / "one" / "ok")
    done = inline("evaluate", detector, "--data", tmp_path / "one")
    assert done.returncode == 0 and "no AUROC: only normal images" in done.stdout, done.stderr
    found = json.loads((detector / "evaluation" / "metrics.json").read_text())
    for name in ("image_auroc", "image_ap", "image_f1_max", "image_accuracy_oracle", "image_balanced_accuracy"):
        assert found[name] is None and "only normal images" in found["undefined"][name]


def test_two_processes_do_not_train_in_one_folder(folders, tmp_path):
    with Lock(tmp_path / ".d.lock"):
        done = inline("train", "--method", "ganomaly", "--data", folders / "normal", "--output", tmp_path / "d", *SMALL)
    assert done.returncode == 1 and "is being trained by process" in done.stderr
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("status.json", "{", "status.json is damaged"),
        ("config.json", '{"method": "gan', "config.json is damaged"),
        ("config.json", "[]", "config.json is damaged"),
        ("config.json", '{"method": "else"}', "no detector that `ganspect train` has made"),
        ("status.json", "null", "names no state"),
        ("data.json", None, "no detector that `ganspect train` has made"),
        ("data.json", "{}", "data.json is damaged"),
        ("calibration.json", "{}", "calibration.json is damaged"),
        ("calibration.json", '{"threshold": null, "regions": false, "note": ""}', "calibration.json is damaged"),
        ("checkpoints/calibrated.npz", None, "calibrated.npz is missing: ganspect calibrate"),
        ("checkpoints/calibrated.npz", "PK", "calibrated.npz is damaged"),
    ],
)
def test_a_damaged_detector_is_one_line(trained, tmp_path, name, content, words):
    root, detector = copied(trained, tmp_path)
    (detector / name).unlink()
    if content is not None:
        (detector / name).write_text(content)
    done = inline("evaluate", detector, "--data", root / "test")
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1


def test_output_that_cannot_be_written_is_one_line(folders, tmp_path):
    (tmp_path / "file").write_text("")
    line = ("train", "--method", "ganomaly", "--data", folders / "normal", "--output", tmp_path / "file" / "d", *SMALL)
    done = inline(*line)
    assert done.returncode == 1 and "file" in done.stderr and done.stderr.count("\n") == 1
