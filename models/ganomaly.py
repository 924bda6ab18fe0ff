"""GANomaly: an autoencoder with a second encoder and a discriminator (S. Akcay, A. Atapour-Abarghouei, T. P. Breckon).

*GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training*, ACCV 2018, arXiv 1805.06725. G(x) = G_D(G_E(x)),
E is a second encoder with its own weights, f(x) the last feature of the discriminator D before its output:
    L_adv = mean (f(x) - f(G(x)))^2         -> `losses.feature_matching`; "batch_mean": `feature_matching_to_mean`
    L_con = mean |x - G(x)|                 -> `losses.mean_absolute_error`
    L_enc = mean (G_E(x) - E(G(x)))^2       -> `losses.mean_squared_error`; the paper writes the norm unsquared
    L = w_adv L_adv + w_con L_con + w_enc L_enc                   -> `GANomaly.step`; trains G_E, G_D and E
    L_D = (BCE(D(x), 1) + BCE(D(G(x)), 0)) / 2                    -> `GANomaly.step`, `losses.binary_cross_entropy`
    A = mean (G_E(x) - E(G(x)))^2, the code's; the paper's: L1    -> `GANomaly.score_from`

Input: square images in [-1, 1], seen whole. Scores: one number an image. The residual |x - G(x)|, its map and the score
"residual", its mean, go beyond the paper.

Two recipes (`PRESETS`): the authors' code (samet-akcay/ganomaly), tagged [code], and a study of 2022
(jihye0115/2022-Anomaly-Detection-using-GAN), tagged [study]; 3a to 3j are decisions of this project's notes.

Batch normalisation: training statistics in `step`, moving ones in every score (3h); the code scores with those of the
test batch, as `image_scores` does on demand. What moves the moving statistics: G_E, G_D and E each by one pass a step
(G_E by two in the study's notebook). D, official: by the real and then the generated batch, in one pass each, which
serve both losses; the code passes both batches twice, with equal results but for moving statistics that no score reads.
D, study: by one pass over both together, when D is trained, the generated images made by G with its moving statistics;
when G is trained D is frozen and runs on its moving statistics.

Departures: D is not re-initialised when its loss falls below 1e-5 [code]; the second encoder is trained in the study's
recipe too (3c: there it keeps its initial weights, for it is called inside a custom layer, and scores take G_E twice:
preset "notebook"); only whole batches are used; scores are not scaled by the extremes of a test set, which changes no
ranking; images are made smaller by Pillow's bilinear filter, where the study's loader takes the nearest pixel; the
study's other scale of cloud pixels, (x - 31.5) / 31.5, is not built (3a).
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from ganspect.models import losses, optimizers
from ganspect.models.detector import Detector
from ganspect.models.settings import check_settings

# Fields by what a departure in them changes; those of the scores are score_norm and ge_twice.
MODEL_FIELDS = ("width", "latent_size", "image_size", "extra_layers", "head_size", "bias", "slope")
LOSS_FIELDS = (
    *("matching", "adversarial_weight", "contextual_weight", "encoder_weight"),
    *("discriminator_first", "train_second_encoder"),
)
SIZES = (32, 64, 128, 256)
MATCHINGS = {
    "per_sample": losses.feature_matching,
    "batch_mean": losses.feature_matching_to_mean,
    "probability": losses.mean_squared_error,  # of D's outputs in the place of its features: not the paper's
}
NORMS = {"mean_square": lambda d: np.mean(np.square(d)), "sum_absolute": lambda d: np.sum(np.abs(d))}


@dataclass(frozen=True)
class GANomalyConfig:
    """Settings; the defaults are those of the authors' code."""

    image_size: int = 64  # [ours: the code's 32 is for CIFAR; halved to 4x4 whatever it is] pixels
    channels: int = 3  # [code]
    width: int = 64  # [code] filters of the first convolution; each halving doubles them
    extra_layers: int = 0  # [code] 3x3 convolutions after the first
    latent_size: int = 100  # [code]
    slope: float = 0.2  # [code] of every leaky ReLU (3f)
    bias: bool = False  # [code] of every convolution
    head_size: int = 0  # [code] 0: D ends in a convolution to one output; above: in one to so many, then a dense layer
    initial_deviation: float = 0.02  # [code] of kernels and of the scales of normalisation; 0: Keras' initial values
    norm_momentum: float = 0.9  # [code] what a step keeps of the moving statistics (PyTorch's 0.1)
    norm_epsilon: float = 1e-5  # [code]
    matching: str = "per_sample"  # [code] "batch_mean": with the mean feature of the generated batch (3d)
    adversarial_weight: float = 1.0  # [paper 4, code]
    contextual_weight: float = 50.0  # [paper 4, code] for an error averaged over pixels and channels
    encoder_weight: float = 1.0  # [paper 4, code]
    discriminator_first: bool = False  # [code] False: G and D learn from one forward pass
    rate: float = 2e-4  # [code] of both Adam optimisers
    beta_1: float = 0.5  # [code]
    beta_2: float = 0.999  # [code]
    batch_size: int = 64  # [code]
    steps_per_epoch: int = 0  # [code] 0: an epoch is one pass over the training images
    epochs: int = 15  # [code]
    score_norm: str = "mean_square"  # [code] "sum_absolute" is the paper's (3e)
    train_second_encoder: bool = True  # [paper] False: [study] E keeps its initial weights, its statistics move
    ge_twice: bool = False  # [study] True: scores take G_E in the place of E (3c)
    seed: int = 0  # [ours] of weights, batches and noise; the sources name none

    def __post_init__(self):
        check_settings(self)
        if self.image_size not in SIZES:
            raise ValueError(f"image_size must be one of {', '.join(map(str, SIZES))}, not {self.image_size}")
        for name in ("width", "latent_size", "batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        weights = ("adversarial_weight", "contextual_weight", "encoder_weight")
        for name in ("extra_layers", "head_size", "initial_deviation", "steps_per_epoch", *weights):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.matching not in MATCHINGS:
            raise ValueError(f"matching must be one of {', '.join(MATCHINGS)}, not {self.matching!r}")
        if self.score_norm not in NORMS:
            raise ValueError(f"score_norm must be one of {', '.join(NORMS)}, not {self.score_norm!r}")

    @property
    def patch_size(self):
        """Side of what the networks see, pixels: the whole image."""
        return self.image_size

    def images_per_epoch(self, available):
        """Images in an epoch of a training set of `available` images; a last incomplete batch is dropped, a set
        smaller than a batch is repeated."""
        return max(1, self.steps_per_epoch or available // self.batch_size) * self.batch_size


STUDY = dict(
    image_size=128, channels=1, slope=0.3, bias=True, head_size=100, initial_deviation=0.0, norm_momentum=0.99,
    norm_epsilon=1e-3, matching="batch_mean", discriminator_first=True, rate=1e-3, beta_1=0.9, batch_size=32,
    steps_per_epoch=100, epochs=10, score_norm="sum_absolute",
)  # fmt: skip
PRESETS = {
    "official": {},
    "notebook": dict(train_second_encoder=False, ge_twice=True),  # [study] beside "study" or "study_cloud"
    "study": STUDY,  # [study] casting; 1000 batches, here in epochs of 100
    "study_cloud": STUDY | dict(image_size=64, channels=3, width=128, extra_layers=1, batch_size=50),
}


def stages(config):
    """The convolutions of a trunk, from the image to 4x4: tuples (filters, kernel, stride, whether normalised)."""
    first, *rest = (config.width * 2**i for i in range(int(math.log2(config.image_size)) - 2))
    extra = [(first, 3, 1, True)] * config.extra_layers
    return [(first, 4, 2, False), *extra, *((filters, 4, 2, True) for filters in rest)]


def convolution(kind, filters, kernel, config, name, **settings):
    """A `Conv2D` or `Conv2DTranspose`, N(0, 0.02) and without bias in the code, Keras' own with bias in the study."""
    if config.initial_deviation:
        settings["kernel_initializer"] = keras.initializers.RandomNormal(stddev=config.initial_deviation)
    return kind(filters, kernel, use_bias=config.bias, name=name, **settings)


def normalisation(config, name):
    """Batch normalisation; its scales start as N(1, 0.02) in the code, as 1 in the study."""
    settings = {}
    if config.initial_deviation:
        settings["gamma_initializer"] = keras.initializers.RandomNormal(1.0, config.initial_deviation)
    return layers.BatchNormalization(momentum=config.norm_momentum, epsilon=config.norm_epsilon, name=name, **settings)


def trunk(image, config):
    """What both encoders and D start with: images `[B, S, S, C]` to features `[B, 4, 4, F]`, activated."""
    x = image
    for i, (filters, kernel, stride, normalised) in enumerate(stages(config), 1):
        x = convolution(layers.Conv2D, filters, kernel, config, f"conv{i}", strides=stride, padding="same")(x)
        if normalised:
            x = normalisation(config, f"norm{i}")(x)
        x = layers.LeakyReLU(config.slope, name=f"act{i}")(x)
    return x


def build_encoder(config, name="encoder"):
    """G_E and E: images `[B, S, S, C]` to latents `[B, L]`, linear."""
    image = keras.Input((config.image_size, config.image_size, config.channels), name="images")
    z = convolution(layers.Conv2D, config.latent_size, 4, config, "latents")(trunk(image, config))
    return keras.Model(image, layers.Reshape((config.latent_size,), name="flat")(z), name=name)


def build_decoder(config):
    """G_D, the trunk mirrored: latents `[B, L]` to images `[B, S, S, C]` in (-1, 1)."""
    z = keras.Input((config.latent_size,), name="latents")
    x = layers.Reshape((1, 1, config.latent_size), name="reshape")(z)
    plan = stages(config)
    x = convolution(layers.Conv2DTranspose, plan[-1][0], 4, config, "unfold")(x)
    inputs = [config.channels, *(filters for filters, *_ in plan[:-1])]  # of each convolution of the trunk
    for i, (filters, (_, kernel, stride, _)) in enumerate(zip(reversed(inputs), reversed(plan), strict=True), 1):
        x = normalisation(config, f"norm{i}")(x)
        x = layers.ReLU(name=f"act{i}")(x)
        x = convolution(layers.Conv2DTranspose, filters, kernel, config, f"convt{i}", strides=stride, padding="same")(x)
    return keras.Model(z, layers.Activation("tanh", name="image")(x), name="decoder")


def build_discriminator(config):
    """D: images `[B, S, S, C]` to logits `[B, 1]` and features f `[B, 4, 4, F]`."""
    image = keras.Input((config.image_size, config.image_size, config.channels), name="images")
    features = trunk(image, config)
    x = convolution(layers.Conv2D, config.head_size or 1, 4, config, "head")(features)  # [B, 1, 1, head_size or 1]
    if config.head_size:
        x = layers.Dense(1, name="output")(layers.GlobalAveragePooling2D(name="pool")(x))
    else:
        x = layers.Reshape((1,), name="output")(x)
    return keras.Model(image, [x, features], name="discriminator")


class GANomaly(Detector):
    """The method: train with `ganspect.training.fit`, then score images of `image_size` pixels.

    >>> detector = GANomaly(GANomalyConfig(**PRESETS["study"]))
    >>> detector.compile()
    """

    loss_names = ("d_loss", "g_loss", "adversarial", "contextual", "encoding", "d_real", "d_fake")
    score_names = ("encoder_distance", "first_encoder_distance", "residual")
    map_names = ("residual",)

    def __init__(self, config=None):
        """Builds the networks; sets the global random seed to `config.seed`, so equal configs give equal weights."""
        super().__init__(name="ganomaly")
        self.config = config or GANomalyConfig()
        keras.utils.set_random_seed(self.config.seed)
        self.encoder = build_encoder(self.config)  # G_E
        self.decoder = build_decoder(self.config)  # G_D
        self.second_encoder = build_encoder(self.config, "second_encoder")  # E
        self.discriminator = build_discriminator(self.config)  # D
        self.built = True
        self._compiled_evidence = None

    def compile(self):
        """Makes and builds the two Adam optimisers: D's, and one for G_E, G_D and E together."""
        c = self.config
        generator, critic = (optimizers.Adam(c.rate, c.beta_1, c.beta_2) for _ in range(2))
        self.finish_compile(
            {
                "generator": (generator, self.learners()),
                "discriminator": (critic, [self.discriminator]),
            }
        )

    def learners(self):
        """The networks that learn from G's losses: G_E, G_D and, unless it keeps its initial weights, E."""
        return [self.encoder, self.decoder, *([self.second_encoder] if self.config.train_second_encoder else [])]

    def step(self, images):
        """One batch. The code: G and D from one forward pass; the study: D, then G before the new D.

        The code updates G before D, but by losses of D that it took before G moved: one forward pass gives the same.

        Args:
            images: float32 `[B, S, S, C]` in [-1, 1].

        Returns:
            Scalars by `loss_names`: both losses, the three parts of G's, D's mean logit of real and generated images.
        """
        c = self.config
        images = ops.convert_to_tensor(images)

        def judged(real, fake):
            return {
                "d_loss": 0.5 * (losses.binary_cross_entropy(real, 1.0) + losses.binary_cross_entropy(fake, 0.0)),
                "d_real": ops.mean(real),
                "d_fake": ops.mean(fake),
            }

        def discriminator_losses():
            logits, _ = self.discriminator(ops.concatenate([images, self.reconstruct(images)]), training=True)
            return judged(*ops.split(logits, 2))

        def generator_losses():
            codes = self.encoder(images, training=True)
            rebuilt = self.decoder(codes, training=True)
            again = self.second_encoder(rebuilt, training=True)
            real, features = self.discriminator(images, training=not c.discriminator_first)
            fake, rebuilt_features = self.discriminator(rebuilt, training=not c.discriminator_first)
            matched = features, rebuilt_features
            if c.matching == "probability":
                matched = ops.sigmoid(real), ops.sigmoid(fake)
            adversarial = MATCHINGS[c.matching](*matched)
            contextual = losses.mean_absolute_error(images, rebuilt)
            encoding = losses.mean_squared_error(codes, again)
            total = c.adversarial_weight * adversarial + c.contextual_weight * contextual + c.encoder_weight * encoding
            parts = {"g_loss": total, "adversarial": adversarial, "contextual": contextual, "encoding": encoding}
            return parts if c.discriminator_first else parts | judged(real, fake)

        generator = {"g_loss": (self.learners(), self.optimizers["generator"])}
        discriminator = {"d_loss": ([self.discriminator], self.optimizers["discriminator"])}
        if c.discriminator_first:
            logs = self.minimise(discriminator_losses, discriminator)
            return logs | self.minimise(generator_losses, generator)
        return self.minimise(generator_losses, generator | discriminator)

    def reconstruct(self, images):
        """G(x): float `[B, S, S, C]` in [-1, 1] to the same shape."""
        return self.decoder(self.encoder(images, training=False), training=False)

    def examine(self, images):
        """D's outputs on a batch and on what G makes, for its health: see `Detector`."""
        images = ops.convert_to_tensor(images)
        made = self.reconstruct(images)
        return self.examine_images(images, made)

    def image_scores(self, images, training=False):
        """What the scores of each image are made of.

        Args:
            images: float `[B, S, S, C]` in [-1, 1].
            training: True normalises by the statistics of these images, as the code scores, and moves the moving ones.

        Returns:
            `{"reconstruction": [B, S, S, C], "residual": [B, S, S] (mean over channels), "latent_difference": [B, L],
            "first_encoder_difference": [B, L]}`: G_E(x) - E(G(x)) (G_E in the place of E with `ge_twice`), and
            G_E(x) - G_E(G(x)).
        """
        codes = self.encoder(images, training=training)
        rebuilt = self.decoder(codes, training=training)
        first = codes - self.encoder(rebuilt, training=training)
        second = first if self.config.ge_twice else codes - self.second_encoder(rebuilt, training=training)
        return {
            "reconstruction": rebuilt,
            "residual": ops.mean(ops.abs(images - rebuilt), axis=-1),
            "latent_difference": second,
            "first_encoder_difference": first,
        }

    def evidence(self, image, stride=None):
        """Reconstruction and distances of one image.

        Args:
            image: uint8 `[image_size, image_size, C]`.
            stride: not used: an image is seen whole.

        Returns:
            NumPy arrays, those of `image_scores` without the batch axis.

        Raises:
            ValueError: the image has another shape.
        """
        size = self.config.image_size
        if image.shape != (size, size, self.config.channels):
            raise ValueError(f"expected [{size}, {size}, {self.config.channels}], got {list(image.shape)}")
        if self._compiled_evidence is None:
            self._compiled_evidence = self.compile_inference(lambda x: self.image_scores(self.prepare(x)))
        return {name: value[0] for name, value in self._compiled_evidence(image[None]).items()}

    def map_from(self, evidence, name=None):
        """|x - G(x)| averaged over channels (beyond the paper, which scores images only): float32 `[S, S]`, >= 0."""
        return evidence["residual"]

    def scores_inside(self, name=None):
        """False: the score is no maximum of a map."""
        return False

    def score_from(self, evidence, name=None):
        """A, in the norm of `score_norm`; with "first_encoder_distance" by G_E twice, as the study's notebook scores.

        The score "residual" (beyond the paper) is the mean of the map.
        """
        if (name or self.score_names[0]) == "residual":
            return float(evidence["residual"].mean())
        part = "first_encoder_difference" if name == "first_encoder_distance" else "latent_difference"
        return float(NORMS[self.config.score_norm](evidence[part]))

    def answer(self, images):
        """The headline score of images in 0..255; see `Detector`."""
        found = self.image_scores(self.prepare(images))
        difference = ops.reshape(found["latent_difference"], (ops.shape(images)[0], -1))
        squares = self.config.score_norm == "mean_square"
        score = ops.mean(ops.square(difference), axis=1) if squares else ops.sum(ops.abs(difference), axis=1)
        return {"score": score, "anomaly_map": found["residual"], "reconstruction": found["reconstruction"]}
