"""AnoGAN: networks of both data sets, its losses, both searches against plain Keras code, batches, export."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY

from ganspect.models.anogan import (
    PRESETS,
    AnoGANConfig,
    adam_step,
    build_discriminator,
    build_generator,
)

IMAGES = np.random.default_rng(5).integers(0, 256, (5, 64, 64, 1)).astype("uint8")


def build(**settings):
    return TINY["anogan"].build(**settings)


def losses_of(found):
    return np.array([float(one["loss"]) for one in found])


@pytest.mark.parametrize(
    ("preset", "generator", "discriminator", "feature"),
    [("casting", 11_538_688, 11_180_513, (4, 4, 512)), ("cloud", 29_505_024, 242_561, (32, 32, 64))],
)
def test_parameter_counts_are_those_of_the_notebooks(preset, generator, discriminator, feature):
    config = AnoGANConfig(**PRESETS[preset])
    g, d = build_generator(config), build_discriminator(config)
    assert (g.count_params(), d.count_params()) == (generator, discriminator)
    assert d.outputs[1].shape[1:] == feature
    assert g.output.shape[1:] == d.input.shape[1:] == (config.image_size, config.image_size, config.channels)


@pytest.mark.parametrize("layout", ["casting", "cloud"])
@pytest.mark.parametrize("size", [32, 64, 256])
def test_other_sizes(layout, size):
    config = AnoGANConfig(image_size=size, layout=layout, width=2, latent_size=5)
    image = build_generator(config)(np.ones((2, 5), "float32"), training=True)
    assert image.shape == (2, size, size, 1) and np.abs(image).max() <= 1
    logits, feature = build_discriminator(config)(image)
    assert logits.shape == (2, 1) and feature.shape[1] == (4 if layout == "casting" else size // 2)


def test_losses_of_a_step_by_hand():
    detector = build(dropout=0.0)
    x, z = TINY["anogan"].batch(), np.random.default_rng(1).standard_normal((4, 5)).astype("float32")
    detector.draw_latents = lambda count: tf.constant(z)
    real = detector.discriminator(x, training=True)[0].numpy()
    fake = detector.discriminator(detector.generator(z, training=True), training=True)[0].numpy()
    logs = {name: float(value) for name, value in detector.step(x).items()}

    def softplus(v):
        return np.log1p(np.exp(v)).mean()

    assert logs["d_loss"] == pytest.approx(softplus(-real) + softplus(fake), rel=1e-5)
    assert logs["g_loss"] == pytest.approx(softplus(-fake), rel=1e-5)
    assert (logs["d_real"], logs["d_fake"]) == pytest.approx((real.mean(), fake.mean()), rel=1e-4)


def test_adam_is_that_of_keras():
    rng = np.random.default_rng(0)
    start, target = rng.standard_normal((2, 3, 4)).astype("float32")
    variable, optimizer = keras.Variable(start), keras.optimizers.Adam(0.05)
    values, mean, square = start, np.zeros_like(start), np.zeros_like(start)
    for step in range(1, 30):
        slope = 2 * (values - target)
        values, mean, square = adam_step(float(step), values, mean, square, slope, 0.05)
        optimizer.apply([2 * (variable - target)], [variable])
    np.testing.assert_allclose(values, variable, rtol=1e-4, atol=1e-6)
    assert np.abs(values - start).max() > 0.5


def slow_losses(detector, x, z):
    """(1 - lambda) sum |x - G(z)| + lambda sum |f(x) - f(G(z))| of one image."""
    rebuilt = detector.generator(z, training=False)
    features = [detector.discriminator(image, training=False)[1] for image in (x, rebuilt)]
    return 0.9 * tf.reduce_sum(tf.abs(x - rebuilt)) + 0.1 * tf.reduce_sum(tf.abs(features[0] - features[1]))


def test_latent_search_is_adam_on_z_for_each_image():
    """The score is the loss at the last of the steps, taken before its update."""
    detector = build(search_steps=8)
    for image, found in zip(IMAGES[:3], detector.evidences(list(IMAGES[:3])), strict=True):
        x = detector.prepare(image[None])
        z, optimizer = keras.Variable(detector.starts(1)[0]), keras.optimizers.Adam(1e-2)
        for _ in range(8):
            with tf.GradientTape() as tape:
                loss = slow_losses(detector, x, z.value)
            optimizer.apply([tape.gradient(loss, z.value)], [z])
        assert float(found["loss"]) == pytest.approx(float(loss), rel=1e-5)
        assert detector.score_from(found) == pytest.approx(
            0.9 * detector.score_from(found, "residual") + 0.1 * detector.score_from(found, "discrimination"), rel=1e-5
        )
        residual = np.abs(np.asarray(x)[0] - found["reconstruction"]).mean(-1)
        np.testing.assert_allclose(detector.map_from(found), residual, atol=1e-6)
        assert found["steps"] == 7


def test_dense_search_goes_on_from_image_to_image():
    """A Keras dense layer before G, trained for one image after the other with one optimiser."""
    detector = build(search="dense", search_steps=5, search_rate=1e-3)
    found = losses_of(detector.evidences(list(IMAGES[:3])))
    detector.calibrate([])
    assert not np.array_equal(losses_of(detector.evidences(list(IMAGES[2::-1]))), found[::-1])
    detector.calibrate([])
    dense, optimizer = keras.layers.Dense(5), keras.optimizers.Adam(1e-3)
    dense.build((1, 5))
    dense.set_weights([detector._dense_state[1][:-1], detector._dense_state[1][-1]])
    for number, image in enumerate(IMAGES[:3]):
        x, noise = detector.prepare(image[None]), detector.dense_noise(number)[:, :-1]
        for _ in range(5):
            with tf.GradientTape() as tape:
                loss = slow_losses(detector, x, dense(noise))
            weights = dense.trainable_variables
            optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        assert found[number] == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_array_equal(losses_of(detector.evidences(list(IMAGES[:3]))), found)  # calibrate sets it back


def test_no_score_depends_on_the_batch_or_the_order():
    detector = build(search_batch=3, search_steps=12)
    together = losses_of(detector.evidences(list(IMAGES)))
    alone = np.array([detector.anomaly_score(image) for image in IMAGES])
    backwards = losses_of(detector.evidences(list(IMAGES[::-1])))[::-1]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_allclose(together, backwards, rtol=1e-5)


def test_the_search_falls_and_restarts_take_the_least():
    short, long = build(search_steps=2), build(search_steps=60, search_rate=0.05)
    assert (losses_of(long.evidences(list(IMAGES))) < losses_of(short.evidences(list(IMAGES)))).all()
    many = build(restarts=2)
    starts = np.asarray(many.starts(2))
    assert starts.shape == (2, 2, 5) and np.array_equal(starts[:, 0], starts[:, 1])
    assert np.unique(starts[:, 0]).size == 10
    single, each = build(), []
    for start in starts:
        single._compiled.clear()
        single.starts = lambda count, start=start: tf.repeat(tf.constant(start[None, :1]), count, axis=1)
        each.append(losses_of(single.evidences(list(IMAGES))))
    np.testing.assert_allclose(losses_of(many.evidences(list(IMAGES))), np.min(each, axis=0), rtol=1e-5)


def test_an_image_stops_when_its_loss_no_longer_falls():
    """At a huge rate the loss soon rises: all images stop early, each at its own step."""
    detector = build(search_steps=300, search_rate=5.0, search_patience=4, search_batch=5)
    found = detector.evidences(list(IMAGES))
    assert 4 < found[0]["steps"] < 299
    alone = np.array([detector.anomaly_score(image) for image in IMAGES])
    np.testing.assert_allclose(losses_of(found), alone, rtol=1e-3)
    assert len({float(detector.evidence(image)["steps"]) for image in IMAGES}) > 1


def test_steps_compiled_one_by_one_equal_the_compiled_loop():
    detector, by_steps = (build(search_steps=9, restarts=2) for _ in range(2))
    by_steps.loops_are_compiled = lambda: False  # as on JAX on a CPU
    for one, other in zip(detector.evidences(list(IMAGES)), by_steps.evidences(list(IMAGES)), strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        dict(image_size=100), dict(layout="bottle"), dict(width=3), dict(search="both"), dict(search_steps=0),
        dict(feature_weight=1.5), dict(search_patience=-1), dict(search="dense", restarts=2),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AnoGANConfig(**settings)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="expected"):
        build().evidence(IMAGES[0][:32])
