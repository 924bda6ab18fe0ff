"""D takes real and made images in one call where a batch is large: the same losses and gradients but for rounding."""

import keras
import numpy as np
import pytest
from tiny_methods import TINY

from ganspect.models import cbigan


def trained(threshold, monkeypatch):
    """Losses of one cycle and all weights after it, D's calls counted in `calls`."""
    monkeypatch.setattr(cbigan, "TOGETHER", threshold)
    detector = TINY["cbigan"].build()
    calls, usual = [], detector.discriminator.call

    def counted(inputs, *args, **kwargs):
        calls.append(inputs[0].shape[0])
        return usual(inputs, *args, **kwargs)

    detector.discriminator.call = counted
    losses = detector.step(keras.ops.convert_to_tensor(TINY["cbigan"].batch()))
    weights = [keras.ops.convert_to_numpy(v) for v in detector.trainable_variables]
    return {k: float(v) for k, v in losses.items()}, weights, calls


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="steps outside of a compiled loop")
def test_one_call_of_both_trains_as_two_calls(monkeypatch):
    apart, expected, calls = trained(2**30, monkeypatch)
    together, found, fewer = trained(1, monkeypatch)
    batch = TINY["cbigan"].build().config.batch_size
    assert calls == [batch] * 5  # D's step: real, made, between them for the penalty; that of G and E: real, made
    assert fewer == [2 * batch, batch, 2 * batch]
    assert together == pytest.approx(apart, rel=1e-4, abs=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2.5e-4)  # a step of Adam is 1e-4, of either sign
    assert np.mean([np.mean(np.abs(a - b) < 1e-6) for a, b in zip(found, expected, strict=True)]) > 0.9
