"""Corruption: Perlin noise and blend by hand, aligned regions, random numbers, one result on both backends."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from keras import ops
from scipy import stats

from ganspect.data.corruption import (
    CorruptedSampler,
    perlin_noise,
    random_bits,
    random_pixels,
    uniform,
)
from ganspect.data.patches import sampled_dataset, stack_images
from ganspect.data.regions import with_regions
from ganspect.data.rotation import take_rotated

KEYS = np.array([3, 4, 2**32 - 1], "uint32")


@pytest.fixture(scope="module")
def pictures():
    """Five smooth uint8 `[64, 64, 3]` and regions that cover their bright parts."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] / 10
    waves = [np.sin(y * rng.uniform(1, 2) + x * rng.uniform(-2, 2) + rng.uniform(0, 6, (3, 1, 1))) for _ in range(5)]
    images = [np.rint(127.5 + 120 * np.moveaxis(wave, 0, -1)).astype("uint8") for wave in waves]
    return images, [image[..., 0] > 127 for image in images]


def sampler(**settings):
    return CorruptedSampler(**{"sizes": ((64, 64),) * 5, "patch_size": 64, "count": 40, "batch_size": 8} | settings)


def row_of(s, epoch=0, step=0):
    return {name: values[step] for name, values in s.draws(epoch).items()}


def arrays(batch):
    return {name: np.array(values) for name, values in batch.items()}


def stacked(pictures):
    return stack_images(with_regions(*pictures))[0]


def mixed(x):
    """The permutation of `random_bits`, in Python's integers."""
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def perlin_by_hand(angles, cells_y, cells_x, size):
    """DRAEM's `rand_perlin_2d_np` for given angles of the gradients: four corners, two interpolations."""
    y, x = (np.arange(size) * cells / size for cells in (cells_y, cells_x))
    y, x = np.meshgrid(y, x, indexing="ij")
    row, column = y.astype(int), x.astype(int)
    fade_y, fade_x = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (y - row, x - column))

    def corner(down, right):
        angle = angles[row + down, column + right]
        return np.sin(angle) * (y - row - down) + np.cos(angle) * (x - column - right)

    above = corner(0, 0) + fade_x * (corner(0, 1) - corner(0, 0))
    below = corner(1, 0) + fade_x * (corner(1, 1) - corner(1, 0))
    return np.sqrt(2) * (above + fade_y * (below - above))


def test_perlin_noise_is_that_of_a_loop_over_samples():
    rng = np.random.default_rng(1)
    key, y, x = rng.integers(0, 2**32, 12, "uint32"), rng.integers(0, 5, 12), rng.integers(0, 5, 12)
    maps = np.array(perlin_noise(key, y.astype("int32"), x.astype("int32"), 48, 4, 2))
    angles = 2 * np.pi * np.array(uniform(random_bits(key, 17 * 17, 2)), "float64").reshape(-1, 17, 17)
    for i, noise in enumerate(maps):
        np.testing.assert_allclose(noise, perlin_by_hand(angles[i], 2 ** y[i], 2 ** x[i], 48), atol=1e-5)
    assert maps.min() < -0.6 and maps.max() > 0.6 and np.abs(maps).max() < 1.2


def test_random_bits_are_those_of_the_hash():
    bits = np.array(random_bits(KEYS, 5, 1))
    start = (0x9E3779B9 + 0x632BE59B) % 2**32
    for i, key in enumerate(KEYS.tolist()):
        assert bits[i].tolist() == [mixed(mixed(c) ^ mixed(key ^ start)) for c in range(1, 6)]
    assert np.array(uniform(bits)).max() < 1
    assert np.array(uniform(np.array([2**32 - 1, 255], "uint32"))).tolist() == [1 - 2**-24, 0]
    pixels = np.array(random_pixels(KEYS, 2, 3, 1))
    assert pixels[1, 0, 1].tolist() == [int(bits[1, 1]) >> shift & 255 for shift in (0, 8, 16)]


def test_random_numbers_are_uniform_and_uncorrelated():
    """Consecutive keys, as the worst case; bounds of five standard deviations."""
    many = np.arange(64, dtype="uint32")
    numbers = np.array(uniform(random_bits(many, 4096, 1)), "float64")
    n = numbers.size
    assert numbers.mean() == pytest.approx(0.5, abs=5 * np.sqrt(1 / 12 / n))
    assert numbers.var() == pytest.approx(1 / 12, abs=5 * np.sqrt(1 / 180 / n))
    assert stats.chisquare(np.histogram(numbers, 256, (0, 1))[0]).pvalue > 1e-4
    assert stats.kstest([stats.chisquare(np.histogram(r, 64, (0, 1))[0]).pvalue for r in numbers], "uniform").pvalue > (
        1e-4
    )
    other = np.array(uniform(random_bits(many, 4096, 2)), "float64")
    centred = numbers - 0.5
    for shifted in (np.roll(centred, 1, 0), np.roll(centred, 1, 1), np.roll(centred, 64, 1), other - 0.5):
        assert abs((centred * shifted).mean()) * 12 < 5 / np.sqrt(n)
    bits = np.unpackbits(np.array(random_bits(many, 4096, 1)).view("uint8").reshape(-1, 4), axis=1).astype("float64")
    between = np.abs(np.corrcoef(bits.T) - np.eye(32))
    assert np.abs(bits.mean(0) - 0.5).max() < 2.5 / np.sqrt(n) and between.max() < 5 / np.sqrt(n)
    pixels = np.array(random_pixels(many, 64, 3, 1)).reshape(-1, 3)
    assert stats.chisquare(np.bincount(pixels.astype(int).ravel(), minlength=256)).pvalue > 1e-4
    assert np.abs(np.corrcoef(pixels.T) - np.eye(3)).max() < 5 / np.sqrt(n)


def grays_by_hand(s, row):
    """The mask's map of each sample in the tones of its numbers, one sample and one operation after the other."""
    pictures = []
    maps = 255 * np.clip(np.array(s._noise_map(row, 0), "float64"), 0, 1)
    for gray, u in zip(maps, np.array(uniform(random_bits(row["key"], 8, 16)), "float64"), strict=True):
        picture = np.repeat(gray, 3, -1)
        if u[0] < 0.3:
            picture = np.stack([255 * (picture[..., i] / 255) ** (0.5 + 1.5 * u[5 + i]) for i in range(3)], -1)
        if u[1] < 0.3:
            picture = np.clip(picture * (0.8 + 0.4 * u[3]) - 30 + 60 * u[4], 0, 255)
        pictures.append(255 - picture if u[2] < 0.3 else picture)
    return np.stack(pictures)


def test_gray_noise_has_every_tone():
    s = sampler(noise="gray", corrupted=1.0, count=400, batch_size=400)
    row = row_of(s)
    inside = np.array(s.masks(row))[..., 0] > 0
    filling = np.array(s._filling(row, 3))
    shown = [picture[m] for picture, m in zip(filling, inside, strict=True) if m.any()]
    dark = np.mean([pixels.mean() < 127.5 for pixels in shown])
    coloured = np.mean([np.ptp(pixels, axis=1).max() > 1 for pixels in shown])
    assert dark == pytest.approx(0.3, abs=0.1) and coloured == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize("noise", ["rgb", "perlin", "gray", "texture"])
def test_the_blend_is_the_formula_and_clean_samples_are_clean(pictures, noise):
    sources = np.stack(pictures[0])[::-1] if noise == "texture" else None
    s = sampler(noise=noise, sources=sources, opacity=(0.2, 1.0), highest_scale=3, count=160, batch_size=80)
    row = row_of(s)
    b = arrays(s.batch(stacked(pictures), row))
    images, mask, corrupted = b["images"], b["mask"], b["corrupted"]
    assert {k: (v.dtype.name, v.shape[3]) for k, v in b.items()} == {
        "images": ("float32", 3), "corrupted": ("float32", 3), "mask": ("float32", 1), "roi": ("float32", 1)
    }  # fmt: skip
    assert set(np.unique(mask)) == set(np.unique(b["roi"])) == {0, 1}
    clean = row["corrupt"] == 0
    assert 0.1 < clean.mean() < 0.4 and not mask[clean].any()
    np.testing.assert_array_equal(corrupted[clean], images[clean])
    np.testing.assert_array_equal(corrupted * (1 - mask), images * (1 - mask))
    if noise == "rgb":
        filling = np.array(random_pixels(row["key"], 64, 3, 1))
    elif noise == "texture":
        zero, size = np.zeros(80, "float32"), np.full((80, 2), 64, "float32")
        turned = take_rotated(sources, row["source"], size, zero, zero, row["source_angle"], 64, "reflect")
        filling = np.array(turned)
    elif noise == "gray":
        filling = grays_by_hand(s, row)
    else:
        scales = row["key"], row["scale_y"], row["scale_x"], 64, 3
        filling = np.stack([np.array(perlin_noise(*scales, 1 + i)) for i in range(3)], -1)
        filling -= filling.min((1, 2), keepdims=True)
        filling *= 255 / filling.max((1, 2), keepdims=True)
        assert np.abs(np.corrcoef(filling.reshape(-1, 3).T) - np.eye(3)).max() < 0.2
    opacity = row["opacity"][:, None, None, None]
    expected = (1 - mask) * images + (1 - opacity) * mask * images + opacity * mask * filling
    np.testing.assert_allclose(corrupted, expected, atol=0.01)
    assert corrupted.min() > -0.01 and corrupted.max() < 255.01


def test_opacity_one_shows_the_filling_alone(pictures):
    s = sampler(opacity=(1.0, 1.0), corrupted=1.0)
    b = arrays(s.batch(stacked(pictures), row_of(s)))
    inside = b["corrupted"][np.repeat(b["mask"] > 0, 3, -1)]
    np.testing.assert_allclose(inside, np.rint(inside), atol=1e-3)
    assert inside.mean() == pytest.approx(127.5, abs=5)


def test_masks_are_the_noise_above_the_threshold_of_expected_area():
    """Against a loop over samples with gradients of NumPy's: the same share of pixels, with and without the turn."""
    s = sampler(count=400, batch_size=400, corrupted=1.0, turn_noise=False)
    row = row_of(s)
    mask = np.array(s.corrupt(ops.zeros((400, 64, 64, 1)), row)[1])
    noise = np.array(perlin_noise(row["key"], row["scale_y"], row["scale_x"], 64, 5, 0))
    np.testing.assert_array_equal(mask[..., 0], noise > 0.5)
    rng = np.random.default_rng(0)
    by_hand = [
        perlin_by_hand(rng.uniform(0, 2 * np.pi, (33, 33)), *2 ** rng.integers(0, 6, 2), 64) > 0.5 for _ in range(400)
    ]
    assert mask.mean() == pytest.approx(np.mean(by_hand), rel=0.2)
    assert 0.03 < mask.mean() < 0.12
    turned = np.array(sampler(count=400, batch_size=400, corrupted=1.0).corrupt(ops.zeros((400, 64, 64, 1)), row)[1])
    assert 0.6 * mask.mean() < turned.mean() < mask.mean()
    straight = np.abs(row["noise_angle"]) < 0.02
    assert (turned != mask).mean() > 3 * (turned != mask)[straight].mean()


def test_region_and_image_stay_aligned():
    """Images that equal their regions still do, at every angle and place; patches of larger images too."""
    rng = np.random.default_rng(2)
    regions = [np.kron(rng.random((12, 16)) > 0.5, np.ones((8, 8), bool)) for _ in range(3)]
    images = [np.repeat(np.where(r, 255, 0)[..., None], 3, -1).astype("uint8") for r in regions]
    stack, sizes = stack_images(with_regions(images, regions))
    for settings in ({}, {"augment": False}, {"stride": 16, "turned": 0.3}):
        s = CorruptedSampler(sizes, 64, 24, 24, rotation=np.pi, **settings)
        b = arrays(s.batch(stack, row_of(s)))
        np.testing.assert_array_equal(b["images"][..., :1] >= 127.5, b["roi"] > 0)
        assert 0.3 < b["roi"].mean() < 0.7
        assert set(np.unique(with_regions(images, None)[0][..., 3])) == {255}


def test_what_lies_beyond_the_image_is_mirrored_or_zero():
    rng = np.random.default_rng(3)
    image = rng.integers(1, 256, (24, 32, 2)).astype("uint8")
    one = np.ones(1, "float32")

    def cut(fill, top=-60, left=-70, angle=0.0):
        size = np.array([[24.0, 32.0]], "float32")
        return np.array(
            take_rotated(image[None], np.zeros(1, "int32"), size, top * one, left * one, angle * one, 150, fill)
        )[0]

    margin = ((60, 66), (70, 48), (0, 0))
    np.testing.assert_array_equal(cut("reflect"), np.pad(image, margin, mode="reflect"))
    np.testing.assert_array_equal(cut("edge"), np.pad(image, margin, mode="edge"))
    np.testing.assert_array_equal(cut("zero"), np.pad(image, margin))
    turned = cut("reflect", angle=np.pi / 2)
    square = cut("zero", angle=np.pi / 2)
    np.testing.assert_allclose(turned[square > 0], square[square > 0], atol=1e-3)
    assert (square > 0).all(-1).sum() == 24 * 32 and turned.min() > 0
    with pytest.raises(ValueError, match="fill is one of edge, reflect, zero"):
        cut("black")


def test_draws_are_functions_of_seed_epoch_and_index():
    one = sampler()
    for name, values in one.draws(2).items():
        kind = {"key": "uint32", "angle": "float32", "noise_angle": "float32", "source_angle": "float32"}
        assert values.dtype == kind.get(name, "float32" if name == "opacity" else "int32") and values.shape == (5, 8)
        np.testing.assert_array_equal(values, one.draws(2)[name])
        np.testing.assert_array_equal(values.ravel(), sampler(batch_size=4).draws(2)[name].ravel())
        if name not in ("top", "left", "source"):
            assert not np.array_equal(values, one.draws(3)[name])
            assert not np.array_equal(values, sampler(seed=1).draws(2)[name])
        if name != "image":
            np.testing.assert_array_equal(values.ravel(), sampler(count=80).draws(2)[name].ravel()[:40])


def test_draws_have_the_shares_and_ranges_asked_for():
    s = sampler(count=5000, batch_size=1000, turned=0.3, corrupted=0.6, opacity=(0.2, 0.8), rotation=1.0)
    drawn = {name: values.ravel() for name, values in s.draws(0).items()}
    assert np.bincount(drawn["image"]).tolist() == [1000] * 5
    assert drawn["corrupt"].mean() == pytest.approx(0.6, abs=0.03)
    assert (drawn["angle"] != 0).mean() == pytest.approx(0.3, abs=0.03)
    for name, high in (("angle", 1), ("noise_angle", np.pi / 2), ("source_angle", np.pi / 4)):
        assert drawn[name].min() == pytest.approx(-high, abs=0.02) and drawn[name].max() == pytest.approx(
            high, abs=0.02
        )
    assert drawn["opacity"].min() >= 0.2 and drawn["opacity"].max() <= 0.8 and drawn["opacity"].std() > 0.16
    for name in ("scale_y", "scale_x"):
        np.testing.assert_allclose(np.bincount(drawn[name]) / 5000, 1 / 6, atol=0.03)
    assert len(np.unique(drawn["key"])) == 5000
    plain = sampler(augment=False).draws(0)
    assert plain["image"].ravel().tolist() == [i % 5 for i in range(40)]
    assert not plain["angle"].any() and 0.5 < plain["corrupt"].mean() < 0.95


def test_patches_start_at_multiples_of_the_stride():
    def places(size, **settings):
        drawn = CorruptedSampler((size,), 128, 4000, 1000, **settings).draws(0)
        return sorted(set(drawn["top"].ravel().tolist())), sorted(set(drawn["left"].ravel().tolist()))

    assert places((256, 330), stride=64) == ([0, 64, 128], [0, 64, 128, 192])
    assert places((140, 128)) == (list(range(13)), [0])
    assert places((256, 330), stride=64, augment=False) == ([64], [64])
    assert places((256, 331), augment=False) == ([64], [101])


@pytest.mark.parametrize("noise", ["rgb", "texture"])
def test_tf_data_gives_the_same_batches(pictures, noise):
    stack = stacked(pictures)
    s = sampler(noise=noise, sources=np.stack(pictures[0]) if noise == "texture" else None)
    batches = [arrays(b) for b in sampled_dataset(stack, s, lambda x: x, epochs=2)]
    rest = [arrays(b) for b in sampled_dataset(stack, s, lambda x: x, epochs=2, first_epoch=1)]
    alone = arrays(s.batch(stack, row_of(s, epoch=1, step=2)))
    assert len(batches) == 10
    for name in ("images", "corrupted", "mask", "roi"):
        np.testing.assert_array_equal(np.stack([b[name] for b in batches[5:]]), np.stack([b[name] for b in rest]))
        np.testing.assert_allclose(batches[7][name], alone[name], rtol=0, atol=0.01)


SCRIPT = """
import json, sys
sys.modules["tensorflow"] = None
import jax, numpy as np
from ganspect.data.corruption import CorruptedSampler, random_bits
s = CorruptedSampler(((64, 64),) * 5, 64, 40, 8)
stack = np.load(sys.argv[1])
bits = jax.jit(lambda key: random_bits(key, 64, 3))(np.array([3, 4, 2**32 - 1], "uint32"))
batch = jax.jit(s.batch)(stack, {name: values[0] for name, values in s.draws(0).items()})
np.savez(sys.argv[2], bits=bits, **batch)
print(json.dumps("tensorflow" in sys.modules and sys.modules["tensorflow"] is None))
"""


def test_jax_gives_the_same_numbers_without_tensorflow(pictures, tmp_path):
    pytest.importorskip("jax")
    stack, s = stacked(pictures), sampler()
    np.save(tmp_path / "stack.npy", stack)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "stack.npy"), str(tmp_path / "found.npz")]
    done = subprocess.run(
        command, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])
    ours = arrays(s.batch(stack, row_of(s)))
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_array_equal(found["bits"], np.array(random_bits(KEYS, 64, 3)))
        for name in ("images", "roi", "mask", "corrupted"):
            # rounding moves a pixel across a threshold now and then
            assert (np.abs(found[name] - ours[name]) > 0.01).mean() < 2e-4, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotation": 90.0}, "radians"),
        ({"turned": 1.5}, "turned is a share"),
        ({"corrupted": -0.1}, "corrupted is a share"),
        ({"highest_scale": 7}, "64 pixels: 7"),
        ({"highest_scale": -1}, "64 pixels: -1"),
        ({"opacity": (0.8, 0.2)}, "opacity is a range"),
        ({"stride": -1}, "stride"),
        ({"noise": "white"}, "noise is one of rgb, perlin, gray, texture"),
        ({"noise": "texture"}, "sources are given"),
        ({"sources": np.zeros((1, 64, 64, 3), "uint8")}, "sources are given"),
        ({"noise": "texture", "sources": np.zeros((1, 32, 64, 3), "uint8")}, r"\[T, 64, 64, C\], not \[1, 32, 64, 3\]"),
        ({"count": 3}, "no batch"),
        ({"patch_size": 65}, "smaller than"),
    ],
)
def test_what_cannot_be_sampled_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        sampler(**settings)


def test_sources_have_the_channels_of_the_images(pictures):
    s = sampler(noise="texture", sources=np.zeros((1, 64, 64, 1), "uint8"))
    with pytest.raises(ValueError, match="1 channels, the images 3"):
        s.batch(stacked(pictures), row_of(s))
    assert s == sampler(noise="texture", sources=np.ones((1, 64, 64, 1), "uint8")) and isinstance(hash(s), int)
