"""Layers of few channels, at many pixels a call, do what Keras' do, in first and second order."""

import keras
import numpy as np
import pytest
from keras import layers
from tiny_methods import TINY

from ganspect.models import convolution_few, convolutions

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's alone", allow_module_level=True)


def gradients(model, images):
    """y, dL/dx, dL/dw, and gradients of their cubes: a list of arrays."""
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as outer:
        outer.watch(images)
        with convolutions.fast(), tf.GradientTape() as inner:
            inner.watch(images)
            y = model(images, training=True)
            total = tf.reduce_sum(tf.sin(y))
        first = inner.gradient(total, [images, *variables])
        cubes = sum(tf.reduce_sum(g**3) for g in first)
    return [part.numpy() for part in (y, *first, *outer.gradient(cubes, [images, *variables]))]


@pytest.mark.parametrize(("side", "bias"), [(1, True), (1, False), (3, True), (3, False), (5, False)])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (3, 6), (6, 3), (6, 6), (1, 2)])
def test_a_layer_equals_keras_own(side, bias, inputs, outputs, monkeypatch):
    monkeypatch.setattr(convolutions, "kernels", lambda: "onednn")
    monkeypatch.setattr(convolution_few, "MANY", 2 * 8 * 8)
    keras.utils.set_random_seed(0)
    layer = layers.Conv2D(outputs, side, padding="same", use_bias=bias, activation="tanh")
    model = keras.Sequential([keras.Input((8, 8, inputs)), layer])
    for v in model.trainable_variables:
        v.assign(np.random.default_rng(0).normal(size=v.shape))
    images = tf.constant(np.random.default_rng(1).normal(size=(2, 8, 8, inputs)).astype("float32"))
    expected = gradients(model, images)
    convolutions.install(model)
    chosen = convolution_few.forms((2, 8, 8, inputs), (side, side, inputs, outputs), 1, "SAME")
    taken = []
    monkeypatch.setattr(convolutions, "_of_few", _spied(convolutions._of_few, taken))
    for ours, theirs in zip(gradients(model, images), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * np.abs(theirs).max())
    assert taken == ([chosen] if chosen else [])
    assert bool(chosen) == (side == 1 or min(inputs, outputs) <= 4)


def _spied(fn, taken):
    def run(layer, inputs, forms):
        taken.append(forms)
        return fn(layer, inputs, forms)

    return run


def test_what_is_taken():
    def forms(pixels, side, inputs, outputs, padding="SAME", stride=1, across=128):
        images = (pixels // across**2 or 1, across, across, inputs)
        return convolution_few.forms(images, (side, side, inputs, outputs), stride, padding)

    many = convolution_few.MANY
    assert forms(many, 3, 3, 3) == ("strips", "stock", "strips")
    assert forms(many, 3, 6, 3) == ("stock", "stock", "strips")
    assert forms(many, 3, 3, 6) == ("strips", "stock", "stock")
    assert forms(many, 1, 3, 3) == forms(many, 1, 3, 3, padding="VALID") == ("fours", "fours", "fours")
    assert forms(many, 1, 6, 6) == ("stock", "windows", "stock")
    nothing = (
        forms(many, 3, 6, 6), forms(many, 3, 3, 3, padding="VALID"), forms(many, 3, 3, 3, stride=2),
        forms(many, 2, 3, 3), forms(many, 3, 3, 3, across=126), forms(many, 3, 3, 16),
        forms(many // 2, 3, 3, 3), forms(many // 2, 1, 3, 3),
    )  # fmt: skip
    assert not any(nothing)


@pytest.mark.parametrize("name", ["cbigan", "fanogan"])
def test_small_networks_keep_their_numbers(name, monkeypatch):
    """Those of the project's tables were trained before: the weights after two steps are the same to the last bit."""
    monkeypatch.setattr(convolutions, "kernels", lambda: "onednn")

    def weights(refused):
        with monkeypatch.context() as patch:
            if refused:
                patch.setattr(convolution_few, "forms", lambda *a: None)
                patch.setattr(convolutions.activations, "behind_convolutions", lambda model: [])
            detector = TINY[name].build()
            step = tf.function(detector.step, jit_compile=False, autograph=False)
            for _ in range(2):
                step(tf.constant(TINY[name].batch()))
        return [keras.ops.convert_to_numpy(v) for v in detector.trainable_variables]

    for ours, theirs in zip(weights(False), weights(True), strict=True):
        np.testing.assert_array_equal(ours, theirs)
