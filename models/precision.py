"""Arithmetic of training steps in bfloat16: convolutions and products in it, weights, losses and updates in float32.

A model is built in float32; a step is traced with the layers' policies changed. What is traced outside of a step,
scores, maps and exports, is float32 whatever it was trained in. For GPUs, and for CPUs with instructions for bfloat16
(FAST: steps take 0.6 of the time where many channels meet, `benchmarks/results.md`); other CPUs are slow at it.

Source: none of the papers, which train in float32. Micikevicius et al., *Mixed Precision Training*, ICLR 2018; bfloat16
has float32's range, so losses are not scaled. In float32 too GPUs round the factors of products, by default, to TF32's
10 bits (`products_are_exact`), which convolutions bear.
"""

import contextlib

import keras
from keras import ops

from ganspect.models.processor import instructions

FULL, BRAIN = "float32", "bfloat16"
POLICIES = {FULL: "float32", BRAIN: "mixed_bfloat16"}
FAST = {"avx512_bf16", "amx_bf16", "bf16"}  # instructions of x86 and of ARM that multiply bfloat16


@contextlib.contextmanager
def computing_in(model, precision):
    """Within, the layers of a model compute in `precision`, FULL or BRAIN; their weights are float32 in both."""
    if precision == FULL:
        yield
        return
    layers = list({id(layer): layer for layer in model._flatten_layers(include_self=False)}.values())
    before = [layer.dtype_policy for layer in layers]
    for layer in layers:
        layer.dtype_policy = keras.dtype_policies.get(POLICIES[precision])
    try:
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


def products_are_exact():
    """Whether float32 products are computed in float32; on GPUs and TPUs their factors are rounded to TF32 or less."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")


def remark(precision):
    """What to know before training in `precision` on this machine, one line; "" if nothing."""
    slow = precision == BRAIN and products_are_exact() and instructions() and FAST.isdisjoint(instructions())
    return "this processor has no instructions for bfloat16: float32 is likely to train faster" if slow else ""


def full(*values):
    """Tensors as float32, or float64 where that is Keras' `floatx`; costs nothing where they are: one, or a list."""
    kind = "float64" if keras.config.floatx() == "float64" else "float32"
    cast = [ops.cast(value, kind) for value in values]
    return cast[0] if len(cast) == 1 else cast
