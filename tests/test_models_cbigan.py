"""CBiGAN: the author's networks and presets, the scores of patches and images."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY

from ganspect.models.cbigan import PRESETS, CBiGAN, CBiGANConfig, residual_block

NETWORKS = ("generator", "encoder", "discriminator")
PLAIN_BIAS = ("_conv3", "image", "latents", "output")  # ends of the names of the layers that always have one


def build(**settings):
    return TINY["cbigan"].build(**settings)


def photograph(side=64):
    return np.random.default_rng(5).integers(0, 256, (side, side, 3)).astype("uint8")


def batches(detector, seed=0):
    shape = (detector.config.images_per_step, detector.config.patch_size, detector.config.patch_size, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (83_142, 87_892, 666_437)),
        ({"image_size": 512, "patch_size": 64}, (83_142, 60_244, 638_789)),
        (PRESETS["wide"], (8.18e6, 9.66e6, 10.44e6)),
    ],
)
def test_parameter_counts_are_those_of_the_authors_layers(settings, expected):
    detector = CBiGAN(CBiGANConfig(**settings))
    for name, count in zip(NETWORKS, expected, strict=True):
        assert getattr(detector, name).count_params() == pytest.approx(count, abs=5000 if "width" in settings else 0)


@pytest.mark.parametrize("size", [32, 64])
def test_one_image_gives_one_latent_one_output_and_one_image(size):
    detector = build(image_size=size, patch_size=size)
    x = tf.constant(batches(detector))
    z = detector.encoder(x, training=False)
    assert z.shape == (8, 5) and detector.reconstruct(x).shape == x.shape
    output, feature = detector.discriminator([x, z], training=False)
    assert output.shape == (8, 1) and feature.shape == (8, 16)
    images = detector.generator(1e4 * z, training=False)
    assert images.shape == x.shape and 0.1 < np.abs(images).max() <= 1
    assert detector.encoder.get_layer("flatten").output.shape == (None, (size // 32) ** 2 * 16)


def test_layers_have_biases_as_in_the_authors_code():
    plain, biased = build(), build(bias=True)
    for name in NETWORKS:
        ours, theirs = (
            [layer for layer in getattr(d, name).layers if hasattr(layer, "use_bias")] for d in (plain, biased)
        )
        assert all(layer.use_bias == layer.name.endswith(PLAIN_BIAS) for layer in ours)
        assert all(layer.use_bias for layer in theirs)
        added = sum(layer.kernel.shape[-1] for layer in ours if not layer.name.endswith(PLAIN_BIAS))
        assert added == getattr(biased, name).count_params() - getattr(plain, name).count_params() > 0


def test_a_block_is_activated_after_the_addition():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    images = keras.Input((6, 6, 3))
    model = keras.Model(images, residual_block(images, 4, True, "b"))
    for v in model.weights:
        v.assign(np.random.default_rng(1).normal(size=v.shape))

    def conv(inputs, name):
        layer = model.get_layer(name)
        return tf.nn.conv2d(inputs, layer.kernel, 1, "SAME") + layer.bias

    def act(inputs):
        return tf.where(inputs > 0, inputs, 0.2 * inputs)

    first = conv(x, "b_conv1")
    expected = act(conv(act(conv(act(first), "b_conv2")), "b_conv3") + conv(x, "b_shortcut"))
    output, inner = model(tf.constant(x), training=True)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(inner, first, rtol=1e-4, atol=1e-3)


def test_the_joint_feature_sees_the_latent_and_the_first_convolution_does_not():
    for feature, shape, sees in (("joint", (4, 16), True), ("first_conv", (4, 32, 32, 1), False)):
        detector = build(feature=feature)
        x, z = batches(detector)[:4], np.ones((4, 5), "float32")
        found, other = (np.array(detector.discriminator([x, latent], training=False)[1]) for latent in (z, -z))
        assert found.shape == shape and np.array_equal(found, other) != sees
    kernel = detector.discriminator.get_layer("d1_conv1").kernel
    np.testing.assert_allclose(found, tf.nn.conv2d(x, kernel, 1, "SAME"), atol=1e-5)  # not yet activated


def test_presets_are_the_two_dates_of_the_code():
    settings = ("alpha", "penalty_weight", "critic_steps", "mapping_beta_2", "critic_beta_2", "ema_decay", "epochs")
    for name, expected in (
        ("2021", (1e-5, 10.0, 5, 0.1, 0.9, 0.999, 200)),  # 1 200 000 batches
        ("2020", (1e-4, 2.5, 1, 0.099, 0.909, 0.0, 100)),  # 200 000
        ("wide", (1e-5, 10.0, 5, 0.1, 0.9, 0.999, 200)),
    ):
        config = CBiGANConfig(**PRESETS[name])
        assert tuple(getattr(config, setting) for setting in settings) == expected
        assert config.width == (32 if name == "wide" else 3)
        batches = config.epochs * config.cycles_per_epoch * config.batches_per_step
        assert batches == {"2021": 1_200_000, "2020": 200_000, "wide": 1_200_000}[name]


def test_evidence_is_that_of_each_patch_alone():
    detector, image = build(image_size=96), photograph(96)
    found = detector.evidence(image)
    assert found["l_r"].shape == found["l_fd"].shape == (3, 3) and found["residual"].shape == (96, 96)
    for i in range(3):
        for j in range(3):
            place = slice(32 * i, 32 * i + 32), slice(32 * j, 32 * j + 32)
            patch = tf.constant(image[place][None] / np.float32(127.5) - 1)
            codes = detector.ema_encoder(patch, training=False)
            rebuilt = detector.ema_generator(codes, training=False)
            real, fake = (detector.discriminator([x, codes], training=False)[1] for x in (patch, rebuilt))
            error = np.abs(patch - rebuilt)[0]
            np.testing.assert_allclose(found["reconstruction"][place], rebuilt[0], atol=1e-5)
            np.testing.assert_allclose(found["residual"][place], error.sum(-1), atol=1e-4)
            assert found["l_r"][i, j] == pytest.approx(error.sum(), rel=1e-5)
            assert found["l_fd"][i, j] == pytest.approx(np.abs(real - fake).sum(), rel=1e-3)
    scores = 0.9 * found["l_r"] + 0.1 * found["l_fd"]
    assert detector.anomaly_score(image) == pytest.approx(scores.max(), rel=1e-6) and np.ptp(scores) > 1
    np.testing.assert_array_equal(detector.anomaly_map(image), found["residual"])


def test_the_two_errors_of_a_patch_are_mixed_before_the_highest_patch_is_taken():
    detector = build(score_weight=0.5)
    found = {"l_r": np.array([[3.0, 1.0], [0.0, 2.0]]), "l_fd": np.array([[0.0, 9.0], [1.0, 2.0]])}
    expected = {"lambda_0.0": 3.0, "lambda_0.1": 2.7, "lambda_0.5": 5.0, "lambda_0.9": 8.2, "lambda_1.0": 9.0}
    for name, value in expected.items():
        assert detector.score_from(found, name) == pytest.approx(value)
    assert detector.score_from(found) == 5.0
    assert detector.score_names[0] == "lambda_0.5" and detector.map_names == ("lambda_0.5",)
    assert sorted(detector.score_names) == [f"lambda_{i / 10}" for i in range(11)]


def test_scores_are_of_the_averaged_networks_and_the_last_critic():
    detector, image = build(), photograph()
    before = detector.evidence(image)

    def unchanged():
        return {name: np.array_equal(before[name], value) for name, value in detector.evidence(image).items()}

    for network in (detector.generator, detector.encoder):
        network.set_weights([2 * w for w in network.get_weights()])
    assert all(unchanged().values())
    detector.discriminator.set_weights([2 * w for w in detector.discriminator.get_weights()])
    assert unchanged() == {"reconstruction": True, "residual": True, "l_r": True, "l_fd": False}
    for network in (detector.ema_generator, detector.ema_encoder):
        before = detector.evidence(image)
        network.set_weights([2 * w for w in network.get_weights()])
        assert not any(unchanged().values())


def test_samples_and_the_latent_error_are_fixed_by_their_seed():
    detector = build()
    images = detector.sample(3)
    assert images.shape == (3, 32, 32, 3) and 0 < np.abs(images).max() <= 1
    np.testing.assert_array_equal(images, detector.sample(3))
    assert not np.array_equal(images, detector.sample(3, seed=1))
    assert [x.shape for x in detector.generated(64, 64)] == [(32, 32, 3)] * 8
    error = detector.latent_error(count=1000)
    assert error == detector.latent_error(count=1000) != detector.latent_error(count=1000, seed=1)
    final = detector.ema_encoder.get_layer("latents")
    final.kernel.assign(0 * final.kernel)  # E(G(z)) = 0, and the mean of |z| is sqrt(2 / pi)
    assert detector.latent_error(count=1000) == pytest.approx(np.sqrt(2 / np.pi), abs=0.03)


def test_wrong_inputs_are_refused():
    detector = build()
    for shape in ((64, 64, 1), (64, 96, 3), (32, 32, 3), (64, 64)):
        with pytest.raises(ValueError, match="expected"):
            detector.evidence(np.zeros(shape, "uint8"))
    for wrong, message in (
        ({"patch_size": 48}, "32, 64 or 128"),
        ({"image_size": 200}, "no multiple"),
        ({"image_size": 64}, "no multiple"),
        ({"alpha": 1.5}, "alpha"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"alpha": -0.1}, "alpha"),
        ({"score_weight": 0.15}, "score_weight"),
        ({"feature": "last"}, "feature"),
        ({"penalty_pairing": "none"}, "penalty_pairing"),
    ):
        with pytest.raises(ValueError, match=message):
            CBiGANConfig(**wrong)
