"""Imports the Keras backend without its start-up notes, which no variable turns off altogether."""

import os


def import_backend():
    """Imports Keras and its backend; what their C libraries print to standard error meanwhile is dropped."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)
