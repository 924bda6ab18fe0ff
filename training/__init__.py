"""Training: loops, callbacks, checkpoints, runs, grids."""

from ganspect import models  # noqa: F401 - before TensorFlow is imported
