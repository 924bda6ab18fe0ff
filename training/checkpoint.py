"""One checkpoint of every variable: networks, optimiser slots, seed generators, metrics.

Keras' own savers leave out the seed generators and write in place; this one file, written atomically, is all that an
exact resume needs besides the epoch, because data order and augmentation are functions of (seed, epoch, index).
"""

import numpy as np
from keras import ops

from ganspect.training.files import atomic_write


class CheckpointError(RuntimeError):
    """A checkpoint that does not fit the model."""


def save_state(path, variables, epoch):
    """Writes the values of `variables` and the number of finished epochs to one `.npz` file, atomically.

    Args:
        path: file to create or replace.
        variables: list of Keras variables, in an order that the same model always gives (`Detector.state`).
        epoch: finished epochs.
    """
    arrays = {f"{i:04d}": ops.convert_to_numpy(v) for i, v in enumerate(variables)}
    with atomic_write(path, "wb") as file:
        np.savez(file, epoch=np.int64(epoch), **arrays)


def load_state(path, variables):
    """Assigns a checkpoint to `variables` and returns the number of finished epochs.

    Raises:
        CheckpointError: the file holds another number of variables, or one of another shape or dtype.
    """
    with np.load(path, allow_pickle=False) as stored:
        if len(stored.files) - 1 != len(variables):
            raise CheckpointError(f"{path} holds {len(stored.files) - 1} variables, the model has {len(variables)}")
        values = [stored[f"{i:04d}"] for i in range(len(variables))]
        epoch = int(stored["epoch"])
    for v, value in zip(variables, values, strict=True):
        if tuple(v.shape) != value.shape or np.dtype(v.dtype) != value.dtype:
            raise CheckpointError(f"{path}: {v.path} is {v.dtype}{tuple(v.shape)}, stored {value.dtype}{value.shape}")
    for v, value in zip(variables, values, strict=True):
        v.assign(value)
    return epoch
