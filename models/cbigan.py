"""CBiGAN: a BiGAN with a consistency loss (F. Carrara, G. Amato, L. Brombin, F. Falchi, C. Gennaro, ICPR 2020).

*Combining GANs and AutoEncoders for Efficient Anomaly Detection*, arXiv 2011.08102. Its losses, in order, with the
function that implements each; z ~ N(0, I), D is a critic with linear output:
    L_D = mean[D(G(z), z) - D(x, E(x))] + w GP            -> `CBiGAN.step`, `losses.unit_norm_penalty`
    L_EG = mean[D(x, E(x)) - D(G(z), z)]                  -> `CBiGAN.step`
    L_C = mean |x - G(E(x))|_1 + mean |z - E(G(z))|_1     -> `CBiGAN.step`, `losses.summed_absolute_error`
    L*_EG = (1 - alpha) L_EG + alpha L_C                  -> `CBiGAN.step`; alpha 0: BiGAN, alpha 1: autoencoder
    A = (1 - lambda) L_R + lambda L_fD                    -> `CBiGAN.patch_scores`, `CBiGAN.score_from`

Input: images in [-1, 1]. Objects are seen whole, textures in patches; the score of an image is the highest of its
patches. Scores: one number an image. The map of residuals is ours: the poster has none.

Sources of what the poster leaves open: the authors' code (fabiocarrara/cbigan-ad), tagged [code] below at its head and
[code 2020] at its first commit, and the decisions 0a to 0l of this project's notes, which the method's card
(docs/methods/cbigan.md) repeats. Departures: one `step` is a whole cycle of critic_steps + 1 batches, so that no epoch
or checkpoint ever cuts a cycle and its phase, 0 in every checkpoint, needs no variable of its own; the other side's
losses are not computed on a batch that does not train it; patches are drawn anew for every batch, each with its own
angle, where the code draws about 50 000 once and turns 32 at a time by one angle; the moving average is taken once a
cycle, with the decay that the code's decay every ten batches amounts to; images are made smaller by Pillow's bilinear
filter, which averages over the pixels that one stands for, where the code's loader takes the nearest four alone.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from ganspect.models import losses, optimizers
from ganspect.models.detector import Detector
from ganspect.models.devices import share
from ganspect.models.precision import full
from ganspect.models.settings import check_settings

STAGES = (16, 8, 4, 3, 2, 1)  # [code] filters of G's six blocks in units of the width; E and D have 1, 2, 3, 4, 8, 16
POOLED = 5  # [code] of the six blocks of E and D, all but the last end in 2x2 average pooling
SLOPE = 0.2  # [code] of every leaky ReLU
FEATURES = ("joint", "first_conv")
PAIRINGS = ("joint", "as_coded")
TOGETHER = 2**18  # pixels; in batches of so many D takes real and made images in one call [ours: `judged`]
WEIGHTS = tuple(i / 10 for i in range(11))  # [code] lambda is swept over these


@dataclass(frozen=True)
class CBiGANConfig:
    """Settings; the defaults are the authors' of January 2021 for objects (decisions 0b to 0h)."""

    channels: int = 3  # [code] grayscale categories are replicated
    image_size: int = 128  # [code] images are resized to this square, pixels; 512 for textures [decision 0g]
    patch_size: int = 128  # [code] what the networks see; below image_size: patches of it; 64 for textures
    rotation: float = 0.0  # [code] training images are turned by up to this, radians; pi for textures [decision 0g]
    width: int = 3  # [code] channel multiplier; the poster's is not known [decision 0d]
    latent_size: int = 64  # [code]
    bias: bool = False  # [code] a flag that is never set: most layers have no bias [decision 0j]
    alpha: float = 1e-5  # [code] for errors summed over a sample and averaged over the batch [decision 0b]
    penalty_weight: float = 10.0  # [code]
    penalty_pairing: str = "joint"  # [decision 0f] "as_coded" interpolates x with G(z) but z with E(x)
    critic_steps: int = 5  # [code] batches for D before one for G and E; 0: one for all; below 0: roles exchanged
    rate: float = 1e-4  # [code] of both Adam optimisers
    beta_1: float = 0.0  # [code] of both
    mapping_beta_2: float = 0.1  # [code] of G and E: really 0.1 [decision 0c]
    critic_beta_2: float = 0.9  # [code]
    ema_decay: float = 0.999  # [code] moving average of G and E, used for scoring [decision 0i]; 0: their last weights
    ema_batches: int = 10  # [code] the decay belongs to this many batches
    batch_size: int = 32  # [code]
    cycles_per_epoch: int = 1000  # [ours: reporting and checkpoint unit; 6000 batches]
    epochs: int = 200  # [code] 1 200 000 batches in all
    feature: str = "joint"  # [decision 0e] D's dense layer before the output; "first_conv" as coded
    score_weight: float = 0.1  # [code] lambda
    seed: int = 0  # [ours] of weights, batches and noise; the sources name none

    def __post_init__(self):
        check_settings(self)
        if self.patch_size not in (32, 64, 128):
            raise ValueError(f"patch_size must be 32, 64 or 128, not {self.patch_size}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        counts = ("width", "latent_size", "ema_batches", "batch_size", "cycles_per_epoch", "epochs")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.penalty_weight < 0:
            raise ValueError(f"penalty_weight must not be negative, not {self.penalty_weight}")
        if self.score_weight not in WEIGHTS:
            raise ValueError(f"score_weight must be one of {', '.join(map(str, WEIGHTS))}, not {self.score_weight}")
        if self.feature not in FEATURES:
            raise ValueError(f"feature must be one of {', '.join(FEATURES)}, not {self.feature!r}")
        if self.penalty_pairing not in PAIRINGS:
            raise ValueError(f"penalty_pairing must be one of {', '.join(PAIRINGS)}, not {self.penalty_pairing!r}")

    @property
    def batches_per_step(self):
        """Batches in one cycle: each trains either D or G and E (all three where critic_steps is 0)."""
        return abs(self.critic_steps) + 1

    @property
    def images_per_step(self):
        return self.batches_per_step * self.batch_size


PRESETS = {
    "2021": {},
    # [code 2020] first commit, October 2020; the losses of D had other forms then, which are not built
    "2020": dict(
        alpha=1e-4, penalty_weight=2.5, critic_steps=1, mapping_beta_2=0.099, critic_beta_2=0.909, ema_decay=0.0,
        epochs=100,
    ),
    "wide": dict(width=32),
}  # fmt: skip


def residual_block(x, filters, bias, name):
    """1x1 shortcut plus 3x3, 3x3, 1x1 convolutions, activated after the addition [code].

    Only the last convolution always has a bias. Returns the block's output and that of its first 3x3 convolution.
    """
    shortcut = layers.Conv2D(filters, 1, use_bias=bias, name=f"{name}_shortcut")(x)
    first = layers.Conv2D(filters, 3, padding="same", use_bias=bias, name=f"{name}_conv1")(x)
    x = layers.LeakyReLU(SLOPE, name=f"{name}_act1")(first)
    x = layers.Conv2D(filters, 3, padding="same", use_bias=bias, name=f"{name}_conv2")(x)
    x = layers.LeakyReLU(SLOPE, name=f"{name}_act2")(x)
    x = layers.Conv2D(filters, 1, name=f"{name}_conv3")(x)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.LeakyReLU(SLOPE, name=f"{name}_act")(x), first


def build_generator(config, name="generator"):
    """G: latents `[B, L]` to images `[B, p, p, C]` in (-1, 1)."""
    z = keras.Input((config.latent_size,), name="latents")
    x = layers.Dense(4 * 16 * config.width, use_bias=config.bias, name="dense")(z)
    x = layers.Reshape((2, 2, 16 * config.width), name="reshape")(x)
    enlarged = int(math.log2(config.patch_size)) - 1  # 128 px: all six blocks; 64: not the first; 32: not the first two
    for i, multiple in enumerate(STAGES):
        if i >= len(STAGES) - enlarged:
            x = layers.UpSampling2D(2, interpolation="bilinear", name=f"up{i + 1}")(x)
        x, _ = residual_block(x, multiple * config.width, config.bias, f"g{i + 1}")
    image = layers.Conv2D(config.channels, 1, activation="tanh", name="image")(x)
    return keras.Model(z, image, name=name)


def image_path(image, config, letter):
    """The six blocks of E and D: `[B, p, p, C]` to `[B, p^2 / 64 w]`, flat. Returns also the first 3x3 convolution."""
    x, firsts = image, []
    for i, multiple in enumerate(reversed(STAGES)):
        x, first = residual_block(x, multiple * config.width, config.bias, f"{letter}{i + 1}")
        firsts.append(first)
        if i < POOLED:
            x = layers.AveragePooling2D(2, name=f"pool{i + 1}")(x)
    return layers.Flatten(name="flatten")(x), firsts[0]


def build_encoder(config, name="encoder"):
    """E: images `[B, p, p, C]` to latents `[B, L]`, linear."""
    image = keras.Input((config.patch_size, config.patch_size, config.channels), name="images")
    x, _ = image_path(image, config, "e")
    x = layers.Dense(16 * config.width, use_bias=config.bias, name="dense")(x)
    x = layers.LeakyReLU(SLOPE, name="act")(x)
    return keras.Model(image, layers.Dense(config.latent_size, name="latents")(x), name=name)


def build_discriminator(config):
    """D: images `[B, p, p, C]` and latents `[B, L]` to linear outputs `[B, 1]` and the feature f_D."""
    image = keras.Input((config.patch_size, config.patch_size, config.channels), name="images")
    z = keras.Input((config.latent_size,), name="latents")
    y = z
    for i in (1, 2, 3):
        y = layers.Dense(512, use_bias=config.bias, name=f"latent{i}")(y)
        y = layers.LeakyReLU(SLOPE, name=f"latent{i}_act")(y)
    x, first = image_path(image, config, "d")
    joint = layers.Concatenate(name="join")([x, y])  # [B, p^2 / 64 w + 512]
    joint = layers.Dense(16 * config.width, use_bias=config.bias, name="joint")(joint)
    joint = layers.LeakyReLU(SLOPE, name="joint_act")(joint)
    feature = joint if config.feature == "joint" else first
    return keras.Model([image, z], [layers.Dense(1, name="output")(joint), feature], name="discriminator")


class CBiGAN(Detector):
    """The method: train with `ganspect.training.fit`, then score images of `image_size` pixels.

    >>> detector = CBiGAN(CBiGANConfig(**PRESETS["2021"]))
    >>> detector.compile()
    """

    loss_names = ("d_loss", "eg_loss", "penalty", "d_real", "d_fake", "reconstruction_l1", "latent_l1")

    def __init__(self, config=None):
        """Builds the networks; sets the global random seed to `config.seed`, so equal configs give equal weights."""
        super().__init__(name="cbigan")
        self.config = config or CBiGANConfig()
        chosen = float(self.config.score_weight)
        self.score_names = tuple(f"lambda_{w}" for w in (chosen, *(w for w in WEIGHTS if w != chosen)))
        self.map_names = self.score_names[:1]
        keras.utils.set_random_seed(self.config.seed)
        self.generator = build_generator(self.config)  # G
        self.encoder = build_encoder(self.config)  # E
        self.discriminator = build_discriminator(self.config)  # D
        self.ema_generator = build_generator(self.config, "ema_generator")
        self.ema_encoder = build_encoder(self.config, "ema_encoder")
        self.ema_generator.set_weights(self.generator.get_weights())
        self.ema_encoder.set_weights(self.encoder.get_weights())
        self.ema_generator.trainable = self.ema_encoder.trainable = False
        self.noise = keras.random.SeedGenerator(self.config.seed)
        self.built = True
        self._compiled_evidence = self._compiled_cycle = None

    def compile(self):
        """Makes and builds the two Adam optimisers: D's, and one for G and E together."""
        c = self.config
        mapping = optimizers.Adam(c.rate, c.beta_1, c.mapping_beta_2)
        critic = optimizers.Adam(c.rate, c.beta_1, c.critic_beta_2)
        self.finish_compile(
            {"discriminator": (critic, [self.discriminator]), "mapping": (mapping, [self.generator, self.encoder])}
        )

    def draw(self, count):
        """z ~ N(0, I) `[count, L]` and epsilon ~ U(0, 1) `[count, 1]` from the model's own seed."""
        z = self.drawn(keras.random.normal, count, self.config.latent_size)
        return z, self.drawn(keras.random.uniform, count, 1)

    def step(self, images):
        """One cycle: `critic_steps` fresh batches for D, one more for G and E together, then their moving average.

        Args:
            images: float32 `[(critic_steps + 1) B, p, p, C]` in [-1, 1].

        Returns:
            Scalars by `loss_names`, means over the cycle.
        """
        c = self.config

        def critic_losses(x, z, epsilon):
            codes, fakes = full(self.encoder(x, training=True), self.generator(z, training=True))
            real, fake = self.judged((x, codes), (fakes, z))
            wide = epsilon[:, :, None, None]  # [B, 1, 1, 1]
            start, end = (codes, z) if c.penalty_pairing == "joint" else (z, codes)
            slopes = self.input_gradient(
                lambda *pair: self.discriminator(list(pair), training=True)[0],
                wide * x + (1 - wide) * fakes,
                epsilon * start + (1 - epsilon) * end,
            )
            penalty = losses.unit_norm_penalty(*slopes)
            return {
                "d_loss": fake - real + c.penalty_weight * penalty,
                "penalty": penalty,
                "d_real": real,
                "d_fake": fake,
            }

        def mapping_losses(x, z):
            codes = self.encoder(x, training=True)
            fakes = self.generator(z, training=True)
            l_r = losses.summed_absolute_error(x, self.generator(codes, training=True))
            l_z = losses.summed_absolute_error(z, self.encoder(fakes, training=True))
            real, fake = self.judged((x, codes), (fakes, z))
            return {
                "eg_loss": (1 - c.alpha) * (real - fake) + c.alpha * (l_r + l_z),
                "reconstruction_l1": l_r,
                "latent_l1": l_z,
            }

        critic = {"d_loss": ([self.discriminator], self.optimizers["discriminator"])}
        mapping = {"eg_loss": ([self.generator, self.encoder], self.optimizers["mapping"])}

        def train_critic(x):
            z, epsilon = self.draw(share(c.batch_size))
            return self.minimise(lambda: critic_losses(x, z, epsilon), critic)

        def train_mapping(x):
            z, _ = self.draw(share(c.batch_size))
            return self.minimise(lambda: mapping_losses(x, z), mapping)

        def train_all(x):
            z, epsilon = self.draw(share(c.batch_size))
            return self.minimise(lambda: critic_losses(x, z, epsilon) | mapping_losses(x, z), critic | mapping)

        images = ops.convert_to_tensor(images)
        batches = ops.reshape(images, (c.batches_per_step, share(c.batch_size), *images.shape[1:]))
        steps = abs(c.critic_steps)
        if steps == 0:
            logs = self.each(train_all, batches)
        else:
            often, once = (train_critic, train_mapping) if c.critic_steps > 0 else (train_mapping, train_critic)
            logs = self.each(often, batches[:steps]) | self.each(once, batches[steps:])
        self.average_weights()
        return logs

    def judged(self, *pairs):
        """D's mean output on each pair of images `[B, p, p, C]` and latents `[B, L]`, in training.

        All in one call where the images of a pair have `TOGETHER` pixels or more: faster, and but for the order of sums
        the same, for D has no layer that sees more than one image. Smaller batches, of which the committed tables are,
        keep their numbers.
        """
        if math.prod(pairs[0][0].shape[:3]) < TOGETHER:
            return [ops.mean(full(self.discriminator(list(pair), training=True)[0])) for pair in pairs]
        both = [ops.concatenate(parts, axis=0) for parts in zip(*pairs, strict=True)]
        outputs = full(self.discriminator(both, training=True)[0])
        return [ops.mean(part) for part in ops.split(outputs, len(pairs), axis=0)]

    def average_weights(self):
        """Moves the averages of G and E towards their weights, by the decay of one cycle."""
        decay = self.config.ema_decay ** (self.config.batches_per_step / self.config.ema_batches)
        for mean, network in ((self.ema_generator, self.generator), (self.ema_encoder, self.encoder)):
            for m, v in zip(mean.variables, network.variables, strict=True):
                m.assign(decay * m + (1 - decay) * v)

    def reconstruct(self, patches):
        """G(E(x)) by the averaged weights: float `[B, p, p, C]` in [-1, 1] to the same shape."""
        return self.ema_generator(self.ema_encoder(patches, training=False), training=False)

    def examine(self, images):
        """D's outputs on a batch and on what G makes, for its health: see `Detector`."""
        images = ops.convert_to_tensor(images)
        z = ops.convert_to_tensor(self.fixed_latents(images.shape[0], self.config.latent_size))
        made = self.generator(z, training=False)
        real, _ = self.discriminator([images, self.encoder(images, training=False)], training=False)
        fake, _ = self.discriminator([made, z], training=False)
        return {"real": real[:, 0], "fake": fake[:, 0], "images": images, "made": made}

    def latent_error(self, count=256, seed=0):
        """Mean |z - E(G(z))| over fixed latents and their elements, by the averaged weights: a float >= 0."""
        z = np.random.default_rng(seed).standard_normal((count, self.config.latent_size), dtype="float32")
        if self._compiled_cycle is None:
            self._compiled_cycle = self.compile_inference(
                lambda x: self.ema_encoder(self.ema_generator(x, training=False), training=False)
            )
        return float(np.mean(np.abs(z - self._compiled_cycle(z))))

    def sample(self, count, seed=0):
        """Images generated by the averaged G: float32 `[count, p, p, C]` in [-1, 1]."""
        z = np.random.default_rng(seed).standard_normal((count, self.config.latent_size), dtype="float32")
        return ops.convert_to_numpy(self.ema_generator(z, training=False))

    def generated(self, height, width):
        """Eight generated patches; the size is the networks' own."""
        return list(self.sample(8))

    def patch_scores(self, patches):
        """What the score of each patch is made of, by the averaged G and E and the last D.

        Args:
            patches: float `[B, p, p, C]` in [-1, 1].

        Returns:
            `{"reconstruction": [B, p, p, C], "residual": [B, p, p] (summed over channels), "l_r": [B], "l_fd": [B]}`.
        """
        codes = self.ema_encoder(patches, training=False)
        rebuilt = self.ema_generator(codes, training=False)
        _, real = self.discriminator([patches, codes], training=False)
        _, fake = self.discriminator([rebuilt, codes], training=False)
        residual = ops.sum(ops.abs(patches - rebuilt), axis=-1)
        difference = ops.reshape(ops.abs(real - fake), (ops.shape(patches)[0], -1))  # [B, features]
        return {
            "reconstruction": rebuilt,
            "residual": residual,
            "l_r": ops.sum(residual, axis=(1, 2)),
            "l_fd": ops.sum(difference, axis=-1),
        }

    def evidence(self, image, stride=None):
        """Scores of the patches of one image, which a grid without overlap covers.

        Args:
            image: uint8 `[image_size, image_size, C]`.
            stride: not used: patches do not overlap.

        Returns:
            NumPy arrays `{"reconstruction": [S, S, C] in [-1, 1], "residual": [S, S], "l_r": [n, n], "l_fd": [n, n]}`
            with n = S / p patches along each side.

        Raises:
            ValueError: the image has another shape.
        """
        size, p = self.config.image_size, self.config.patch_size
        if image.shape != (size, size, self.config.channels):
            raise ValueError(f"expected [{size}, {size}, {self.config.channels}], got {list(image.shape)}")
        if self._compiled_evidence is None:
            self._compiled_evidence = self.compile_inference(lambda x: self.patch_scores(self.prepare(x)))
        n = size // p
        patches = image.reshape(n, p, n, p, -1).swapaxes(1, 2).reshape(n * n, p, p, -1)
        found = self._compiled_evidence(patches)

        def whole(parts):
            return parts.reshape(n, n, p, p, -1).swapaxes(1, 2).reshape(size, size, -1)

        return {
            "reconstruction": whole(found["reconstruction"]),
            "residual": whole(found["residual"])[..., 0],
            "l_r": found["l_r"].reshape(n, n),
            "l_fd": found["l_fd"].reshape(n, n),
        }

    def map_from(self, evidence, name=None):
        """The residual summed over channels (beyond the paper, which scores images only): float32 `[S, S]`, >= 0."""
        return evidence["residual"]

    def scores_inside(self, name=None):
        """False: the score is no maximum of a map."""
        return False

    def score_from(self, evidence, name=None):
        """A = (1 - lambda) L_R + lambda L_fD of the patch where it is largest; lambda from the score's name."""
        weight = float((name or self.score_names[0]).removeprefix("lambda_"))
        return float(np.max((1 - weight) * evidence["l_r"] + weight * evidence["l_fd"]))

    def answer(self, images):
        """The headline score of images in 0..255, its largest patch; see `Detector`."""
        size, p, c = self.config.image_size, self.config.patch_size, self.config.channels
        n = size // p
        patches = ops.transpose(ops.reshape(images, (-1, n, p, n, p, c)), (0, 1, 3, 2, 4, 5))
        found = self.patch_scores(self.prepare(ops.reshape(patches, (-1, p, p, c))))

        def whole(parts, channels):
            parts = ops.transpose(ops.reshape(parts, (-1, n, n, p, p, channels)), (0, 1, 3, 2, 4, 5))
            return ops.reshape(parts, (-1, size, size, channels))

        weight = self.config.score_weight
        scores = ops.reshape((1 - weight) * found["l_r"] + weight * found["l_fd"], (-1, n * n))
        return {
            "score": ops.max(scores, axis=1),
            "anomaly_map": whole(found["residual"], 1)[..., 0],
            "reconstruction": whole(found["reconstruction"], c),
        }
