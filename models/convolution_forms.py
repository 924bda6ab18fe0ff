"""The forms that `models.convolutions` chooses from: a convolution's y, dL/dx and dL/dw in TensorFlow's operations.

With y = x * w, images x `[B, H, W, I]`, kernels w `[k, l, I, O]`, y and its slopes dL/dy `[B, h, w, O]`, stride s:
    dL/dx, s = 1: a convolution of dL/dy with the kernel turned by 180 degrees                 -> `_turned`
    dL/dx, s = 2: pixels of either parity see every other row and column of the kernel: one
        convolution with a kernel of half the side makes all four kinds                        -> `_phases`
        or, of few pixels and many channels, one matrix product makes what every pixel of
        dL/dy adds around it, and these are summed up                                          -> `_columns`
    dL/dw: for each place of the kernel a matrix product of all pixels                         -> `_windows`, `_rows`
    a kernel as large as the image: matrix products                  -> `_whole_images`, `_whole_kernel`
    y itself, s = 2, few pixels and many channels: products of 2x2 pixels at a time            -> `_patches`
All are exact but for the order of the sums. `TO_SLOPES`, `TO_IMAGES` and `TO_KERNEL` name them.
"""


def borders(length, side, stride, padding):
    """Zeros before and behind the rows, or columns, of an image."""
    if padding == "VALID":
        return 0, 0
    total = max(0, (-(-length // stride) - 1) * stride + side - length)
    return total // 2, total - total // 2


def counts(size, shape, stride, padding):
    """(h, w) of y, for images of a size (H, W) and a kernel of a shape (k, l)."""
    around = (sum(borders(n, k, stride, padding)) for n, k in zip(size, shape, strict=True))
    return tuple((n + more - k) // stride + 1 for n, more, k in zip(size, around, shape, strict=True))


def _stock_slopes(images, kernel, stride, padding):
    """TensorFlow's own y."""
    import tensorflow as tf

    return tf.nn.conv2d(images, kernel, stride, padding)


def _stock_images(slopes, kernel, size, stride, padding):
    """TensorFlow's own dL/dx."""
    import tensorflow as tf

    shape = (tf.shape(slopes)[0], *size, kernel.shape[2])
    return tf.nn.conv2d_transpose(slopes, kernel, shape, stride, padding)


def _stock_kernel(images, slopes, shape, stride, padding):
    """TensorFlow's own dL/dw."""
    import tensorflow as tf

    return tf.raw_ops.Conv2DBackpropFilter(
        input=images, filter_sizes=shape, out_backprop=slopes, strides=[1, stride, stride, 1], padding=padding
    )


def _by_parity(kernel, halves):
    """For each 2x2 places of a kernel of even sides, row by row: `[2, 2, I, O]`.

    Slices, because a `tf.transpose` of six axes is five times slower than those of matrices.
    """
    return [kernel[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] for i in range(halves[0]) for j in range(halves[1])]


def _turned(slopes, kernel, size, stride, padding):
    """dL/dx for stride 1: y[i] = sum_k x[i + k - p] w[k], so dx[m] = sum_k dy[m - k + p] w[k]."""
    import tensorflow as tf

    side, width, inputs, outputs = kernel.shape
    parts = [tf.transpose(kernel[i, j]) for i in reversed(range(side)) for j in reversed(range(width))]
    turned = tf.reshape(tf.stack(parts), (side, width, outputs, inputs))
    around = [(0, 0)]
    for length, side in zip(size, kernel.shape[:2], strict=True):
        before, behind = borders(length, side, 1, padding)
        around.append((side - 1 - before, side - 1 - behind))
    if all(a == b == (side - 1) // 2 and side % 2 for (a, b), side in zip(around[1:], kernel.shape[:2], strict=True)):
        return tf.nn.conv2d(slopes, turned, 1, "SAME")
    return tf.nn.conv2d(tf.pad(slopes, (*around, (0, 0))), turned, 1, "VALID")


def _phases(slopes, kernel, size, stride, padding):
    """dL/dx for stride 2: y[i] = sum_k x[2i + k - p] w[k], so dx[2n + a - p] = sum_t dy[n - t] w[2t + a].

    All q of an even and an odd kind see the same dy: one convolution makes them as channels, `depth_to_space` and a
    crop of p put them where they belong. Kernels of odd sides are filled up with zeros.
    """
    import tensorflow as tf

    inputs, outputs = kernel.shape[2:]
    around, crops, halves = [(0, 0)], [], []
    for length, side, count in zip(size, kernel.shape[:2], slopes.shape[1:3], strict=True):
        before, _ = borders(length, side, 2, padding)
        half = (side + 1) // 2
        around.append((half - 1, max(0, (length - 1 + before) // 2 - count + 1)))
        crops.append(slice(before, before + length))
        halves.append(half)
    high, wide = halves
    if kernel.shape[0] % 2 or kernel.shape[1] % 2:
        kernel = tf.pad(kernel, ((0, kernel.shape[0] % 2), (0, kernel.shape[1] % 2), (0, 0), (0, 0)))
    parts = [
        tf.transpose(tf.reshape(part, (4 * inputs, outputs))) for part in reversed(_by_parity(kernel, (high, wide)))
    ]
    kernel = tf.reshape(tf.stack(parts), (high, wide, outputs, 4 * inputs))
    found = tf.nn.conv2d(tf.pad(slopes, (*around, (0, 0))), kernel, 1, "VALID")
    return tf.nn.depth_to_space(found, 2)[:, crops[0], crops[1]]


def _columns(slopes, kernel, size, stride, padding):
    """dL/dx for stride 2: one product makes what each pixel of dL/dy adds to x, 2x2 pixels of it as channels.

    The kernel is taken as it lies in memory. Kernels of odd sides are filled up with zeros.
    """
    import tensorflow as tf

    inputs, outputs = kernel.shape[2:]
    count, across = slopes.shape[1:3]
    top, left = (borders(n, k, 2, padding)[0] for n, k in zip(size, kernel.shape[:2], strict=True))
    if kernel.shape[0] % 2 or kernel.shape[1] % 2:
        kernel = tf.pad(kernel, ((0, kernel.shape[0] % 2), (0, kernel.shape[1] % 2), (0, 0), (0, 0)))
    high, wide = kernel.shape[0] // 2, kernel.shape[1] // 2
    added = tf.linalg.matmul(tf.reshape(slopes, (-1, outputs)), tf.reshape(kernel, (-1, outputs)), transpose_b=True)
    added = tf.reshape(added, (-1, count, across, high, 2, wide, 2 * inputs))
    total = 0.0
    for i in range(high):
        for j in range(wide):
            part = tf.reshape(added[:, :, :, i, :, j], (-1, count, across, 4 * inputs))
            total += tf.pad(part, ((0, 0), (i, high - 1 - i), (j, wide - 1 - j), (0, 0)))
    found = tf.nn.depth_to_space(total, 2)
    short = [max(0, at + n - there) for at, n, there in zip((top, left), size, found.shape[1:3], strict=True)]
    if any(short):  # pixels that no place of the kernel sees
        found = tf.pad(found, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)))
    return found[:, top : top + size[0], left : left + size[1]]


def _patches(images, kernel, stride, padding):
    """y for stride 2: 2x2 pixels are made channels first; for each place of a kernel of half the side a product."""
    import tensorflow as tf

    inputs, outputs = kernel.shape[2:]
    around, sizes = [(0, 0)], []
    for length, side in zip(images.shape[1:3], kernel.shape[:2], strict=True):
        before, behind = borders(length, side, 2, padding)
        sizes.append((length + before + behind - side) // 2 + 1)
        around.append((before, 2 * (sizes[-1] + (side + 1) // 2 - 1) - length - before))
    if kernel.shape[0] % 2 or kernel.shape[1] % 2:
        kernel = tf.pad(kernel, ((0, kernel.shape[0] % 2), (0, kernel.shape[1] % 2), (0, 0), (0, 0)))
    images = images[:, : images.shape[1] + min(0, around[1][1]), : images.shape[2] + min(0, around[2][1])]
    around = [(before, max(0, behind)) for before, behind in around]
    if any(map(any, around)):
        images = tf.pad(images, (*around, (0, 0)))
    seen = tf.nn.space_to_depth(images, 2)
    high, wide = kernel.shape[0] // 2, kernel.shape[1] // 2
    count, across = sizes
    found = 0.0
    for place, part in enumerate(_by_parity(kernel, (high, wide))):
        i, j = divmod(place, wide)
        rows = tf.reshape(seen[:, i : i + count, j : j + across], (-1, 4 * inputs))
        found += tf.linalg.matmul(rows, tf.reshape(part, (4 * inputs, outputs)))
    return tf.reshape(found, (-1, count, across, outputs))


def _windows(images, slopes, shape, stride, padding):
    """dL/dw: for each place of the kernel the product of the pixels that it sees with dL/dy.

    With stride 2, 2x2 pixels are made channels first, and places are of a kernel of half the side.
    """
    import tensorflow as tf

    side, width, inputs, outputs = shape
    around = [borders(n, k, stride, padding) for n, k in zip(images.shape[1:3], (side, width), strict=True)]
    count, across = slopes.shape[1:3]
    high, wide = side, width
    if stride == 2:
        high, wide = (side + 1) // 2, (width + 1) // 2
        ends = [
            2 * (n + half - 1) - length - before
            for n, half, length, (before, _) in zip(
                (count, across), (high, wide), images.shape[1:3], around, strict=True
            )
        ]
        images = images[:, : images.shape[1] + min(0, ends[0]), : images.shape[2] + min(0, ends[1])]
        around = [(before, max(0, end)) for (before, _), end in zip(around, ends, strict=True)]
    if any(map(any, around)):
        images = tf.pad(images, ((0, 0), *around, (0, 0)))
    if stride == 2:
        images = tf.nn.space_to_depth(images, 2)
    depth = images.shape[3]
    flat = tf.reshape(slopes, (-1, outputs))
    seen = [images[:, i : i + count, j : j + across] for i in range(high) for j in range(wide)]
    found = [tf.linalg.matmul(tf.reshape(part, (-1, depth)), flat, transpose_a=True) for part in seen]
    if stride == 2:
        halves = [tf.reshape(part, (2, 2, inputs, outputs)) for part in found]
        found = [halves[i // 2 * wide + j // 2][i % 2, j % 2] for i in range(side) for j in range(width)]
    return tf.reshape(tf.stack(found), shape)


def _rows(images, slopes, shape, stride, padding):
    """dL/dw for stride 1: as `_windows`, over all pixels of padded images in one row, where a place is an offset.

    Slopes that lie on the padding are zero. No window is copied pixel by pixel.
    """
    import tensorflow as tf

    side, width, inputs, outputs = shape
    around = [borders(n, k, 1, padding) for n, k in zip(images.shape[1:3], (side, width), strict=True)]
    across = images.shape[2] + sum(around[1])
    images = tf.reshape(tf.pad(images, ((0, 0), *around, (0, 0))), (-1, inputs))
    flat = tf.reshape(tf.pad(slopes, ((0, 0), (0, side - 1), (0, width - 1), (0, 0))), (-1, outputs))
    last = (side - 1) * across + width - 1
    flat = flat[: tf.shape(flat)[0] - last]
    count = tf.shape(flat)[0]
    starts = [i * across + j for i in range(side) for j in range(width)]
    parts = [tf.linalg.matmul(images[at : at + count], flat, transpose_a=True) for at in starts]
    return tf.reshape(tf.stack(parts), shape)


def _whole_images(slopes, kernel, size, stride, padding):
    """dL/dx where y is one pixel: a matrix product."""
    import tensorflow as tf

    side, width, inputs, outputs = kernel.shape
    found = tf.linalg.matmul(tf.reshape(slopes, (-1, outputs)), tf.reshape(kernel, (-1, outputs)), transpose_b=True)
    return tf.reshape(found, (-1, side, width, inputs))


def _whole_kernel(images, slopes, shape, stride, padding):
    """dL/dw where y is one pixel: a matrix product."""
    import tensorflow as tf

    pixels = shape[0] * shape[1] * shape[2]
    found = tf.linalg.matmul(tf.reshape(images, (-1, pixels)), tf.reshape(slopes, (-1, shape[3])), transpose_a=True)
    return tf.reshape(found, shape)


TO_IMAGES = {
    "stock": _stock_images,
    "turned": _turned,
    "phases": _phases,
    "columns": _columns,
    "whole": _whole_images,
}
TO_SLOPES = {"stock": _stock_slopes, "patches": _patches}
TO_KERNEL = {"stock": _stock_kernel, "windows": _windows, "rows": _rows, "whole": _whole_kernel}
