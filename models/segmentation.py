"""What GRD-Net and DRAEM share: the U-Net that marks anomalies, the batches it learns from, its maps and scores.

The U-Net is DRAEM's discriminative network, which GRD-Net takes over unchanged: `build_segmentation`. It sees a
reconstruction and the image that was reconstructed. Batches are dicts of a clean and a corrupted image, the mask of the
corruption and the region of interest (`prepare`). Images are in [0, 1].
"""

import functools

import keras
import numpy as np
from keras import layers, ops

from ganspect.models import maps
from ganspect.models.detector import Detector
from ganspect.models.precision import full

LEVELS = (1, 2, 4, 8, 8, 8)  # of the encoder's filters, in widths
SMALLEST = 2 ** (len(LEVELS) - 1)  # pixels: images are multiples of it
POOL = 21  # pixels of an image of 256: the window over which the map is averaged for the image score
CHUNK = 16  # patches scored at once


def kernels():
    """N(0, 0.02), as in DRAEM's code; an initialiser for each layer, for one draws the same values again."""
    return keras.initializers.RandomNormal(stddev=0.02)


def convolution(x, filters, name, momentum=0.9):
    """3x3 convolution, batch normalisation, ReLU; initial values as in DRAEM's code."""
    x = layers.Conv2D(filters, 3, padding="same", kernel_initializer=kernels(), name=f"{name}_conv")(x)
    gamma = keras.initializers.RandomNormal(1.0, 0.02)
    settings = dict(momentum=momentum, epsilon=1e-5, gamma_initializer=gamma)
    x = layers.BatchNormalization(**settings, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_act")(x)


def block(x, filters, name, last=None, momentum=0.9):
    """Two convolutions; the second has `last` filters, where given."""
    return convolution(convolution(x, filters, f"{name}a", momentum), last or filters, f"{name}b", momentum)


def enlarged(x, filters, name, momentum=0.9):
    """Bilinear enlargement by 2, then a convolution."""
    larger = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_up")(x)
    return convolution(larger, filters, name, momentum)


def build_segmentation(channels, width, name="segmentation", momentum=0.9):
    """The U-Net: reconstructions and images `[B, H, W, 2C]` to logits `[B, H, W, 2]` of normal and anomalous.

    H and W are multiples of 32. DRAEM's code; 28.4 million weights at width 64 and 3 channels. `momentum` is what a
    training step keeps of the moving statistics of its normalisations.
    """
    pair = keras.Input((None, None, 2 * channels), name="pair")
    x, levels = pair, []
    for i, multiple in enumerate(LEVELS, 1):
        smaller = layers.MaxPooling2D(2, name=f"pool{i}")(x) if levels else x
        x = block(smaller, multiple * width, f"down{i}", momentum=momentum)
        levels.append(x)
    for i, multiple in zip(range(5, 0, -1), (8, 4, 2, 1, 1), strict=True):
        x = enlarged(x, multiple * width, f"enlarge{i}", momentum)
        x = layers.Concatenate(name=f"join{i}")([x, levels[i - 1]])
        x = block(x, multiple * width, f"up{i}", momentum=momentum)
    logits = layers.Conv2D(2, 3, padding="same", kernel_initializer=kernels(), name="logits")(x)
    return keras.Model(pair, logits, name=name)


class SegmentingDetector(Detector):
    """Base of GRD-Net and DRAEM: everything but their generative networks, losses and step.

    A subclass has `reconstruct(images)` and, unless it trains without it, `segmentation`; its config has `image_size`,
    `patch_size`, `patch_stride` and `channels`.
    """

    score_names = ("anomaly", "residual")
    panel_maps = ("residual", None)
    segmentation = None
    _compiled = _compiled_statistics = None

    def prepare(self, batch):
        """Maps images in 0..255 to float32 in [0, 1], alone or in a batch `{"images", "corrupted", "mask", "roi"}`."""
        if isinstance(batch, dict):
            scaled = {name: ops.cast(batch[name], "float32") / 255.0 for name in ("images", "corrupted")}
            return scaled | {name: ops.cast(batch[name], "float32") for name in ("mask", "roi")}
        return ops.cast(batch, "float32") / 255.0

    def renew_statistics(self, batches):
        """Measures the moving statistics of the U-Net's normalisations anew, with the weights as they are.

        Beyond the papers: "precise" batch normalisation (Wu and Johnson, arXiv 2105.07576, section 3). Moving ones
        are of the last ten batches or so, each seen by other weights; these are means over batches that the same
        weights see, in training mode. DRAEM's reconstructive network is measured alike, before the U-Net.

        Args:
            batches: list of prepared batches (`prepare`), of training images; "corrupted" alone is looked at.
        """
        if self._compiled_statistics is None:
            self._compiled_statistics = [
                (network, self.compile_inference(functools.partial(self._batch_statistics, index)))
                for index, network in enumerate(self._normalised())
            ]
        for network, measure in self._compiled_statistics:
            found = [measure(batch["corrupted"]) for batch in batches]
            for variable, values in zip(network.non_trainable_variables, zip(*found, strict=True), strict=True):
                variable.assign(np.mean(values, axis=0, dtype="float64").astype("float32"))

    def _normalised(self):
        """The networks whose normalisations have moving statistics, in the order in which images pass them."""
        return [self.segmentation]

    def _batch_statistics(self, index, images):
        """What one batch would make of a network's moving statistics if it were all that they are made of."""
        network = self._normalised()[index]
        seen = (
            images if index + 1 < len(self._normalised()) else ops.concatenate([self.reconstruct(images), images], -1)
        )
        nought = [ops.zeros(v.shape, v.dtype) for v in network.non_trainable_variables]
        _, found = network.stateless_call([v.value for v in network.trainable_variables], nought, seen, training=True)
        return [values / (1 - self.config.norm_momentum) for values in found]

    def probabilities(self, reconstructions, images, training=False):
        """The U-Net's A: float `[B, H, W, 1]` in [0, 1], the probability that a pixel is anomalous."""
        logits = self.segmentation(ops.concatenate([reconstructions, images], axis=-1), training=training)
        return ops.softmax(full(logits), axis=-1)[..., 1:]

    def pixel_scores(self, images):
        """What the scores of images are made of.

        Args:
            images: float `[B, p, p, C]` in [0, 1].

        Returns:
            `{"reconstruction": [B, p, p, C], "residual": [B, p, p], "anomaly": [B, p, p]}`: |x - x'| averaged over
            channels (beyond the papers), and A, where there is a U-Net.
        """
        rebuilt = self.reconstruct(images)
        found = {"reconstruction": rebuilt, "residual": ops.mean(ops.abs(images - rebuilt), axis=-1)}
        if self.segmentation is not None:
            found["anomaly"] = self.probabilities(rebuilt, images)[..., 0]
        return found

    @property
    def pool_size(self):
        """Side of the window that the image score averages over: 21 pixels of 256, 11 of 128 (decision 2n)."""
        return 2 * round(POOL // 2 * self.config.image_size / 256) + 1

    def evidence(self, image, stride=None):
        """Reconstruction and maps of one image; of larger ones than a patch, means over overlapping patches.

        Args:
            image: uint8 `[image_size, image_size, C]`.
            stride: not used: `config.patch_stride` places the patches.

        Returns:
            NumPy arrays `{"reconstruction": [S, S, C] in [-1, 1]}` and, for each of `score_names`, its map `[S, S]` and
            "<name>, smoothed" `[S, S]`.

        Raises:
            ValueError: the image has another shape.
        """
        c = self.config
        if image.shape != (c.image_size, c.image_size, c.channels):
            raise ValueError(f"expected {[c.image_size, c.image_size, c.channels]}, got {list(image.shape)}")
        if self._compiled is None:
            self._compiled = (
                self.compile_inference(lambda x: self.pixel_scores(self.prepare(x))),
                self.compile_inference(lambda x: maps.padded_mean_filter(x, self.pool_size)),
            )
        score, smooth = self._compiled
        found = maps.over_patches(score, image, c.patch_size, c.patch_stride, CHUNK)
        found["reconstruction"] = np.clip(found["reconstruction"] * 2 - 1, -1, 1)  # DRAEM's is linear
        return found | {f"{name}, smoothed": smooth(found[name][None])[0] for name in self.score_names}

    def answer(self, images):
        """The headline map of images in 0..255 and the maximum of its average over a window; see `Detector`."""
        c, name = self.config, self.score_names[0]
        side, starts = c.patch_size, maps.places(c.image_size, c.patch_size, c.patch_stride)
        corners = [(top, left) for top in starts for left in starts]
        images = self.prepare(images)
        patches = ops.concatenate([images[:, y : y + side, x : x + side] for y, x in corners])  # [n B, p, p, C]
        found = self.pixel_scores(patches)

        def whole(values):
            """Means over overlapping patches: `[n B, p, p, ...]` to `[B, S, S, ...]`."""
            total = covered = 0.0
            for (y, x), part in zip(corners, ops.split(values, len(corners)), strict=True):
                around = ((0, 0), (y, c.image_size - side - y), (x, c.image_size - side - x))
                around += ((0, 0),) * (len(values.shape) - 3)
                total, covered = total + ops.pad(part, around), covered + ops.pad(ops.ones_like(part), around)
            return total / covered

        heat = whole(found[name])
        smooth = maps.padded_mean_filter(heat, self.pool_size)
        rebuilt = ops.clip(whole(found["reconstruction"]) * 2 - 1, -1.0, 1.0)
        score = ops.max(smooth, axis=(1, 2))
        return {"score": score, "anomaly_map": heat, "peaks": smooth, "reconstruction": rebuilt}

    def map_from(self, evidence, name=None):
        """A, not smoothed, as DRAEM's code measures pixels; or the residual: float32 `[S, S]`, >= 0."""
        return evidence[name or self.score_names[0]]

    def score_from(self, evidence, name=None):
        """The maximum of the map averaged over a window (decision 2n): float."""
        return float(evidence[f"{name or self.score_names[0]}, smoothed"].max())

    def score_inside(self, evidence, region, name=None):
        """The same maximum over the pixels of a region of interest, bool `[S, S]`; -inf of an empty one."""
        return float(evidence[f"{name or self.score_names[0]}, smoothed"][region].max(initial=float("-inf")))
