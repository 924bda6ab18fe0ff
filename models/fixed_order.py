"""Gradients on TensorFlow that repeat to the bit: parts of a sum are added in one order, always.

TensorFlow adds the gradients of a tensor that is used several times with one `AddN`, and that op adds its inputs in an
order that depends on which of their buffers happens to be free: from three inputs on the rounding differs from one call
to the next, even with a single thread, and a GAN makes other results of it within a few steps. Here they are added
two at a time. Grappler would put such a chain together to an `AddN` again, so its arithmetic optimiser is turned off;
neither costs time (`benchmarks/repeatable_steps.py`).
"""

import contextlib
import functools
import threading

_THREAD = threading.local()


def turn_off_rewriting():
    """Keeps Grappler, for all of this process, from making one `AddN` of several additions; before any gradient."""
    import tensorflow as tf

    if tf.config.optimizer.get_experimental_options().get("arithmetic_optimization") is not False:
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    _register()


@contextlib.contextmanager
def fixed_order():
    """Within, `tf.GradientTape` adds the parts of a gradient two at a time, in the order in which it finds them.

    In this thread alone: replicas of a training on several devices take turns in the middle of a gradient.

    How a tape adds is no public setting of TensorFlow: a release that hides it elsewhere makes this an error.
    """
    _register()
    outside, _THREAD.in_order = _in_order(), True
    try:
        yield
    finally:
        _THREAD.in_order = outside


def _in_order():
    """Whether this thread is within `fixed_order`."""
    return getattr(_THREAD, "in_order", False)


@functools.cache
def _register():
    """Tells TensorFlow how its tapes are to add, once for the process.

    TensorFlow frees what was registered before, also while a gradient of another thread is being made with it, which
    then ends the process.
    """
    from tensorflow.python import pywrap_tfe
    from tensorflow.python.eager import backprop

    usual = backprop._default_vspace
    pywrap_tfe.TFE_Py_RegisterVSpace(usual._replace(aggregate_fn=functools.partial(_add, usual.aggregate_fn)))


def _add(usual, parts):
    """Within `fixed_order` the sum of dense parts; else, of others, and of one or two, as TensorFlow does it."""
    import tensorflow as tf

    if not _in_order() or len(parts) < 3 or not all(isinstance(part, tf.Tensor) for part in parts):
        return usual(parts)
    return functools.reduce(lambda total, part: total + part, parts)
