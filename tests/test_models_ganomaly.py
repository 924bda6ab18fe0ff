"""GANomaly: networks of both recipes, losses and steps by hand, who learns from what, scores of single images."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY

from ganspect.models import losses
from ganspect.models.ganomaly import PRESETS, GANomalyConfig, build_decoder, build_discriminator, build_encoder

STUDY = dict(matching="batch_mean", discriminator_first=True, bias=True, head_size=3, initial_deviation=0.0)
NETWORKS = ("encoder", "decoder", "second_encoder", "discriminator")
OTHER, IMAGE = np.random.default_rng(5).integers(0, 256, (2, 64, 64, 3)).astype("uint8")


def build(**settings):
    return TINY["ganomaly"].build(**settings)


def batch(count=4, seed=0):
    return tf.constant(np.random.default_rng(seed).uniform(-1, 1, (count, 64, 64, 3)).astype("float32"))


def values(network):
    return [keras.ops.convert_to_numpy(v) for v in network.trainable_variables]


def moving(network):
    return [keras.ops.convert_to_numpy(v) for v in network.non_trainable_variables]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def moved_by_a_step(detector):
    """Names of the networks that one step trains."""
    before = {name: values(getattr(detector, name)) for name in NETWORKS}
    detector.step(batch())
    return {name for name in NETWORKS if not same(values(getattr(detector, name)), before[name])}


def cross_entropies(real, fake):
    """Half the sum of -log D(x) and -log(1 - D(G(x)))."""
    return 0.5 * float(tf.reduce_mean(-tf.math.log_sigmoid(real)) + tf.reduce_mean(-tf.math.log_sigmoid(-fake)))


@pytest.mark.parametrize(
    ("preset", "encoder", "decoder", "discriminator"),
    [
        ("study", 12_790_308, 25_580_773 - 12_790_308, 12_790_409),  # the notebooks' counts of G include the encoder
        ("study_cloud", 12_811_876, 25_624_167 - 12_811_876, 12_811_977),
        ("official", 3_578_368, 3_578_624, 2_767_360),  # counted from the code's layers
    ],
)
def test_parameter_counts_are_those_of_both_authors(preset, encoder, decoder, discriminator):
    """In the study every convolution has a bias, in the code none; in both all but the outer ones are normalised."""
    config = GANomalyConfig(**PRESETS[preset])
    networks = [builder(config) for builder in (build_encoder, build_decoder, build_discriminator)]
    assert [network.count_params() for network in networks] == [encoder, decoder, discriminator]
    assert networks[2].outputs[1].shape[1:] == (4, 4, 512 if preset == "official" else 1024)
    for network, bare in zip(networks, (2, 1, 2), strict=True):
        convolutions = [layer for layer in network.layers if hasattr(layer, "strides")]
        assert all(layer.use_bias == (preset != "official") for layer in convolutions)
        norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers)
        assert len(convolutions) - norms == bare


def test_smallest_images():
    config, x = GANomalyConfig(image_size=32, width=2, latent_size=5), batch()[:, :32, :32]
    z, (logit, feature) = (builder(config)(x, training=True) for builder in (build_encoder, build_discriminator))
    image = build_decoder(config)(1e3 * z, training=True)
    assert z.shape == (4, 5) and image.shape == x.shape and 0 < np.abs(image).max() <= 1
    assert logit.shape == (4, 1) and feature.shape == (4, 4, 4, 8)


def test_initial_weights_are_those_of_the_code_or_of_keras():
    kernel, gamma = (build(width=16).discriminator.get_layer(name).weights[0] for name in ("conv4", "norm4"))
    assert np.std(kernel) == pytest.approx(0.02, rel=0.02)
    assert np.mean(gamma) == pytest.approx(1, abs=0.01) and np.std(gamma) == pytest.approx(0.02, rel=0.3)
    kernel, gamma = (build(**STUDY).discriminator.get_layer(name).weights[0] for name in ("conv4", "norm4"))
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / (16 * (16 + 32))), rel=0.02) and np.all(gamma == 1)


def test_losses_by_hand():
    real, fake = np.array([[1.0, 2.0], [3.0, 6.0]], "float32"), np.array([[1.0, 0.0], [1.0, 4.0]], "float32")
    assert float(losses.feature_matching(real, fake)) == pytest.approx((0 + 4 + 4 + 4) / 4)
    assert float(losses.feature_matching_to_mean(real, fake)) == pytest.approx((0 + 0 + 4 + 16) / 4)  # mean (1, 2)
    assert float(losses.feature_matching_to_mean(real, real)) == pytest.approx((1 + 4 + 1 + 4) / 4)
    logits = np.array([[0.0], [np.log(3.0)]], "float32")  # probabilities 1/2 and 3/4
    assert float(losses.binary_cross_entropy(logits, 1.0)) == pytest.approx(-np.log(0.5 * 0.75) / 2)
    assert float(losses.binary_cross_entropy(logits, 0.0)) == pytest.approx(-np.log(0.5 * 0.25) / 2)
    assert float(losses.binary_cross_entropy(np.float32([200.0, -200.0]), 1.0)) == pytest.approx(100)


@pytest.mark.parametrize("matching", ["per_sample", "batch_mean"])
def test_losses_of_the_codes_step_by_hand(matching):
    """Both sides learn from the networks as they were; D's moving statistics take the real batch, then the other."""
    detector, twin, x = build(matching=matching), build(), batch()
    z = twin.encoder(x, training=True)
    rebuilt = twin.decoder(z, training=True)
    (real, f), (fake, g) = (twin.discriminator(images, training=True) for images in (x, rebuilt))
    target = g if matching == "per_sample" else tf.reduce_mean(g, 0)
    logs = {name: float(value) for name, value in detector.step(x).items()}
    expected = {
        "adversarial": tf.reduce_mean((f - target) ** 2),
        "contextual": tf.reduce_mean(tf.abs(x - rebuilt)),
        "encoding": tf.reduce_mean((z - twin.second_encoder(rebuilt, training=True)) ** 2),
        "d_loss": cross_entropies(real, fake),
        "d_real": tf.reduce_mean(real),
        "d_fake": tf.reduce_mean(fake),
    }
    for name, value in expected.items():
        assert logs[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    assert logs["g_loss"] == pytest.approx(logs["adversarial"] + 50 * logs["contextual"] + logs["encoding"], rel=1e-5)
    for found, value in zip(moving(detector.discriminator), moving(twin.discriminator), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-7)


def test_losses_of_the_studys_step_by_hand():
    """D learns first, from a joint batch with images of G in inference; G then meets the new D, frozen."""
    detector, twin, x = build(**STUDY), build(**STUDY), batch()
    detector.optimizers["generator"].learning_rate = 0.0
    detector.optimizers["discriminator"].learning_rate = 0.05
    fakes = twin.reconstruct(x)
    real, fake = tf.split(twin.discriminator(tf.concat([x, fakes], 0), training=True)[0], 2)
    statistics = moving(twin.discriminator)
    rebuilt = twin.decoder(twin.encoder(x, training=True), training=True)
    logs = {name: float(value) for name, value in detector.step(x).items()}
    assert logs["d_loss"] == pytest.approx(cross_entropies(real, fake), rel=1e-4)
    for found, expected in zip(moving(detector.discriminator), statistics, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # moved by that one pass alone
    new, old = (
        float(losses.feature_matching_to_mean(*(d.discriminator(images, training=False)[1] for images in (x, rebuilt))))
        for d in (detector, twin)
    )
    assert logs["adversarial"] == pytest.approx(new, rel=1e-3) and abs(new - old) > 0.01 * new
    assert np.abs(fakes - rebuilt).max() > 1e-3


def test_the_adversarial_gradient_reaches_g_and_not_d():
    """Alone it moves both halves of G; D, its rate zero, stays, and E hears nothing. No weight of G's loss moves D."""
    for settings in ({}, STUDY):
        detector = build(contextual_weight=0.0, encoder_weight=0.0, **settings)
        detector.optimizers["discriminator"].learning_rate = 0.0
        assert moved_by_a_step(detector) == {"encoder", "decoder"}
    critics = [build(adversarial_weight=weight) for weight in (0.0, 100.0)]
    for detector in critics:
        detector.step(batch())
    assert same(*(values(detector.discriminator) for detector in critics))


def test_the_second_encoder_is_its_own_network_learns_and_scores():
    detector, image = build(), IMAGE
    assert not same(values(detector.encoder), values(detector.second_encoder))
    assert moved_by_a_step(detector) == set(NETWORKS)
    twice = build(ge_twice=True)
    twice.set_weights(detector.get_weights())
    x = tf.constant(image[None] / np.float32(127.5) - 1)
    for each, last in ((detector, detector.second_encoder), (twice, twice.encoder)):
        difference = each.encoder(x, training=False) - last(each.reconstruct(x), training=False)
        assert each.anomaly_score(image) == pytest.approx(float(tf.reduce_mean(difference**2)), rel=1e-4)
    assert abs(detector.anomaly_score(image) / twice.anomaly_score(image) - 1) > 0.1


def test_scores_are_of_single_images_and_move_no_statistics():
    detector, image = build(norm_momentum=0.5), IMAGE
    detector.step(batch())
    before = {name: moving(getattr(detector, name)) for name in NETWORKS}
    found = detector.evidence(image)
    both = detector.image_scores(tf.constant(np.stack([OTHER, image]) / np.float32(127.5) - 1))
    for name, value in found.items():
        np.testing.assert_allclose(value, both[name][1], rtol=1e-3, atol=1e-6, err_msg=name)
    assert all(same(before[name], moving(getattr(detector, name))) for name in NETWORKS)
    detector.step(batch(seed=1))
    assert not any(np.array_equal(before[name][0], moving(getattr(detector, name))[0]) for name in NETWORKS)
    assert detector.anomaly_score(image) != detector.score_from(found)
    np.testing.assert_array_equal(detector.map_from(found), found["residual"])
    error = np.abs(image / np.float32(127.5) - 1 - found["reconstruction"])
    np.testing.assert_allclose(found["residual"], error.mean(-1), atol=1e-6)
    assert detector.score_from(found, "residual") == pytest.approx(error.mean(), rel=1e-5)
    for norm, expected in (("mean_square", 14 / 4), ("sum_absolute", 6.0)):
        assert build(score_norm=norm).score_from({"latent_difference": np.float32([1, -2, 0, 3])}) == expected


def test_epochs_are_passes_over_the_images_or_a_thousand_batches():
    for name, batches in (("official", 15 * 44), ("study", 1000), ("study_cloud", 1000)):
        config = GANomalyConfig(**PRESETS[name])
        assert config.epochs * config.images_per_epoch(2875) == batches * config.batch_size


def test_wrong_inputs_are_refused():
    for shape in ((32, 32, 3), (64, 64, 1), (64, 64), (64, 128, 3)):
        with pytest.raises(ValueError, match="expected"):
            build().evidence(np.zeros(shape, "uint8"))
    wrong = dict(image_size=48, width=0, matching="none", score_norm="l2", extra_layers=-1, encoder_weight=-1.0)
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            GANomalyConfig(**{name: value})


def test_matching_probabilities_in_the_place_of_features():
    """By hand, from the passes that the step makes with the weights before it."""
    detector = build(matching="probability")
    x = batch()
    rebuilt = detector.decoder(detector.encoder(x, training=True), training=True)
    real, fake = (detector.discriminator(part, training=True)[0].numpy() for part in (x, rebuilt))
    expected = np.mean((1 / (1 + np.exp(-real)) - 1 / (1 + np.exp(-fake))) ** 2)
    assert float(detector.step(x)["adversarial"]) == pytest.approx(expected, rel=1e-4) and expected > 0
    assert moved_by_a_step(build(matching="probability")) == set(NETWORKS)


def test_the_notebooks_score_takes_the_first_encoder_twice():
    detector = build(initial_deviation=0.5)
    found = detector.evidence(IMAGE)
    codes = detector.encoder(detector.prepare(IMAGE[None]), training=False)
    again = detector.encoder(found["reconstruction"][None], training=False)
    expected = np.mean(np.square(np.asarray(codes - again)))
    assert detector.score_from(found, "first_encoder_distance") == pytest.approx(expected, rel=1e-4)
    assert detector.score_from(found, "first_encoder_distance") != detector.score_from(found)


def test_scores_by_the_batchs_own_statistics_depend_on_the_batch():
    """What the authors' code does at test: the reading that this project does not take."""
    detector, images = build(), batch(6, seed=2)
    alone, together = (
        np.asarray(detector.image_scores(part, training=True)["residual"][0]) for part in (images[:2], images)
    )
    assert not np.allclose(alone, together)
    alone, together = (np.asarray(detector.image_scores(part)["residual"][0]) for part in (images[:2], images))
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_the_notebooks_second_encoder_keeps_its_initial_weights():
    """Its moving statistics follow the generated images; G_E learns to meet its codes, which score nothing."""
    detector = build(**PRESETS["notebook"])
    before, statistics = values(detector.second_encoder), moving(detector.second_encoder)
    assert moved_by_a_step(detector) == {"encoder", "decoder", "discriminator"}
    assert same(before, values(detector.second_encoder)) and not same(statistics, moving(detector.second_encoder))
    found = detector.evidence(IMAGE)
    assert detector.score_from(found) == detector.score_from(found, "first_encoder_distance")
