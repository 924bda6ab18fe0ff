"""GRD-Net: a residual GANomaly that repairs corrupted images, a U-Net that marks the repairs (N. Ferrari et al.).

*GRD-Net: Generative-Reconstructive-Discriminative Anomaly Detection with Region of Interest Attention Module*, Int. J.
Intelligent Systems 2023, doi 10.1155/2023/7773481. X is a clean image, X_n the same with random colours in Perlin masks
M; G(X_n) = G_D(G_E(X_n)) = X^, E a second encoder with its own weights, f the features of the discriminator D, A the
map of the discriminative U-Net, R the region of interest:
    L_con = L1(X, X^) + 1 - SSIM(X, X^)               (1)  -> `GRDNet.generative_losses`
    L_adv = mean (f(X) - f(X^))^2                          -> `losses.feature_matching`; its gradient reaches G (2a)
    L_enc = mean (G_E(X_n) - E(X^))^2                      -> `losses.mean_squared_error` (2b)
    L_gan = w1 L_adv + w2 L_con + w3 L_enc, 1, 50, 1  (2, 3) -> `GRDNet.generative_losses`; trains G_E, G_D and E
    L_D = (BCE(D(X), 1) + BCE(D(X^), 0)) / 2               -> `GRDNet.step`
    FL(p) = -(1 - p)^gamma log p                      (4)  -> `losses.focal_loss`
    L_tot = L_gan + FL(I, M), I = A R                 (5, 6) -> `segmentation_loss`, both readings (2e)
    LR_k = LR_(k-1) e^-0.1 on a plateau of 3 epochs   (7)  -> `GRDNet.rates`, of all three optimisers (2j)
    L_overlap = w (1 - |A and R| / min(|A|, |R|))     (8)  -> `losses.region_overlap`
    L_FL = FL(A, M) + L_overlap                       (9)  -> `segmentation_loss`, the four cases of Table 7
    score: the maximum of A averaged over 11x11 of 128x128 pixels (2n) -> `SegmentingDetector.score_from`

Input: square images in [0, 1]. [GRD-tf], [SGRD-tf] and [GRD-pt] are facts of later code of the authors, [draem] of
DRAEM's; 2a to 2u are decisions of this project's notes. "Residual" is also the name of a score beyond the paper: the
reconstruction error.

Departures from the text: the target is masked, not the prediction of eq. 5 (2e; `reading="prediction"` is eq. 5). Where
the text is silent, chosen here: what is tagged with a decision, the initial
values (Keras' own; DRAEM's in the U-Net), case 4 as case 2 plus w |A and (1 - R)| / min(|A|, |1 - R|). In the authors'
TensorFlow code the features of X^ stand behind a stop of the gradient and both encoders are one: not so here.
"""

import math
from dataclasses import dataclass

import keras
from keras import layers, ops

from ganspect.models import losses, optimizers
from ganspect.models.blocks import EveryOther, InsertZeros
from ganspect.models.draem import check_sizes
from ganspect.models.segmentation import SegmentingDetector, build_segmentation
from ganspect.models.settings import check_settings

SLOPE = 0.2  # [SGRD-tf] of every leaky ReLU
MODEL_FIELDS = (
    *("width", "stages", "image_size", "patch_size", "residual", "bottleneck", "latent_channels", "latent_size"),
    *("batch_norm", "discriminative"),
)
LOSS_FIELDS = (
    *("adversarial_weight", "contextual_weight", "encoder_weight", "gamma"),
    *("loss_case", "reading", "overlap_weight"),
)
CASES = (1, 2, 3, 4)
READINGS = ("target", "prediction")
NOISES = ("rgb", "perlin", "gray", "texture")  # those of data.corruption, which tells them apart
LEAST_GAIN = 1e-4  # by which the monitored loss must fall to count: Keras' ReduceLROnPlateau


@dataclass(frozen=True)
class GRDNetConfig:
    """Settings; the defaults are the paper's, or the decision where it is silent."""

    image_size: int = 128  # [2f] pixels; 256 with patches of 128 as in [GRD-pt]
    patch_size: int = 128  # [2f] pixels, what the networks see
    patch_stride: int = 64  # [GRD-pt] between neighbouring patches of a larger image, pixels
    channels: int = 3  # [paper Figure 1] RGB noise on RGB images; grayscale categories are replicated
    width: int = 64  # [SGRD-tf] filters of the first convolution and of the U-Net's first level
    stages: int = 5  # [SGRD-tf] of two blocks each; all but the first halve the image: 8x8 latents need 6 at 256 pixels
    residual: bool = True  # [paper 5] False: the same convolutions without shortcuts, the "vanilla" of Table 1
    bottleneck: str = "conv"  # [paper 8.4.1] "dense"
    latent_channels: int = 32  # [paper] of the convolutional bottleneck: 8x8x32 at 128 pixels
    latent_size: int = 2048  # [paper] of the dense bottleneck
    batch_norm: bool = False  # [2m] in G, E and D; the U-Net always has it
    norm_momentum: float = 0.9  # [draem] what a step keeps of the U-Net's moving statistics; Keras' own is 0.99
    statistics_batches: int = 0  # [ours] batches on which each epoch ends by measuring them anew; 0: on none
    discriminative: bool = True  # [paper 5] False: without the U-Net, the generative part alone (Table 1)
    adversarial_weight: float = 1.0  # [paper eq. 3] w1
    contextual_weight: float = 50.0  # [paper eq. 3] w2
    encoder_weight: float = 1.0  # [paper eq. 3] w3
    gamma: float = 2.0  # [2d]
    loss_case: int = 2  # [paper 8.4.2] of the four cases of Table 7
    reading: str = "target"  # [2e] FL(A, M R); "prediction": FL(A R, M), eq. 5 and 6 to the letter
    overlap_weight: float = 0.5  # [2s] w of eq. 8
    rate: float = 1e-4  # [paper eq. 7] of Adam, all three
    beta_1: float = 0.5  # [2k]
    beta_2: float = 0.999  # [2k]
    plateau_exponent: float = 0.1  # [paper eq. 7] the rate is multiplied by e to the minus this
    patience: int = 3  # [paper eq. 7] epochs without a gain
    batch_size: int = 8  # [2k]
    epochs: int = 200  # [paper, 2q]
    corrupted: float = 0.75  # [2g] share of corrupted images
    highest_scale: int = 5  # [2g] cells of Perlin noise along an axis: 2^0 to 2^5
    noise: str = "rgb"  # [2h] a random colour for each pixel; "perlin", "gray", "texture": `CorruptedSampler`
    textures: int = 256  # [ours] as DRAEM's, for that noise alone
    texture_folder: str = ""  # likewise
    seed: int = 0  # [ours] of weights, batches and noise; the sources name none

    def __post_init__(self):
        check_settings(self)
        check_sizes(self)
        if self.stages < 1 or self.patch_size % 2 ** (self.stages - 1):
            raise ValueError(f"{self.stages} stages do not halve patches of {self.patch_size} pixels evenly")
        for name in ("latent_channels", "latent_size", "patience", "textures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.bottleneck not in ("conv", "dense"):
            raise ValueError(f'bottleneck must be "conv" or "dense", not {self.bottleneck!r}')
        if self.loss_case not in CASES:
            raise ValueError(f"loss_case must be one of {', '.join(map(str, CASES))}, not {self.loss_case}")
        if self.reading not in READINGS:
            raise ValueError(f"reading must be one of {', '.join(READINGS)}, not {self.reading!r}")
        if self.statistics_batches and not self.discriminative:
            raise ValueError("statistics_batches are of the U-Net, which discriminative=false leaves out")
        if self.noise not in NOISES:
            raise ValueError(f"noise must be one of {', '.join(NOISES)}, not {self.noise!r}")

    def images_per_epoch(self, available):
        """Images in an epoch: every one once, a last incomplete batch left out, other images each time."""
        return max(1, available // self.batch_size) * self.batch_size


def unit(kind, x, filters, config, name, kernel=3, strides=1):
    """A convolution of this kind without bias, normalised where the config says so, then the leaky ReLU."""
    x = kind(filters, kernel, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    if config.batch_norm:
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.LeakyReLU(SLOPE, name=f"{name}_act")(x)


def encoder_block(x, filters, config, name, strides=1, projected=False):
    """Two 3x3 convolutions and a shortcut, added behind their activations (Figure 5): "a" is projected, "b" not."""
    kind, shortcut = layers.Conv2D, x
    if projected and config.residual:
        picked = EveryOther(name=f"{name}_pick")(x) if strides == 2 else x
        shortcut = unit(kind, picked, filters, config, f"{name}_shortcut", 1)
    x = unit(kind, x, filters, config, f"{name}_1", strides=strides)
    x = unit(kind, x, filters, config, f"{name}_2")
    return layers.Add(name=f"{name}_add")([x, shortcut]) if config.residual else x


def decoder_block(x, filters, config, name, narrower=None, strides=1):
    """The same with transposed convolutions, the second to `narrower` filters and larger images where given."""
    kind, shortcut = layers.Conv2DTranspose, x
    if narrower and config.residual:
        shortcut = unit(layers.Conv2D, x, narrower, config, f"{name}_shortcut", 1)
        shortcut = InsertZeros(name=f"{name}_spread")(shortcut) if strides == 2 else shortcut
    x = unit(kind, x, filters, config, f"{name}_1")
    x = unit(kind, x, narrower or filters, config, f"{name}_2", strides=strides)
    return layers.Add(name=f"{name}_add")([x, shortcut]) if config.residual else x


def image_path(image, config):
    """What both encoders and D start with: images `[B, p, p, C]` to features, of 5 stages `[B, p/16, p/16, 16 w]`."""
    x = unit(layers.Conv2D, image, config.width, config, "stem", 4)
    for stage in range(config.stages):
        filters = config.width * 2**stage
        x = encoder_block(x, filters, config, f"stage{stage}a", 2 if stage else 1, projected=True)
        x = encoder_block(x, filters, config, f"stage{stage}b")
    return x


def build_encoder(config, name="encoder"):
    """G_E and E: images `[B, p, p, C]` to z, `[B, p / 16, p / 16, latent_channels]` or, dense, `[B, latent_size]`."""
    image = keras.Input((config.patch_size, config.patch_size, config.channels), name="images")
    x = image_path(image, config)
    if config.bottleneck == "conv":
        return keras.Model(image, unit(layers.Conv2D, x, config.latent_channels, config, "latents", 4), name=name)
    z = layers.Dense(config.latent_size, use_bias=False, name="latents")(layers.Flatten(name="flatten")(x))
    return keras.Model(image, layers.LeakyReLU(SLOPE, name="latents_act")(z), name=name)


def build_decoder(config):
    """G_D: z to images `[B, p, p, C]` in (0, 1)."""
    side, filters = config.patch_size // 2 ** (config.stages - 1), config.width * 2 ** (config.stages - 1)
    if config.bottleneck == "conv":
        z = keras.Input((side, side, config.latent_channels), name="latents")
        x = layers.Conv2DTranspose(filters, 4, padding="same", use_bias=False, name="unfold")(z)
    else:
        z = keras.Input((config.latent_size,), name="latents")
        x = layers.Dense(side * side * filters, use_bias=False, name="unfold")(z)
        x = layers.LeakyReLU(SLOPE, name="unfold_act")(layers.Reshape((side, side, filters), name="reshape")(x))
    for stage in reversed(range(config.stages)):
        filters = config.width * 2**stage
        x = decoder_block(x, filters, config, f"stage{stage}b")
        narrower, strides = (filters // 2, 2) if stage else (filters, 1)
        x = decoder_block(x, filters, config, f"stage{stage}a", narrower, strides)
    x = layers.Conv2DTranspose(config.channels, 4, padding="same", use_bias=False, name="image_conv")(x)
    return keras.Model(z, layers.Activation("sigmoid", name="image")(x), name="decoder")


def build_discriminator(config):
    """D: images `[B, p, p, C]` to logits `[B, 1]` and features f `[B, p / 16, p / 16, 16 w]`."""
    image = keras.Input((config.patch_size, config.patch_size, config.channels), name="images")
    features = image_path(image, config)
    return keras.Model(
        image, [layers.Dense(1, name="output")(layers.Flatten()(features)), features], name="discriminator"
    )


def segmentation_loss(marked, mask, region, config):
    """The U-Net's loss in one of the four cases of Table 7.

    1: FL(A, M) + w (1 - overlap(A, R)), eq. 9; 2: FL of the intersection with R, eq. 6; 3: both; 4: the intersection's
    plus w overlap(A, 1 - R). The intersection, by `config.reading`: FL(A, M R), which teaches A where to look, or
    FL(A R, M), which teaches it nothing outside R.

    Args:
        marked: float `[B, H, W, 1]` in [0, 1], A.
        mask, region: float, same shape, 0 or 1, M and R.
        config: `GRDNetConfig`.

    Returns:
        Scalar, >= 0.
    """
    if config.loss_case == 1:
        focal = losses.focal_loss(marked, mask, config.gamma)
    elif config.reading == "target":
        focal = losses.focal_loss(marked, mask * region, config.gamma)
    else:
        focal = losses.focal_loss(marked * region, mask, config.gamma)
    if config.loss_case == 2:
        return focal
    if config.loss_case == 4:
        return focal + config.overlap_weight * losses.region_overlap(marked, 1.0 - region)
    return focal + config.overlap_weight * (1.0 - losses.region_overlap(marked, region))


def plateaus(values, patience):
    """How often a monitored loss has not fallen for `patience` epochs, each time counted anew.

    As Keras' `ReduceLROnPlateau` counts: a gain is a fall below the least value so far by more than 1e-4.

    Args:
        values: of the finished epochs.
        patience: epochs, at least 1.
    """
    least, waited, count = math.inf, 0, 0
    for value in values:
        if value < least - LEAST_GAIN:
            least, waited = value, 0
            continue
        waited += 1
        if waited == patience:
            waited, count = 0, count + 1
    return count


class GRDNet(SegmentingDetector):
    """The method: train with `ganspect.training.fit` on batches of `data.corruption`, then score images.

    >>> detector = GRDNet(GRDNetConfig(width=16, epochs=10))
    >>> detector.compile()
    """

    def __init__(self, config=None):
        """Builds the networks; sets the global random seed to `config.seed`, so equal configs give equal weights."""
        super().__init__(name="grdnet")
        c = self.config = config or GRDNetConfig()
        keras.utils.set_random_seed(c.seed)
        self.encoder = build_encoder(c)  # G_E
        self.decoder = build_decoder(c)  # G_D
        self.second_encoder = build_encoder(c, "second_encoder")  # E
        self.discriminator = build_discriminator(c)  # D
        self.segmentation = None
        if c.discriminative:
            self.segmentation = build_segmentation(c.channels, c.width, momentum=c.norm_momentum)
        self.score_names = ("anomaly", "residual") if c.discriminative else ("residual",)
        parts = ("g_loss", "adversarial", "contextual", "encoding", "dissimilarity")
        self.loss_names = ("d_loss", "d_real", "d_fake", *parts, *(["s_loss"] if c.discriminative else []))
        self.built = True

    def compile(self):
        """Makes and builds the Adam optimisers: D's, one for G_E, G_D and E together, the U-Net's."""
        c = self.config
        trained = {
            "discriminator": [self.discriminator],
            "generator": [self.encoder, self.decoder, self.second_encoder],
            **({"segmentation": [self.segmentation]} if c.discriminative else {}),
        }
        self.finish_compile(
            {name: (optimizers.Adam(c.rate, c.beta_1, c.beta_2), networks) for name, networks in trained.items()}
        )

    def step(self, batch):
        """One batch: D, then G and E with the new D, then the U-Net on what G had made (2l).

        Args:
            batch: float32 `{"images": X [B, p, p, C] in [0, 1], "corrupted": X_n, same, "mask": M [B, p, p, 1],
                "roi": R, same}`.

        Returns:
            Scalars by `loss_names`.
        """
        images, corrupted = (ops.convert_to_tensor(batch[name]) for name in ("images", "corrupted"))

        def discriminator_losses():
            real, _ = self.discriminator(images, training=True)
            fake, _ = self.discriminator(self.reconstruct(corrupted), training=True)
            loss = 0.5 * (losses.binary_cross_entropy(real, 1.0) + losses.binary_cross_entropy(fake, 0.0))
            return {"d_loss": loss, "d_real": ops.mean(real), "d_fake": ops.mean(fake)}

        logs = self.minimise(discriminator_losses, {"d_loss": ([self.discriminator], self.optimizers["discriminator"])})
        networks = [self.encoder, self.decoder, self.second_encoder]
        logs |= self.minimise(
            lambda: self.generative_losses(images, corrupted, training=True),
            {"g_loss": (networks, self.optimizers["generator"])},
        )
        rebuilt = ops.stop_gradient(logs.pop("rebuilt"))
        if self.segmentation is None:
            return logs

        def discriminative_loss():
            marked = self.probabilities(rebuilt, corrupted, training=True)
            return {"s_loss": segmentation_loss(marked, batch["mask"], batch["roi"], self.config)}

        segmentation = {"s_loss": ([self.segmentation], self.optimizers["segmentation"])}
        return logs | self.minimise(discriminative_loss, segmentation)

    def generative_losses(self, images, corrupted, training):
        """L_gan and its parts (eq. 1 to 3), D in inference mode; also X^, under "rebuilt"."""
        c = self.config
        codes = self.encoder(corrupted, training=training)
        rebuilt = self.decoder(codes, training=training)
        again = self.second_encoder(rebuilt, training=training)
        _, real = self.discriminator(images, training=False)
        _, fake = self.discriminator(rebuilt, training=False)
        adversarial = losses.feature_matching(ops.stop_gradient(real), fake)
        dissimilarity = 1.0 - losses.structural_similarity(images, rebuilt)
        contextual = losses.mean_absolute_error(images, rebuilt) + dissimilarity
        encoding = losses.mean_squared_error(codes, again)
        total = c.adversarial_weight * adversarial + c.contextual_weight * contextual + c.encoder_weight * encoding
        return {
            "g_loss": total,
            "adversarial": adversarial,
            "contextual": contextual,
            "encoding": encoding,
            "dissimilarity": dissimilarity,
            "rebuilt": rebuilt,
        }

    def held_out_losses(self, batch):
        """The losses of G and of the U-Net on a batch that is not trained on: scalars by their names."""
        images, corrupted = (ops.convert_to_tensor(batch[name]) for name in ("images", "corrupted"))
        found = self.generative_losses(images, corrupted, training=False)
        rebuilt = found.pop("rebuilt")
        if self.segmentation is not None:
            marked = self.probabilities(rebuilt, corrupted)
            found["s_loss"] = segmentation_loss(marked, batch["mask"], batch["roi"], self.config)
        return found

    def examine(self, batch):
        """D's outputs on a batch and on what G makes, for its health: see `Detector`."""
        images = ops.convert_to_tensor(batch["images"])
        made = self.reconstruct(ops.convert_to_tensor(batch["corrupted"]))
        return self.examine_images(images, made)

    def rates(self, rows):
        """Learning rate of each optimiser for the epoch after those of history.csv, `rows` (eq. 7; monitor: 2j)."""
        c = self.config
        count = plateaus([float(row["held_out_contextual"]) for row in rows], c.patience)
        return dict.fromkeys(self.optimizers, c.rate * math.exp(-c.plateau_exponent * count))

    def reconstruct(self, images):
        """G(x): float `[B, p, p, C]` in [0, 1] to the same shape."""
        return self.decoder(self.encoder(images, training=False), training=False)
