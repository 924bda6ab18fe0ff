"""One checkpoint of every variable: networks, optimiser slots, seed generators, metrics.

Keras' own savers leave out the seed generators and write in place; this one file, written atomically, is all that an
exact resume needs besides the epoch and the step, because data order and augmentation are functions of (seed, epoch,
index).
"""

import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from keras import ops

from ganspect.training.files import atomic_write

LOSS = "loss/"


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged or does not fit the model."""


class NotFinite(RuntimeError):
    """A variable that is to be stored is infinite or not a number."""


@dataclass(frozen=True)
class Position:
    """How far a checkpoint is.

    Args:
        epoch: finished epochs.
        step: finished steps of the epoch after them.
        losses: `{name: float [step]}`, the losses of those steps, where the backend keeps no running means (JAX).
    """

    epoch: int = 0
    step: int = 0
    losses: dict = field(default_factory=dict)

    def __str__(self):
        return f"epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")


def save_state(path, variables, epoch, step=0, losses=None):
    """Writes the values of `variables` and how far training is to one `.npz` file, atomically.

    Args:
        path: file to create or replace.
        variables: list of Keras variables, in an order that the same model always gives (`Detector.state`).
        epoch, step, losses: as of `Position`.

    Raises:
        NotFinite: a value is infinite or not a number; the file stays as it was.
    """
    arrays = {f"{i:04d}": ops.convert_to_numpy(v) for i, v in enumerate(variables)}
    for v, value in zip(variables, arrays.values(), strict=True):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise NotFinite(f"{v.path} is not finite")
    parts = {LOSS + name: np.asarray(values) for name, values in (losses or {}).items()}
    with atomic_write(path, "wb") as file:
        np.savez(file, epoch=np.int64(epoch), step=np.int64(step), **arrays, **parts)


def position_of(path):
    """`(epoch, step)` of a checkpoint; `(0, 0)` where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return 0, 0
    with _opened(path) as stored:
        return int(stored["epoch"]), int(stored["step"]) if "step" in stored.files else 0


def load_state(path, variables):
    """Assigns a checkpoint to `variables` and returns its `Position`.

    One of the other backend fits too: counters and seeds are integers of another kind there. What is trained on JAX can
    be scored and exported with TensorFlow; trained on there, it draws other random numbers.

    Raises:
        CheckpointError: the file is damaged, or holds another number of variables, or one of another shape or dtype.
    """
    with _opened(path) as stored:
        names = [name for name in stored.files if name.isdigit()]
        if len(names) != len(variables):
            raise CheckpointError(f"{path} holds {len(names)} variables, the model has {len(variables)}")
        values = [stored[f"{i:04d}"] for i in range(len(variables))]
        losses = {name.removeprefix(LOSS): stored[name] for name in stored.files if name.startswith(LOSS)}
        position = Position(int(stored["epoch"]), int(stored["step"]) if "step" in stored.files else 0, losses)
    for v, value in zip(variables, values, strict=True):
        if tuple(v.shape) != value.shape or not _fits(value, np.dtype(v.dtype)):
            raise CheckpointError(f"{path}: {v.path} is {v.dtype}{tuple(v.shape)}, stored {value.dtype}{value.shape}")
    for v, value in zip(variables, values, strict=True):
        v.assign(value.astype(v.dtype))
    return position


@contextmanager
def _opened(path):
    """The arrays of a checkpoint; what is wrong with the file itself becomes a `CheckpointError` that names it."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            yield stored
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from None


def _fits(value, dtype):
    """Whether stored values are of this dtype, or are integers that it can hold as well."""
    if value.dtype == dtype:
        return True
    both = value.dtype.kind in "iu" and dtype.kind in "iu"
    return both and np.array_equal(value.astype(dtype), value)
