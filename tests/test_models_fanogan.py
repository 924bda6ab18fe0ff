"""f-AnoGAN: the author's networks, losses and updates by hand, its two phases, maps of overlapping patches."""

import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY

from ganspect.data.patches import stack_images
from ganspect.models import fanogan
from ganspect.models.fanogan import FAnoGAN, FAnoGANConfig, down_block, sample_norm, up_block
from ganspect.models.maps import places
from ganspect.training.callbacks import ProgressReport, Recorder
from ganspect.training.checkpoint import Position, load_state
from ganspect.training.fit import fit
from ganspect.training.run import Run

NETWORKS = ("generator", "discriminator", "encoder")


def build(phase=None, **settings):
    return TINY["fanogan"].build(phase, **settings)


def batch(count=4, seed=0):
    return tf.constant(np.random.default_rng(seed).uniform(-1, 1, (count, 32, 32, 1)).astype("float32"))


def values(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def photograph(height, width, channels=1):
    return np.random.default_rng(5).integers(0, 256, (height, width, channels)).astype("uint8")


def random_weights(model):
    for i, v in enumerate(model.weights):
        v.assign(np.random.default_rng(i).normal(size=v.shape))


def convolved(model, name, x):
    layer = model.get_layer(name)
    return tf.nn.conv2d(x, layer.kernel, 1, "SAME") + (layer.bias if layer.use_bias else 0.0)


def norms(filters):
    return 2 * filters


def generator_block(i, o):
    return i * o + o + norms(i) + 9 * i * o + norms(o) + 9 * o * o + o


def image_block(i, o):
    return i * o + o + norms(i) + 9 * i * i + norms(i) + 9 * i * o + o


def test_parameter_counts_are_those_of_the_authors_layers():
    """Counted from the code at width 64; moving statistics, as many as scales and offsets, are not trained."""
    detector = FAnoGAN(FAnoGANConfig())
    halvings = ((64, 128), (128, 256), (256, 512), (512, 512))
    body = 9 * 64 + 64 + sum(image_block(i, o) for i, o in halvings)
    expected = {
        "generator": 129 * 8192
        + sum(generator_block(i, o) for i, o in ((512, 512), (512, 256), (256, 128), (128, 64)))
        + norms(64)
        + 9 * 64
        + 1,
        "discriminator": body + 8192 + 1,
        "encoder": body + 8192 * 128 + 128,
    }
    found = {n: sum(np.prod(v.shape) for v in getattr(detector, n).trainable_variables) for n in NETWORKS}
    assert found == expected == {"generator": 8_539_329, "discriminator": 7_490_689, "encoder": 8_531_200}
    assert not detector.discriminator.non_trainable_variables
    small, large = (FAnoGAN(FAnoGANConfig(width=2, patch_size=p)).discriminator.count_params() for p in (32, 64))
    assert large - small == image_block(16, 16)


def test_initial_kernels_are_uniform_with_the_variances_of_the_code():
    network = FAnoGAN(FAnoGANConfig(width=16)).discriminator
    for name, variance in (
        ("d2_conv1", 4 / (2 * 9 * 32)),
        ("d2_conv2", 4 / (9 * (32 + 64))),
        ("d2_shortcut", 2 / 96),
        ("conv", 2 / (9 * 17)),
        ("output", 2 / 2049),
    ):
        layer = network.get_layer(name)
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        assert np.var(kernel) == pytest.approx(variance, rel=0.3 if kernel.size < 1000 else 0.06)
        assert np.sqrt(3 * variance) * 0.95 < np.abs(kernel).max() <= np.sqrt(3 * variance)
        assert not layer.use_bias or not np.any(values([layer.bias]))


@pytest.mark.parametrize("size", [32, 64])
def test_shapes_and_ranges(size):
    detector = build(patch_size=size, channels=3)
    x = np.random.default_rng(0).uniform(-1, 1, (4, size, size, 3)).astype("float32")
    codes = detector.encoder(x, training=True)
    assert codes.shape == (4, 5) and np.abs(codes).max() < 1
    assert detector.reconstruct(x).shape == x.shape
    logits, features = detector.discriminator(x, training=False)
    assert logits.shape == (4, 1) and features.shape == (4, 4 * 4 * 8 * 2) and np.min(features) < 0  # not activated
    output = detector.discriminator.get_layer("output")
    np.testing.assert_allclose(logits, features @ output.kernel + output.bias, atol=1e-5)
    drawn = detector.generated(100, 200)
    assert len(drawn) == 8 and all(d.shape == (size, size, 3) and np.abs(d).max() <= 1 for d in drawn)


def test_a_block_of_the_discriminator_by_hand():
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, down_block(images, 5, sample_norm, "b"))
    random_weights(model)
    x = tf.constant(np.random.default_rng(9).normal(2.0, 3.0, (2, 8, 8, 3)).astype("float32"))

    def normalised(inputs, name):
        mean = tf.reduce_mean(inputs, (1, 2, 3), keepdims=True)  # over a sample, not a channel
        variance = tf.reduce_mean((inputs - mean) ** 2, (1, 2, 3), keepdims=True)
        layer = model.get_layer(name)
        return tf.nn.relu((inputs - mean) / tf.sqrt(variance + 1e-5) * layer.gamma + layer.beta)

    inner = convolved(model, "b_conv1", normalised(x, "b_norm1"))
    inner = convolved(model, "b_conv2", normalised(inner, "b_norm2"))
    expected = tf.nn.avg_pool2d(inner, 2, 2, "VALID") + convolved(
        model, "b_shortcut", tf.nn.avg_pool2d(x, 2, 2, "VALID")
    )
    np.testing.assert_allclose(model(x, training=True), expected, rtol=1e-4, atol=1e-3)
    assert not model.get_layer("b_conv1").use_bias


def test_a_block_of_the_generator_by_hand():
    """The shortcut is enlarged before its convolution here, as in the code."""
    features = keras.Input((4, 4, 3))
    model = keras.Model(features, up_block(features, 5, "b"))
    random_weights(model)
    x = tf.constant(np.random.default_rng(9).normal(2.0, 3.0, (4, 4, 4, 3)).astype("float32"))

    def normalised(inputs, name):
        mean, variance = tf.nn.moments(inputs, (0, 1, 2))  # of the batch
        layer = model.get_layer(name)
        return tf.nn.relu((inputs - mean) / tf.sqrt(variance + 1e-3) * layer.gamma + layer.beta)

    def enlarged(inputs):
        return tf.repeat(tf.repeat(inputs, 2, axis=1), 2, axis=2)

    inner = convolved(model, "b_conv1", enlarged(normalised(x, "b_norm1")))
    expected = convolved(model, "b_conv2", normalised(inner, "b_norm2")) + convolved(model, "b_shortcut", enlarged(x))
    np.testing.assert_allclose(model(x, training=True), expected, rtol=1e-4, atol=1e-3)


def test_losses_of_the_gan_by_hand():
    """With the rates at zero both critic updates and the generator's see the initial weights."""
    detector = build()
    for optimizer in detector.optimizers.values():
        optimizer.learning_rate = 0.0
    seed = values([detector.noise.state])[0]
    draws = [detector.draw(4) for _ in range(3)]
    detector.noise.state.assign(seed)
    x, parts = batch(8), []
    for images, (z, epsilon) in zip((x[:4], x[4:]), draws, strict=False):
        fakes = detector.generator(z, training=True)
        e = tf.reshape(epsilon, (-1, 1, 1, 1))
        between = images + e * (fakes - images)
        with tf.GradientTape() as tape:
            tape.watch(between)
            outputs = detector.discriminator(between)[0]
        slopes = tf.norm(tf.reshape(tape.gradient(outputs, between), (4, -1)), axis=1)
        real, fake = (tf.reduce_mean(detector.discriminator(y)[0]) for y in (images, fakes))
        parts.append((fake - real + 10 * tf.reduce_mean((slopes - 1) ** 2), real, fake))
    d_loss, real, fake = np.mean(parts, axis=0)
    g_loss = -tf.reduce_mean(detector.discriminator(detector.generator(draws[2][0], training=True))[0])
    logs = {name: float(value) for name, value in detector.step(x).items()}
    expected = {"d_loss": d_loss, "d_real": real, "d_fake": fake, "g_loss": float(g_loss)}
    assert {name: logs[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert logs["penalty"] == pytest.approx((d_loss - fake + real) / 10, rel=1e-4) and logs["penalty"] > 0.01
    assert not np.array_equal(draws[0][0], draws[1][0])


def test_the_encoder_learns_by_hand_from_a_generator_that_does_not_move():
    detector = build(critic_steps=1, kappa=0.5, encoder_rate=1e-3)
    detector.step(batch(seed=1))  # moves G's statistics away from 0 and 1
    detector.phase, x = "encoder", batch()
    frozen = values([*detector.generator.weights, *detector.discriminator.weights, detector.noise.state])
    kernels = detector.encoder.trainable_variables
    with tf.GradientTape() as tape:
        rebuilt = detector.generator(detector.encoder(x, training=True), training=False)
        features, others = detector.discriminator(x)[1], detector.discriminator(rebuilt)[1]
        error, feature_error = tf.reduce_mean((x - rebuilt) ** 2), tf.reduce_mean((features - others) ** 2)
        loss = error + 0.5 * feature_error
    gradients, before = values(tape.gradient(loss, kernels)), values(kernels)
    logs = {name: float(value) for name, value in detector.step(x).items()}
    expected = {"e_loss": loss, "reconstruction_mse": error, "feature_mse": feature_error}
    assert logs == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)
    for old, new, g in zip(before, values(kernels), gradients, strict=True):
        np.testing.assert_allclose(new - old, -1e-3 * g / np.sqrt(0.1 * g**2 + 1e-10), rtol=0.02, atol=2e-5)
    assert same(frozen, values([*detector.generator.weights, *detector.discriminator.weights, detector.noise.state]))


def test_a_step_of_two_batches_is_two_steps_of_one():
    together, apart = build("encoder"), build("encoder", critic_steps=1)
    x = batch(8)
    together.step(x)
    for part in (x[:4], x[4:]):
        apart.step(part)
    assert same(values(together.encoder.weights), values(apart.encoder.weights))


def test_the_schedule_of_phases():
    detector = build(gan_epochs=2, encoder_epochs=3)
    assert detector.phase == "gan" and detector.config.epochs == 5 and detector.config.images_per_step == 8
    assert [detector.phase_at(epoch) for epoch in range(5)] == ["gan"] * 2 + ["encoder"] * 3
    assert build(gan_epochs=0).phase_at(0) == "encoder"
    config = FAnoGANConfig()
    assert config.encoder_epochs * config.generator_steps_per_epoch * config.critic_steps == 50_000  # updates [code]
    assert config.gan_epochs * config.generator_steps_per_epoch * config.images_per_step == pytest.approx(7e6, rel=0.01)


@pytest.mark.slow
def test_resumed_in_either_phase_equals_uninterrupted(textures, tmp_path):
    """A kill after the first of two epochs of each phase; callbacks start and end once; a row has its phase's cells."""
    settings = dict(gan_epochs=2, encoder_epochs=2, critic_steps=1)
    whole, calls = Run(tmp_path / "whole"), []
    stack, sizes = stack_images(textures)

    class Kill(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            calls.append("begin")

        def on_epoch_end(self, epoch, logs=None):
            calls.append(self.model.phase)
            shutil.copytree(whole.path, tmp_path / f"after_{epoch + 1}")

        def on_train_end(self, logs=None):
            calls.append("end")

    straight = build(**settings)
    sampler = TINY["fanogan"].sampler(sizes, straight.config)
    fit(straight, stack, sampler, 4, 0, [Recorder(whole, 0, sampler.steps), Kill()])
    assert calls == ["begin", "gan", "gan", "encoder", "encoder", "end"]
    rows, second = whole.read_table("history.csv"), {"e_loss", "reconstruction_mse", "feature_mse"}
    for row, phase in zip(rows, calls[1:-1], strict=True):
        blank = {name for name in straight.loss_names if not row[name]}
        assert blank == (second if phase == "gan" else set(straight.loss_names) - second)
    for finished in (1, 3):
        run, resumed = Run(tmp_path / f"after_{finished}"), build(**settings)
        assert load_state(run.checkpoint, resumed.state) == Position(finished)
        fit(resumed, stack, sampler, 4, finished, [Recorder(run, finished, sampler.steps)])
        assert same(values(straight.state), values(resumed.state))
        again = run.read_table("history.csv")
        assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]
        assert list(again[0]) == list(rows[0])


def test_a_stop_in_the_first_phase_does_not_start_the_second(textures):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    detector = build(critic_steps=1)
    detector.run_eagerly = True
    before = values(detector.encoder.weights)
    stack, sizes = stack_images(textures)
    sampler = TINY["fanogan"].sampler(sizes, detector.config)
    told = []
    progress = ProgressReport(SimpleNamespace(update=lambda *news: told.append(news)), sampler, 3)
    fit(detector, stack, sampler, 3, 0, [Stop(), progress])
    assert detector.phase == "gan" and same(before, values(detector.encoder.weights))
    assert told and all(0 < done <= 1 / 3 and text.startswith("epoch 1/3") for done, text in told)


def test_places_cover_a_side_up_to_its_border():
    assert places(70, 32, 12) == [0, 12, 24, 36, 38]
    assert places(64, 32, 16) == [0, 16, 32] and places(32, 32, 16) == [0] and places(33, 32, 32) == [0, 1]
    for length in range(32, 90):
        for stride in (1, 7, 16, 32):
            found = places(length, 32, stride)
            assert found[0] == 0 and found[-1] == length - 32 and max(np.diff(found), default=0) <= stride


def test_evidence_is_the_mean_over_overlapping_patches(monkeypatch):
    detector, image = build(channels=3, kappa=0.5), photograph(45, 70, 3)
    monkeypatch.setattr(fanogan, "CHUNK", 4)  # ten patches: the last chunk is not full
    found = detector.evidence(image, stride=12)
    sums, counts, scores = np.zeros((45, 70, 4)), np.zeros((45, 70, 1)), []
    for top in (0, 12, 13):
        scores.append([])
        for left in (0, 12, 24, 36, 38):
            place = np.s_[top : top + 32, left : left + 32]
            patch = (image[place] / 127.5 - 1).astype("float32")
            rebuilt = detector.reconstruct(patch[None])
            f, g = (detector.discriminator(x, training=False)[1] for x in (patch[None], rebuilt))
            error = (patch - np.array(rebuilt)[0]) ** 2
            sums[place] += np.concatenate([rebuilt[0], error.mean(-1, keepdims=True)], -1)
            counts[place] += 1
            scores[-1].append(error.mean() + 0.5 * np.mean((np.array(f) - np.array(g)) ** 2))
    np.testing.assert_allclose(found["reconstruction"], (sums / counts)[..., :3], atol=1e-5)
    np.testing.assert_allclose(found["residual"], (sums / counts)[..., 3], atol=1e-5)
    np.testing.assert_allclose(found["patch_scores"], scores, rtol=1e-4)
    assert counts.min() >= 1 and counts.max() > 4 and found["residual"].dtype == "float32"
    assert detector.score_from(found, "residual") == found["residual"].max()
    assert detector.score_from(found) == detector.score_from(found, "anomaly")
    assert detector.score_from(found, "anomaly") == pytest.approx(np.max(scores), rel=1e-4)
    by_pixels = build(score="residual")
    assert by_pixels.score_names == ("residual", "anomaly") == detector.score_names[::-1]
    assert by_pixels.score_from(found) == found["residual"].max()
    assert detector.map_from(found) is found["residual"]
    monkeypatch.setattr(fanogan, "CHUNK", 64)
    for name, value in detector.evidence(image, stride=12).items():
        np.testing.assert_allclose(value, found[name], atol=1e-5)


def test_the_stride_is_the_configs_unless_another_is_asked_for():
    detector, image = build(map_stride=32), photograph(64, 64)
    assert detector.evidence(image)["patch_scores"].shape == (2, 2)
    assert detector.evidence(image, stride=16)["patch_scores"].shape == (3, 3)
    assert detector.evidence(image[:32, :32])["patch_scores"].shape == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 48}, "patch_size must be 32 or 64, not 48"),
        ({"image_size": 48}, "neither 0 nor at least patch_size 64"),
        ({"critic_steps": 0}, "critic_steps must be at least 1"),
        ({"generator_steps_per_epoch": 0}, "generator_steps_per_epoch must be at least 1"),
        ({"kappa": -1.0}, "kappa must not be negative"),
        ({"gan_epochs": -1}, "gan_epochs must not be negative"),
        ({"gan_epochs": 0, "encoder_epochs": 0}, "must not both be 0"),
        ({"map_stride": 65}, "stride of patches must lie in 1 to their side of 64"),
        ({"map_stride": 0}, "stride of patches"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FAnoGANConfig(**settings)


def test_images_and_strides_that_do_not_fit_are_refused():
    detector = build()
    for image in (photograph(31, 64), photograph(64, 31), photograph(64, 64, 3)):
        with pytest.raises(ValueError, match="expected at least"):
            detector.evidence(image)
    for stride in (0, 33):
        with pytest.raises(ValueError, match="stride of patches"):
            detector.evidence(photograph(64, 64), stride)
