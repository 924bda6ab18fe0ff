"""Anomaly maps: padding, smoothing, patches, the dense evaluation of patch discriminators, in `keras.ops`."""

import numpy as np
from keras import ops


def mean_filter(maps, size):
    """Mean over a `size` x `size` window around every pixel, borders mirrored with the edge pixel repeated.

    An even window covers the pixels from i - size/2 to i + size/2 - 1, as `scipy.ndimage.uniform_filter` does with
    `mode="reflect"` (FCBiGAN thesis 5.2: 48x48 mean filter).

    Args:
        maps: float `[B, H, W]`; H and W at least size/2.
        size: window side in pixels.

    Returns:
        float `[B, H, W]`.
    """
    before, after = size // 2, size - 1 - size // 2
    return _window_means(ops.pad(maps, ((0, 0), (before, after), (before, after)), mode="symmetric"), size)


def padded_mean_filter(maps, size):
    """Mean over a `size` x `size` window around every pixel, with zeros beyond the border, which count: DRAEM's code.

    Args:
        maps: float `[B, H, W]`.
        size: window side in pixels, odd.

    Returns:
        float `[B, H, W]`.
    """
    half = size // 2
    return _window_means(ops.pad(maps, ((0, 0), (half, half), (half, half))), size)


def _window_means(x, size):
    """Means over all `size` x `size` windows of `[B, H, W]`, in about 2 log2(size) additions a pixel and axis.

    A pooling op adds each window anew, `size` additions a pixel and axis.
    """
    for axis in (1, 2):
        x = _window_sums(x, size, axis) / size
    return x


def _window_sums(x, size, axis):
    """Sums of `size` neighbours along an axis: those of 1, 2, 4, ... neighbours, of which some make `size`."""
    total, start, power = None, 0, 1  # `start`: where the part of the window that is not yet in `total` begins
    while True:
        if size & power:
            part = _shifted(x, start, size - start - power, axis)
            total, start = part if total is None else total + part, start + power
        if 2 * power > size:
            return total
        x, power = _shifted(x, 0, power, axis) + _shifted(x, power, 0, axis), 2 * power


def _shifted(x, first, last, axis):
    """`x` without so many entries at the start and the end of an axis."""
    part = slice(first, -last if last else None)
    return x[:, part] if axis == 1 else x[:, :, part]


def check_stride(stride, patch_size):
    """Refuses a stride that leaves pixels between patches, or is none, by a ValueError."""
    if not 1 <= stride <= patch_size:
        raise ValueError(f"the stride of patches must lie in 1 to their side of {patch_size} pixels, not {stride}")


def places(length, patch_size, stride):
    """Where patches begin along one side of an image: every `stride` pixels, the last flush with the border."""
    return sorted({*range(0, length - patch_size + 1, stride), length - patch_size})


def over_patches(run, image, patch_size, stride, chunk):
    """What a network of patches says of one image: means over the overlapping patches that cover it.

    Args:
        run: `patches [chunk, p, p, C] -> {name: array [chunk, ...]}`, NumPy in and out.
        image: `[H, W, C]`, H and W at least `patch_size`.
        patch_size: p, pixels.
        stride: between neighbouring patches, pixels, 1 to p; the last of a row or column ends at the border.
        chunk: patches in one call, always as many (one graph).

    Returns:
        `{name: array}`: float32 `[H, W, ...]` for arrays with a value for each pixel of a patch, `[n, m]` for those
        with one for each of the n rows and m columns of patches.

    Raises:
        ValueError: the stride would leave gaps.
    """
    check_stride(stride, patch_size)
    height, width = image.shape[:2]
    tops, lefts = places(height, patch_size, stride), places(width, patch_size, stride)
    corners = [(top, left) for top in tops for left in lefts]
    patches = np.zeros((min(chunk, len(corners)), patch_size, patch_size, image.shape[-1]), image.dtype)
    sums, numbers, covered = {}, {}, np.zeros((height, width), "float32")
    for first in range(0, len(corners), len(patches)):
        chosen = [np.s_[y : y + patch_size, x : x + patch_size] for y, x in corners[first : first + len(patches)]]
        for i, place in enumerate(chosen):
            patches[i] = image[place]
            covered[place] += 1
        for name, values in run(patches).items():
            if values.ndim < 3:
                numbers.setdefault(name, []).append(values[: len(chosen)])
                continue
            total = sums.setdefault(name, np.zeros((height, width, *values.shape[3:]), "float32"))
            for i, place in enumerate(chosen):
                total[place] += values[i]
    means = {name: total / covered.reshape(covered.shape + (1,) * (total.ndim - 2)) for name, total in sums.items()}
    return means | {name: np.concatenate(x).reshape(len(tops), len(lefts)) for name, x in numbers.items()}


def over_patches_in_graph(run, images, patch_size, stride):
    """`over_patches` of batches of any size inside one TensorFlow graph, a row of patches at a time.

    Args:
        run: `patches [n, p, p, C] -> {name: tensor}`: `[n, p, p]`, `[n, p, p, C]` or `[n]`.
        images: float `[B, H, W, C]`, H and W at least `patch_size`.
        patch_size, stride: as of `over_patches`.

    Returns:
        `{name: tensor}`: float32 `[B, H, W, ...]`, means over the patches that cover a pixel; for `[n]` the largest of
        an image's patches, `[B]`.
    """
    import tensorflow as tf

    batch, height, width = (tf.shape(images)[i] for i in range(3))
    channels = images.shape[-1]

    def corners(length):
        return tf.unique(tf.concat([tf.range(0, length - patch_size + 1, stride), [length - patch_size]], 0))[0]

    tops, lefts = corners(height), corners(width)
    columns = lefts[:, None] + tf.range(patch_size)  # [m, p]
    spread = tf.one_hot(tf.reshape(columns, [-1]), width)  # [m p, W]: puts patches back to their columns

    def row(top):
        """The sums over one row of patches: `{name: [B, p, W, k]}`, and the largest numbers `[B]`."""
        strip = tf.gather(images[:, top : top + patch_size], columns, axis=2)  # [B, p, m, p, C]
        patches = tf.reshape(tf.transpose(strip, [0, 2, 1, 3, 4]), [-1, patch_size, patch_size, channels])
        sums, numbers = {}, {}
        for name, values in run(patches).items():
            if values.shape.rank == 1:
                numbers[name] = tf.reduce_max(tf.reshape(values, [batch, -1]), axis=1)
                continue
            depth = 1 if values.shape.rank == 3 else values.shape[-1]
            parts = tf.reshape(values, [batch, -1, patch_size, patch_size, depth])  # [B, m, p, p, k]
            parts = tf.reshape(tf.transpose(parts, [0, 2, 4, 1, 3]), [batch, patch_size, depth, tf.size(columns)])
            sums[name] = tf.transpose(parts @ spread, [0, 1, 3, 2])  # [B, p, W, k]
        return sums, numbers

    shapes = run(tf.zeros([1, patch_size, patch_size, channels]))
    depths = {k: 1 if v.shape.rank == 3 else v.shape[-1] for k, v in shapes.items() if v.shape.rank > 1}
    totals = {name: tf.zeros([batch, height, width, depth]) for name, depth in depths.items()}
    least = {name: tf.fill([batch], -np.inf) for name, v in shapes.items() if v.shape.rank == 1}

    def add(i, totals, best):
        top = tops[i]
        sums, numbers = row(top)
        around = [[0, 0], [top, height - patch_size - top], [0, 0], [0, 0]]
        totals = {name: totals[name] + tf.pad(values, around) for name, values in sums.items()}
        return i + 1, totals, {name: tf.maximum(best[name], values) for name, values in numbers.items()}

    kept = tf.TensorShape([None])
    invariants = (
        tf.TensorShape([]),
        {name: tf.TensorShape([None, None, None, depth]) for name, depth in depths.items()},
        dict.fromkeys(least, kept),
    )
    _, totals, best = tf.while_loop(
        lambda i, *_: i < tf.size(tops), add, (tf.constant(0), totals, least), shape_invariants=invariants
    )

    def coverage(starts, length):
        return tf.reduce_sum(tf.one_hot(tf.reshape(starts[:, None] + tf.range(patch_size), [-1]), length), axis=0)

    covered = (coverage(tops, height)[:, None] * coverage(lefts, width)[None])[None, :, :, None]
    means = {name: total / covered for name, total in totals.items()}
    means = {name: mean[..., 0] if shapes[name].shape.rank == 3 else mean for name, mean in means.items()}
    return means | best


def pad_to_multiple(images, multiple):
    """Pads bottom and right by mirroring, so that height and width are multiples of `multiple`; crop the result back.

    Args:
        images: float `[B, H, W, C]`; H and W greater than multiple / 2.
        multiple: positive int.

    Returns:
        float `[B, H', W', C]` with H' - H and W' - W below `multiple`.
    """
    height, width = ops.shape(images)[1:3]
    bottom, right = -height % multiple, -width % multiple
    if isinstance(height, int) and isinstance(width, int) and not (bottom or right):
        return images
    return ops.pad(images, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="symmetric")


def dense_map(images, stages, head, stride=1, slope=0.2):
    """A patch network's output at every `stride`-th pixel, by exact shift-and-stitch through dilation.

    The patch network is a stack of stages (convolutions with leaky ReLU, then 2x2 average pooling) and a valid `head`
    convolution that leaves one number for a patch. Sliding it over the image equals one pass in which each pooling is
    taken at stride 1 and everything after it is dilated by 2 (Long et al. 2015; FCBiGAN thesis 4.2). The first
    log2(stride) poolings stay strided. All convolutions are valid on an image extended by reflection, so that no output
    has seen artificial zeros; a window is centred on its pixel (on the middle of its stride x stride cell).

    Args:
        images: float `[B, H, W, C]`; H and W multiples of `stride` and greater than the padding (38 for 48x48 patches).
        stages: list of lists of convolution kernels `[k, k, in, out]`, k odd.
        head: kernel `[b, b, in, 1]`.
        stride: power of two, at most 2 ** len(stages).
        slope: of the leaky ReLU.

    Returns:
        float `[B, H / stride, W / stride]`.

    Raises:
        ValueError: `stride` is not one of the powers of two allowed.
    """
    if stride not in [2**k for k in range(len(stages) + 1)]:
        raise ValueError(f"stride must be a power of two up to {2 ** len(stages)}, not {stride}")
    height, width = ops.shape(images)[1:3]
    context = sum(2**i * sum(kernel.shape[0] // 2 for kernel in stage) for i, stage in enumerate(stages))
    patch = head.shape[0] * 2 ** len(stages)
    before = context + patch // 2 - stride // 2
    after = context + patch - 1 - patch // 2 + stride // 2
    x = ops.pad(images, ((0, 0), (before, after), (before, after), (0, 0)), mode="reflect")
    step, dilation = 1, 1
    for stage in stages:
        for kernel in stage:
            x = ops.conv(x, kernel, padding="valid", dilation_rate=dilation)
            x = ops.leaky_relu(x, slope)
        if step < stride:
            x = ops.average_pool(x, 2, strides=2, padding="valid")
            step *= 2
        else:
            d = dilation
            x = (x[:, :-d, :-d] + x[:, d:, :-d] + x[:, :-d, d:] + x[:, d:, d:]) / 4
            dilation *= 2
    x = ops.conv(x, head, padding="valid", dilation_rate=dilation)
    return x[:, : height // stride, : width // stride, 0]


def enlarge(maps, stride):
    """Bilinear enlargement of a strided map `[B, h, w]` to `[B, h stride, w stride]`, cells centred."""
    if stride == 1:
        return maps
    height, width = ops.shape(maps)[1:3]
    return resized(maps[..., None], (height * stride, width * stride))[..., 0]


def resized(images, size, interpolation="bilinear", antialias=False):
    """`keras.ops.image.resize`, to a size that a graph works out as well.

    Args:
        images: float `[B, H, W, C]`.
        size: height and width, numbers or, on TensorFlow, integer scalars.
        interpolation, antialias: as of `keras.ops.image.resize`.

    Returns:
        float `[B, *size, C]`.
    """
    if all(isinstance(side, int) for side in size):
        return ops.image.resize(images, size, interpolation=interpolation, antialias=antialias)
    import tensorflow as tf

    return tf.image.resize(images, size, method=interpolation, antialias=antialias)
