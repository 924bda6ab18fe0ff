"""One step's batch over several devices, with the result that one device would have found (TensorFlow).

`tf.distribute.MirroredStrategy` runs a method's `step` once for each of n devices, on the rows `r::n` of the batch, and
*sums* the gradients: each loss is divided by n here. What a step takes from the batch as a whole is taken from all
devices: random numbers are drawn for all rows and each device keeps its own, means over a batch go over all of them,
and BatchNorm's statistics as well (`synchronised`). On JAX the compiler divides a step by itself.

Source: none of the papers, which train on one device.
"""

import contextlib
import functools

import keras


def replicas():
    """Between how many devices the step in progress divides its batch; 1 outside such a step."""
    context = _context()
    return context.num_replicas_in_sync if context else 1


def share(count):
    """How many of a batch's images this device has: `count / n`, which `training.fit` has made sure is whole."""
    return count // replicas()


def own_rows(values):
    """This device's rows of what was made for a whole batch: `[B, ...]` to `[B / n, ...]`."""
    context = _context()
    return values[context.replica_id_in_sync_group :: context.num_replicas_in_sync] if context else values


def over_devices(values):
    """Mean over the devices of a nest of tensors, each device's own; can be differentiated."""
    context = _context()
    if not context:
        return values
    import tensorflow as tf

    return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)


@contextlib.contextmanager
def synchronised(model, count):
    """Within, BatchNorm of a model on `count` devices sees all their images, and no two devices drop the same units."""
    layers = list({id(layer): layer for layer in model._flatten_layers()}.values()) if count > 1 else []
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    seeds = [layer.seed_generator for layer in layers if hasattr(layer, "seed_generator")]
    for layer in norms:
        layer.synchronized = True
    for generator in seeds:
        generator.next = functools.partial(_own_seed, generator)
    try:
        yield
    finally:
        for layer in norms:
            layer.synchronized = False
        for generator in seeds:
            del generator.next


def _own_seed(generator, ordered=True):
    """`SeedGenerator.next`, with another seed on each device."""
    import tensorflow as tf

    seed = type(generator).next(generator, ordered)
    context = _context()
    return seed + tf.cast([context.replica_id_in_sync_group, 0], seed.dtype) if context else seed


def _context():
    """TensorFlow's replica context of a step on several devices; None elsewhere."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context and context.num_replicas_in_sync > 1 else None
