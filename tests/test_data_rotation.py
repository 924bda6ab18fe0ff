"""Rotation: equal to SciPy's, no corner from beyond the image, every image equally often, alone and inside tf.data."""

import numpy as np
import pytest
from scipy import ndimage

from ganspect.data.patches import sampled_dataset, stack_images
from ganspect.data.rotation import RotatedSampler, take_rotated

FULL = np.pi


def sampler(images, **settings):
    settings = {"patch_size": 16, "count": 24, "batch_size": 8, "rotation": FULL, "fill": "crop"} | settings
    return RotatedSampler(tuple(i.shape[:2] for i in images), **settings)


def first_row(s, epoch=0):
    return {name: values[0] for name, values in s.draws(epoch).items()}


def squares(textures, side=24):
    """Three images of `side` x `side` pixels."""
    return [image[:side, :side] for image in textures]


def ramp(height, width):
    """An image whose two channels hold each pixel's row and column."""
    return np.stack(np.mgrid[:height, :width], -1).astype("uint8")


def source_coordinates(s, row):
    """Rows and columns `[B, p, p, 2]` of the unrotated image under each pixel, by the definition of a rotation."""
    centre = (np.asarray(s.sizes)[row["image"]] - 1) / 2
    i, j = np.mgrid[: s.patch_size, : s.patch_size]
    up = centre[:, 0, None, None] - row["top"][:, None, None] - i
    right = row["left"][:, None, None] + j - centre[:, 1, None, None]
    place = (right + 1j * up) * np.exp(-1j * row["angle"].astype("float64"))[:, None, None]
    return np.stack([centre[:, 0, None, None] - place.imag, place.real + centre[:, 1, None, None]], -1)


@pytest.mark.parametrize("fill", ["crop", "edge"])
def test_a_patch_is_cut_from_what_scipy_rotates(textures, fill):
    images = textures if fill == "crop" else squares(textures)
    stack, _ = stack_images(images)
    s = sampler(images, fill=fill, patch_size=16 if fill == "crop" else 24)
    row = first_row(s)
    patches = np.array(s.batch(stack, row))
    assert patches.dtype == "float32" and patches.shape == (8, s.patch_size, s.patch_size, 1)
    for i, patch in enumerate(patches):
        image, degrees = images[row["image"][i]].astype("float64"), np.rad2deg(row["angle"][i])
        rotated = ndimage.rotate(image, degrees, reshape=False, order=1, mode="nearest")
        top, left = int(row["top"][i]), int(row["left"][i])
        expected = rotated[top : top + s.patch_size, left : left + s.patch_size]
        np.testing.assert_allclose(patch, expected, atol=1e-3 * 255)


def test_a_positive_angle_turns_the_displayed_image_counter_clockwise():
    image = np.array([[[1, 2, 3], [4, 5, 6], [7, 8, 9]]], "uint8")[..., None]
    one = np.ones(1, "float32")

    def rotated(angle):
        turned = take_rotated(
            image, np.zeros(1, "int32"), np.array([[3.0, 3.0]], "float32"), 0 * one, 0 * one, angle, 3
        )
        return np.array(turned)[0, :, :, 0]

    np.testing.assert_allclose(rotated(one * np.pi / 2), [[3, 6, 9], [2, 5, 8], [1, 4, 7]], atol=1e-4)
    np.testing.assert_allclose(rotated(-one * np.pi / 2), [[7, 4, 1], [8, 5, 2], [9, 6, 3]], atol=1e-4)
    np.testing.assert_allclose(rotated(one * np.pi), [[9, 8, 7], [6, 5, 4], [3, 2, 1]], atol=1e-4)
    np.testing.assert_array_equal(rotated(0 * one), image[0, :, :, 0])


@pytest.mark.parametrize("rotation", [0.3, FULL])
def test_a_crop_has_no_empty_corner_and_reaches_the_edge(rotation):
    images = [ramp(60, 91), ramp(80, 80), ramp(73, 60)]
    stack, _ = stack_images(images)
    s = sampler(images, rotation=rotation, count=3000, batch_size=3000)
    row = first_row(s)
    places = source_coordinates(s, row)
    last = (np.asarray(s.sizes) - 1)[row["image"]][:, None, None]
    assert places.min() > -1e-3 and (last - places).min() > -1e-3
    assert places.min() < 1 and (last - places).min() < 1
    np.testing.assert_allclose(np.array(s.batch(stack, row)), places, atol=1e-3)
    white, _ = stack_images([np.full((*size, 1), 255, "uint8") for size in s.sizes])
    assert white.min() == 0  # beyond the smaller images
    np.testing.assert_array_equal(np.array(s.batch(white, row)), 255)


def test_the_smallest_crop_decides_what_is_accepted():
    """At 45 degrees 64 pixels leave 44: rows 31.5 - 63 / sqrt(8) = 9.2 to 53.8."""
    image = ramp(64, 64)
    quarter = sampler([image], patch_size=44, rotation=np.pi / 4, count=3000, batch_size=3000).draws(0)
    assert (quarter["top"] >= 0).all() and (quarter["top"] + 44 <= 64).all()
    with pytest.raises(ValueError, match="64x64 .* 45-pixel"):
        sampler([image], patch_size=45)
    sampler([image], patch_size=45, rotation=0.1)
    with pytest.raises(ValueError, match="64x80"):
        sampler([ramp(90, 90), ramp(64, 80)], patch_size=45)


def test_without_rotation_patches_are_exact_and_lie_anywhere(textures):
    stack, _ = stack_images(textures)
    for s in (sampler(textures, rotation=0.0, count=6000), sampler(textures, augment=False, count=6000)):
        drawn = {name: values.ravel() for name, values in s.draws(0).items()}
        assert not drawn["angle"].any()
        for i, image in enumerate(textures):
            for name, length in zip(("top", "left"), image.shape, strict=False):
                places = drawn[name][drawn["image"] == i]
                assert places.min() == 0 and places.max() == length - 16
        row = first_row(s)
        patches = np.array(s.batch(stack, row))
        assert patches.dtype == "float32"
        for i, patch in enumerate(patches):
            top, left = int(row["top"][i]), int(row["left"][i])
            expected = textures[row["image"][i]][top : top + 16, left : left + 16]
            np.testing.assert_array_equal(patch, expected)


def test_held_out_objects_come_whole_and_in_order(textures):
    images = squares(textures)
    s = sampler(images, fill="edge", patch_size=24, augment=False, count=3, batch_size=3)
    np.testing.assert_array_equal(np.array(s.batch(np.stack(images), first_row(s))), np.stack(images))


def test_draws_are_functions_of_seed_epoch_and_index(textures):
    one = sampler(textures)
    for name, values in one.draws(2).items():
        assert values.shape == (3, 8) and values.dtype == ("int32" if name == "image" else "float32")
        np.testing.assert_array_equal(values, one.draws(2)[name])
        np.testing.assert_array_equal(values.ravel(), sampler(textures, batch_size=4).draws(2)[name].ravel())
        assert not np.array_equal(values, one.draws(3)[name])
        assert not np.array_equal(values, sampler(textures, seed=1).draws(2)[name])
    np.testing.assert_array_equal(
        one.draws(2)["angle"].ravel(), sampler(textures, count=48).draws(2)["angle"][:3].ravel()
    )


def test_every_image_is_drawn_equally_often_at_angles_of_the_whole_range(textures):
    drawn = sampler(textures, count=3000, batch_size=1000, rotation=0.5).draws(0)
    np.testing.assert_array_equal(np.bincount(drawn["image"].ravel()), [1000, 1000, 1000])
    assert not np.array_equal(drawn["image"].ravel()[:9], np.arange(9) % 3)
    places = np.sort(drawn["angle"].ravel())
    np.testing.assert_allclose(places, np.linspace(-0.5, 0.5, 3000), atol=0.05)
    assert sampler(textures, count=30).draws(0)["image"].shape == (3, 8)


@pytest.mark.parametrize("settings", [{}, {"rotation": 0.0}, {"fill": "edge", "patch_size": 24}])
def test_tf_data_gives_the_same_batches_and_continues_in_the_middle(textures, settings):
    images = squares(textures) if settings.get("fill") else textures
    stack, _ = stack_images(images)
    s = sampler(images, **settings)
    batches = [np.array(b) for b in sampled_dataset(stack, s, lambda x: x, epochs=2)]
    rest = [np.array(b) for b in sampled_dataset(stack, s, lambda x: x, epochs=2, first_epoch=1)]
    np.testing.assert_array_equal(np.stack(batches[3:]), np.stack(rest))
    alone = s.batch(stack, {name: values[2] for name, values in s.draws(1).items()})
    np.testing.assert_allclose(batches[5], np.array(alone), rtol=0, atol=1e-3)


def test_what_cannot_be_sampled_is_refused(textures):
    for settings, message in (
        ({"rotation": 45.0}, "radians"),
        ({"fill": "black"}, "fill is"),
        ({"fill": "edge"}, "16x16 pixels, not 72x96"),
        ({"count": 4}, "no batch"),
        ({"patch_size": 65}, "smaller than"),
        ({"patch_size": 60}, "72x96 pixels, rotated"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler(textures, **settings)
    with pytest.raises(ValueError, match="no image"):
        sampler([])


def test_an_epoch_of_fewer_images_than_there_are_leaves_out_others_each_time():
    def drawn(epoch, **settings):
        s = RotatedSampler(((24, 24),) * 10, 24, settings.pop("count", 8), 4, seed=1, **settings)
        return s.draws(epoch)["image"].ravel().tolist()

    epochs = [drawn(epoch) for epoch in range(8)]
    assert all(len(set(images)) == 8 for images in epochs) and len({frozenset(images) for images in epochs}) > 1
    assert {image for images in epochs for image in images} == set(range(10))
    assert drawn(0, augment=False) == list(range(8))
    assert sorted(drawn(0, count=20)) == sorted([*range(10), *range(10)])
