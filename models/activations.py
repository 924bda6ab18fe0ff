"""Leaky ReLU on TensorFlow whose gradient's gradient is not followed into a sum of zeros.

A leaky ReLU is straight but for one point, so the gradient of its gradient for its input is zero. TensorFlow hands on
zeros there, and behind a gradient penalty (WGAN-GP) a second backward pass of the whole critic adds them up. Here
nothing is handed on: the same numbers, a pass less. The gradient is taken from y, which has the sign of x.
"""

from ganspect.models.recorded import recorded


def leaky_relu(images, slope):
    """max(x, slope x), any shape, 0 < slope < 1; differentiable as often as one likes."""
    import tensorflow as tf

    def run(x):
        y = tf.nn.leaky_relu(x, slope)
        return y, lambda slopes: (sloped(slopes, y, slope),)

    return recorded(run)(images)


def sloped(slopes, outputs, slope):
    """dL/dx of `leaky_relu` from dL/dy and y, of one shape; linear in dL/dy, of which alone it has a gradient."""
    import tensorflow as tf

    def run(g):
        found = tf.raw_ops.LeakyReluGrad(gradients=g, features=outputs, alpha=slope)
        return found, lambda more: (sloped(more, outputs, slope),)

    return recorded(run)(slopes)


def behind_convolutions(model):
    """The leaky ReLUs of a functional model that see what a convolution made; of another model: none."""
    from keras import layers

    behind, found = set(), []
    for operation in model.operations if hasattr(model, "operations") else ():
        parents = {node.operation.name for inbound in operation._inbound_nodes for node in inbound.parent_nodes}
        if isinstance(operation, (layers.Conv2D, layers.Conv2DTranspose)) or parents & behind:
            behind.add(operation.name)
            if type(operation) is layers.LeakyReLU and 0 < float(operation.negative_slope) < 1:
                found.append(operation)
    return found
