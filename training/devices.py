"""Data-parallel training of one model over several accelerators of a machine, or over virtual processors to test it.

On TensorFlow by `tf.distribute.MirroredStrategy`, on JAX by sharding each batch over the devices.
"""

import contextlib
import functools
from dataclasses import dataclass


class NoDevices(RuntimeError):
    """There are not as many devices as asked for."""


@dataclass(frozen=True)
class Devices:
    """What one model is trained on.

    Args:
        count: of devices; 1 is the backend's own choice, without any strategy.
        kind: "gpu", or "cpu" for virtual devices on the processor, which show how it works and gain no time.
    """

    count: int = 1
    kind: str = "gpu"

    @classmethod
    def parse(cls, text):
        """From `N` (GPUs) or `cpu:N`.

        Raises:
            ValueError: it is neither.
        """
        kind, _, count = str(text).rpartition(":")
        kind = kind.lower() or "gpu"
        if kind not in ("gpu", "cpu") or not count.isdecimal() or int(count) < 1:
            raise ValueError(f"devices are N (GPUs) or cpu:N, not {text!r}")
        return cls(int(count), kind)

    def __str__(self):
        return str(self.count) if self.kind == "gpu" else f"{self.kind}:{self.count}"

    @property
    def several(self):
        return self.count > 1

    def scope(self):
        """The context to build and compile a model in.

        Raises:
            NoDevices: there are too few.
        """
        import keras

        if not self.several or keras.backend.backend() != "tensorflow":
            return contextlib.nullcontext()
        return self._strategy().scope()

    def mesh(self):
        """JAX's mesh of the devices, its one axis named "batch".

        Raises:
            NoDevices: there are too few.
        """
        import jax

        if self.kind == "cpu":
            with contextlib.suppress(RuntimeError):  # JAX has started: with as many as it has
                jax.config.update("jax_num_cpu_devices", self.count)
        try:
            found = jax.devices(self.kind)
        except RuntimeError:
            found = []
        self._require(len(found))
        return jax.sharding.Mesh(found[: self.count], ("batch",))

    def _strategy(self):
        import tensorflow as tf

        if self.kind == "cpu":
            processor = tf.config.list_physical_devices("CPU")[0]
            with contextlib.suppress(RuntimeError):  # TensorFlow has started: with as many as it has
                tf.config.set_logical_device_configuration(
                    processor, [tf.config.LogicalDeviceConfiguration()] * self.count
                )
        self._require(len(tf.config.list_logical_devices(self.kind.upper())))
        names = [f"{self.kind.upper()}:{i}" for i in range(self.count)]
        reduction = None
        if self.kind == "cpu":  # one order of sums, as everywhere (`models.fixed_order`)
            reduction = tf.distribute.ReductionToOneDevice(accumulation_fn=functools.partial(functools.reduce, tf.add))
        return tf.distribute.MirroredStrategy(names, cross_device_ops=reduction)

    def _require(self, found):
        if found < self.count:
            raise NoDevices(f"--devices {self}: {self.count} {self.kind.upper()}s asked for, {found} found")


ONE = Devices()
