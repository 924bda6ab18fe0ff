"""Gradients of convolutions on TensorFlow on a CPU: TensorFlow's own sums in forms that its kernels are fast at.

Its forward convolution comes near the peak of a processor; its gradients, and so its transposed convolution, often stay
far below. With y = x * w, images x `[B, H, W, I]`, kernels w `[k, l, I, O]`, y `[B, h, w, O]`, stride s:
    y, dL/dx, dL/dw by other convolutions and by matrix products                               -> `convolution_forms`
    y itself, where x and y have few channels: several pixels of a row as one                  -> `widened`
        beside oneDNN, of many pixels                                                          -> `convolution_few`
    y of one image by oneDNN, many channels: dL/dx of the kernel turned, also in inference     -> `forward_of_one`
    all three, many channels: a quarter to 0.4 of the multiplications                          -> `convolution_winograd`
All are exact: the sums are the same but for their order, or others that make the same, so results differ by rounding
alone. Each of the three functions y(x, w), dL/dx(dL/dy, w), dL/dw(x, dL/dy) is linear in both arguments and its
gradients are the other two, which is how they are registered (`Convolution`): gradients of gradients (WGAN-GP) take the
same forms.

Which form a shape takes is measured (`benchmarks/convolutions.py`), apart for each kind of kernels that TensorFlow has
on a machine (`kernels`); where none is faster, TensorFlow's is used. Only inside `fast()`, which `Detector.minimise`
enters (but for the last form), and only in float32 on a CPU: elsewhere, on JAX, in saved and in exported models layers
are what they were.
"""

import contextlib
import functools
import math
import os
import threading

import keras
import numpy as np
from keras import layers

from ganspect.models import activations, convolution_few, convolution_forms, convolution_pooling
from ganspect.models.convolution_forms import counts
from ganspect.models.convolution_winograd import winograd_images, winograd_kernel, winograd_slopes
from ganspect.models.processor import instructions
from ganspect.models.recorded import recorded

NEURAL = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}  # instructions
TO_SLOPES = convolution_forms.TO_SLOPES | {
    "winograd": winograd_slopes,
    "strips": convolution_few.strips_slopes,
    "fours": convolution_few.fours_slopes,
}
TO_IMAGES = convolution_forms.TO_IMAGES | {
    "winograd": winograd_images,
    "strips": convolution_few.strips_images,
    "fours": convolution_few.fours_images,
}
TO_KERNEL = convolution_forms.TO_KERNEL | {"winograd": winograd_kernel, "fours": convolution_few.fours_kernel}
WINOGRAD = "GANSPECT_WINOGRAD"  # in the environment
LEAST_WORK = 2**23  # multiplications of a call
_state = threading.local()


@contextlib.contextmanager
def fast():
    """Within, in this thread, the layers that `install` has seen take the forms of this module."""
    before = getattr(_state, "on", False)
    _state.on = True
    try:
        yield
    finally:
        _state.on = before


@contextlib.contextmanager
def released():
    """Within, a training step is traced; TensorFlow forgets at the end the gradients that were registered for it.

    It keeps for ever what `tf.custom_gradient` registers in a graph, as functions of TensorFlow and Keras do, and so
    the graph of every training of a process. Tapes have their own way to them. Nothing is done on other backends.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.python.framework import ops

    registered = getattr(getattr(ops, "gradient_registry", None), "_registry", {})
    before = set(registered)
    try:
        yield
    finally:
        for name in set(registered) - before:
            if name.startswith("CustomGradient-"):
                registered.pop(name, None)


def install(model):
    """Lets a built model's convolutions, poolings and leaky ReLUs look here first; call it again after adding layers.

    Nothing is done where TensorFlow sees a GPU, for its kernels there are fast.
    """
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return
    for layer in model._flatten_layers():
        if type(layer) in (layers.Conv2D, layers.Conv2DTranspose) and "call" not in vars(layer):
            layer.call = functools.partial(_call, layer, layer.call)
        elif type(layer) is layers.AveragePooling2D and "call" not in vars(layer):
            layer.call = functools.partial(_pooled, layer, layer.call)
        elif isinstance(layer, keras.Model):
            for activation in activations.behind_convolutions(layer):  # others cost little; their sums keep their order
                if "call" not in vars(activation):
                    activation.call = functools.partial(_leaked, activation, activation.call)


def _pooled(layer, stock, inputs):
    """`layer.call` of a pooling, its gradient copied where oneDNN is slow at it."""
    if not (getattr(_state, "on", False) and kernels() == "onednn" and convolution_pooling.suits(layer, inputs)):
        return stock(inputs)
    return convolution_pooling.averaged(inputs)


def _leaked(layer, stock, inputs):
    """`layer.call` of a leaky ReLU, without the zeros of its gradient's gradient."""
    if not getattr(_state, "on", False):
        return stock(inputs)
    return activations.leaky_relu(inputs, float(layer.negative_slope))


def _call(layer, stock, inputs):
    """`layer.call`, in the form chosen for the shapes at hand; `stock` is the layer's own."""
    on, alone = getattr(_state, "on", False), is_alone(layer, inputs)
    if alone and not on:
        return _finished(layer, forward_of_one(inputs, layer.kernel))
    if on and (few := _few(layer, inputs)):
        return _of_few(layer, inputs, few)
    if not alone and not (on and suits(layer, inputs) and pays(layer, inputs)):
        return stock(inputs)
    import tensorflow as tf

    kernel = tf.convert_to_tensor(layer.kernel)
    stride, padding = layer.strides[0], layer.padding.upper()
    form = Convolution(stride, padding)
    if isinstance(layer, layers.Conv2DTranspose):
        height, width = layer.compute_output_shape(inputs.shape)[1:3]
        outputs = form.to_images(inputs, kernel, (height, width))
    elif (block := wide_block(inputs.shape, kernel.shape, stride, padding)) > 1:
        outputs = widened(inputs, kernel, block)
    else:
        outputs = form(inputs, kernel)
    return _finished(layer, outputs)


def _few(layer, inputs):
    """The forms of a call of few channels and many pixels, or None."""
    if type(layer) is not layers.Conv2D or kernels() != "onednn" or not suits(layer, inputs):
        return None
    shape = tuple(layer.kernel.shape)
    return convolution_few.forms(tuple(inputs.shape), shape, layer.strides[0], layer.padding.upper())


def _of_few(layer, inputs, forms):
    """`layer.call` in these forms; a 1x1 with a bias has its stock y, which TensorFlow fuses with what follows."""
    import tensorflow as tf

    if layer.use_bias and tuple(layer.kernel_size) == (1, 1):
        forms = (*forms[:2], "stock")
    form = Convolution(1, "SAME", forms)
    outputs = form(inputs, tf.convert_to_tensor(layer.kernel))
    if layer.use_bias:
        outputs = convolution_few.biased(outputs, tf.convert_to_tensor(layer.bias))
    return outputs if layer.activation is None else layer.activation(outputs)


def _finished(layer, outputs):
    """The layer's bias and activation."""
    if layer.use_bias:
        outputs = outputs + layer.bias
    return outputs if layer.activation is None else layer.activation(outputs)


def is_alone(layer, inputs):
    """Whether a call is of one image, where oneDNN's y has a third of the speed of its dL/dx if channels are many."""
    return (
        type(layer) is layers.Conv2D
        and suits(layer, inputs)
        and _slow_alone(inputs.shape, layer.kernel.shape, layer.strides[0], layer.padding.upper())
    )


def _slow_alone(images, kernel, stride, padding):
    """`is_alone` by shapes."""
    odd = kernel[0] % 2 == kernel[1] % 2 == 1 and kernel[0] > 1
    enough = min(kernel[2:]) >= 64 and images[1] * images[2] >= 1024  # else turning the kernel takes longer
    return kernels() == "onednn" and images[0] == 1 and stride == 1 and padding == "SAME" and odd and enough


def forward_of_one(images, kernel):
    """y for stride 1, padding "SAME" and odd kernels, as the dL/dx of the kernel turned by 180 degrees."""
    import tensorflow as tf

    turned = tf.transpose(tf.convert_to_tensor(kernel)[::-1, ::-1], (0, 1, 3, 2))
    return tf.nn.conv2d_transpose(images, turned, (*images.shape[:3], kernel.shape[-1]), 1, "SAME")


def suits(layer, inputs):
    """Whether a call of a layer is one that this module knows: float32, sizes known, no dilation or groups."""
    return (
        keras.backend.standardize_dtype(inputs.dtype) == layer.compute_dtype == "float32"
        and None not in inputs.shape[1:]
        and layer.data_format == "channels_last"
        and layer.strides[0] == layer.strides[1]
        and layer.strides[0] in (1, 2)
        and tuple(layer.dilation_rate) == (1, 1)
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "output_padding", None) is None
        and not getattr(layer, "lora_enabled", False)
    )


def pays(layer, inputs):
    """Whether a form differs from TensorFlow's own, and the call is large enough for it.

    A rewritten gradient is ten operations more in the graph; of a small network they take longer to trace than they
    save in thousands of steps.
    """
    kernel = tuple(layer.kernel.shape)
    outputs = layer.compute_output_shape(inputs.shape)
    transposed = isinstance(layer, layers.Conv2DTranspose)
    images, slopes = (outputs, inputs.shape) if transposed else (inputs.shape, outputs)
    if (slopes[0] or 1) * math.prod((*slopes[1:3], *kernel)) < LEAST_WORK:
        return False
    stride, padding = layer.strides[0], layer.padding.upper()
    if not transposed and wide_block(images, kernel, stride, padding) > 1:
        return True
    return chosen(slopes, kernel, tuple(images[1:3]), stride, padding) != ("stock", "stock")


def widened(images, kernel, block, forms=None):
    """y for stride 1 and padding "SAME" with few channels: `block` pixels of a row are the channels of one wide pixel.

    Memory is what it was; the kernel becomes a band of itself, `[k, n, block I, block O]` with n = 1 or 3 wide pixels.

    Args:
        images: `[B, H, W, I]`, W a multiple of block.
        kernel: `[k, l, I, O]`, k and l odd, l at most 2 block + 1.
        block: pixels.
        forms: as of `Convolution`.
    """
    import tensorflow as tf

    side, width, inputs, outputs = kernel.shape
    height, across = images.shape[1:3]
    reach = 1 if width == 1 else 3  # wide pixels
    place = np.zeros((width, reach, block, block), kernel.dtype.as_numpy_dtype)  # of the kernel, of inputs, of outputs
    for offset in range(width):
        for pixel in range(block):
            seen = pixel + offset - width // 2 + (reach // 2) * block
            place[offset, seen // block, seen % block, pixel] = 1
    wide = tf.linalg.matmul(
        place.reshape(width, -1), tf.reshape(tf.transpose(kernel, (1, 0, 2, 3)), (width, -1)), transpose_a=True
    )  # [n block block, k I O]
    wide = tf.transpose(tf.reshape(wide, (reach, block, block, side, inputs, outputs)), (3, 0, 1, 4, 2, 5))
    wide = tf.reshape(wide, (side, reach, block * inputs, block * outputs))
    found = Convolution(1, "SAME", forms)(tf.reshape(images, (-1, height, across // block, block * inputs)), wide)
    return tf.reshape(found, (-1, height, across, outputs))


class Convolution:
    """y(x, w) and its two gradients, each differentiable by the others as often as one likes.

    Args:
        stride: 1 or 2, in both directions.
        padding: "SAME" or "VALID".
        forms: `(form of dL/dx, of dL/dw, of y)`, names of `TO_IMAGES`, `TO_KERNEL` and `TO_SLOPES`; None: as chosen
            by `chosen` and `chosen_for_slopes`.
    """

    def __init__(self, stride, padding, forms=None):
        self.stride, self.padding, self.forms = stride, padding, forms

    def __call__(self, images, kernel):
        """y: images `[B, H, W, I]`, kernel `[k, l, I, O]` to `[B, h, w, O]`."""
        size = images.shape[1:3]

        @recorded
        def run(x, w):
            def gradient(slope):
                return self.to_images(slope, w, size), self.to_kernel(x, slope, w.shape)

            if self.forms is None and _slow_alone(x.shape, w.shape, self.stride, self.padding):
                return forward_of_one(x, w), gradient
            form = self.forms[2] if self.forms else chosen_for_slopes(x.shape, w.shape, self.stride, self.padding)
            return TO_SLOPES[form](x, w, self.stride, self.padding), gradient

        return run(images, kernel)

    def to_images(self, slopes, kernel, size):
        """dL/dx, or a transposed convolution: slopes `[B, h, w, O]`, kernel, size (H, W) to `[B, H, W, I]`."""
        form = self.forms[0] if self.forms else chosen(slopes.shape, kernel.shape, size, self.stride, self.padding)[0]

        @recorded
        def run(g, w):
            def gradient(x):
                return self(x, w), self.to_kernel(x, g, w.shape)

            return TO_IMAGES[form](g, w, size, self.stride, self.padding), gradient

        return run(slopes, kernel)

    def to_kernel(self, images, slopes, shape):
        """dL/dw: images `[B, H, W, I]`, slopes `[B, h, w, O]`, the kernel's shape to `[k, l, I, O]`."""
        size = images.shape[1:3]
        form = self.forms[1] if self.forms else chosen(slopes.shape, shape, size, self.stride, self.padding)[1]

        @recorded
        def run(x, g):
            def gradient(w):
                return self.to_images(g, w, size), self(x, w)

            return TO_KERNEL[form](x, g, shape, self.stride, self.padding), gradient

        return run(images, slopes)


def chosen(slopes, kernel, size, stride, padding):
    """The faster forms of both gradients, by shape: names of `TO_IMAGES` and `TO_KERNEL`.

    Args:
        slopes: shape of dL/dy, `[B, h, w, O]`; an unknown B counts as 1.
        kernel: `[k, l, I, O]`.
        size: (H, W) of x.
        stride, padding: as of `Convolution`.
    """
    inputs, outputs = kernel[2:]
    pixels, work = (slopes[0] or 1) * slopes[1] * slopes[2], inputs * outputs
    if fewer_pays(pixels, max(size), kernel, stride):
        return "winograd", "winograd"
    if padding == "VALID" and tuple(kernel[:2]) == tuple(size):
        return "whole", "whole"
    if kernels() == "onednn":
        return _beside_onednn(pixels, inputs, outputs, tuple(kernel[:2]), stride)
    if stride == 2 and inputs < 16:
        return "stock", "stock"
    if stride == 2:  # the fewer the pixels, the more channels are needed to pay for the kernel in another order
        images = "phases" if pixels >= (128 if inputs * outputs >= 2**15 else 1024) else "stock"
        return images, "windows" if pixels >= (32 if inputs * outputs >= 2**18 else 1024) else "stock"
    if tuple(kernel[:2]) == (1, 1):
        return ("turned", "windows") if pixels >= 4096 else ("stock", "stock")
    many = pixels >= 8192
    turned = outputs <= inputs and (inputs >= 8 if many else pixels >= 4096 and inputs >= 64)
    images = "turned" if turned or (pixels >= 256 and work >= 2**18) else "stock"
    if many or (pixels >= 4096 and inputs >= 64 and outputs <= inputs):
        return images, "rows" if inputs >= 16 else "stock"
    return images, "windows" if work >= 2**16 else "stock"


def _beside_onednn(pixels, inputs, outputs, side, stride):
    """`chosen` where `kernels` is "onednn", whose dL/dx is nearly always as fast as y."""
    work = inputs * outputs
    if stride == 2:
        images = "columns" if _heavy(pixels, side, work) else "phases" if inputs < 4 else "stock"
        return images, "windows" if work >= 2**17 else "stock"
    if side == (1, 1) or min(inputs, outputs) < 64:
        return "stock", "stock"
    if pixels >= 8192:
        return "stock", "rows" if work <= 2**15 else "windows"
    return "stock", "windows" if work >= 2**16 else "stock"


def fewer_pays(pixels, side, kernel, stride):
    """Whether `convolution_winograd` is faster: by the time of its products, of moving pixels, of the kernel.

    Beside oneDNN alone, whose products of many matrices are fast; constants are read off `benchmarks/convolutions.py`.
    Layers as small as those of networks at a quarter of their width, with which most of the project's tables were made,
    are left as they were: it would win little there, and change their numbers. `GANSPECT_WINOGRAD=0` in the environment
    refuses it, for the numbers of earlier trainings.

    Args:
        pixels: of y, in all images.
        side: of x, the longer one; matrices over a whole axis take the longer the longer it is.
        kernel: `[k, l, I, O]`.
        stride: 1 or 2.
    """
    inputs, outputs = kernel[2:]
    work = inputs * outputs
    if os.environ.get(WINOGRAD) == "0" or kernels() != "onednn" or (stride, *kernel[:2]) not in ((1, 3, 3), (2, 4, 4)):
        return False
    if stride == 2:
        return pixels >= (8192 if work < 2**15 else 1024) and work >= 2**13 and min(inputs, outputs) >= 64
    if work < (2**15 if pixels >= 4096 else 2**17):
        return False
    rows = (1 / inputs + 1 / outputs) * (30 + 0.6 * side)
    return rows + (500 if work < 2**20 else 250) / pixels < 0.9


def _heavy(pixels, side, work):
    """Whether a kernel, for stride 2, is large beside the pixels that it is for: oneDNN then spends its time on it."""
    return work >= 2**18 and pixels <= 2048 and side[0] % 2 == side[1] % 2 == 0


def chosen_for_slopes(images, kernel, stride, padding):
    """The faster form of y, by shape: a name of `TO_SLOPES`.

    Args:
        images: shape of x, `[B, H, W, I]`; an unknown B counts as 1.
        kernel: `[k, l, I, O]`.
        stride, padding: as of `Convolution`.
    """
    if kernels() != "onednn":
        return "stock"
    pixels = (images[0] or 1) * math.prod(counts(images[1:3], kernel[:2], stride, padding))
    if fewer_pays(pixels, max(images[1:3]), kernel, stride):
        return "winograd"
    if stride != 2:
        return "stock"
    return "patches" if pixels >= 64 and _heavy(pixels, kernel[:2], kernel[2] * kernel[3]) else "stock"


def kernels():
    """The kernels that TensorFlow has for convolutions on this CPU: "onednn" or "other".

    What the environment says, else what TensorFlow takes by itself (tensorflow/core/util/util.cc): oneDNN's on Linux on
    an x86 processor with one of `NEURAL`.
    """
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "")
    return "onednn" if asked == "1" or (asked != "0" and not NEURAL.isdisjoint(instructions())) else "other"


def wide_block(images, kernel, stride, padding):
    """How many pixels `widened` puts together: 1 where it is not faster or cannot be done."""
    side, width, inputs, outputs = kernel
    if (
        kernels() == "onednn"
        or stride != 1
        or padding != "SAME"
        or side % 2 == 0
        or width != 3
        or max(inputs, outputs) > 8
        or images[2] < 32
    ):
        return 1
    return next((n for n in (8, 4, 2) if n * max(inputs, outputs) <= 24 and images[2] % n == 0), 1)
