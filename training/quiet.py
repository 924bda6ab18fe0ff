"""Imports TensorFlow, or the Keras backend, without start-up notes, which no variable turns off altogether."""

import contextlib
import os


def import_backend():
    """Imports Keras and its backend."""
    with _unheard():
        import keras  # noqa: F401


def import_tensorflow():
    """Imports TensorFlow alone and returns it."""
    with _unheard():
        import tensorflow
    return tensorflow


@contextlib.contextmanager
def _unheard():
    """Within, what the C libraries print to standard error is dropped."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)
