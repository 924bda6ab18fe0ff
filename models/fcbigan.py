"""FCBiGAN: a fully convolutional BiGAN for textures (S. Peccia, MSc thesis, Politecnico di Milano, 2021).

Equations of the thesis' summary, in order, with the function that implements each:
    eq. 5  least-squares losses of D, G and E                 -> `FCBiGAN.step`, `losses.least_squares`
    eq. 6  reconstruction penalty, which trains E alone       -> `FCBiGAN.step`, `losses.mean_absolute_error`
    4.2    L_R = (x - G(E(x)))^2, L_D = (D(x, E(x)) - 1)^2    -> `FCBiGAN.pixel_losses`, `maps.dense_map`
    eq. 7  linear, Max and Mahalanobis aggregation            -> `FCBiGAN.aggregate`
    5.2    z-scores, 48x48 mean filter                        -> `FCBiGAN.calibrate`, `maps.mean_filter`

Input: images in [-1, 1]. Trained on patches, tested on whole images of any size. Scores: per-pixel anomaly, higher is
more anomalous; the score of an image is the maximum of its map (ours: the thesis scores pixels only).

Sources of what the summary leaves open: the author's later Keras code (Speck1996/skal), tagged [skal] below, and the
decisions 1a to 1p of this project's notes, which the method's card (docs/methods/fcbigan.md) repeats. Departs: the
thesis' 12 000 patches are cut anew in every epoch (`fresh_patches`); the others are in the card.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from ganspect.models import losses, maps, optimizers
from ganspect.models.blocks import DepthToSpace, ReflectionPadding2D
from ganspect.models.detector import Detector
from ganspect.models.settings import check_settings

AGGREGATIONS = ("max", "linear", "mahalanobis", "reconstruction", "discriminator")
POOLINGS = 3  # [skal] three halvings: everything works in cells of 8x8 pixels
CELL = 2**POOLINGS
STRIDES = tuple(2**k for k in range(POOLINGS + 1))  # of D's map
CONTEXT = 14  # pixels on each side that D's convolutions see around a patch


@dataclass(frozen=True)
class FCBiGANConfig:
    """Settings; the defaults are the thesis' or, where it is silent, the decisions of this project's notes."""

    channels: int = 1  # [thesis 5.1] NanoTWICE is grayscale; 3 for MVTec AD
    patch_size: int = 48  # [thesis 5.2]
    width: int = 64  # [skal] filters of the first stage; stages have 1, 2, 4 times as many
    latent_size: int = 128  # [skal]
    dropout: float = 0.2  # [skal] spatial dropout after the second convolution of each block
    latent_dropout: float = 0.5  # [skal] in D's latent branch
    discriminator_rate: float = 1e-4  # [skal] learning rates of the three Adam optimisers
    generator_rate: float = 1e-4  # [skal]
    encoder_rate: float = 1e-4  # [skal]
    beta_1: float = 0.2  # [skal]
    beta_2: float = 0.999  # [skal]
    reconstruction_weight: float = 0.1  # [skal] lambda of eq. 6, for a mean-reduced error and un-halved least squares
    generator_reconstruction_weight: float = 0.0  # [thesis eq. 6] the penalty trains E alone; above 0: [ours] G as well
    batch_size: int = 32  # [skal]
    patches_per_epoch: int = 12_000  # [thesis 5.2]
    fresh_patches: bool = True  # [ours] others in every epoch; False: the same, as in skal and by the thesis' letter
    epochs: int = 100  # [skal]
    aggregation: str = "max"  # [thesis 5.2] the tables' score
    linear_weight: float = 0.5  # [ours: alpha of eq. 7 is not printed]
    filter_size: int = 48  # [thesis 5.2] side of the mean filter
    map_stride: int = 1  # [thesis 4.2] 1: D at every pixel; 2, 4, 8: at every second, fourth, eighth
    latent_overlap: str = (
        "sum"  # [skal] of D's latent footprints in whole images; [ours] "mean": as large as in training
    )
    early_stopping: bool = False  # [ours: thesis silent; skal stops on held-out error, patience 10, from epoch 51]
    seed: int = 0  # [ours] of weights, batches and noise; the sources name none

    def __post_init__(self):
        check_settings(self)
        if self.patch_size % CELL or self.patch_size < 2 * CELL:
            raise ValueError(f"patch_size must be a multiple of {CELL} and at least {2 * CELL}, not {self.patch_size}")
        counts = ("width", "latent_size", "batch_size", "patches_per_epoch", "epochs", "filter_size")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4 (group normalisation), not {self.width}")
        if self.patches_per_epoch < self.batch_size:
            raise ValueError(f"patches_per_epoch {self.patches_per_epoch} are no batch of {self.batch_size}")
        if self.map_stride not in STRIDES:
            raise ValueError(f"map_stride must be one of {', '.join(map(str, STRIDES))}, not {self.map_stride}")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, not {self.aggregation!r}")

        if self.latent_overlap not in ("sum", "mean"):
            raise ValueError(f"latent_overlap must be sum or mean, not {self.latent_overlap!r}")

    @property
    def steps_per_epoch(self):
        return self.patches_per_epoch // self.batch_size


def least_side(patch_size, stride):
    """Least side of an image, pixels, that D's map at this stride can mirror as much of as it needs at the borders."""
    return max(patch_size, CONTEXT + patch_size - patch_size // 2 + stride // 2)


def normal(stddev=0.02):
    """Weights drawn from N(0, 0.02) [skal]."""
    return keras.initializers.RandomNormal(stddev=stddev)


def conv_block(x, filters, config, name, kernel=3, padding="same", norm=True, dropout=0.0):
    """Convolution without bias, group normalisation, leaky ReLU 0.2, spatial dropout [skal]."""
    x = layers.Conv2D(
        filters, kernel, padding=padding, use_bias=False, kernel_initializer=normal(), name=f"{name}_conv"
    )(x)
    if norm:
        x = layers.GroupNormalization(config.width // 4, name=f"{name}_norm")(x)  # 16 groups at width 64 [skal]
    x = layers.LeakyReLU(0.2, name=f"{name}_act")(x)
    return layers.SpatialDropout2D(dropout, name=f"{name}_drop")(x) if dropout else x


def build_generator(config):
    """G: latents `[B, h, w, L]` to images `[B, 8 (h + b - 1), 8 (w + b - 1), C]` in [-1, 1]; b = patch_size / 8."""
    z = keras.Input((None, None, config.latent_size), name="latents")
    x = layers.Conv2DTranspose(
        4 * config.width, config.patch_size // CELL, use_bias=False, kernel_initializer=normal(), name="unfold"
    )(z)
    x = layers.GroupNormalization(config.width // 4, name="unfold_norm")(x)
    x = layers.LeakyReLU(0.2, name="unfold_act")(x)
    x = layers.SpatialDropout2D(config.dropout, name="unfold_drop")(x)
    for i, multiple in enumerate((4, 2, 1), 1):
        x = layers.UpSampling2D(2, name=f"up{i}")(x)
        x = conv_block(x, multiple * config.width, config, f"g{i}a")
        x = conv_block(x, multiple * config.width, config, f"g{i}b", dropout=config.dropout)
    x = ReflectionPadding2D(2, name="reflect")(x)
    image = layers.Conv2D(
        config.channels, 5, use_bias=False, activation="tanh", kernel_initializer=normal(), name="image"
    )(x)
    return keras.Model(z, image, name="generator")


def build_encoder(config):
    """E: images `[B, 8 h, 8 w, C]` to latents `[B, h - b + 1, w - b + 1, L]`, linear; one latent for one patch."""
    image = keras.Input((None, None, config.channels), name="images")
    x = image
    for i, multiple in enumerate((1, 2, 4), 1):
        x = conv_block(x, multiple * config.width, config, f"e{i}a", norm=i > 1)
        x = conv_block(x, multiple * config.width, config, f"e{i}b", dropout=config.dropout)
        x = layers.AveragePooling2D(2, name=f"pool{i}")(x)
    x = conv_block(x, 4 * config.width, config, "fold", kernel=config.patch_size // CELL, padding="valid")
    z = layers.Conv2D(config.latent_size, 1, use_bias=False, kernel_initializer=normal(), name="latents")(x)
    return keras.Model(image, z, name="encoder")


def build_latent_branch(config):
    """D's latent branch: latents `[B, h, w, L]` to one channel `[B, 8 (h + b - 1), 8 (w + b - 1), 1]` (sub-pixel)."""
    z = keras.Input((None, None, config.latent_size), name="latents")
    orthogonal = keras.initializers.Orthogonal
    x = layers.Conv2DTranspose(
        1, config.patch_size // CELL, use_bias=False, kernel_initializer=orthogonal(), name="unfold"
    )(z)
    x = layers.Conv2D(CELL**2, 1, use_bias=False, kernel_initializer=orthogonal(), name="spread")(x)
    x = layers.SpatialDropout2D(config.latent_dropout, name="drop")(x)
    return keras.Model(z, DepthToSpace(CELL, name="sub_pixel")(x), name="latent_branch")


def build_trunk(config):
    """D's trunk: pairs `[B, 8 h, 8 w, C + 1]` to linear outputs `[B, h - b + 1, w - b + 1, 1]`; no normalisation."""
    pair = keras.Input((None, None, config.channels + 1), name="pairs")
    x = pair
    for i, multiple in enumerate((1, 2, 4), 1):
        x = conv_block(x, multiple * config.width, config, f"d{i}a", norm=False)
        x = conv_block(x, multiple * config.width, config, f"d{i}b", norm=False, dropout=config.dropout)
        x = layers.AveragePooling2D(2, name=f"pool{i}")(x)
    x = layers.Conv2D(1, config.patch_size // CELL, use_bias=False, kernel_initializer=normal(), name="head_conv")(x)
    return keras.Model(pair, layers.SpatialDropout2D(config.dropout, name="head_drop")(x), name="trunk")


def build_discriminator(config, latent_branch, trunk):
    """D: (images, latents) to linear outputs, one for a patch: the latent branch's channel joins the image."""
    image = keras.Input((None, None, config.channels), name="images")
    z = keras.Input((None, None, config.latent_size), name="latents")
    pair = layers.Concatenate(name="pair")([image, latent_branch(z)])  # [B, H, W, C + 1]
    return keras.Model([image, z], trunk(pair), name="discriminator")


def footprint_counts(height, width, patch_size):
    """How many latents of a whole image reach each pixel: float32 `[1, height, width, 1]`, 1 for a single patch.

    E leaves one latent for every 8 pixels; each covers a patch. Inside a large image (patch_size / 8)^2 overlap.

    Args:
        height, width: pixels, multiples of 8, at least `patch_size`; numbers or integer scalars of a graph.
        patch_size: pixels.
    """

    def along(length):
        kernel = patch_size // CELL
        cells = ops.arange(length // CELL)
        reach = ops.minimum(ops.minimum(cells + 1, length // CELL - cells), kernel)
        return ops.cast(ops.repeat(ops.minimum(reach, length // CELL - kernel + 1), CELL), "float32")

    return (along(height)[:, None] * along(width)[None])[None, :, :, None]


class FCBiGAN(Detector):
    """The method: `fit` (through `ganspect.training`), `calibrate` on held-out normal images, then score.

    >>> detector = FCBiGAN(FCBiGANConfig(channels=1, width=16))
    >>> detector.compile()
    """

    fitted = True
    loss_names = ("d_loss", "g_loss", "e_loss", "reconstruction_mae", "d_real", "d_fake")
    panel_maps = ("l_r", "l_d")

    def __init__(self, config=None):
        """Builds the networks; sets the global random seed to `config.seed`, so equal configs give equal weights."""
        super().__init__(name="fcbigan")
        self.config = config or FCBiGANConfig()
        chosen = self.config.aggregation
        self.score_names = (chosen, *(name for name in AGGREGATIONS if name != chosen))
        keras.utils.set_random_seed(self.config.seed)
        self.generator = build_generator(self.config)  # G
        self.encoder = build_encoder(self.config)  # E
        self.latent_branch = build_latent_branch(self.config)
        self.trunk = build_trunk(self.config)
        self.discriminator = build_discriminator(self.config, self.latent_branch, self.trunk)  # D
        self.noise = keras.random.SeedGenerator(self.config.seed)
        # L_R, L_D of normal pixels: means [2] and covariance [2, 2]; the z-score constants are means and deviations.
        self.loss_means = self.add_weight(shape=(2,), initializer="zeros", trainable=False, name="loss_means")
        self.loss_covariance = self.add_weight(
            shape=(2, 2), initializer="identity", trainable=False, name="loss_covariance"
        )
        self.built = True
        self._compiled_evidence = {}
        self._compiled_filter = self.compile_inference(lambda x: maps.mean_filter(x, self.config.filter_size))

    def compile(self):
        """Makes and builds the three Adam optimisers [skal]."""
        c = self.config

        def adam(rate):
            return optimizers.Adam(rate, c.beta_1, c.beta_2)

        self.finish_compile(
            {
                "discriminator": (adam(c.discriminator_rate), [self.discriminator]),
                "generator": (adam(c.generator_rate), [self.generator]),
                "encoder": (adam(c.encoder_rate), [self.encoder]),
            }
        )

    def draw_latents(self, count, height=1, width=1):
        """z ~ N(0, I): float32 `[count, height, width, L]` from the model's own seed."""
        return self.drawn(keras.random.normal, count, height, width, self.config.latent_size)

    def step(self, images):
        """One batch, in the order of the author's code: D with a first z; then, with the new D and a second z, G and E.

        Args:
            images: float32 `[B, patch_size, patch_size, C]` in [-1, 1].

        Returns:
            Scalars by `loss_names`: the three losses, the reconstruction error, D's mean output on real and fake pairs.
        """
        c = self.config
        images = ops.convert_to_tensor(images)
        count = ops.shape(images)[0]
        z = self.draw_latents(count)

        def discriminator_loss():
            codes = self.encoder(images, training=True)
            fakes = self.generator(z, training=True)
            real = self.discriminator([images, codes], training=True)
            fake = self.discriminator([fakes, z], training=True)
            return {
                "d_loss": 0.5 * (losses.least_squares(real, 1.0) + losses.least_squares(fake, 0.0)),  # eq. 5
                "d_real": ops.mean(real),
                "d_fake": ops.mean(fake),
            }

        logs = self.minimise(discriminator_loss, {"d_loss": ([self.discriminator], self.optimizers["discriminator"])})

        z = self.draw_latents(count)

        def generator_encoder_losses():
            fakes = self.generator(z, training=True)
            codes = self.encoder(images, training=True)
            error = losses.mean_absolute_error(images, self.generator(codes, training=True))
            fake = self.discriminator([fakes, z], training=True)
            real = self.discriminator([images, codes], training=True)
            return {
                "g_loss": losses.least_squares(fake, 1.0) + c.generator_reconstruction_weight * error,  # eq. 5
                "e_loss": losses.least_squares(real, 0.0) + c.reconstruction_weight * error,  # eq. 6
                "reconstruction_mae": error,
            }

        updates = {
            "g_loss": ([self.generator], self.optimizers["generator"]),
            "e_loss": ([self.encoder], self.optimizers["encoder"]),
        }
        return {**logs, **self.minimise(generator_encoder_losses, updates)}

    def examine(self, images):
        """D's outputs on a batch and on what G makes, for its health: see `Detector`."""
        images = ops.convert_to_tensor(images)
        z = ops.convert_to_tensor(self.fixed_latents(images.shape[0], 1, 1, self.config.latent_size))
        made = self.generator(z, training=False)
        real = self.discriminator([images, self.encoder(images, training=False)], training=False)
        fake = self.discriminator([made, z], training=False)
        return {
            "real": ops.mean(real, axis=(1, 2, 3)),
            "fake": ops.mean(fake, axis=(1, 2, 3)),
            "images": images,
            "made": made,
        }

    def sample(self, height, width, seed=0):
        """One generated image of any size (thesis 4.2): float32 `[height, width, C]` in [-1, 1].

        Args:
            height, width: pixels, multiples of 8, at least `patch_size`.
            seed: of the latents.

        Raises:
            ValueError: the size cannot be made of 8x8 cells.
        """
        extra = self.config.patch_size // CELL - 1
        if height % CELL or width % CELL or min(height, width) < self.config.patch_size:
            raise ValueError(
                f"height and width must be multiples of {CELL}, at least {self.config.patch_size}: {height}x{width}"
            )
        shape = (1, height // CELL - extra, width // CELL - extra, self.config.latent_size)
        z = np.random.default_rng(seed).standard_normal(shape, dtype="float32")
        return self.compile_inference(lambda latents: self.generator(latents, training=False))(z)[0]

    def generated(self, height, width):
        """One generated image of about this size, in a list."""
        return [self.sample(height - height % CELL, width - width % CELL)]

    def reconstruct(self, images):
        """G(E(x)) of whole images: float `[B, H, W, C]` in [-1, 1] to the same shape; H, W at least `patch_size`."""
        height, width = images.shape[1:3]
        padded = maps.pad_to_multiple(images, CELL)
        return self.generator(self.encoder(padded, training=False), training=False)[:, :height, :width]

    def pixel_losses(self, images, stride=None):
        """L_R and L_D of every pixel (thesis 4.2).

        L_D's network slides over the fixed two-channel image [x, up(E(x))], as in the thesis' shift-and-stitch.

        Args:
            images: float `[B, H, W, C]` in [-1, 1]; H and W at least `least_side(patch_size, stride)`.
            stride: of D's map (`config.map_stride` by default); a strided map is enlarged bilinearly before squaring.

        Returns:
            `{"reconstruction": G(E(x)) [B, H, W, C], "l_r": [B, H, W], "l_d": [B, H, W]}`, losses >= 0.
        """
        stride = stride or self.config.map_stride
        height, width = ops.shape(images)[1:3]
        padded = maps.pad_to_multiple(images, CELL)
        codes = self.encoder(padded, training=False)
        rebuilt = self.generator(codes, training=False)
        spread = self.latent_branch(codes, training=False)
        if self.config.latent_overlap == "mean":
            spread = spread / footprint_counts(*ops.shape(padded)[1:3], self.config.patch_size)
        pair = ops.concatenate([padded, spread], axis=-1)  # [B, H', W', C + 1]
        outputs = maps.enlarge(maps.dense_map(pair, *self.trunk_kernels(), stride), stride)
        l_r = ops.mean(ops.square(padded - rebuilt), axis=-1)
        l_d = ops.square(outputs - 1.0)
        return {
            "reconstruction": rebuilt[:, :height, :width],
            "l_r": l_r[:, :height, :width],
            "l_d": l_d[:, :height, :width],
        }

    def trunk_kernels(self):
        """The kernels of D's trunk as `maps.dense_map` takes them: stages and head."""
        stages = [[self.trunk.get_layer(f"d{i}{j}_conv").kernel for j in "ab"] for i in (1, 2, 3)]
        return stages, self.trunk.get_layer("head_conv").kernel

    def evidence(self, image, stride=None):
        """`pixel_losses` of one uint8 image `[H, W, C]`, compiled: NumPy arrays without the batch axis.

        Raises:
            ValueError: the image is smaller than `least_side` or has another number of channels.
        """
        stride = stride or self.config.map_stride
        least = least_side(self.config.patch_size, stride)
        if image.ndim != 3 or image.shape[-1] != self.config.channels or min(image.shape[:2]) < least:
            raise ValueError(
                f"expected [H, W, {self.config.channels}] with H and W at least {least}, got {image.shape}"
            )
        if stride not in self._compiled_evidence:
            self._compiled_evidence[stride] = self.compile_inference(
                lambda x: self.pixel_losses(self.prepare(x), stride)
            )
        return {name: array[0] for name, array in self._compiled_evidence[stride](image[None]).items()}

    def calibrate(self, images, stride=None):
        """Sets the z-score constants and the covariance from normal images that training did not see (decision 1g).

        Args:
            images: uint8 arrays `[H, W, C]`, at least one.
            stride: of D's map.

        Raises:
            ValueError: there is no image.
        """
        if not len(images):
            raise ValueError("calibrate needs at least one normal image")
        count, total, products = 0, np.zeros(2), np.zeros((2, 2))
        for image in images:
            found = self.evidence(image, stride)
            pixels = np.stack([found["l_r"].ravel(), found["l_d"].ravel()]).astype("float64")  # [2, pixels]
            count, total, products = count + pixels.shape[1], total + pixels.sum(1), products + pixels @ pixels.T
        means = total / count
        self.loss_means.assign(means.astype("float32"))
        self.loss_covariance.assign((products / count - np.outer(means, means)).astype("float32"))

    def aggregate(self, l_r, l_d, aggregation=None):
        """Joins the two losses of each pixel into one anomaly, not yet smoothed.

        Args:
            l_r, l_d: float `[..., H, W]`.
            aggregation: "max" of the z-scores (thesis 5.2), "linear" (eq. 7 on the z-scores), "mahalanobis" distance
                to the normal pixels, "reconstruction" (z-score of L_R alone) or "discriminator" (of L_D alone).

        Returns:
            float `[..., H, W]`, higher is more anomalous.
        """
        aggregation = aggregation or self.config.aggregation
        means, covariance = ops.convert_to_numpy(self.loss_means), ops.convert_to_numpy(self.loss_covariance)
        z_r, z_d = z_scores(l_r, l_d, means, covariance, np)
        if aggregation == "max":
            return np.maximum(z_r, z_d)
        if aggregation == "linear":
            return (1 - self.config.linear_weight) * z_r + self.config.linear_weight * z_d
        if aggregation == "mahalanobis":
            inverse = np.linalg.inv(covariance.astype("float64") + 1e-12 * np.eye(2))
            r, d = l_r - means[0], l_d - means[1]
            return np.sqrt(inverse[0, 0] * r * r + 2 * inverse[0, 1] * r * d + inverse[1, 1] * d * d).astype("float32")
        return {"reconstruction": z_r, "discriminator": z_d}[aggregation]

    def map_from(self, evidence, name=None):
        """The mean filter over the aggregated losses (thesis 5.2; decision 1h: in this order).

        Args:
            evidence: from `evidence`.
            name: an aggregation; `config.aggregation` by default.

        Returns:
            float32 `[H, W]`.
        """
        pixels = self.aggregate(evidence["l_r"], evidence["l_d"], name)
        return self._compiled_filter(pixels[None])[0]

    @property
    def tiling(self):
        """Nearly local: group normalisation takes its statistics of the whole of what it sees."""
        return {"context": 2 * self.config.patch_size + self.config.filter_size, "alignment": CELL, "exact": False}

    @property
    def smallest(self):
        """Least side of an image that is exported for, pixels; half a window of the mean filter must fit as well."""
        return max(least_side(self.config.patch_size, self.config.map_stride), -(-self.config.filter_size // 2))

    def answer(self, images):
        """The headline map of images in 0..255 and its maximum; see `Detector`.

        Raises:
            ValueError: the aggregation is "mahalanobis", which is for tables alone.
        """
        kind = self.config.aggregation
        if kind == "mahalanobis":
            raise ValueError('a model with the aggregation "mahalanobis" cannot be exported')
        found = self.pixel_losses(self.prepare(images))
        means, covariance = (ops.convert_to_tensor(v) for v in (self.loss_means, self.loss_covariance))
        z_r, z_d = z_scores(found["l_r"], found["l_d"], means, covariance, ops)
        joined = {
            "max": ops.maximum(z_r, z_d),
            "linear": (1 - self.config.linear_weight) * z_r + self.config.linear_weight * z_d,
            "reconstruction": z_r,
            "discriminator": z_d,
        }
        heat = maps.mean_filter(joined[kind], self.config.filter_size)
        score = ops.max(heat, axis=(1, 2))
        return {"score": score, "anomaly_map": heat, "peaks": heat, "reconstruction": found["reconstruction"]}


def z_scores(l_r, l_d, means, covariance, library):
    """L_R and L_D in standard deviations of normal pixels, by `numpy` or by `keras.ops`."""
    deviations = library.sqrt(library.maximum(library.diag(covariance), 1e-12))
    return (l_r - means[0]) / deviations[0], (l_d - means[1]) / deviations[1]
