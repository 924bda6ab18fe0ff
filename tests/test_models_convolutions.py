"""Every form of a convolution's gradients equals TensorFlow's own, in first and second order."""

import gc
import itertools
import weakref

import keras
import numpy as np
import pytest
from tiny_methods import TINY

from ganspect.models import convolution_pooling, convolutions
from ganspect.models.convolutions import TO_IMAGES, TO_KERNEL, TO_SLOPES, Convolution, widened

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's alone", allow_module_level=True)

# sides of the kernel, strides, paddings, sizes of the image: every one of a method's, and odd ones
SHAPES = [
    *itertools.product(((1, 1), (3, 3), (4, 4), (5, 5), (2, 3)), (1,), ("SAME", "VALID"), ((8, 8), (7, 10))),
    *itertools.product(((3, 3), (4, 4), (5, 5), (2, 3)), (2,), ("SAME", "VALID"), ((8, 8), (7, 10))),
    *itertools.product(((4, 4),), (1,), ("VALID",), ((4, 4),)),
]


def forms(side, stride, padding, size):
    """The forms that are made for a shape, together: of dL/dx, dL/dw and y."""
    whole = ["whole"] if padding == "VALID" and side == size and stride == 1 else []
    fewer = ["winograd"] if -(-max(side) // stride) <= 3 else []
    odd = stride == side[0] % 2 == side[1] % 2 == 1 and padding == "SAME" and size[1] % 4 == 0
    few = [*(["strips"] if odd else []), *(["fours"] if odd and side == (1, 1) else [])]
    images = ["stock", *few, *(["turned"] if stride == 1 else ["phases", "columns"]), *whole, *fewer]
    kernels = ["stock", "windows", *few[1:], *(["rows"] if stride == 1 else []), *whole, *fewer]
    return itertools.product(images, kernels, ["stock", *few, *(["patches"] if stride == 2 else []), *fewer])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_first_and_second_order_equal_tensorflows(shape):
    """In float64, so that equality is far from rounding: y, gradients, and gradients of their squares."""
    side, stride, padding, size = shape
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, *size, 3)))
    w = tf.constant(rng.normal(size=(*side, 3, 5)))

    def found(convolve):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch([x, w])
            with tf.GradientTape() as inner:
                inner.watch([x, w])
                y = tf.tanh(convolve(x, w))
                total = tf.reduce_sum(tf.sin(y))
            first = inner.gradient(total, [x, w])
            squares = [tf.reduce_sum(g**3) for g in first]
        return [y, *first, *(g for square in squares for g in outer.gradient(square, [x, w]))]

    expected = found(lambda x, w: tf.nn.conv2d(x, w, stride, padding))
    assert all(np.abs(part).max() > 0 for part in expected)
    for chosen in forms(*shape):
        for ours, theirs in zip(found(Convolution(stride, padding, chosen)), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max(), err_msg=str(chosen))


@pytest.mark.parametrize(
    ("side", "block"), [((1, 1), 4), ((3, 3), 4), ((3, 3), 2), ((5, 3), 1), ((1, 5), 2), ((3, 1), 8)]
)
def test_wide_pixels_equal_pixels(side, block):
    rng = np.random.default_rng(0)
    x, w = (tf.constant(rng.normal(size=shape)) for shape in ((2, 5, 8, 2), (*side, 2, 3)))

    def found(convolve):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch([x, w])
            with tf.GradientTape() as inner:
                inner.watch([x, w])
                y = convolve(x, w)
                total = tf.reduce_sum(tf.sin(y))
            first = inner.gradient(total, [x, w])
            square = sum(tf.reduce_sum(g**3) for g in first)
        return [y, *first, *outer.gradient(square, [x, w])]

    expected = found(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"))
    for ours, theirs in zip(found(lambda x, w: widened(x, w, block)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transposed_convolutions_equal_tensorflows(shape):
    side, stride, padding, size = shape
    rng = np.random.default_rng(0)
    w = tf.constant(rng.normal(size=(*side, 3, 5)))
    small = tf.nn.conv2d(tf.zeros((2, *size, 3), "float64"), w, stride, padding).shape
    g = tf.constant(rng.normal(size=small))

    def found(convolve):
        with tf.GradientTape() as outer:
            outer.watch([g, w])
            with tf.GradientTape() as inner:
                inner.watch([g, w])
                total = tf.reduce_sum(convolve(g, w) ** 3)
            first = inner.gradient(total, [g, w])
            square = sum(tf.reduce_sum(part**2) for part in first)
        return [*first, *outer.gradient(square, [g, w])]

    expected = found(lambda g, w: tf.nn.conv2d_transpose(g, w, (2, *size, 3), stride, padding))
    for chosen in forms(*shape):
        for ours, theirs in zip(
            found(lambda g, w, chosen=chosen: Convolution(stride, padding, chosen).to_images(g, w, size)),
            expected,
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max(), err_msg=str(chosen))


def test_every_form_is_tested():
    used = [chosen for shape in SHAPES for chosen in forms(*shape)]
    assert [set(found) for found in zip(*used, strict=True)] == [set(TO_IMAGES), set(TO_KERNEL), set(TO_SLOPES)]


@pytest.mark.parametrize("kind", ["onednn", "other"])
def test_what_is_chosen_fits_the_shape_beside_any_kernels(kind, monkeypatch):
    """And changes nothing but rounding in a network large enough for it."""
    monkeypatch.setattr(convolutions, "kernels", lambda: kind)
    taken = set()
    for shape in SHAPES:
        side, stride, padding, size = shape
        for channels in itertools.product((1, 3, 16, 64, 256, 1024), repeat=2):
            for pixels in (1, 16, 64):
                pair = convolutions.chosen((8, pixels, pixels, channels[1]), (*side, *channels), size, stride, padding)
                y = convolutions.chosen_for_slopes(
                    (8, pixels, pixels, channels[0]), (*side, *channels), stride, padding
                )
                assert (*pair, y) in list(forms(*shape))
                taken.update((*pair, y))
    assert taken >= {"stock", "phases", "windows", "rows", "whole"} | (
        {"columns", "patches", "winograd"} if kind == "onednn" else set()
    )
    images = tf.constant(np.random.default_rng(0).normal(size=(8, 32, 32, 64)).astype("float32"))
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 64)),
            keras.layers.Conv2D(128, 3, padding="same", activation="tanh"),
            keras.layers.Conv2D(256, 3, padding="same", activation="tanh"),  # convolution_winograd beside oneDNN
            keras.layers.Conv2D(1024, 4, strides=2, padding="same"),
            keras.layers.Conv2DTranspose(64, 4, strides=2, padding="same"),
        ]
    )

    def found():
        with tf.GradientTape() as tape:
            y = tf.reduce_mean(model(images) ** 2)
        return [y, *tape.gradient(y, model.trainable_variables)]

    expected = found()
    convolutions.install(model)
    with convolutions.fast():
        ours = found()
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_the_environment_refuses_winograd(monkeypatch):
    monkeypatch.setattr(convolutions, "kernels", lambda: "onednn")
    for shape in ((2048, 16, (3, 3, 512, 512), 1), (4096, 16, (4, 4, 128, 256), 2)):
        monkeypatch.delenv("GANSPECT_WINOGRAD", raising=False)
        assert convolutions.fewer_pays(*shape)
        monkeypatch.setenv("GANSPECT_WINOGRAD", "0")
        assert not convolutions.fewer_pays(*shape)


@pytest.mark.parametrize("pad", ["same", "valid"])
@pytest.mark.parametrize("count", [1, 2])
def test_one_image_beside_onednn(count, pad, monkeypatch):
    """Its convolutions of many channels are made as gradients, in training and in inference; those of two are not."""
    monkeypatch.setattr(convolutions, "kernels", lambda: "onednn")
    images = tf.constant(np.random.default_rng(0).normal(size=(count, 32, 40, 64)).astype("float32"))
    keras.utils.set_random_seed(0)
    layer = keras.layers.Conv2D(96, 3, padding=pad, activation="tanh", bias_initializer="random_normal")
    model = keras.Sequential([keras.Input((32, 40, 64)), layer])

    def found():
        with tf.GradientTape() as tape:
            y = model(images)
            loss = tf.reduce_sum(y**2)
        return [y, *tape.gradient(loss, model.trainable_variables)]

    expected = found()
    convolutions.install(model)
    made, form = [], convolutions.forward_of_one
    monkeypatch.setattr(convolutions, "forward_of_one", lambda *a: made.append(a) or form(*a))
    with convolutions.fast():
        trained = found()
    assert len(made) == (count == 1 and pad == "same")
    np.testing.assert_allclose(model(images), expected[0], atol=1e-5)  # outside of `fast`
    assert len(made) == 2 * (count == 1 and pad == "same")
    for a, b in zip(trained, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_pooling_is_what_it_was_to_the_last_bit(monkeypatch):
    """In first and second order; the copied gradient is taken for few channels alone."""
    monkeypatch.setattr(convolutions, "kernels", lambda: "onednn")
    rng = np.random.default_rng(0)
    taken, form = [], convolution_pooling.averaged
    monkeypatch.setattr(convolution_pooling, "averaged", lambda x: taken.append(x.shape) or form(x))
    for channels in (3, 16):
        images = tf.constant(rng.normal(size=(8, 128, 128, channels)).astype("float32"))
        model = keras.Sequential([keras.Input((128, 128, channels)), keras.layers.AveragePooling2D(2)])

        def found(model=model, images=images):
            with tf.GradientTape() as outer:
                outer.watch(images)
                with tf.GradientTape() as inner:
                    inner.watch(images)
                    y = model(images)
                    total = tf.reduce_sum(tf.sin(y))
                first = inner.gradient(total, images)
                square = tf.reduce_sum(first**3)
            return [y, first, outer.gradient(square, images)]

        expected = found()
        convolutions.install(model)
        with convolutions.fast():
            ours = found()
        assert bool(taken) == (channels == 3)
        taken.clear()
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.abs(b).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("width", "fewer"), [(16, False), (64, True)])
def test_networks_at_a_quarter_of_their_width_keep_their_sums(width, fewer, monkeypatch):
    """DRAEM, batches of 8 at 128 pixels: `convolution_winograd` at the paper's width, nowhere at the tables'."""
    from ganspect.models.draem import DRAEM, DRAEMConfig

    monkeypatch.setattr(convolutions, "kernels", lambda: "onednn")
    taken, pays = set(), convolutions.fewer_pays
    monkeypatch.setattr(convolutions, "fewer_pays", lambda *shape: pays(*shape) and not taken.add(shape))
    detector = DRAEM(DRAEMConfig(width=width, image_size=128))
    detector.compile()
    images = tf.TensorSpec((8, 128, 128, 3), "uint8")
    mask = tf.TensorSpec((8, 128, 128, 1), "uint8")
    batch = {"images": images, "corrupted": images, "mask": mask, "roi": mask}
    tf.function(lambda batch: detector.step(detector.prepare(batch))).get_concrete_function(batch)
    assert bool(taken) == fewer


@pytest.mark.parametrize("method", ["cbigan", "ganomaly"])
def test_a_training_step_is_freed_with_its_detector(method, monkeypatch):
    """Gradients of the forms leave nothing behind in TensorFlow; CBiGAN has gradients of gradients."""
    monkeypatch.setattr(convolutions, "LEAST_WORK", 0)
    monkeypatch.setattr(convolutions, "kernels", lambda: "other")
    called, made = [], Convolution.to_kernel
    monkeypatch.setattr(Convolution, "to_kernel", lambda *a: called.append(None) or made(*a))

    def traced():
        detector = TINY[method].build()
        return weakref.ref(tf.function(detector.step).get_concrete_function(TINY[method].batch()).graph)

    graph = traced()
    keras.backend.clear_session()
    gc.collect()
    assert called and graph() is None
