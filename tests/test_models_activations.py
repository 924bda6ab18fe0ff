"""A leaky ReLU whose gradient's gradient ends there: the same numbers, a backward pass less."""

import keras
import numpy as np
import pytest
from keras import layers

from ganspect.models import activations, convolutions, losses

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's gradients")


def critic():
    image, z = keras.Input((8, 8, 3), name="images"), keras.Input((4,), name="latents")
    x = layers.LeakyReLU(0.2, name="seen")(layers.Conv2D(4, 3, padding="same", name="conv")(image))
    x = layers.LeakyReLU(0.2, name="pooled")(layers.Conv2D(4, 3, padding="same")(layers.AveragePooling2D(2)(x)))
    y = layers.LeakyReLU(0.2, name="alone")(layers.Dense(4)(z))
    joint = layers.LeakyReLU(0.2, name="joint")(layers.Dense(4)(layers.Concatenate()([layers.Flatten()(x), y])))
    return keras.Model([image, z], layers.Dense(1)(joint))


def penalty_gradients(model, images, latents):
    """Gradients of a gradient penalty and an output for the weights, and the operations that they take."""
    import tensorflow as tf

    variables = [v.value for v in model.trainable_variables]

    @tf.function
    def run(x, z):
        with tf.GradientTape() as outer:
            with convolutions.fast(), tf.GradientTape() as inner:
                inner.watch([x, z])
                total = tf.reduce_sum(model([x, z], training=True))
            loss = losses.unit_norm_penalty(*inner.gradient(total, [x, z]))
        return outer.gradient(loss, variables, unconnected_gradients="zero")

    graph = run.get_concrete_function(images, latents).graph
    return [g.numpy() for g in run(images, latents)], [operation.type for operation in graph.get_operations()]


def test_penalty_has_the_same_gradients_from_fewer_operations():
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    usual, rewritten = critic(), critic()
    rewritten.set_weights(usual.get_weights())
    convolutions.install(keras.Sequential([rewritten]))
    rng = np.random.default_rng(0)
    images, latents = (tf.constant(rng.normal(size=s).astype("float32")) for s in ((5, 8, 8, 3), (5, 4)))
    expected, more = penalty_gradients(usual, images, latents)
    found, fewer = penalty_gradients(rewritten, images, latents)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.abs(g).max() > 0 for g in found)
    assert more.count("Conv2DBackpropFilter") - fewer.count("Conv2DBackpropFilter") == 2  # both of a pass of zeros


def test_only_those_behind_a_convolution_are_taken():
    assert [layer.name for layer in activations.behind_convolutions(critic())] == ["seen", "pooled", "joint"]
    assert activations.behind_convolutions(keras.Sequential()) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_slopes_are_those_of_a_leaky_relu(dtype):
    import tensorflow as tf

    x = tf.constant([-3.0, -0.0, 0.0, 1e-30, 2.0], dtype)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = activations.leaky_relu(x, 0.2)
        slope = tape.gradient(y, x)
    np.testing.assert_array_equal(y, tf.nn.leaky_relu(x, 0.2))
    np.testing.assert_array_equal(slope, tf.constant([0.2, 0.2, 0.2, 1, 1], dtype))
    assert outer.gradient(slope, x) is None
