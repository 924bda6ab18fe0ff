"""`xla`: the training step that TensorFlow compiles with XLA is the step that it runs without."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY

TWIN = TINY["ganomaly"]  # draws nothing at random: XLA draws other numbers


def built(xla):
    detector = TWIN.method(TWIN.config)
    detector.xla = xla
    detector.compile()
    return detector


def test_what_keras_is_told():
    assert [built(xla).jit_compile for xla in (False, True)] == [False, True]


@pytest.mark.slow
def test_a_step_with_and_without():
    losses, weights = [], []
    for xla in (False, True):
        detector = built(xla)
        batches = tf.data.Dataset.from_tensors(TWIN.batch()).repeat()
        start = [keras.ops.convert_to_numpy(v) for v in detector.trainable_variables]
        logs = detector.fit(batches, epochs=1, steps_per_epoch=2, shuffle=False, verbose=0).history
        losses.append({name: values[0] for name, values in logs.items()})
        weights.append([keras.ops.convert_to_numpy(v) for v in detector.trainable_variables])
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=1e-4), name
    moved, apart = (
        np.sqrt(sum(np.sum(np.square(a - b)) for a, b in zip(weights[0], other, strict=True)))
        for other in (start, weights[1])
    )
    assert 0 < apart < 0.01 * moved  # Adam turns the rounding of small gradients into small steps
