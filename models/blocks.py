"""Layers that several networks use and that Keras lacks."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="ganspect")
class ReflectionPadding2D(layers.Layer):
    """Pads height and width by mirroring without repeating the edge pixel.

    Input `[B, H, W, C]`, output `[B, H + 2 padding, W + 2 padding, C]`; H and W must exceed `padding`.
    """

    def __init__(self, padding, **kwargs):
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, inputs):
        p = self.padding
        return ops.pad(inputs, ((0, 0), (p, p), (p, p), (0, 0)), mode="reflect")

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        grow = 2 * self.padding
        return batch, height and height + grow, width and width + grow, channels

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}


@keras.saving.register_keras_serializable(package="ganspect")
class DepthToSpace(layers.Layer):
    """Sub-pixel rearrangement (Shi et al. 2016): `[B, H, W, C block^2]` to `[B, H block, W block, C]`."""

    def __init__(self, block, **kwargs):
        super().__init__(**kwargs)
        self.block = block

    def call(self, inputs):
        return ops.depth_to_space(inputs, self.block)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, height and height * self.block, width and width * self.block, channels // self.block**2

    def get_config(self):
        return {**super().get_config(), "block": self.block}


@keras.saving.register_keras_serializable(package="ganspect")
class EveryOther(layers.Layer):
    """Every second row and column, the first included: `[B, H, W, C]` to `[B, H / 2, W / 2, C]`.

    Before a 1x1 convolution it is the same as its stride of 2, which TensorFlow 2.21 with oneDNN must not be given on a
    CPU: with fewer than 8 channels its gradient writes beyond its memory.
    """

    def call(self, inputs):
        return inputs[:, ::2, ::2]

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, height and -(-height // 2), width and -(-width // 2), channels


@keras.saving.register_keras_serializable(package="ganspect")
class InsertZeros(layers.Layer):
    """A row and a column of zeros behind each: `[B, H, W, C]` to `[B, 2H, 2W, C]`.

    Behind a 1x1 convolution it is the same as a transposed one with stride 2 (see `EveryOther`).
    """

    def call(self, inputs):
        channels = inputs.shape[-1]
        return ops.depth_to_space(ops.pad(inputs, ((0, 0), (0, 0), (0, 0), (0, 3 * channels))), 2)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, height and 2 * height, width and 2 * width, channels
