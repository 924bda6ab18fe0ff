"""Maps: smoothing equal to evaluation's, padding, and the dense map against shifted strided passes."""

import keras
import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from ganspect.evaluation.smoothing import mean_filter as evaluation_filter
from ganspect.models import maps


@pytest.mark.parametrize("size", [48, 9, 2])
def test_mean_filter_equals_scipy_and_evaluation(size):
    array = np.random.default_rng(0).normal(size=(50, 61)).astype("float32")
    ours = np.array(maps.mean_filter(array[None], size))[0]
    np.testing.assert_allclose(ours, uniform_filter(array, size, mode="reflect"), atol=2e-6)
    np.testing.assert_allclose(ours, evaluation_filter(array, size), atol=2e-6)


def test_pad_to_multiple_mirrors_bottom_and_right():
    image = np.arange(30, dtype="float32").reshape(1, 5, 6, 1)
    padded = np.array(maps.pad_to_multiple(image, 4))
    assert padded.shape == (1, 8, 8, 1)
    np.testing.assert_array_equal(padded[0, 5:, :6, 0], image[0, 4:1:-1, :, 0])
    assert maps.pad_to_multiple(padded, 4) is padded


def test_dense_map_equals_64_shifted_strided_passes(tiny):
    """Decision 1j: exact shift-and-stitch over the fixed two-channel whole image [x, up(E(x))].

    Each shifted pass runs the trunk itself, strided pooling and `same` convolutions included, over the padded image;
    outputs within reach of its artificial zero borders are left out.
    """
    rng = np.random.default_rng(1)
    pair = rng.uniform(-1, 1, (1, 40, 48, 2)).astype("float32")
    dense = np.array(maps.dense_map(pair, *tiny.trunk_kernels(), stride=1))
    assert dense.shape == (1, 40, 48)
    margin = 32  # multiple of 8, more than half a patch and the 14 pixels of context
    padded = np.pad(pair, ((0, 0), (margin + 8,) * 2, (margin + 8,) * 2, (0, 0)), mode="reflect")
    stitched = np.zeros_like(dense)
    half = tiny.config.patch_size // 2
    for i in range(8):
        for j in range(8):
            # the window of output (r, c) begins at pixel (8 r + i, 8 c + j) of the shifted, padded image
            shifted = padded[:, i:, j:]
            whole = shifted[:, : shifted.shape[1] // 8 * 8, : shifted.shape[2] // 8 * 8]
            outputs = np.array(tiny.trunk(whole, training=False))[0, :, :, 0]
            for r in range(outputs.shape[0]):
                for c in range(outputs.shape[1]):
                    y, x = 8 * r + i + half - margin - 8, 8 * c + j + half - margin - 8
                    if 0 <= y < 40 and 0 <= x < 48:
                        stitched[0, y, x] = outputs[r, c]
    scale = np.abs(dense).max()
    np.testing.assert_allclose(dense, stitched, atol=1e-5 * scale)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_strided_map_is_the_dense_map_at_cell_centres(tiny, stride):
    pair = np.random.default_rng(2).uniform(-1, 1, (1, 40, 48, 2)).astype("float32")
    dense = np.array(maps.dense_map(pair, *tiny.trunk_kernels(), stride=1))
    strided = np.array(maps.dense_map(pair, *tiny.trunk_kernels(), stride=stride))
    np.testing.assert_allclose(strided, dense[:, stride // 2 :: stride, stride // 2 :: stride], atol=1e-6)
    assert maps.enlarge(strided, stride).shape == dense.shape


def test_isolated_patches_differ_from_the_dense_map(tiny):
    """Not an equality: `same` convolutions see zeros around an isolated patch, neighbours in the whole image."""
    pair = np.random.default_rng(3).uniform(-1, 1, (1, 48, 48, 2)).astype("float32")
    dense = np.array(maps.dense_map(pair, *tiny.trunk_kernels()))[0]
    patch = np.array(tiny.trunk(pair[:, 16:32, 16:32], training=False))[0, 0, 0, 0]
    difference = abs(dense[24, 24] - patch) / dense.std()
    assert 1e-4 < difference < 10


def test_stride_must_be_a_power_of_two(tiny):
    with pytest.raises(ValueError, match="power of two"):
        maps.dense_map(np.zeros((1, 48, 48, 2), "float32"), *tiny.trunk_kernels(), stride=3)


def test_input_gradient_of_a_linear_critic():
    """|grad| of w.x is |w|; and the gradient can itself be differentiated (WGAN-GP)."""
    import tensorflow as tf

    from ganspect.models.detector import Detector

    w = tf.Variable([[3.0], [4.0]])
    x = tf.constant([[1.0, 2.0], [0.5, -1.0]])
    with tf.GradientTape() as tape:
        (slope,) = Detector().input_gradient(lambda v: keras.ops.matmul(v, w), x)
        penalty = keras.ops.mean((keras.ops.sqrt(keras.ops.sum(slope**2, 1)) - 1) ** 2)
    np.testing.assert_allclose(slope, [[3, 4], [3, 4]])
    assert float(penalty) == pytest.approx(16)
    np.testing.assert_allclose(tape.gradient(penalty, w)[:, 0], [2 * 4 * 3 / 5, 2 * 4 * 4 / 5], rtol=1e-5)
