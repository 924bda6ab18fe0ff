"""SSIM against scikit-image, the focal loss and the overlap against numbers worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from skimage.metrics import structural_similarity

from ganspect.models import losses


def test_structural_similarity_is_scikit_images():
    rng = np.random.default_rng(0)
    images = rng.random((3, 24, 32, 2)).astype("float32")
    others = np.clip(images + rng.normal(0, 0.2, images.shape), 0, 1).astype("float32")
    expected = np.mean(
        [
            structural_similarity(
                a, b, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            for a, b in zip(images, others, strict=True)
        ]
    )
    assert 0.3 < expected < 0.9
    assert float(losses.structural_similarity(images, others)) == pytest.approx(expected, abs=1e-5)
    assert float(losses.structural_similarity(images, images)) == pytest.approx(1.0, abs=1e-5)


def test_structural_similarity_on_accelerators(monkeypatch):
    """There products of matrices keep 10 bits of their factors: none may be in the loss that feeds the gradients."""
    rng = np.random.default_rng(1)
    images = rng.random((2, 24, 32, 3)).astype("float32")
    others = np.clip(images + rng.normal(0, 0.05, images.shape), 0, 1).astype("float32")

    def gradient():
        """The loss, its gradient and the kinds of operations that they are made of."""

        @tf.function
        def graph(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = losses.structural_similarity(images, x)
            return value, tape.gradient(value, x)

        kinds = {op.type for op in graph.get_concrete_function(others).graph.get_operations()}
        return *(np.asarray(found) for found in graph(tf.constant(others))), kinds & {
            "Einsum",
            "MatMul",
            "BatchMatMulV2",
        }

    value, slope, products = gradient()
    assert products
    monkeypatch.setattr(losses, "products_are_exact", lambda: False)
    again, same, products = gradient()
    assert not products
    assert again == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(same, slope, atol=1e-5 * np.abs(slope).max())


def test_focal_loss_by_hand():
    probabilities = np.array([0.9, 0.2, 0.6, 0.1], "float32").reshape(1, 2, 2, 1)
    target = np.array([1, 1, 0, 0], "float32").reshape(1, 2, 2, 1)
    true = [0.9, 0.2, 0.4, 0.9]  # probabilities of the true classes
    for gamma in (0.0, 2.0):
        expected = np.mean([-((1 - p) ** gamma) * math.log(p) for p in true])
        assert float(losses.focal_loss(probabilities, target, gamma)) == pytest.approx(expected, rel=1e-5)
    certain = losses.focal_loss(np.zeros((1, 2, 2, 1), "float32"), np.ones((1, 2, 2, 1), "float32"))
    assert float(certain) == pytest.approx(-((1 - 1e-5) ** 2) * math.log(1e-5), rel=1e-4)  # finite


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_focal_loss_has_a_gradient_where_a_pixel_is_certain(gamma):
    import tensorflow as tf

    probabilities = tf.constant([[1.0, 0.0, 0.5, 1.0]], shape=(1, 2, 2, 1))
    target = tf.constant([[1.0, 0.0, 1.0, 0.0]], shape=(1, 2, 2, 1))
    with tf.GradientTape() as tape:
        tape.watch(probabilities)
        loss = losses.focal_loss(probabilities, target, gamma)
    assert np.isfinite(tape.gradient(loss, probabilities)).all()


def test_region_overlap_by_hand():
    marked = np.array([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0], [0.0] * 4], "float32").reshape(3, 2, 2, 1)
    region = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]], "float32").reshape(3, 2, 2, 1)
    # 0.5 / min(1, 1); 2 / min(3, 3); nothing marked
    assert float(losses.region_overlap(marked, region)) == pytest.approx((0.5 + 2 / 3 + 0.0) / 3, abs=1e-5)
    assert float(losses.region_overlap(marked, ops.zeros_like(region))) == 0.0
