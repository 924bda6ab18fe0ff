"""f-AnoGAN: a Wasserstein GAN, then an encoder into its latent space (T. Schlegl, P. Seeboeck, S. M. Waldstein,
G. Langs, U. Schmidt-Erfurth, Medical Image Analysis 54, 2019).

*f-AnoGAN: Fast Unsupervised Anomaly Detection with Generative Adversarial Networks*. Two phases, in the second G and D
are frozen; z ~ N(0, I), f(x) are the activations that D's last, linear layer reads:
    "gan"      L_D = mean[D(G(z)) - D(x)] + w GP       -> `FAnoGAN.step`, `losses.unit_norm_penalty`
               L_G = -mean D(G(z))                     -> `FAnoGAN.step`
    "encoder"  L_E = mean (x - G(E(x)))^2 + kappa mean (f(x) - f(G(E(x))))^2
                                                       -> `FAnoGAN.step`, `losses.mean_squared_error`; "izi_f"
    A = the same sum for one image                     -> `FAnoGAN.patch_evidence`, `FAnoGAN.score_from`

Input: images in [-1, 1]. Trained on patches, or on images of the patch's size; larger images are tested on overlapping
patches. Scores: "anomaly", the highest A of a patch; "residual", the maximum of the map, in which overlapping
(x - G(E(x)))^2 are averaged.

Sources of what the paper leaves open: the authors' code at its head (tSchlegl/f-AnoGAN, after
igul222/improved_wgan_training), tagged [code], and decision 1p of this project's notes.

Normalisation. D: over all elements of a sample, then a scale and an offset of each channel [code]. G and E: batch
normalisation [code]. G runs on its batch's statistics in phase "gan" and on its moving ones afterwards, E on its
batch's in training and on its moving ones in scores [code]. What moves G's statistics: each of its passes in phase
"gan", critic_steps + 1 a step; in the code only the one that trains it. Nothing moves them in phase "encoder".

Departures: one `step` is a whole cycle, critic_steps updates of D and one of G, or critic_steps updates of E, so that
both phases take batches of one size; G is updated after D's batches, in the code before them, but for the first time;
RMSprop's mean square starts at 0, TensorFlow 1's at 1, which damps the first hundred updates of the code's E.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from ganspect.models import losses, maps, optimizers
from ganspect.models.detector import Detector
from ganspect.models.devices import share
from ganspect.models.precision import full
from ganspect.models.settings import check_settings

PHASES = ("gan", "encoder")
SCORES = ("anomaly", "residual")
STAGES = (2, 4, 8, 8)  # [code] filters of the blocks of D and E in units of the width; G mirrors them
COARSEST = 4  # [code] side of the smallest features, pixels
CHUNK = 64  # patches of one image that are scored at once


@dataclass(frozen=True)
class FAnoGANConfig:
    """Settings; the defaults are those of the authors' code where it has them."""

    channels: int = 1  # [code] 3 for MVTec AD
    image_size: int = 0  # [ours] 0: images as they are; else resized to this square before patches are cut, pixels
    patch_size: int = 64  # [code] what the networks see, pixels; 32: without the blocks next to the 4x4 features
    width: int = 64  # [code] filters of D's first convolution
    latent_size: int = 128  # [code]
    penalty_weight: float = 10.0  # [code]
    critic_steps: int = 5  # [code] batches for D before one update of G
    rate: float = 1e-4  # [code] of both Adam optimisers
    beta_1: float = 0.0  # [code]
    beta_2: float = 0.9  # [code]
    kappa: float = 1.0  # [code] weight of the features' error, in E's loss and in the score
    encoder_rate: float = 5e-5  # [code] of RMSprop
    batch_size: int = 64  # [code]
    generator_steps_per_epoch: int = 1000  # [ours: reporting and checkpoint unit] steps in an epoch of either phase
    gan_epochs: int = 22  # [ours: the code's 7 passes over an unknown number of images, here over a million of patches]
    encoder_epochs: int = 10  # [code] 50 000 updates of E
    score: str = "anomaly"  # [paper] the score that comes first; "residual": the map's, for tables of pixels
    map_stride: int = 16  # [decision 1p] between neighbouring patches of a tested image, pixels
    seed: int = 0  # [ours] of weights, batches and noise; the sources name none

    def __post_init__(self):
        check_settings(self)
        if self.patch_size not in (32, 64):
            raise ValueError(f"patch_size must be 32 or 64, not {self.patch_size}")
        if self.image_size and self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is neither 0 nor at least patch_size {self.patch_size}")
        counts = ("width", "latent_size", "critic_steps", "batch_size", "generator_steps_per_epoch")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("penalty_weight", "kappa", "gan_epochs", "encoder_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, not {self.score!r}")
        if not self.epochs:
            raise ValueError("gan_epochs and encoder_epochs must not both be 0")
        maps.check_stride(self.map_stride, self.patch_size)

    @property
    def epochs(self):
        """Epochs of both phases together."""
        return self.gan_epochs + self.encoder_epochs

    @property
    def images_per_step(self):
        """Images in what one `step` takes, in either phase."""
        return self.critic_steps * self.batch_size


def stages(config):
    """Filters of the blocks of D and E, from the image to 4x4; each block halves its images."""
    halvings = int(math.log2(config.patch_size // COARSEST))
    return [multiple * config.width for multiple in STAGES[:halvings]]


def convolution(filters, name, **settings):
    """A 3x3 convolution; its kernel is uniform with variance 4 / (inputs + outputs) [code]."""
    kernel = keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform")
    return layers.Conv2D(filters, 3, padding="same", kernel_initializer=kernel, name=name, **settings)


def batch_norm(name):
    """The normalisation of G and E."""
    return layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)  # [code] TensorFlow's own


def sample_norm(name):
    """The normalisation of D: one mean and variance for all elements of a sample."""
    return layers.GroupNormalization(1, epsilon=1e-5, name=name)  # [code]


def down_block(x, filters, norm, name):
    """Residual block, activated before its convolutions, averaged to half the side [code]."""
    shortcut = layers.AveragePooling2D(2, name=f"{name}_shortcut_pool")(x)
    shortcut = layers.Conv2D(filters, 1, name=f"{name}_shortcut")(shortcut)
    inputs = x.shape[-1]
    x = layers.ReLU(name=f"{name}_act1")(norm(f"{name}_norm1")(x))
    x = convolution(inputs, f"{name}_conv1", use_bias=False)(x)
    x = layers.ReLU(name=f"{name}_act2")(norm(f"{name}_norm2")(x))
    x = convolution(filters, f"{name}_conv2")(x)
    x = layers.AveragePooling2D(2, name=f"{name}_pool")(x)
    return layers.Add(name=f"{name}_add")([shortcut, x])


def up_block(x, filters, name):
    """Residual block, activated before its convolutions, repeated to twice the side [code].

    The shortcut's 1x1 convolution comes before the repetition, in the code after it: the same numbers.
    """
    shortcut = layers.Conv2D(filters, 1, name=f"{name}_shortcut")(x)
    shortcut = layers.UpSampling2D(2, name=f"{name}_shortcut_up")(shortcut)
    x = layers.ReLU(name=f"{name}_act1")(batch_norm(f"{name}_norm1")(x))
    x = layers.UpSampling2D(2, name=f"{name}_up")(x)
    x = convolution(filters, f"{name}_conv1", use_bias=False)(x)
    x = layers.ReLU(name=f"{name}_act2")(batch_norm(f"{name}_norm2")(x))
    x = convolution(filters, f"{name}_conv2")(x)
    return layers.Add(name=f"{name}_add")([shortcut, x])


def build_generator(config):
    """G: latents `[B, L]` to images `[B, p, p, C]` in (-1, 1)."""
    z = keras.Input((config.latent_size,), name="latents")
    deepest, *others = reversed(stages(config))
    x = layers.Dense(COARSEST**2 * deepest, name="dense")(z)
    x = layers.Reshape((COARSEST, COARSEST, deepest), name="reshape")(x)
    for i, filters in enumerate((*others, config.width), 1):
        x = up_block(x, filters, f"g{i}")
    x = layers.ReLU(name="act")(batch_norm("norm")(x))
    x = convolution(config.channels, "image")(x)
    return keras.Model(z, layers.Activation("tanh", name="tanh")(x), name="generator")


def image_path(image, config, norm, letter):
    """The body of D and E: images `[B, p, p, C]` to what their dense layer reads, `[B, 16 F]`."""
    x = layers.Conv2D(config.width, 3, padding="same", name="conv")(image)
    for i, filters in enumerate(stages(config), 1):
        x = down_block(x, filters, norm, f"{letter}{i}")
    return layers.Flatten(name="features")(x)


def build_discriminator(config):
    """D: images `[B, p, p, C]` to linear outputs `[B, 1]` and features f `[B, 16 F]`."""
    image = keras.Input((config.patch_size, config.patch_size, config.channels), name="images")
    features = image_path(image, config, sample_norm, "d")
    return keras.Model(image, [layers.Dense(1, name="output")(features), features], name="discriminator")


def build_encoder(config):
    """E: images `[B, p, p, C]` to latents `[B, L]` in (-1, 1), one deviation of the prior [paper, code]."""
    image = keras.Input((config.patch_size, config.patch_size, config.channels), name="images")
    x = image_path(image, config, batch_norm, "e")
    return keras.Model(image, layers.Dense(config.latent_size, activation="tanh", name="latents")(x), name="encoder")


class FAnoGAN(Detector):
    """The method: train with `ganspect.training.fit`, which changes the phase, then score images.

    >>> detector = FAnoGAN(FAnoGANConfig(channels=3))
    >>> detector.compile()
    """

    phase = "gan"
    loss_names = ("d_loss", "penalty", "d_real", "d_fake", "g_loss", "e_loss", "reconstruction_mse", "feature_mse")
    map_names = ("residual",)
    panel_maps = ("residual", None)

    def __init__(self, config=None):
        """Builds the networks; sets the global random seed to `config.seed`, so equal configs give equal weights."""
        super().__init__(name="fanogan")
        self.config = config or FAnoGANConfig()
        self.score_names = tuple(sorted(SCORES, key=lambda name: name != self.config.score))
        keras.utils.set_random_seed(self.config.seed)
        self.generator = build_generator(self.config)  # G
        self.discriminator = build_discriminator(self.config)  # D
        self.encoder = build_encoder(self.config)  # E
        self.noise = keras.random.SeedGenerator(self.config.seed)
        self.built = True
        self._compiled_evidence = None

    def compile(self):
        """Makes and builds Adam for G and for D, RMSprop for E, with the constants of TensorFlow 1 [code]."""
        c = self.config
        generator, critic = (optimizers.Adam(c.rate, c.beta_1, c.beta_2, epsilon=1e-8) for _ in range(2))
        encoder = keras.optimizers.RMSprop(c.encoder_rate, rho=0.9, epsilon=1e-10)
        self.finish_compile(
            {
                "generator": (generator, [self.generator]),
                "discriminator": (critic, [self.discriminator]),
                "encoder": (encoder, [self.encoder]),
            }
        )

    def phase_at(self, epoch):
        """Phase of an epoch: the GAN's for the first `gan_epochs`, then the encoder's."""
        return PHASES[epoch >= self.config.gan_epochs]

    def draw(self, count):
        """z ~ N(0, I) `[count, L]` and epsilon ~ U(0, 1) `[count, 1]` from the model's own seed."""
        z = self.drawn(keras.random.normal, count, self.config.latent_size)
        return z, self.drawn(keras.random.uniform, count, 1)

    def step(self, images):
        """Phase "gan": each batch for D, then one update of G, which needs no images; phase "encoder": each for E.

        Args:
            images: float32 `[critic_steps B, p, p, C]` in [-1, 1].

        Returns:
            Scalars by those of `loss_names` that belong to the phase, means over the batches: "gan" L_D, its penalty,
            D's mean output on images and generated ones, L_G; "encoder" L_E and its two parts.
        """
        c = self.config

        def critic_losses(x, z, epsilon):
            fakes = full(self.generator(z, training=True))
            real = ops.mean(full(self.discriminator(x, training=True)[0]))
            fake = ops.mean(full(self.discriminator(fakes, training=True)[0]))
            wide = epsilon[:, :, None, None]  # [B, 1, 1, 1]
            between = wide * fakes + (1 - wide) * x
            slopes = self.input_gradient(lambda y: self.discriminator(y, training=True)[0], between)
            penalty = losses.unit_norm_penalty(*slopes)
            total = fake - real + c.penalty_weight * penalty
            return {"d_loss": total, "penalty": penalty, "d_real": real, "d_fake": fake}

        def generator_loss(z):
            return {"g_loss": -ops.mean(full(self.discriminator(self.generator(z, training=True), training=True)[0]))}

        def encoder_losses(x):
            rebuilt = self.generator(self.encoder(x, training=True), training=False)
            _, features = self.discriminator(x, training=False)
            _, rebuilt_features = self.discriminator(rebuilt, training=False)
            error = losses.mean_squared_error(x, rebuilt)
            feature_error = losses.mean_squared_error(features, rebuilt_features)
            total = error + c.kappa * feature_error
            return {"e_loss": total, "reconstruction_mse": error, "feature_mse": feature_error}

        def train_critic(x):
            z, epsilon = self.draw(share(c.batch_size))
            update = {"d_loss": ([self.discriminator], self.optimizers["discriminator"])}
            return self.minimise(lambda: critic_losses(x, z, epsilon), update)

        def train_encoder(x):
            return self.minimise(lambda: encoder_losses(x), {"e_loss": ([self.encoder], self.optimizers["encoder"])})

        images = ops.convert_to_tensor(images)
        batches = ops.reshape(images, (c.critic_steps, share(c.batch_size), *images.shape[1:]))
        if self.phase == "encoder":
            return self.each(train_encoder, batches)
        logs = self.each(train_critic, batches)
        z, _ = self.draw(share(c.batch_size))
        update = {"g_loss": ([self.generator], self.optimizers["generator"])}
        return logs | self.minimise(lambda: generator_loss(z), update)

    def reconstruct(self, patches):
        """G(E(x)): float `[B, p, p, C]` in [-1, 1] to the same shape."""
        return self.generator(self.encoder(patches, training=False), training=False)

    def examine(self, images):
        """D's outputs on a batch and on what G makes, for its health: see `Detector`."""
        images = ops.convert_to_tensor(images)
        made = self.generator(self.fixed_latents(images.shape[0], self.config.latent_size), training=False)
        return self.examine_images(images, made)

    def sample(self, count, seed=0):
        """Generated images, G on its moving statistics: float32 `[count, p, p, C]` in [-1, 1]."""
        z = np.random.default_rng(seed).standard_normal((count, self.config.latent_size), dtype="float32")
        return ops.convert_to_numpy(self.generator(z, training=False))

    def generated(self, height, width):
        """Eight generated patches; the size is the networks' own."""
        return list(self.sample(8))

    def patch_evidence(self, patches):
        """Reconstruction, errors and A of patches.

        Args:
            patches: float `[B, p, p, C]` in [-1, 1].

        Returns:
            `{"reconstruction": [B, p, p, C], "residual": [B, p, p] (mean over channels), "anomaly": [B]}`.
        """
        rebuilt = self.reconstruct(patches)
        _, features = self.discriminator(patches, training=False)
        _, rebuilt_features = self.discriminator(rebuilt, training=False)
        residual = ops.mean(ops.square(patches - rebuilt), axis=-1)
        feature_error = ops.mean(ops.square(features - rebuilt_features), axis=-1)
        anomaly = ops.mean(residual, axis=(1, 2)) + self.config.kappa * feature_error
        return {"reconstruction": rebuilt, "residual": residual, "anomaly": anomaly}

    def evidence(self, image, stride=None):
        """Means over the overlapping patches that cover one image.

        Args:
            image: uint8 `[H, W, C]`, H and W at least `patch_size`.
            stride: between neighbouring patches, pixels; `config.map_stride` by default. The last patch of a row or
                column ends at the border.

        Returns:
            NumPy arrays `{"reconstruction": [H, W, C] in [-1, 1], "residual": [H, W], "patch_scores": [n, m]}`, A of
            each of the n rows and m columns of patches.

        Raises:
            ValueError: the image is smaller than a patch or has other channels; the stride would leave gaps.
        """
        p, stride = self.config.patch_size, self.config.map_stride if stride is None else stride
        maps.check_stride(stride, p)
        height, width, channels = image.shape
        if min(height, width) < p or channels != self.config.channels:
            raise ValueError(f"expected at least [{p}, {p}] and {self.config.channels} channels, got {[*image.shape]}")
        if self._compiled_evidence is None:
            self._compiled_evidence = self.compile_inference(lambda x: self.patch_evidence(self.prepare(x)))
        found = maps.over_patches(self._compiled_evidence, image, p, stride, CHUNK)
        found["patch_scores"] = found.pop("anomaly")
        return found

    def map_from(self, evidence, name=None):
        """(x - G(E(x)))^2 averaged over channels and overlapping patches (decision 1p): float32 `[H, W]`, >= 0."""
        return evidence["residual"]

    def scores_inside(self, name=None):
        """Whether the score is the maximum of the map; "anomaly" is one of patches."""
        return (name or self.config.score) != "anomaly"

    def score_from(self, evidence, name=None):
        """The maximum of the map, or for "anomaly" that of A over the patches."""
        chosen = "patch_scores" if (name or self.config.score) == "anomaly" else "residual"
        return float(evidence[chosen].max())

    @property
    def tiling(self):
        """Patches where they were: tiles begin where a patch does. Exact where the map is the score; else none."""
        if self.config.image_size or self.score_names[0] != "residual":
            return None
        return {"context": self.config.patch_size, "alignment": self.config.map_stride, "exact": True}

    def answer(self, images):
        """The headline score of images in 0..255 over the patches that cover them; see `Detector`."""
        found = maps.over_patches_in_graph(
            lambda x: self.patch_evidence(self.prepare(x)), images, self.config.patch_size, self.config.map_stride
        )
        heat, peaks = found["residual"], {}
        if self.score_names[0] == "residual":
            peaks = {"peaks": heat}
        highest = found["anomaly"] if not peaks else ops.max(heat, axis=(1, 2))
        return {"score": highest, "anomaly_map": heat, "reconstruction": found["reconstruction"], **peaks}
