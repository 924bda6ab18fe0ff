"""FCBiGAN: networks, losses, what the reconstruction penalty trains, whole-image scoring."""

import dataclasses

import keras
import numpy as np
import pytest

from ganspect.evaluation.smoothing import mean_filter
from ganspect.models import losses
from ganspect.models.fcbigan import AGGREGATIONS, FCBiGAN, FCBiGANConfig, footprint_counts


def batch(seed=0, count=4, size=16):
    images = np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 1))
    return keras.ops.convert_to_tensor(images.astype("float32"))


@pytest.mark.parametrize(
    ("patch", "expected"), [(48, (2_916_160, 3_537_600, 1_157_824)), (64, (3_833_664, 5_372_608, 1_168_576))]
)
def test_parameter_counts_are_those_of_the_authors_layers(patch, expected):
    detector = FCBiGAN(FCBiGANConfig(patch_size=patch))
    counts = (detector.generator, detector.encoder, detector.discriminator)
    assert tuple(network.count_params() for network in counts) == expected


def test_one_patch_gives_one_latent_one_output_and_one_patch(tiny):
    x = batch()
    z = tiny.encoder(x, training=False)
    assert z.shape == (4, 1, 1, 6)
    assert tiny.generator(z, training=False).shape == x.shape
    assert tiny.discriminator([x, z], training=False).shape == (4, 1, 1, 1)
    assert tiny.latent_branch(z, training=False).shape == x.shape


def test_least_squares_and_mean_absolute_error_by_hand():
    outputs = np.array([[0.5], [-1.0]], "float32")
    assert float(losses.least_squares(outputs, 1.0)) == pytest.approx((0.25 + 4.0) / 2)
    assert float(losses.least_squares(outputs, 0.0)) == pytest.approx((0.25 + 1.0) / 2)
    images = np.array([[[[0.0], [1.0]]]], "float32")
    assert float(losses.mean_absolute_error(images, images * -1)) == pytest.approx(1.0)


def test_losses_of_a_step_are_equations_5_and_6(tiny):
    """Without dropout the logged losses can be worked out from the networks before and after D's update."""
    plain = FCBiGAN(dataclasses.replace(tiny.config, dropout=0.0, latent_dropout=0.0))
    plain.compile()
    x = batch()
    seed = keras.ops.convert_to_numpy(plain.noise.state)
    z = plain.draw_latents(4)
    second = plain.draw_latents(4)
    plain.noise.state.assign(seed)
    real = np.array(plain.discriminator([x, plain.encoder(x, training=True)], training=True))
    fake = np.array(plain.discriminator([plain.generator(z, training=True), z], training=True))
    codes = plain.encoder(x, training=True)
    error = np.abs(x - np.array(plain.generator(codes, training=True))).mean()
    generated = plain.generator(second, training=True)
    logs = {name: float(value) for name, value in plain.step(x).items()}
    assert logs["d_loss"] == pytest.approx(0.5 * ((real - 1) ** 2).mean() + 0.5 * (fake**2).mean(), rel=1e-5)
    assert logs["reconstruction_mae"] == pytest.approx(error, rel=1e-5)
    new_real = np.array(plain.discriminator([x, codes], training=True))  # D moved first, G and E after it
    new_fake = np.array(plain.discriminator([generated, second], training=True))
    assert logs["e_loss"] == pytest.approx((new_real**2).mean() + 0.1 * error, rel=1e-5)
    assert logs["g_loss"] == pytest.approx(((new_fake - 1) ** 2).mean(), rel=1e-5)


def test_reconstruction_penalty_trains_the_encoder_alone(tiny):
    """Adam hides scale, so gradients are compared: lambda changes E's, never G's; the option changes G's."""

    def gradients(**settings):
        detector = FCBiGAN(dataclasses.replace(tiny.config, dropout=0.0, latent_dropout=0.0, **settings))
        detector.compile()
        found = {}
        for name, optimizer in detector.optimizers.items():
            optimizer.apply = lambda g, v, name=name: found.setdefault(name, [np.array(x) for x in g])
        detector.step(batch())
        return found

    plain, heavy, ours = (
        gradients(),
        gradients(reconstruction_weight=10.0),
        gradients(generator_reconstruction_weight=1.0),
    )
    assert all(np.allclose(a, b) for a, b in zip(plain["generator"], heavy["generator"], strict=True))
    assert not all(np.allclose(a, b) for a, b in zip(plain["encoder"], heavy["encoder"], strict=True))
    assert not all(np.allclose(a, b) for a, b in zip(plain["generator"], ours["generator"], strict=True))


def test_dropout_masks_differ_between_layers(tiny):
    seeds = [keras.ops.convert_to_numpy(v) for v in tiny.non_trainable_variables if "seed_generator_state" in v.path]
    assert len(seeds) == 13 and len({tuple(s) for s in seeds}) == 13  # 12 dropouts and the noise


def test_whole_images_of_any_size(tiny, textures):
    tiny.calibrate(textures[:1])
    for image in (textures[0], textures[1][:51, :67]):
        found = tiny.evidence(image)
        assert found["reconstruction"].shape == image.shape
        assert found["l_r"].shape == found["l_d"].shape == image.shape[:2]
        assert (found["l_r"] >= 0).all() and (found["l_d"] >= 0).all()
        expected = np.mean((np.asarray(tiny.prepare(image)) - found["reconstruction"]) ** 2, -1)
        np.testing.assert_allclose(found["l_r"], expected, atol=1e-6)
        assert tiny.anomaly_map(image).shape == image.shape[:2]
        assert tiny.anomaly_score(image) == tiny.anomaly_map(image).max()


def test_averaging_the_latent_channel_changes_whole_images_only(tiny, textures):
    """One latent reaches each pixel of a patch, up to (16 / 8)^2 = 4 those of a larger image."""
    counts = np.asarray(footprint_counts(32, 40, 16))[0, :, :, 0]
    assert counts[0, 0] == 1 and counts[16, 16] == 4 and counts[0, 16] == 2
    assert (np.asarray(footprint_counts(16, 16, 16)) == 1).all()
    averaged = FCBiGAN(dataclasses.replace(tiny.config, latent_overlap="mean"))
    image = textures[0]
    for kernel, other in zip(tiny.trainable_variables, averaged.trainable_variables, strict=True):
        kernel.assign(kernel * 8)
        other.assign(kernel)
    assert np.abs(tiny.evidence(image)["l_d"] - averaged.evidence(image)["l_d"]).max() > 1e-4


def test_calibration_gives_z_scores_of_normal_pixels(tiny, textures):
    for kernel in tiny.trunk.trainable_variables:
        kernel.assign(kernel * 6)  # an untrained D's outputs all but vanish
    tiny.calibrate(textures)
    evidence = [tiny.evidence(image) for image in textures]
    for name in ("reconstruction", "discriminator"):
        pixels = np.concatenate([tiny.aggregate(e["l_r"], e["l_d"], name).ravel() for e in evidence])
        assert pixels.mean() == pytest.approx(0, abs=1e-3) and pixels.std() == pytest.approx(1, abs=1e-3)
    squared = np.concatenate([tiny.aggregate(e["l_r"], e["l_d"], "mahalanobis").ravel() for e in evidence]) ** 2
    assert squared.mean() == pytest.approx(2, abs=1e-2)  # two dimensions


def test_aggregations_and_filter(tiny, textures):
    tiny.calibrate(textures[:1])
    found = tiny.evidence(textures[1])
    parts = {name: tiny.aggregate(found["l_r"], found["l_d"], name) for name in AGGREGATIONS}
    np.testing.assert_array_equal(parts["max"], np.maximum(parts["reconstruction"], parts["discriminator"]))
    np.testing.assert_allclose(parts["linear"], 0.5 * parts["reconstruction"] + 0.5 * parts["discriminator"], atol=1e-5)
    for name in AGGREGATIONS:
        np.testing.assert_allclose(tiny.map_from(found, name), mean_filter(parts[name], 8), atol=1e-4)


def test_sampling_of_any_size(tiny):
    image = tiny.sample(40, 72)
    assert image.shape == (40, 72, 1) and np.abs(image).max() <= 1
    np.testing.assert_array_equal(image, tiny.sample(40, 72))
    for size in ((41, 72), (8, 72)):
        with pytest.raises(ValueError, match="multiples of 8"):
            tiny.sample(*size)


def test_wrong_inputs_are_refused(tiny, textures):
    with pytest.raises(ValueError, match="expected"):
        tiny.evidence(np.zeros((64, 64, 3), "uint8"))
    with pytest.raises(ValueError, match="expected"):
        tiny.evidence(np.zeros((8, 64, 1), "uint8"))
    with pytest.raises(ValueError, match="at least one"):
        tiny.calibrate([])
    for wrong in (
        {"patch_size": 20},
        {"width": 6},
        {"width": 0},
        {"batch_size": 0},
        {"patches_per_epoch": 8},
        {"map_stride": 3},
        {"aggregation": "mean"},
    ):
        with pytest.raises(ValueError):
            FCBiGANConfig(**wrong)
