"""Training steps in bfloat16: weights and scores stay float32, losses agree with float32's to a bfloat16's rounding."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY

from ganspect.models import precision as arithmetic
from ganspect.models.precision import BRAIN, FULL, computing_in, full, remark

ROUNDING = 2.0**-8  # of a number to bfloat16, relative


def fresh():
    return TINY["ganomaly"].build()


@functools.cache
def one_step(precision):
    """GANomaly after one step: its losses, its weights, the kinds and dtypes of the step's convolutions."""
    detector = fresh()
    detector.precision = precision
    graph = tf.function(detector.one_step)
    batch = tf.constant(TINY["ganomaly"].batch())
    convolutions = {
        op.outputs[0].dtype.name
        for op in graph.get_concrete_function(batch).graph.get_operations()
        if op.type.startswith("Conv2D")
    }
    losses = {name: float(value) for name, value in graph(batch).items()}
    return detector, losses, convolutions


def test_a_step_in_bfloat16():
    (plain, expected, single), (mixed, found, half) = (one_step(precision) for precision in (FULL, BRAIN))
    assert (single, half) == ({"float32"}, {"bfloat16"})
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=4 * ROUNDING, abs=4 * ROUNDING), name
    assert found["g_loss"] != expected["g_loss"]
    assert {keras.backend.standardize_dtype(v.dtype) for v in mixed.trainable_variables} == {"float32"}
    start, *ends = (np.concatenate([np.ravel(v) for v in d.trainable_variables]) for d in (fresh(), plain, mixed))
    moved = [np.linalg.norm(end - start) for end in ends]
    assert moved[0] > 0 and moved[1] == pytest.approx(moved[0], rel=0.2)  # Adam's first step: signs of the gradients


@pytest.mark.parametrize(
    ("has", "slow"),
    [
        ({"avx2"}, True),
        ({"avx512f", "avx512_bf16"}, False),
        ({"asimd"}, True),
        ({"asimd", "bf16"}, False),
        (set(), False),
    ],
)
def test_a_processor_that_is_slow_at_bfloat16_is_named(has, slow, monkeypatch):
    monkeypatch.setattr(arithmetic, "instructions", lambda: frozenset(has))
    assert bool(remark(BRAIN)) == slow and not remark(FULL)


LIGHT = ("cbigan", "fanogan")  # their penalties mix outputs of networks with images


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in LIGHT)) for n in TINY])
def test_every_method_steps_in_bfloat16(name):
    found = {}
    for precision in (FULL, BRAIN):
        detector = TINY[name].build()
        detector.precision = precision
        batch = TINY[name].batch()
        batch = {k: tf.constant(v) for k, v in batch.items()} if isinstance(batch, dict) else tf.constant(batch)
        found[precision] = {key: float(value) for key, value in tf.function(detector.one_step)(batch).items()}
    assert all(np.isfinite(value) for value in found[BRAIN].values())
    assert found[BRAIN] != found[FULL] and found[BRAIN].keys() == found[FULL].keys()


def test_scores_after_it_are_float32s():
    """What is traced outside of a step computes in float32: a twin that never saw bfloat16 scores alike to the bit."""
    mixed, _, _ = one_step(BRAIN)
    twin = fresh()
    for v, value in zip(twin.state, mixed.state, strict=True):
        v.assign(value)
    image = np.random.default_rng(0).integers(0, 256, TINY["ganomaly"].batch().shape[1:]).astype("uint8")
    assert mixed.anomaly_score(image) == twin.anomaly_score(image)


def test_policies_come_back_after_an_error():
    detector = fresh()
    before = [layer.dtype_policy.name for layer in detector._flatten_layers()]
    with pytest.raises(RuntimeError), computing_in(detector, BRAIN):
        assert any(layer.dtype_policy.name == "mixed_bfloat16" for layer in detector._flatten_layers())
        raise RuntimeError
    assert [layer.dtype_policy.name for layer in detector._flatten_layers()] == before


def test_full_leaves_float32_alone():
    x = tf.constant([1.0])
    assert full(x) is x
    assert [y.dtype for y in full(x, tf.cast(x, "bfloat16"))] == [tf.float32, tf.float32]


def test_full_is_float64_where_keras_is(monkeypatch):
    values = [np.float64(1) / 3, np.float32(1) / 3]
    assert [v.dtype.name for v in full(*values)] == ["float32"] * 2
    monkeypatch.setattr(keras.config, "floatx", lambda: "float64")
    assert [v.dtype.name for v in full(*values)] == ["float64"] * 2
    assert float(full(values[0])) == 1 / 3
