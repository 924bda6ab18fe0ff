"""Trains one small network on images in memory and on disk, in one go and stopped by a signal; for other backends."""

import os
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from ganspect.data import on_disk
from ganspect.data.patches import PatchSampler, stack_images
from ganspect.models.detector import Detector
from ganspect.models.optimizers import Adam
from ganspect.training.callbacks import StopOnSignal
from ganspect.training.checkpoint import load_state
from ganspect.training.fit import fit


class Mean(Detector):
    """One convolution that learns to give the mean of its patch."""

    loss_names = ("loss",)

    def __init__(self):
        super().__init__(name="mean")
        self.config = SimpleNamespace(batch_size=4)
        keras.utils.set_random_seed(0)
        images = keras.Input((16, 16, 1))
        self.network = keras.Model(images, keras.layers.Conv2D(1, 3)(images))
        self.built = True

    def compile(self):
        """One Adam."""
        self.finish_compile({"network": (Adam(0.01), [self.network])})

    def step(self, images):
        """Squared error."""

        def error():
            wanted = keras.ops.mean(images, axis=(1, 2, 3), keepdims=True)
            return {"loss": keras.ops.mean((self.network(images, training=True) - wanted) ** 2)}

        return self.minimise(error, {"loss": ([self.network], self.optimizers["network"])})


def trained(images, megabytes):
    """The state after two epochs, and whether the images were on disk."""
    with mock.patch.dict(os.environ, {on_disk.VARIABLE: str(megabytes)}):
        stack, sizes = stack_images(images)
    detector = Mean()
    detector.compile()
    sampler = PatchSampler(sizes, 16, 24, 4)
    fit(detector, stack, sampler, 2)
    return [keras.ops.convert_to_numpy(v) for v in detector.state], on_disk.is_on_disk(stack)


class Signal(keras.callbacks.Callback):
    """Sends a signal to this process behind the fourth batch, before the callbacks after it hear of that batch."""

    left = 4

    def on_train_batch_end(self, batch, logs=None):
        """Counts the batches down."""
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGTERM)


class Means(keras.callbacks.Callback):
    """Keeps the mean losses of each epoch."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def on_epoch_end(self, epoch, logs=None):
        """Takes them."""
        self.found[epoch] = logs["loss"]


def stopped(images, path):
    """The state and the epochs' losses after two epochs in one go, and stopped in the second and resumed."""
    stack, sizes = stack_images(images)
    sampler, found = PatchSampler(sizes, 16, 24, 4), []
    for stops in (False, True):
        means, detector = Means(), Mean()
        detector.compile()
        if stops:
            Signal.left = sampler.steps + 4
            try:
                fit(detector, stack, sampler, 2, callbacks=[Signal(), StopOnSignal(path, sampler.steps), means])
            except KeyboardInterrupt:
                detector = Mean()
                detector.compile()
                start = load_state(path, detector.state)
                assert (start.epoch, start.step) == (1, 4), start
                fit(detector, stack, sampler, 2, start, callbacks=[means])
        else:
            fit(detector, stack, sampler, 2, callbacks=[means])
        found.append([*(keras.ops.convert_to_numpy(v) for v in detector.state), means.found[1]])
    return found


def main():
    """Compares the two.

    Raises:
        AssertionError: they differ.
    """
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40 + 8 * i, 64, 1), dtype="uint8") for i in range(5)]
    (kept, no), (from_disk, yes) = trained(images, 1), trained(images, 0.01)
    assert (no, yes) == (False, True)
    before = [keras.ops.convert_to_numpy(v) for v in Mean().network.weights]
    assert not all(np.array_equal(a, b) for a, b in zip(before, kept, strict=False))
    for a, b in zip(kept, from_disk, strict=True):
        np.testing.assert_array_equal(a, b)
    with tempfile.TemporaryDirectory() as folder:
        for a, b in zip(*stopped(images, Path(folder) / "last.npz"), strict=True):
            np.testing.assert_array_equal(a, b)


if __name__ == "__main__":
    main()
