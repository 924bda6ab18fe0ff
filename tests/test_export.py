"""The SavedModel of every method equals the method, in a process that knows nothing of this project."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_predict import predict, rows_of
from tiny_methods import TINY

from ganspect.evaluation.thresholds import rate_threshold
from ganspect.models.export import ENDPOINTS, Calibration
from ganspect.reproduce.model_folder import NotExported, export_model

HERE = Path(__file__).parent
QUICK = ("ganomaly",)
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in TINY]


def calibrated(name, textures):
    """A detector whose scores differ between images, with constants from a normal image."""
    detector = TINY[name].telling(**({"patch_stride": 16} if TINY[name].regions else {}))  # overlapping patches
    detector.calibrate([np.repeat(textures[0][:64, :64], detector.config.channels, axis=-1)])
    return detector


def cases_of(detector):
    """uint8 images by case: two batch sizes of the method's size, or of three sizes where it takes any."""
    rng, size = np.random.default_rng(0), detector.input_size
    shapes = [(size, size)] if size else [(48, 40), (53, 61), (32, 80)]
    return {
        f"{n}_{height}_{width}": rng.integers(0, 256, (n, height, width, detector.config.channels), dtype="uint8")
        for height, width in shapes
        for n in (1, 3)
    }


def asked(model, folder, **inputs):
    """What plain_saved_model.py finds, isolated from this project: `{endpoint/output/case: array}`."""
    np.savez(folder / "inputs.npz", **inputs)
    line = [sys.executable, "-I", HERE / "plain_saved_model.py", model, folder / "inputs.npz", folder / "outputs.npz"]
    done = subprocess.run(
        line, cwd=folder, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "outputs.npz") as found:
        return {name: found[name] for name in found.files}


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_equals_its_method(name, textures, tmp_path):
    detector = calibrated(name, textures)
    cases = cases_of(detector)
    middle = float(np.median([detector.anomaly_score(image) for images in cases.values() for image in images]))
    facts = detector.export(tmp_path / "model", Calibration(threshold=middle, median=middle - 2.0))
    takes_regions = name in ("fcbigan", "grdnet", "draem")
    assert facts["roi"] == takes_regions == ("serve_roi" in facts["endpoints"])
    assert set(facts["endpoints"]) | {"serve_roi"} == set(ENDPOINTS)
    regions = {key: np.zeros(images.shape[:3], "uint8") for key, images in cases.items()}
    for region in regions.values():
        region[:, 8:24, 10:30] = 1
    inputs = {f"{endpoint}/images/{k}": x for k, x in cases.items() for endpoint in ("serving_default", "score")}
    inputs |= {f"serve_float/images/{k}": x / np.float32(255) for k, x in cases.items()}
    for key, images in cases.items():
        files = np.array([tf.io.encode_png(image).numpy() for image in images] + [None], object)[:-1]
        inputs[f"serve_bytes/encoded/{key}"] = files
        if takes_regions:
            inputs |= {f"serve_roi/images/{key}": images, f"serve_roi/regions/{key}": regions[key]}
    found = asked(tmp_path / "model", tmp_path, **inputs)
    lower = False
    for key, images in cases.items():
        evidence = detector.evidences(list(images))
        scores = np.array([detector.score_from(one) for one in evidence])
        heat = np.stack([detector.map_from(one, detector.score_names[0]) for one in evidence])
        rebuilt = np.stack([one["reconstruction"] for one in evidence]) / 2 + 0.5
        for endpoint in ("serving_default", "serve_float", "serve_bytes", *(["serve_roi"] if takes_regions else [])):
            near(found[f"{endpoint}/anomaly_map/{key}"], heat)
            near(found[f"{endpoint}/reconstruction/{key}"], rebuilt)
            expected = scores
            if endpoint == "serve_roi":
                pairs = zip(evidence, regions[key] > 0, strict=True)
                expected = np.array([detector.score_inside(one, region) for one, region in pairs])
                lower |= bool((expected < scores).any())
            near(found[f"{endpoint}/score/{key}"], expected)
            calls = found[f"{endpoint}/score/{key}"] >= np.float32(middle)
            np.testing.assert_array_equal(found[f"{endpoint}/label/{key}"], calls)
            np.testing.assert_array_equal(found[f"{endpoint}/threshold/{key}"], np.float32(middle))
            shifted = (found[f"{endpoint}/score/{key}"] - (middle - 2.0)) / 2.0
            np.testing.assert_allclose(found[f"{endpoint}/calibrated_score/{key}"], shifted, rtol=1e-4, atol=1e-5)
        near(found[f"score/score/{key}"], scores)
        same = f"anomaly_map/{key}"
        np.testing.assert_array_equal(found[f"serve_bytes/{same}"], found[f"serving_default/{same}"])
    assert lower == takes_regions  # some image is most anomalous outside


def test_predict_takes_what_python_exports(textures, tmp_path):
    detector = TINY["ganomaly"].telling()
    size, channels = detector.input_size, detector.config.channels
    images = [np.repeat(image[:size, :size], channels, axis=-1) for image in textures]
    (tmp_path / "in").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "in" / f"{i}.png")
    known = export_model(tmp_path / "model", detector, images[:2], trained_on=7, rate=0.4, fingerprint="of data")
    assert (known["method"], known["label"], known["held_out"]) == ("ganomaly", "GANomaly", 2)
    assert known["data_fingerprint"] == "of data" and known["config"]["width"] == detector.config.width
    card = (tmp_path / "model" / "README.md").read_text()
    assert "trained on 7 normal images" in card and "other than the paper's: " in card and "docs/methods/" in card
    assert f"width {detector.config.width}" in known["departures"]
    done = predict(tmp_path / "model", tmp_path / "in", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    scores = [detector.anomaly_score(image) for image in images]
    np.testing.assert_allclose([float(row["score"]) for row in rows_of(tmp_path / "out")], scores, rtol=1e-4)
    assert known["threshold"] == rate_threshold(scores[:2], 0.4).value
    assert known["calibration"]["median"] == np.median(scores[:2])
    (tmp_path / "model" / "mine.txt").write_text("keep")
    with pytest.raises(NotExported, match=r"mine\.txt"):
        export_model(tmp_path / "model", detector, images[:2], trained_on=7)


def test_a_score_that_is_no_number_is_anomalous(textures, tmp_path):
    detector = calibrated("ganomaly", textures)
    detector.export(tmp_path / "model", Calibration(threshold=1.0, median=0.5))
    blank = np.full((2, detector.input_size, detector.input_size, detector.config.channels), 0.5, "float32")
    blank[1, 3, 4] = np.nan
    found = tf.saved_model.load(str(tmp_path / "model")).signatures["serve_float"](tf.constant(blank))
    assert np.isnan(found["score"][1]) and not np.isnan(found["score"][0])
    assert found["label"].numpy().tolist() == [0, 1]


def test_averaged_latents_are_exported(textures, tmp_path):
    """As `ganspect train` sets them; of a whole image they give another map than sums."""
    sums = calibrated("fcbigan", textures)
    detector = TINY["fcbigan"].build(latent_overlap="mean")
    for v, value in zip(detector.variables, sums.variables, strict=True):
        if "kernel" in v.path and any(v is w for w in detector.discriminator.variables):
            value.assign(value * 6.0)  # the outputs of a D so narrow all but vanish
        v.assign(value)
    detector.export(tmp_path / "model", Calibration(threshold=1.0, median=0.0))
    loaded = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    *_, images = cases_of(detector).values()
    found, evidence = loaded(images=tf.constant(images)), detector.evidences(list(images))
    heat = [detector.map_from(one) for one in evidence]
    near(found["anomaly_map"].numpy(), np.stack(heat))
    near(found["score"].numpy(), np.array([detector.score_from(one) for one in evidence]))
    assert not np.allclose(heat[0], sums.map_from(sums.evidence(images[0])))


def near(values, expected):
    """Within 1e-5 of the largest."""
    assert values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_images_of_other_sizes_are_resized_as_files_are(textures, tmp_path):
    """Where the method sees squares: within a level or two of Pillow's resizing, whose weights are rounded."""
    from ganspect.data.images import to_array

    detector = calibrated("ganomaly", textures)
    detector.export(tmp_path / "model", Calibration(1.0, 0.0))
    loaded = tf.saved_model.load(tmp_path / "model")
    y, x = np.mgrid[:90, :130]
    image = np.stack([127 + 120 * np.sin(x / 9 + k) * np.cos(y / 7) for k in range(3)], axis=-1).astype("uint8")
    small = to_array(Image.fromarray(image), 3, 64)
    pair = [loaded.signatures["serving_default"](images=tf.constant(x[None])) for x in (image, small)]
    assert pair[0]["anomaly_map"].shape == (1, 90, 130)
    np.testing.assert_allclose(pair[0]["score"], pair[1]["score"], rtol=0.02)
    again = tf.image.resize(pair[1]["anomaly_map"][..., None], (90, 130))[..., 0]
    np.testing.assert_allclose(pair[0]["anomaly_map"], again, atol=0.02)


@pytest.mark.parametrize(
    "name, settings", [("anogan", {"search": "dense"}), ("fcbigan", {"aggregation": "mahalanobis"})]
)
def test_what_cannot_be_exported_says_why(name, settings, tmp_path):
    detector = TINY[name].build(**settings)
    with pytest.raises(ValueError, match="cannot be exported"):
        detector.export(tmp_path / "model", Calibration(1.0, 0.0))
    assert not (tmp_path / "model").exists()
