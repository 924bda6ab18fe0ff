"""AnoGAN: a GAN of normal images and, for each image to judge, a search for the latent that generates it best.

T. Schlegl, P. Seeboeck, S. M. Waldstein, U. Schmidt-Erfurth, G. Langs, *Unsupervised Anomaly Detection with Generative
Adversarial Networks to Guide Marker Discovery*, IPMI 2017, arXiv 1703.05921, as a study of 2022 used it on casting and
cloud images (jihye0115/2022-Anomaly-Detection-using-GAN), tagged [study]. z ~ N(0, I), f(x) a feature of D:
    L_D = BCE(D(x), 1) + BCE(D(G(z)), 0),  L_G = BCE(D(G(z)), 1)  -> `AnoGAN.step`, `losses.binary_cross_entropy`
    L_R = sum |x - G(z)|                                          -> `AnoGAN.search_losses`
    L_D = sum |f(x) - f(G(z))|                                    -> `AnoGAN.search_losses`
    A = (1 - lambda) L_R + lambda L_D after the search for z      -> `AnoGAN.search`

Input: square images in [-1, 1], seen whole. Scores: one number an image, the loss of the search's last step. The map is
the residual |x - G(z)|, averaged over channels.

Two searches (decision 3b of this project's notes). "latent", the paper's: z itself is optimised for every image, from
the start; a whole batch at once. Every image and every batch has the same starts, so that a score depends on nothing
but the image [ours]. "dense", the study's notebook: z = W u + b with u ~ U(0, 1) drawn once for an image; W and b are
optimised, for one image after the other, and are not reset between images: a score depends on all images scored
before, from the last `calibrate` on.

Batch normalisation and dropout are in inference mode in the search (3h); the notebook searches by `fit`, with dropout
on for G(z).

Departures: images are made smaller by Pillow's bilinear filter, the notebook's loader takes the nearest pixel; the
notebook's other scale of cloud pixels, (x - 31.5) / 31.5, is not built (3a); only whole batches are trained on. The
search "dense" comes after held-out normals, then takes normal test images before anomalous ones; the notebook has
scored its training images, and fitted single images and stacks of 100, before.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from ganspect.models import losses, optimizers
from ganspect.models.convolutions import fast, released
from ganspect.models.detector import Detector
from ganspect.models.settings import check_settings

SIZES = (32, 64, 128, 256)
SLOPE = 0.2  # [study] of D's leaky ReLU
SEARCHES = ("latent", "dense")
# [study] Filters in units of the width: G's dense layer and its transposed convolutions, D's convolutions; the kernel
# of D's; which of D's blocks gives f, counted from 1, from the last if negative. Casting: D halves the image to 2x2.
LAYOUTS = {
    "casting": dict(head=16, generator=(8, 2, 2, 1), discriminator=(0.5, 1, 2, 4, 8, 16), kernel=4, feature=-2),
    "cloud": dict(head=8, generator=(8, 4, 2, 1), discriminator=(0.5, 1), kernel=5, feature=1),
}


@dataclass(frozen=True)
class AnoGANConfig:
    """Settings; the defaults are the study's for casting images."""

    image_size: int = 128  # [study] pixels
    channels: int = 1  # [study] casting as grayscale
    layout: str = "casting"  # [study] or "cloud": another pair of networks
    width: int = 64  # [study] 128 for cloud
    latent_size: int = 100  # [study]
    dropout: float = 0.3  # [study] after each of D's blocks
    rate: float = 1e-4  # [study] of both Adam optimisers
    beta_1: float = 0.9  # [study]
    beta_2: float = 0.999  # [study]
    batch_size: int = 32  # [study] 50 for cloud
    steps_per_epoch: int = 0  # [study] 0: an epoch is one pass over the training images
    epochs: int = 100  # [study] 50 for cloud
    search: str = "latent"  # [decision 3b] or "dense", the study's notebook
    feature_weight: float = 0.1  # [study, paper 2.3] lambda
    search_steps: int = 500  # [paper 2.2, decision 3b] 200 in the notebook
    search_rate: float = 1e-2  # [decision 3b] of the search's Adam; 1e-3 in the notebook
    restarts: int = 1  # [paper] starts for each image; the one of the least loss counts
    search_patience: int = 0  # [paper: none] an image stops when its loss has not fallen for so many steps; 0: never
    search_batch: int = 50  # [ours] images searched at once; no score depends on it
    seed: int = 0  # [ours] of weights, batches and noise; the sources name none

    def __post_init__(self):
        check_settings(self)
        if self.image_size not in SIZES:
            raise ValueError(f"image_size must be one of {', '.join(map(str, SIZES))}, not {self.image_size}")
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {self.layout!r}")
        if self.search not in SEARCHES:
            raise ValueError(f"search must be one of {', '.join(SEARCHES)}, not {self.search!r}")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be even, not {self.width}")
        for name in ("latent_size", "batch_size", "epochs", "search_steps", "restarts", "search_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if min(self.search_patience, self.steps_per_epoch) < 0:
            raise ValueError("steps_per_epoch and search_patience must not be negative")
        if self.search == "dense" and (self.restarts > 1 or self.search_patience):
            raise ValueError('search "dense" has neither restarts nor patience: it continues from image to image')

    @property
    def patch_size(self):
        """Side of what the networks see, pixels: the whole image."""
        return self.image_size

    def images_per_epoch(self, available):
        """Images in an epoch of a training set of `available` images; a last incomplete batch is dropped, a set
        smaller than a batch is repeated."""
        return max(1, self.steps_per_epoch or available // self.batch_size) * self.batch_size


PRESETS = {
    "casting": {},
    "cloud": dict(image_size=64, channels=3, layout="cloud", width=128, batch_size=50, epochs=50),
    "notebook": dict(search="dense", search_steps=200, search_rate=1e-3),
}


def build_generator(config):
    """G: latents `[B, L]` to images `[B, S, S, C]` in (-1, 1); no layer has a bias."""
    plan, doublings = LAYOUTS[config.layout], int(math.log2(config.image_size)) - 2
    count = doublings - (config.layout == "casting")  # its last doubling makes the image
    multiples = (plan["generator"][0],) * (count - 4) + plan["generator"][-count:]
    z = keras.Input((config.latent_size,), name="latents")
    x = layers.Dense(16 * plan["head"] * config.width, use_bias=False, name="dense")(z)
    x = layers.BatchNormalization(name="norm0")(x)
    x = layers.Reshape((4, 4, plan["head"] * config.width), name="reshape")(layers.ReLU(name="act0")(x))
    for i, multiple in enumerate(multiples, 1):
        x = layers.Conv2DTranspose(
            multiple * config.width, 4, strides=2, padding="same", use_bias=False, name=f"convt{i}"
        )(x)
        x = layers.ReLU(name=f"act{i}")(layers.BatchNormalization(name=f"norm{i}")(x))
    last = 2 if config.layout == "casting" else 1
    image = layers.Conv2DTranspose(
        config.channels, 4, strides=last, padding="same", use_bias=False, activation="tanh", name="image"
    )(x)
    return keras.Model(z, image, name="generator")


def build_discriminator(config):
    """D: images `[B, S, S, C]` to logits `[B, 1]` and the feature f `[B, h, w, F]`."""
    plan = LAYOUTS[config.layout]
    halvings = int(math.log2(config.image_size)) - 1
    multiples = plan["discriminator"][:halvings]
    multiples += multiples[-1:] * (halvings - len(multiples)) if config.layout == "casting" else ()
    image = keras.Input((config.image_size, config.image_size, config.channels), name="images")
    x, blocks = image, []
    for i, multiple in enumerate(multiples, 1):
        x = layers.Conv2D(int(multiple * config.width), plan["kernel"], strides=2, padding="same", name=f"conv{i}")(x)
        x = layers.Dropout(config.dropout, name=f"drop{i}")(layers.LeakyReLU(SLOPE, name=f"act{i}")(x))
        blocks.append(x)
    feature = blocks[plan["feature"] - 1 if plan["feature"] > 0 else plan["feature"]]
    logits = layers.Dense(1, name="output")(layers.Flatten(name="flatten")(x))
    return keras.Model(image, [logits, feature], name="discriminator")


class AnoGAN(Detector):
    """The method: train with `ganspect.training.fit`, then score images of `image_size` pixels.

    >>> detector = AnoGAN(AnoGANConfig())
    >>> detector.compile()
    """

    loss_names = ("d_loss", "g_loss", "d_real", "d_fake")
    score_names = ("anomaly", "residual", "discrimination")
    map_names = ("residual",)

    def __init__(self, config=None):
        """Builds the networks; sets the global random seed to `config.seed`, so equal configs give equal weights."""
        super().__init__(name="anogan")
        self.config = config or AnoGANConfig()
        keras.utils.set_random_seed(self.config.seed)
        self.generator = build_generator(self.config)  # G
        self.discriminator = build_discriminator(self.config)  # D
        self.noise = keras.random.SeedGenerator(self.config.seed)
        self.continues = self.config.search == "dense"
        self.at_once = 1 if self.continues else self.config.search_batch
        self.built = True
        self._compiled = {}
        self._dense_state = None  # where the search "dense" has come to

    def compile(self):
        """Makes and builds the two Adam optimisers."""
        c = self.config
        generator, critic = (optimizers.Adam(c.rate, c.beta_1, c.beta_2) for _ in range(2))
        self.finish_compile(
            {"discriminator": (critic, [self.discriminator]), "generator": (generator, [self.generator])}
        )

    def draw_latents(self, count):
        """z ~ N(0, I): float32 `[count, L]` from the model's own seed."""
        return self.drawn(keras.random.normal, count, self.config.latent_size)

    def step(self, images):
        """One batch: both networks learn from one forward pass, as in the study.

        Args:
            images: float32 `[B, S, S, C]` in [-1, 1].

        Returns:
            Scalars by `loss_names`: both losses, D's mean logit of real and generated images.
        """
        images = ops.convert_to_tensor(images)
        z = self.draw_latents(ops.shape(images)[0])

        def both_losses():
            fakes = self.generator(z, training=True)
            real, _ = self.discriminator(images, training=True)
            fake, _ = self.discriminator(fakes, training=True)
            return {
                "d_loss": losses.binary_cross_entropy(real, 1.0) + losses.binary_cross_entropy(fake, 0.0),
                "g_loss": losses.binary_cross_entropy(fake, 1.0),
                "d_real": ops.mean(real),
                "d_fake": ops.mean(fake),
            }

        updates = {
            "d_loss": ([self.discriminator], self.optimizers["discriminator"]),
            "g_loss": ([self.generator], self.optimizers["generator"]),
        }
        return self.minimise(both_losses, updates)

    def examine(self, images):
        """D's outputs on a batch and on what G makes, for its health: see `Detector`."""
        images = ops.convert_to_tensor(images)
        made = self.generator(self.fixed_latents(images.shape[0], self.config.latent_size), training=False)
        return self.examine_images(images, made)

    def sample(self, count, seed=0):
        """Generated images: float32 `[count, S, S, C]` in [-1, 1]."""
        z = np.random.default_rng(seed).standard_normal((count, self.config.latent_size), dtype="float32")
        return ops.convert_to_numpy(self.generator(z, training=False))

    def generated(self, height, width):
        """Eight generated images; the size is the networks' own."""
        return list(self.sample(8))

    def starts(self, count):
        """The latents that the search for each of `count` images starts from: float32 `[restarts, count, L]`."""
        shape = (self.config.restarts, self.config.latent_size)
        z = np.random.default_rng(self.config.seed).standard_normal(shape, dtype="float32")
        return ops.repeat(ops.convert_to_tensor(z)[:, None], count, axis=1)

    def search_losses(self, z, images, features):
        """What the search minimises, for each image.

        Args:
            z: float `[B, L]`.
            images: float `[B, S, S, C]` in [-1, 1].
            features: f(x), `[B, h, w, F]`.

        Returns:
            `{"loss": [B], "residual_loss": [B] (L_R), "discrimination_loss": [B] (L_D), "reconstruction": G(z)}`.
        """
        weight = self.config.feature_weight
        rebuilt = self.generator(z, training=False)
        _, found = self.discriminator(rebuilt, training=False)
        l_r = ops.sum(ops.abs(images - rebuilt), axis=(1, 2, 3))
        l_d = ops.sum(ops.abs(features - found), axis=(1, 2, 3))
        return {
            "loss": (1 - weight) * l_r + weight * l_d,
            "residual_loss": l_r,
            "discrimination_loss": l_d,
            "reconstruction": rebuilt,
        }

    def begin_search(self, z):
        """State of the search before its first step: step, latents, Adam's two moments, least losses and their age."""
        least = ops.full(ops.shape(z)[:1], np.inf, dtype="float32")
        return ops.convert_to_tensor(0, "int32"), z, ops.zeros_like(z), ops.zeros_like(z), least, ops.zeros_like(least)

    def search_step(self, state, images, features):
        """One update of the latents of all images that have not stopped, by Adam.

        Args:
            state: from `begin_search` or the step before.
            images, features: as of `search_losses`.

        Returns:
            The new state.
        """
        step, z, mean, square, least, age = state
        loss, (slope,) = self.value_and_gradient(lambda x: self.search_losses(x, images, features)["loss"], z)
        age = ops.where(loss < least, 0.0, age + 1.0)  # steps since the loss was least
        least = ops.minimum(loss, least)
        new = adam_step(ops.cast(step + 1, "float32"), z, mean, square, slope, self.config.search_rate)
        moves = self.moving(age)[:, None]
        z, mean, square = (ops.where(moves, *pair) for pair in zip(new, (z, mean, square), strict=True))
        return step + 1, z, mean, square, least, age

    def moving(self, age):
        """Which images are still searched, bool `[B]`; all of them without `search_patience`."""
        patience = self.config.search_patience
        return age < patience if patience else ops.ones_like(age, dtype="bool")

    def searching(self, state):
        """Whether another update is to come: the last step of the search only takes the loss."""
        return ops.logical_and(state[0] < self.config.search_steps - 1, ops.any(self.moving(state[-1])))

    def search(self, images):
        """Searches the latents of a batch, all images at once, and judges each by its loss; one graph.

        Args:
            images: float `[B, S, S, C]` in [-1, 1].

        Returns:
            `judged` of the latents found.
        """
        images = ops.convert_to_tensor(images)
        _, features = self.discriminator(images, training=False)
        best = None
        for start in range(self.config.restarts):
            state = self.begin_search(self.starts(ops.shape(images)[0])[start])
            state = ops.while_loop(
                lambda *s: self.searching(s), lambda *s: self.search_step(s, images, features), tuple(state)
            )
            found = self.judged(state[1], images, features, state[0])
            best = found if best is None else better(found, best)
        return best

    def judged(self, z, images, features, steps):
        """`search_losses` with the residual map |x - G(z)|, `[B, S, S]`, mean over channels, and the steps `[B]`."""
        found = self.search_losses(z, images, features)
        residual = ops.mean(ops.abs(images - found["reconstruction"]), axis=-1)
        return found | {"residual": residual, "steps": ops.zeros_like(found["loss"]) + ops.cast(steps, "float32")}

    def dense_search(self, image, noise, step, theta, mean, square):
        """The notebook's search for one image: `search_steps` updates of W and b by Adam, from where they stand.

        Args:
            image: float `[1, S, S, C]` in [-1, 1].
            noise: u, with a one for the bias, `[1, L + 1]`.
            step: updates so far, over all images: int32 scalar.
            theta, mean, square: W with b below it, `[L + 1, L]`, and Adam's moments.

        Returns:
            `(judged at the last step, before its update, (step, theta, mean, square))`.
        """
        _, features = self.discriminator(image, training=False)

        def update(step, theta, mean, square):
            z = ops.matmul(noise, theta)
            _, (slope,) = self.value_and_gradient(lambda x: self.search_losses(x, image, features)["loss"], z)
            slope = ops.matmul(ops.transpose(noise), slope)  # [L + 1, L]
            moved = adam_step(ops.cast(step + 1, "float32"), theta, mean, square, slope, self.config.search_rate)
            return step + 1, *moved

        last = step + self.config.search_steps - 1
        state = ops.while_loop(lambda *s: s[0] < last, update, (step, theta, mean, square))
        found = self.judged(ops.matmul(noise, state[1]), image, features, state[0] - step)
        return found, update(*state)

    def dense_noise(self, number):
        """The notebook's input for the image of this number, u ~ U(0, 1), and a one for the bias: `[1, L + 1]`."""
        u = np.random.default_rng([self.config.seed, number]).random((1, self.config.latent_size), dtype="float32")
        return np.concatenate([u, np.ones((1, 1), "float32")], axis=1)

    def calibrate(self, images, stride=None):
        """Sets the search "dense" back to its start: the initial values of a Keras dense layer, the bias zero."""
        size = self.config.latent_size
        limit = math.sqrt(6 / (2 * size))  # Glorot uniform
        theta = np.random.default_rng(self.config.seed + 1).uniform(-limit, limit, (size + 1, size)).astype("float32")
        theta[-1] = 0
        self._dense_state = (np.int32(0), theta, np.zeros_like(theta), np.zeros_like(theta))

    def evidence(self, image, stride=None):
        """Searches for one image; see `evidences`."""
        return self.evidences([image], stride)[0]

    def evidences(self, images, stride=None):
        """Searches for several images, at most `search_batch` at once.

        Args:
            images: uint8 `[image_size, image_size, C]` each.
            stride: not used: images are seen whole.

        Returns:
            For each image NumPy arrays `{"reconstruction": [S, S, C] in [-1, 1], "residual": [S, S], "loss", "steps",
            "residual_loss", "discrimination_loss": []}`.

        Raises:
            ValueError: an image has another shape.
        """
        size = self.config.image_size
        wrong = [image.shape for image in images if image.shape != (size, size, self.config.channels)]
        if wrong:
            raise ValueError(f"expected [{size}, {size}, {self.config.channels}], got {list(wrong[0])}")
        found = []
        for first in range(0, len(images), self.at_once):
            batch = np.stack(images[first : first + self.at_once])
            parts = self._dense_searched(batch) if self.continues else self._searched(batch)
            found += [{name: values[i] for name, values in parts.items()} for i in range(len(batch))]
        return found

    def _searched(self, images):
        """`search` of uint8 images, compiled; where compiled loops are slow, one compiled step after the other."""
        if self.loops_are_compiled():
            return self._once("search", self._search_fast)(images)
        step = self._once("step", lambda state, x, f: self.search_step(state, x, f))
        x = ops.convert_to_numpy(self.prepare(images))
        features = self._once("features", lambda x: self.discriminator(x, training=False)[1])(x)
        judge, best = self._once("judged", self.judged), None
        for start in range(self.config.restarts):
            state = [np.asarray(part) for part in self.begin_search(self.starts(len(images))[start])]
            while bool(self.searching(state)):
                state = step(tuple(state), x, features)
            found = judge(state[1], x, features, state[0])
            best = found if best is None else {k: np.asarray(v) for k, v in better(found, best).items()}
        return best

    def _search_fast(self, images):
        """`search` with the gradients of `models.convolutions`, which exported models do without."""
        with released(), fast():
            return self.search(self.prepare(images))

    def _dense_search_fast(self, image, *state):
        """`dense_search` of a uint8 image with the same gradients."""
        with released(), fast():
            return self.dense_search(self.prepare(image), *state)

    def _dense_searched(self, image):
        """`dense_search` of one uint8 image `[1, S, S, C]`; moves the state that the next image starts from."""
        if self._dense_state is None:
            self.calibrate([])
        run = self._once("dense", self._dense_search_fast)
        noise = self.dense_noise(int(self._dense_state[0]) // self.config.search_steps)
        found, self._dense_state = run(image, noise, *self._dense_state)
        return found

    def _once(self, name, fn):
        """`compile_inference(fn)`, made at the first call."""
        if name not in self._compiled:
            self._compiled[name] = self.compile_inference(fn)
        return self._compiled[name]

    def map_from(self, evidence, name=None):
        """The residual image |x - G(z)| (paper 2.3), averaged over channels: float32 `[S, S]`, >= 0."""
        return evidence["residual"]

    def scores_inside(self, name=None):
        """False: the score is no maximum of a map."""
        return False

    def score_from(self, evidence, name=None):
        """A, or with "residual" and "discrimination" L_R and L_D alone."""
        part = {"anomaly": "loss", "residual": "residual_loss", "discrimination": "discrimination_loss"}
        return float(evidence[part[name or self.score_names[0]]])

    def answer(self, images):
        """The headline score of images in 0..255, the latent search inside; see `Detector`.

        Raises:
            ValueError: the notebook's search, whose score depends on the images searched before.
        """
        if self.continues:
            raise ValueError('a model with the search "dense" cannot be exported: it continues from image to image')
        found = self.search(self.prepare(images))
        return {"score": found["loss"], "anomaly_map": found["residual"], "reconstruction": found["reconstruction"]}


def adam_step(step, values, mean, square, slope, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """One update by Adam as Keras makes it (Kingma and Ba 2015, its last formula), on plain tensors.

    Args:
        step: number of this update from 1, float scalar.
        values, mean, square, slope: what is optimised, its moments, its gradient; equal shapes.
        rate: learning rate.

    Returns:
        `(values, mean, square)`, updated.
    """
    mean = mean + (slope - mean) * (1 - beta_1)
    square = square + (ops.square(slope) - square) * (1 - beta_2)
    scale = rate * ops.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    return values - scale * mean / (ops.sqrt(square) + epsilon), mean, square


def better(found, best):
    """Of two outcomes of the search that of the lower loss, image by image."""
    wins = found["loss"] < best["loss"]

    def chosen(new, old):
        return ops.where(ops.reshape(wins, (-1,) + (1,) * (len(new.shape) - 1)), new, old)

    return {name: chosen(found[name], best[name]) for name in found}
