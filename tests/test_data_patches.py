"""Patches: draws are functions of (seed, epoch, index), cutting and turning are exact, alone and inside tf.data."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ganspect.data.patches import PatchSampler, patch_batch, sampled_dataset, stack_images, take_patches


def sampler(images, **settings):
    return PatchSampler(
        tuple(i.shape[:2] for i in images), **{"patch_size": 16, "count": 20, "batch_size": 4} | settings
    )


def test_draws_depend_on_seed_epoch_and_index_alone(textures):
    one, more = sampler(textures), sampler(textures, count=40, batch_size=8)
    for name, values in one.draws(2).items():
        np.testing.assert_array_equal(values, one.draws(2)[name])
        np.testing.assert_array_equal(values.ravel(), more.draws(2)[name].ravel()[:20])
        assert values.shape == (5, 4)
    assert not np.array_equal(one.draws(2)["top"], one.draws(3)["top"])
    assert not np.array_equal(one.draws(2)["top"], sampler(textures, seed=1).draws(2)["top"])


def test_patches_that_are_cut_once_are_the_same_in_every_epoch(textures):
    fresh, kept = sampler(textures), replace(sampler(textures), fresh=False)

    def cuts(draws):
        return sorted(zip(*(draws[name].ravel().tolist() for name in ("image", "top", "left")), strict=True))

    first, second, third = (kept.draws(epoch) for epoch in (0, 1, 2))
    assert all((first[name] == fresh.draws(0)[name]).all() for name in first)
    assert cuts(first) == cuts(second) == cuts(third) != cuts(fresh.draws(1))
    assert (first["top"] != second["top"]).any() and (second["top"] != third["top"]).any()  # in another order
    assert (second["flip_x"] == fresh.draws(1)["flip_x"]).all()  # turned as ever


def test_every_place_of_every_image_can_be_drawn(textures):
    drawn = {k: v.ravel() for k, v in sampler(textures, count=20_000, batch_size=1000).draws(0).items()}
    for i, image in enumerate(textures):
        mine = drawn["image"] == i
        assert mine.mean() == pytest.approx(1 / 3, abs=0.02)
        assert drawn["top"][mine].min() == 0 and drawn["top"][mine].max() == image.shape[0] - 16
        assert drawn["left"][mine].min() == 0 and drawn["left"][mine].max() == image.shape[1] - 16
    for name in ("flip_x", "flip_y", "turn"):
        assert drawn[name].mean() == pytest.approx(0.5, abs=0.02)
    plain = sampler(textures, augment=False).draws(0)
    assert not any(plain[name].any() for name in ("flip_x", "flip_y", "turn"))


def test_patches_are_cut_flipped_and_turned_exactly(textures):
    stack, sizes = stack_images(textures)
    s = sampler(textures)
    assert sizes == s.sizes
    row = {name: values[1] for name, values in s.draws(0).items()}
    for i, patch in enumerate(np.array(s.batch(stack, row))):
        image = textures[row["image"][i]]
        top, left = row["top"][i], row["left"][i]
        expected = image[top : top + 16, left : left + 16]
        expected = expected[:, ::-1] if row["flip_x"][i] else expected
        expected = expected[::-1] if row["flip_y"][i] else expected
        expected = np.rot90(expected) if row["turn"][i] else expected  # counter-clockwise
        np.testing.assert_array_equal(patch, expected)


def test_flags_apply_to_their_own_patch():
    """All eight kinds at once: mirrored left-right, then up-down, then turned by a quarter counter-clockwise."""
    stack, _ = stack_images([np.arange(5 * 6).reshape(5, 6, 1).astype("uint8")])
    flags = np.array(list(itertools.product((0, 1), repeat=3)), "int32")
    row = {"image": np.zeros(8, "int32"), "top": np.ones(8, "int32"), "left": np.full(8, 2, "int32")}
    row |= dict(zip(("flip_x", "flip_y", "turn"), flags.T, strict=True))
    for patch, (flip_x, flip_y, turn) in zip(np.array(patch_batch(stack, row, 3)), flags, strict=True):
        expected = stack[0, 1:4, 2:5][:, :: 1 - 2 * flip_x][:: 1 - 2 * flip_y]
        np.testing.assert_array_equal(patch, np.rot90(expected) if turn else expected)


def test_colour_patches(textures):
    coloured = [np.concatenate([i, 255 - i, i // 2], -1) for i in textures]
    stack, _ = stack_images(coloured)
    zero = np.zeros(1, "int32")
    np.testing.assert_array_equal(
        np.array(take_patches(stack, zero + 1, zero + 3, zero + 5, 16))[0], coloured[1][3:19, 5:21]
    )


def test_tf_data_gives_the_same_batches_and_continues_in_the_middle(textures):
    stack, _ = stack_images(textures)
    s = sampler(textures)
    batches = [np.array(b) for b in sampled_dataset(stack, s, lambda x: x, epochs=3)]
    assert len(batches) == 15
    rest = [np.array(b) for b in sampled_dataset(stack, s, lambda x: x, epochs=3, first_epoch=2)]
    for a, b in zip(batches[10:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
    row = {name: values[4] for name, values in s.draws(1).items()}
    np.testing.assert_array_equal(batches[9], np.array(s.batch(stack, row)))


def test_what_cannot_be_sampled_is_refused(textures):
    with pytest.raises(ValueError, match="smaller than"):
        sampler(textures, patch_size=200)
    with pytest.raises(ValueError, match="no image"):
        PatchSampler((), 16, 4, 4)
    with pytest.raises(ValueError, match="no batch"):
        sampler(textures, count=2)
