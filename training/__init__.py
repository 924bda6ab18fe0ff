"""Training: loops, callbacks, checkpoints, runs, grids."""

from ganspect import data  # noqa: F401 - asks for oneDNN's kernels before TensorFlow is imported
