"""Conversion of exported models: what is refused and why; each format equals the SavedModel."""

import json
import re
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY

from ganspect.models import convert as conversion
from ganspect.models.convert import FILES, FORMATS, ConversionError, convert
from ganspect.models.export import Calibration

NEEDED = {"onnx": ("tf2onnx", "onnxruntime"), "litert": (), "openvino": ("tf2onnx", "openvino")}
LACKING = {"anogan": FORMATS, "fanogan": ("litert", "openvino")}  # formats without an operation of theirs


def save(folder, compute, channels=1, **metadata):
    """An exported model whose `serve_float` is `compute`, images `[N, H, W, C]` to `{output: tensor}`."""
    module = tf.Module()
    spec = tf.TensorSpec([None, None, None, channels], tf.float32, name="images")
    module.serve = tf.function(compute, input_signature=[spec])
    tf.saved_model.save(module, str(folder / "1"), signatures={"serve_float": module.serve})
    facts = {"channels": channels, "image_size": None, "smallest": [16, 16]} | metadata
    (folder / "metadata.json").write_text(json.dumps(facts))
    return folder


def scored(heat, **more):
    score = tf.reduce_max(heat, axis=(1, 2))
    label = tf.cast(score >= 0.5, tf.int32)
    return {
        "score": score,
        "calibrated_score": (score - 0.1) / 0.4,
        "label": label,
        "threshold": 0.5 * tf.ones_like(score),
        "anomaly_map": heat,
        **more,
    }


def convolutional(images):
    """Padded by mirroring to multiples of 8, convolved with and without dilation, cropped back."""
    kernels = np.random.default_rng(1).normal(0, 0.3, (2, 3, 3, 1, 1)).astype("float32")
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    x = tf.pad(images, [[0, 0], [0, -height % 8], [0, -width % 8], [0, 0]], mode="SYMMETRIC")
    x = tf.nn.leaky_relu(tf.nn.conv2d(x, kernels[0], 1, "SAME"))
    x = tf.pad(x, [[0, 0], [2, 2], [2, 2], [0, 0]], mode="REFLECT")
    x = tf.nn.conv2d(x, kernels[1], 1, "VALID", dilations=2)[:, :height, :width]
    return scored(tf.square(x - images)[..., 0], reconstruction=x)


def resizing(images):
    """Resized inside to 24 x 24 whole levels, the map resized back."""
    small = tf.round(tf.image.resize(images * 255.0, (24, 24), antialias=True)) / 255.0
    heat = tf.reduce_mean(tf.square(small - tf.reduce_mean(small, axis=(1, 2), keepdims=True)), axis=-1)
    return scored(tf.image.resize(heat[..., None], tf.shape(images)[1:3])[..., 0])


def available(name):
    for package in NEEDED[name]:
        pytest.importorskip(package)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(name, tmp_path, monkeypatch):
    save(tmp_path, resizing)
    monkeypatch.setattr(conversion, "_installed", lambda package: package != "tf2onnx")
    command = re.escape("pip install '.[export]' in ganspect's folder")
    with pytest.raises(ConversionError, match=f"^{name} needs tf2onnx: {command}$"):
        convert(tmp_path, [name])
    assert not (tmp_path / name).exists()


def test_what_is_no_model_or_no_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown format 'pb': onnx, litert, openvino"):
        convert(tmp_path, ["pb"])
    with pytest.raises(ConversionError, match="no exported model: 1/saved_model.pb is missing"):
        convert(tmp_path, ["litert"])


@pytest.mark.parametrize("ended", [-6, 1])
def test_a_converter_that_dies_leaves_nothing(ended, tmp_path, monkeypatch):
    save(tmp_path, resizing)
    (tmp_path / "litert").mkdir()
    (tmp_path / "litert" / "model.tflite").write_text("of an earlier conversion")
    before = {path.name for path in tmp_path.iterdir()} - {"litert"}
    died = subprocess.CompletedProcess([], ended, stdout="", stderr="first line\nlast line\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: died)
    with pytest.raises(ConversionError, match=r"^litert: .*(SIGABRT|last line)"):
        convert(tmp_path, ["litert"])
    assert {path.name for path in tmp_path.iterdir()} == before


def test_differences_are_relative_to_the_largest_value():
    expected = {
        "score": np.array([10.0, 4.0]),
        "threshold": np.array([4.0, 4.0]),
        "label": np.array([1, 1]),
        "anomaly_map": np.array([[10.0, -np.inf]]),
    }
    assert conversion._difference(expected, expected)[1] == 0
    other = expected | {"score": np.array([10.0, 4.002])}
    assert conversion._difference(expected, other) == ("score", pytest.approx(2e-4))
    at_threshold = expected | {"label": np.array([1, 0])}
    assert conversion._difference(expected, at_threshold)[1] == 0
    assert conversion._difference(expected, expected | {"label": np.array([0, 1])}) == ("label", 1.0)
    for wrong in (np.array([[10.0, 0.0]]), np.array([[np.nan, -np.inf]]), np.array([[10.0]])):
        assert conversion._difference(expected, expected | {"anomaly_map": wrong}) == ("anomaly_map", np.inf)
    with pytest.raises(ConversionError, match="outputs are missing: label"):
        conversion._difference(expected, {name: value for name, value in expected.items() if name != "label"})


@pytest.mark.parametrize("compute", [convolutional, resizing])
def test_the_rewritten_graph_computes_the_same(compute, tmp_path):
    save(tmp_path, compute)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    original = loaded.signatures["serve_float"]
    rewritten = conversion._rewritten(original)
    rng = np.random.default_rng(0)
    for shape in ((1, 24, 24, 1), (3, 37, 52, 1), (2, 17, 90, 1)):
        images = tf.constant(rng.integers(0, 256, shape).astype("float32") / 255)
        expected, found = original(images=images), rewritten(images)
        assert set(found) == set(expected)
        for name, value in expected.items():
            atol = 2e-3 if compute is resizing else 1e-6  # a pixel halfway between two levels
            np.testing.assert_allclose(found[name], value, atol=atol, err_msg=name)
    left = {op.type for op in rewritten.get_concrete_function().graph.get_operations()}
    assert "ScaleAndTranslate" not in left


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("compute, size", [(convolutional, None), (resizing, [24, 24])])
def test_each_format_equals_the_saved_model(compute, size, name, tmp_path):
    available(name)
    save(tmp_path, compute, image_size=size, smallest=[1, 1] if size else [16, 16])
    found = convert(tmp_path, [name])[name]
    assert found.error < 1e-4 and found.dynamic == ("batch", "height", "width")
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted(FILES[name])
    assert {path.name for path in tmp_path.iterdir()} == {"1", "metadata.json", name}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("method", TINY)
def test_real_models_convert_or_say_what_is_missing(method, name, tmp_path):
    available(name)
    detector = TINY[method].telling()
    if method == "fcbigan":
        detector.loss_covariance.assign(np.eye(2))  # an untrained D hardly varies: its deviation would enlarge rounding
    facts = detector.export(tmp_path / "1", Calibration(threshold=1.0, median=0.5))
    (tmp_path / "metadata.json").write_text(json.dumps(facts))
    if name in LACKING.get(method, ()):
        with pytest.raises(ConversionError, match=f"^{name}: .*[A-Z][A-Za-z]+"):
            convert(tmp_path, [name])
        assert {path.name for path in tmp_path.iterdir()} == {"1", "metadata.json"}
    else:
        assert convert(tmp_path, [name])[name].error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_an_operation_that_a_format_lacks_is_named(name, tmp_path):
    available(name)

    def compute(images):
        return scored(tf.math.igamma(2.0, images)[..., 0])

    save(tmp_path, compute)
    with pytest.raises(ConversionError, match=f"^{name}: .*Igamma"):
        convert(tmp_path, [name])
    assert {path.name for path in tmp_path.iterdir()} == {"1", "metadata.json"}
