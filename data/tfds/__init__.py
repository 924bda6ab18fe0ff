"""TensorFlow Datasets builders over `ganspect.data.samples`; importing this package registers them (see `builders`)."""

from ganspect.data.tfds.builders import Casting, CategoryConfig, Cloud, MVTec, NanoTWICE

__all__ = ["Casting", "CategoryConfig", "Cloud", "MVTec", "NanoTWICE"]
