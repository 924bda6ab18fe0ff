"""CBiGAN's update: losses and gradients by hand, the critic's cycle, who learns from which batch, the averages."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY, Tiny

from ganspect.models import losses
from ganspect.models.detector import Detector


def build(**settings):
    return TINY["cbigan"].build(**settings)


def batches(detector, seed=0):
    shape = (detector.config.images_per_step, detector.config.patch_size, detector.config.patch_size, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def values(network):
    return [keras.ops.convert_to_numpy(v) for v in network.weights]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def logs_of(detector, images):
    return {name: float(value) for name, value in detector.step(images).items()}


def rehearse(detector, count):
    """The next `count` draws of z and epsilon, which the detector will draw again."""
    seed = keras.ops.convert_to_numpy(detector.noise.state)
    drawn = [detector.draw(detector.config.batch_size) for _ in range(count)]
    detector.noise.state.assign(seed)
    return drawn


def critic_loss(detector, x, z, epsilon, pairing, weight=10.0):
    """L_D and its penalty, term by term."""
    d, codes, fakes = detector.discriminator, detector.encoder(x), detector.generator(z)
    real, fake = tf.reduce_mean(d([x, codes])[0]), tf.reduce_mean(d([fakes, z])[0])
    e = tf.reshape(epsilon, (-1, 1, 1, 1))
    image = e * x + (1 - e) * fakes
    latent = epsilon * codes + (1 - epsilon) * z if pairing == "joint" else epsilon * z + (1 - epsilon) * codes
    with tf.GradientTape() as tape:
        tape.watch((image, latent))
        outputs = d([image, latent])[0]
    by_image, by_latent = tape.gradient(outputs, (image, latent))
    slopes = tf.concat([tf.reshape(by_image, (len(x), -1)), by_latent], 1)  # [B, p p C + L]
    penalty = tf.reduce_mean((tf.norm(slopes, axis=1) - 1) ** 2)
    return fake - real + weight * penalty, penalty, real, fake


def mapping_terms(detector, x, z):
    """L_EG, L_R and L_R'."""
    codes, fakes = detector.encoder(x), detector.generator(z)
    real, fake = (tf.reduce_mean(detector.discriminator(pair)[0]) for pair in ([x, codes], [fakes, z]))
    l_r = tf.reduce_sum(tf.abs(x - detector.generator(codes))) / len(x)
    return real - fake, l_r, tf.reduce_sum(tf.abs(z - detector.encoder(fakes))) / len(x)


def test_summed_absolute_error_by_hand():
    one = np.array([[[1.0, 2.0]], [[0.0, -1.0]]], "float32")  # sums over a sample: 3 and 1
    assert float(losses.summed_absolute_error(one, 0 * one)) == pytest.approx(2.0)


def test_penalty_of_a_linear_critic_in_closed_form():
    """Of s (a x + b z) the gradient is s (a, b): one norm over image and latent together."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 3, 2)).astype("float32"), rng.normal(size=5).astype("float32")
    x, z = (rng.normal(size=(4, *w.shape)).astype("float32") for w in (a, b))
    s = np.array([0.1, 0.5, 1.0, 2.0], "float32")

    def critic(images, latents):
        return s * (tf.reduce_sum(a * images, (1, 2, 3)) + tf.reduce_sum(b * latents, 1))

    slopes = Detector().input_gradient(critic, tf.constant(x), tf.constant(z))
    np.testing.assert_allclose(slopes[0], s[:, None, None, None] * a, rtol=1e-6)
    norm = np.sqrt((a**2).sum() + (b**2).sum())
    assert float(losses.unit_norm_penalty(*slopes)) == pytest.approx(np.mean((s * norm - 1) ** 2), rel=1e-5)
    assert np.isfinite(losses.unit_norm_penalty(0 * slopes[0]))


def test_losses_of_a_step_by_hand():
    """The critic's batch comes first; G and E then meet the new D, on their own batch and draws."""
    found = {}
    for pairing in ("joint", "as_coded"):
        detector = build(penalty_pairing=pairing, alpha=0.25, penalty_weight=3.0)
        detector.optimizers["mapping"].learning_rate = 0.0  # G and E stay what the losses are made of
        detector.optimizers["discriminator"].learning_rate = 0.01
        first, second = tf.split(batches(detector), 2)
        (z, epsilon), (z2, _) = rehearse(detector, 2)
        terms = critic_loss(detector, first, z, epsilon, pairing, 3.0)
        old = mapping_terms(detector, second, z2)
        logs = logs_of(detector, tf.concat([first, second], 0))
        for name, value in zip(("d_loss", "penalty", "d_real", "d_fake"), terms, strict=True):
            assert logs[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
        l_eg, l_r, l_z = (float(v) for v in mapping_terms(detector, second, z2))
        assert logs["eg_loss"] == pytest.approx(0.75 * l_eg + 0.25 * (l_r + l_z), rel=1e-5)
        assert (logs["reconstruction_l1"], logs["latent_l1"]) == pytest.approx((l_r, l_z), rel=1e-5)
        assert abs(l_eg - float(old[0])) > 1e-3
        found[pairing] = logs["penalty"]
    assert abs(found["joint"] - found["as_coded"]) > 1e-5


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_gradients_of_both_sides_are_those_of_the_formulas(alpha):
    """Adam's first moment is the last gradient where beta_1 is 0. Alpha 0: BiGAN; 1: an autoencoder without D."""
    detector = build(alpha=alpha)
    for optimizer in detector.optimizers.values():
        optimizer.learning_rate = 0.0
    first, second = tf.split(batches(detector), 2)
    (z, epsilon), (z2, _) = rehearse(detector, 2)
    logs = logs_of(detector, tf.concat([first, second], 0))
    assert [int(optimizer.iterations) for optimizer in detector.optimizers.values()] == [1, 1]
    mapped = detector.generator.trainable_variables + detector.encoder.trainable_variables
    with tf.GradientTape() as critic, tf.GradientTape() as mapping:
        l_d = critic_loss(detector, first, z, epsilon, "joint")[0]
        l_eg, l_r, l_z = mapping_terms(detector, second, z2)
        total = {0.0: l_eg, 1.0: l_r + l_z, 0.3: 0.7 * l_eg + 0.3 * (l_r + l_z)}[alpha]
    assert logs["eg_loss"] == pytest.approx(float(total), rel=1e-5)
    for name, tape, loss, trained in (
        ("discriminator", critic, l_d, detector.discriminator.trainable_variables),
        ("mapping", mapping, total, mapped),
    ):
        kept = [keras.ops.convert_to_numpy(v) for v in detector.optimizers[name].variables if "momentum" in v.path]
        expected = tape.gradient(loss, [v.value for v in trained])
        for v, a, b in zip(trained, kept, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max() + 1e-9, err_msg=v.path)


@pytest.mark.parametrize(("steps", "critic", "mapping"), [(2, 2, 1), (0, 1, 1), (-2, 1, 2)])
def test_a_cycle_updates_each_side_as_often_as_asked(steps, critic, mapping):
    detector = build(critic_steps=steps)
    assert detector.config.images_per_step == 4 * detector.config.batches_per_step == 4 * (abs(steps) + 1)
    for n in (1, 2):
        logs = logs_of(detector, batches(detector, n))
        assert set(logs) == set(detector.loss_names) and np.isfinite(list(logs.values())).all()
        assert int(detector.optimizers["discriminator"].iterations) == n * critic
        assert int(detector.optimizers["mapping"].iterations) == n * mapping


@pytest.mark.parametrize(("steps", "last"), [(2, "mapping"), pytest.param(-2, "discriminator", marks=pytest.mark.slow)])
def test_each_batch_of_a_cycle_trains_one_side(steps, last):
    """The side of the last batch has not moved before it, so the batches before it train the other side alone."""

    detector = build(critic_steps=steps)
    rewind = Tiny.rewinding(detector)

    def after(order):
        rewind()
        images = np.split(batches(detector), 3) + [batches(detector, 1)[:4]]
        detector.step(np.concatenate([images[i] for i in order]))
        sides = {"discriminator": values(detector.discriminator)}
        return sides | {"mapping": values(detector.generator) + values(detector.encoder)}

    first = "mapping" if last == "discriminator" else "discriminator"
    plain, swapped, other_last = after((0, 1, 2)), after((1, 0, 2)), after((0, 1, 3))
    assert not same(plain[first], swapped[first])
    assert same(plain[first], other_last[first]) and not same(plain[last], other_last[last])


@pytest.mark.parametrize(("decay", "steps"), [(0.0, 1), (0.9, 0), (0.9, 2)])
def test_averages_move_once_a_cycle_by_the_decay_of_ten_batches(decay, steps):
    detector = build(ema_decay=decay, critic_steps=steps)
    detector.optimizers["mapping"].learning_rate = 0.01
    kept = decay ** ((steps + 1) / 10)
    pairs = ((detector.ema_generator, detector.generator), (detector.ema_encoder, detector.encoder))
    before = [values(mean) for mean, _ in pairs]
    for (mean, network), old in zip(pairs, before, strict=True):
        assert same(old, values(network)) and not mean.trainable_variables
    detector.step(batches(detector))
    for (mean, network), start in zip(pairs, before, strict=True):
        for m, old, new in zip(values(mean), start, values(network), strict=True):
            np.testing.assert_allclose(m, kept * old + (1 - kept) * new, rtol=1e-5, atol=1e-7)
            assert not np.array_equal(old, new)
