"""Normalisation statistics measured anew: means over the batches; nothing else moves; resumed equals uninterrupted."""

import keras
import numpy as np
import pytest
from tiny_methods import TINY

from ganspect.data.patches import stack_images
from ganspect.training.callbacks import Recorder, RenewStatistics
from ganspect.training.checkpoint import Position, load_state
from ganspect.training.fit import fit
from ganspect.training.run import Run

BOTH = pytest.mark.parametrize("name", ["grdnet", "draem"])


def numbers(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def by_hand(network, batches):
    """Means over batches of the mean and variance that each normalisation sees in training mode."""
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    inputs = keras.Model(network.inputs, [layer.input for layer in norms])
    kept, seen = numbers(network.non_trainable_variables), []
    for batch in batches:
        values = [np.asarray(x, "float64") for x in inputs(batch, training=True)]
        seen.append([x for v in values for x in (v.mean((0, 1, 2)), v.var((0, 1, 2)))])
    for variable, value in zip(network.non_trainable_variables, kept, strict=True):
        variable.assign(value)
    return [np.mean(values, axis=0) for values in zip(*seen, strict=True)]


@BOTH
def test_they_are_means_over_the_batches_and_no_weight_moves(name):
    tiny = TINY[name]
    detector, batches = tiny.build(), [tiny.batch(seed) for seed in range(3)]
    before = numbers(detector.trainable_variables)
    detector.renew_statistics([{"corrupted": np.asarray(batch["corrupted"])} for batch in batches])
    images = [keras.ops.convert_to_tensor(batch["corrupted"]) for batch in batches]
    if name == "draem":
        network = detector.reconstructive
        for found, value in zip(numbers(network.non_trainable_variables), by_hand(network, images), strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-5)
    pairs = [keras.ops.concatenate([detector.reconstruct(x), x], -1) for x in images]
    network = detector.segmentation
    found = numbers(network.non_trainable_variables)
    for one, value in zip(found, by_hand(network, pairs), strict=True):
        np.testing.assert_allclose(one, value, rtol=1e-3, atol=1e-5)
    detector.renew_statistics([{"corrupted": np.asarray(batches[0]["corrupted"])}])
    assert any(not np.allclose(a, b) for a, b in zip(found, numbers(network.non_trainable_variables), strict=True))
    for a, b in zip(before, numbers(detector.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)


def trained(tiny, images, run, epochs, start=None, renew=True):
    """A detector trained from a checkpoint or from the start, with statistics of two batches after each epoch."""
    detector = tiny.build()
    stack, sizes = stack_images(tiny.training_images(tiny.photographs(images)))
    sampler = tiny.sampler(sizes, detector.config)
    start = load_state(run.checkpoint, detector.state) if start else Position()
    calls = [RenewStatistics(detector, stack, sampler, 2)] if renew else []
    fit(detector, stack, sampler, epochs, start, [*calls, Recorder(run, start.epoch, sampler.steps)])
    return detector


@BOTH
def test_training_goes_on_as_without_and_resumed_as_uninterrupted(name, textures, tmp_path):
    tiny = TINY[name]
    whole = trained(tiny, textures, Run(tmp_path / "whole"), 2)
    trained(tiny, textures, Run(tmp_path / "parts"), 1)
    resumed = trained(tiny, textures, Run(tmp_path / "parts"), 2, start=True)
    for a, b in zip(numbers(whole.state), numbers(resumed.state), strict=True):
        np.testing.assert_array_equal(a, b)
    without = trained(tiny, textures, Run(tmp_path / "without"), 2, renew=False)
    for a, b in zip(numbers(whole.trainable_variables), numbers(without.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)
    pairs = zip(*(numbers(d.segmentation.non_trainable_variables) for d in (whole, without)), strict=True)
    assert any(not np.allclose(a, b) for a, b in pairs)
