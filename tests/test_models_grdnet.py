"""GRD-Net: its networks, which gradients reach what, the cases of the U-Net's loss, the rates, the region's effect."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tiny_methods import TINY, Tiny

from ganspect.models import grdnet, losses
from ganspect.models.blocks import EveryOther, InsertZeros
from ganspect.models.grdnet import (
    GRDNet,
    GRDNetConfig,
    build_decoder,
    build_discriminator,
    build_encoder,
    plateaus,
    segmentation_loss,
)
from ganspect.models.segmentation import build_segmentation


def test_the_noises_are_those_that_the_sampler_draws():
    from ganspect.data import corruption

    assert grdnet.NOISES == corruption.NOISES
    assert [GRDNetConfig(noise=noise).noise for noise in corruption.NOISES] == list(corruption.NOISES)


def test_parameter_counts_and_the_latents():
    """Those of the notes, worked out from the authors' layer lists, and DRAEM's U-Net; z is 8x8x32 = 2048."""
    config = GRDNetConfig()
    encoder, decoder = build_encoder(config), build_decoder(config)
    assert encoder.output_shape == (None, 8, 8, 32) and decoder.output_shape == (None, 128, 128, 3)
    assert (encoder.count_params() + decoder.count_params()) / 1e6 == pytest.approx(90.5, abs=0.05)
    assert encoder.count_params() / 1e6 == pytest.approx(135.7 - 90.5, abs=0.1)
    discriminator = build_discriminator(config)
    assert discriminator.count_params() / 1e6 == pytest.approx(44.8, abs=0.05)
    assert discriminator.output_shape == [(None, 1), (None, 8, 8, 1024)]
    assert build_segmentation(3, 64).count_params() == 28_388_226
    dense = replace(config, width=4, bottleneck="dense")
    larger = replace(config, width=1, image_size=256, patch_size=256, stages=6)
    assert build_encoder(larger).output_shape == (None, 8, 8, 32)
    assert build_encoder(dense).output_shape == (None, 2048) and build_decoder(dense).input_shape == (None, 2048)


def test_vanilla_has_the_same_convolutions_without_shortcuts():
    config = GRDNetConfig(width=4)
    residual, vanilla = build_encoder(config), build_encoder(replace(config, residual=False))
    names = [{layer.name for layer in network.layers} for network in (residual, vanilla)]
    missing = names[0] - names[1]
    assert names[1] < names[0] and all(("_shortcut" in n) or n.endswith(("_add", "_pick")) for n in missing)


def test_shortcuts_equal_strided_convolutions():
    """At 16 channels, where TensorFlow's own strided 1x1 convolutions are safe to call."""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 16)).astype("float32")
    strided, plain = layers.Conv2D(16, 1, strides=2, padding="same"), layers.Conv2D(16, 1)
    expected = strided(x)
    plain.build(x.shape)
    plain.set_weights(strided.get_weights())
    np.testing.assert_allclose(plain(EveryOther()(x)), expected, atol=1e-5)
    spread = layers.Conv2DTranspose(16, 1, strides=2, padding="same", use_bias=False)
    expected = spread(x)
    plain = layers.Conv2D(16, 1, use_bias=False)
    plain.build(x.shape)
    plain.set_weights([spread.get_weights()[0].transpose(0, 1, 3, 2)])
    np.testing.assert_allclose(InsertZeros()(plain(x)), expected, atol=1e-5)


@pytest.fixture(scope="module")
def detector():
    return TINY["grdnet"].build()


def gradients_of(detector, batch, name, networks):
    """Gradient of one part of G's losses, or of the U-Net's, for the kernels of each network."""
    variables = {n: [v.value for v in getattr(detector, n).trainable_variables] for n in networks}
    with tf.GradientTape() as tape:
        found = detector.generative_losses(batch["images"], batch["corrupted"], training=True)
        loss = found[name]
    gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return {n: sum(float(tf.reduce_sum(tf.abs(g))) for g in gs) for n, gs in gradients.items()}


def test_the_adversarial_gradient_reaches_g(detector):
    """In the authors' TensorFlow code it does not."""
    networks = ("encoder", "decoder", "second_encoder")
    found = gradients_of(detector, TINY["grdnet"].batch(), "adversarial", networks)
    assert found["encoder"] > 0 and found["decoder"] > 0 and found["second_encoder"] == 0
    found = gradients_of(detector, TINY["grdnet"].batch(), "encoding", networks)
    assert all(value > 0 for value in found.values())


def test_each_network_learns_from_its_own_losses_alone(detector):
    """A step with one weight of G's losses at zero differs; what the U-Net is asked changes nothing in G, E and D."""
    batch = TINY["grdnet"].batch()
    other = batch | {"mask": 1 - batch["mask"], "roi": 1 - batch["roi"]}
    one, weights = TINY["grdnet"].build(), {}
    rewind = Tiny.rewinding(one)
    for name, settings, data in (
        ("whole", {}, batch),
        ("other target", {}, other),
        ("no adversarial", {"adversarial_weight": 0.0}, batch),
        ("no encoding", {"encoder_weight": 0.0}, batch),
    ):
        one.config = replace(TINY["grdnet"].config, **settings)
        rewind()
        one.step(data)
        networks = ("encoder", "decoder", "second_encoder", "discriminator", "segmentation")
        weights[name] = {n: np.concatenate([w.ravel() for w in getattr(one, n).get_weights()]) for n in networks}

    def same(name, network):
        return np.array_equal(weights["whole"][network], weights[name][network])

    assert all(same("other target", n) for n in ("encoder", "decoder", "second_encoder", "discriminator"))
    assert not same("other target", "segmentation")
    assert not same("no adversarial", "decoder") and not same("no encoding", "encoder")
    assert same("no encoding", "discriminator") and same("no adversarial", "discriminator")


def test_losses_of_a_batch_by_their_formulas(detector):
    batch = TINY["grdnet"].batch()
    found = {
        k: np.asarray(v) for k, v in detector.generative_losses(batch["images"], batch["corrupted"], False).items()
    }
    codes = np.asarray(detector.encoder(batch["corrupted"], training=False))
    rebuilt = np.asarray(detector.decoder(codes, training=False))
    again = np.asarray(detector.second_encoder(rebuilt, training=False))
    features = [np.asarray(detector.discriminator(x, training=False)[1]) for x in (batch["images"], rebuilt)]
    l1 = np.abs(batch["images"] - rebuilt).mean()
    ssim = float(losses.structural_similarity(batch["images"], rebuilt))
    assert found["contextual"] == pytest.approx(l1 + 1 - ssim, rel=1e-5)
    assert found["dissimilarity"] == pytest.approx(1 - ssim, rel=1e-5)
    assert found["adversarial"] == pytest.approx(((features[0] - features[1]) ** 2).mean(), rel=1e-4)
    assert found["encoding"] == pytest.approx(((codes - again) ** 2).mean(), rel=1e-4)
    total = found["adversarial"] + 50 * found["contextual"] + found["encoding"]
    assert found["g_loss"] == pytest.approx(total, rel=1e-5)


def focal(p, gamma=2.0):
    return -((1 - p) ** gamma) * math.log(p)


@pytest.mark.parametrize("reading", ["target", "prediction"])
@pytest.mark.parametrize("case", [1, 2, 3, 4])
def test_the_four_cases_and_both_readings_by_hand(case, reading):
    """Four pixels: A, M, R of (defect inside, defect outside, normal inside, normal outside)."""
    marked = np.array([0.8, 0.7, 0.3, 0.4], "float32").reshape(1, 2, 2, 1)
    mask = np.array([1, 1, 0, 0], "float32").reshape(1, 2, 2, 1)
    region = np.array([1, 0, 1, 0], "float32").reshape(1, 2, 2, 1)
    plain = [focal(0.8), focal(0.7), focal(0.7), focal(0.6)]
    target = [focal(0.8), focal(0.3), focal(0.7), focal(0.6)]  # the defect outside must not be marked
    prediction = [focal(0.8), focal(1e-5), focal(0.7), 0.0]  # A R is 0 outside, whatever A is
    intersection = target if reading == "target" else prediction
    overlap = (0.8 + 0.3) / min(2.2, 2.0)
    outside = (0.7 + 0.4) / min(2.2, 2.0)
    expected = {
        1: np.mean(plain) + 0.5 * (1 - overlap),
        2: np.mean(intersection),
        3: np.mean(intersection) + 0.5 * (1 - overlap),
        4: np.mean(intersection) + 0.5 * outside,
    }
    config = GRDNetConfig(loss_case=case, reading=reading)
    assert float(segmentation_loss(marked, mask, region, config)) == pytest.approx(expected[case], rel=1e-4)


def test_prediction_masked_learns_nothing_outside_the_region():
    """Decision 2e: with the prediction masked no gradient comes from outside; with the target masked it does."""
    mask = np.array([1, 1, 0, 0], "float32").reshape(1, 2, 2, 1)
    region = np.array([1, 0, 1, 0], "float32").reshape(1, 2, 2, 1)
    for reading, outside in (("prediction", False), ("target", True)):
        marked = tf.Variable(np.full((1, 2, 2, 1), 0.5, "float32"))
        with tf.GradientTape() as tape:
            loss = segmentation_loss(marked, mask, region, GRDNetConfig(reading=reading))
        slope = tape.gradient(loss, marked).numpy().ravel()
        assert bool(np.any(slope[[1, 3]])) == outside and np.all(slope[[0, 2]] != 0)


def test_plateaus_count_as_keras_does():
    values = [1.0, 0.9, 0.95, 0.91, 0.92, 0.93, 0.5, 0.49995, 0.5, 0.5, 0.4]
    assert [plateaus(values[:n], 3) for n in range(len(values) + 1)] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    keras_rule = keras.callbacks.ReduceLROnPlateau("val_loss", factor=math.exp(-0.1), patience=3)
    keras_rule.set_model(model)
    keras_rule.on_train_begin()
    for epoch, value in enumerate(values):
        keras_rule.on_epoch_end(epoch, {"val_loss": value})
    assert float(model.optimizer.learning_rate) == pytest.approx(math.exp(-0.1 * plateaus(values, 3)), rel=1e-5)


def test_rates_of_all_optimisers_follow_the_monitored_loss(detector):
    rows = [{"held_out_contextual": "0.5"} for _ in range(8)]
    assert detector.rates([]) == dict.fromkeys(("discriminator", "generator", "segmentation"), 1e-3)
    rates = detector.rates(rows)
    assert set(rates) == set(detector.optimizers) and len(set(rates.values())) == 1
    assert rates["generator"] == pytest.approx(1e-3 * math.exp(-0.2))


def test_without_the_unet():
    one = TINY["grdnet"].build(discriminative=False)
    assert "segmentation" not in one.optimizers and one.score_names == ("residual",)
    logs = one.step(TINY["grdnet"].batch())
    assert set(logs) == set(one.loss_names) and "s_loss" not in logs
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype("uint8")
    assert one.anomaly_map(image).shape == (64, 64)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 64},
        {"patch_size": 100},
        {"bottleneck": "wide"},
        {"stages": 0},
        {"patch_size": 96, "stages": 7},
        {"loss_case": 5},
        {"reading": "both"},
        {"noise": "white"},
        {"statistics_batches": -1},
        {"statistics_batches": 4, "discriminative": False},
        {"patch_stride": 0},
        {"width": 0},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError):
        GRDNetConfig(**settings)


def test_scores_are_maxima_of_the_averaged_map_also_inside_a_region(detector):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 64, 3)).astype("uint8")
    found = detector.evidence(image)
    size = detector.pool_size
    assert size == 5 and GRDNet(GRDNetConfig(width=1)).pool_size == 11  # 21 of 256 pixels
    padded = np.pad(found["anomaly"], size // 2)
    averaged = np.array([[padded[y : y + size, x : x + size].mean() for x in range(64)] for y in range(64)])
    assert detector.score_from(found) == pytest.approx(averaged.max(), rel=1e-4)
    region = np.zeros((64, 64), bool)
    region[10:20, 30:40] = True
    assert detector.score_inside(found, region) == pytest.approx(averaged[region].max(), rel=1e-4)
    assert detector.score_inside(found, np.zeros((64, 64), bool)) == -np.inf
    with pytest.raises(ValueError, match="expected"):
        detector.evidence(image[:32, :32])
