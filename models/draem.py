"""DRAEM: reconstruct a corrupted image, mark the corruption (V. Zavrtanik, M. Kristan, D. Skocaj).

*DRAEM: A discriminatively trained reconstruction embedding for surface anomaly detection*, ICCV 2021, arXiv 2108.07610;
the baseline of GRD-Net's Tables 2 to 5. x is a clean image, x_a the same with textures in Perlin masks M, G the
reconstructive network, A the discriminative one's map:
    L_rec = mean (x - G(x_a))^2 + 1 - SSIM(x, G(x_a))    -> `losses.mean_squared_error`, `losses.structural_similarity`
    L_seg = FL(A(G(x_a), x_a), M), gamma 2               -> `losses.focal_loss`
    L = L_rec + L_seg, of both networks together         -> `DRAEM.step`
    score: the maximum of A averaged over 21x21 pixels   -> `SegmentingDetector.score_from`

Input: square images in [0, 1]. Facts tagged [draem] are of the authors' code, [GRD] of the study that uses it here.

Departures: 128 pixels by default, as GRD-Net's input (decision 2f), in place of 256; textures are made by a procedure
unless a folder of the DTD set is given (decisions; the issue threads of other re-implementations find DTD to matter
little), changed by three of the code's ten operations once, before training, and turned by up to an eighth anew at
every use (one of the ten in the code); rotated images are mirrored beyond their border (black in the code); an epoch
shows each image once (the code draws them with repetition); images are made smaller by Pillow's bilinear filter
(OpenCV's does not average); bilinear enlargement with half-pixel centres; SSIM without windows that reach over the
border.
"""

from dataclasses import dataclass

import keras
from keras import layers, ops

from ganspect.models import losses, optimizers
from ganspect.models.segmentation import SMALLEST, SegmentingDetector, block, build_segmentation, enlarged, kernels
from ganspect.models.settings import check_settings

MODEL_FIELDS = ("width", "image_size", "patch_size")
LOSS_FIELDS = ("gamma",)


@dataclass(frozen=True)
class DRAEMConfig:
    """Settings; the defaults are those of the authors' code but for the size of images."""

    image_size: int = 128  # [ours, 2f] pixels; 256 [draem]
    patch_size: int = 128  # [ours, 2f] pixels; the whole image
    patch_stride: int = 64  # [GRD] between neighbouring patches of a larger image, pixels
    channels: int = 3  # [draem]
    width: int = 64  # [draem] filters of the U-Net's first level; the reconstructive network has twice as many
    norm_momentum: float = 0.9  # [draem] what a step keeps of the moving statistics (PyTorch's 0.1)
    statistics_batches: int = 0  # [ours] batches on which each epoch ends by measuring them anew; 0: on none
    gamma: float = 2.0  # [draem] of the focal loss
    rate: float = 1e-4  # [draem] of Adam
    decay: float = 0.2  # [draem] of the rate, after 80 % and again after 90 % of `schedule_epochs`
    schedule_epochs: int = 700  # [draem]
    batch_size: int = 8  # [draem]
    epochs: int = 700  # [draem]
    corrupted: float = 0.5  # [draem] share of corrupted images
    highest_scale: int = 5  # [draem] cells of Perlin noise along an axis: 2^0 to 2^5
    turned: float = 0.3  # [draem] share of images that are rotated
    textures: int = 256  # [ours] anomaly sources; the code draws from 5640 images
    texture_folder: str = ""  # [draem] the DTD set; none: textures made by a procedure
    seed: int = 0  # [ours] of weights, batches and noise; the sources name none

    def __post_init__(self):
        check_settings(self)
        check_sizes(self)

    def images_per_epoch(self, available):
        """Images in an epoch: every one once, a last incomplete batch left out, other images each time."""
        return max(1, available // self.batch_size) * self.batch_size


def check_sizes(config):
    """Refuses settings that neither GRD-Net nor DRAEM can work with, by a ValueError."""
    if config.statistics_batches < 0:
        raise ValueError(f"statistics_batches must not be negative, not {config.statistics_batches}")
    for name in ("width", "batch_size", "epochs", "textures"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}")
    if config.patch_size < SMALLEST or config.patch_size % SMALLEST:
        raise ValueError(f"patch_size must be a multiple of {SMALLEST}, not {config.patch_size}")
    if config.image_size < config.patch_size:
        raise ValueError(f"image_size {config.image_size} is smaller than patch_size {config.patch_size}")
    if not 1 <= config.patch_stride <= config.patch_size:
        raise ValueError(f"patch_stride must lie in 1 to patch_size {config.patch_size}, not {config.patch_stride}")


def build_reconstructive(channels, width, name="reconstructive", momentum=0.9):
    """The autoencoder of DRAEM's code: images `[B, H, W, C]` to images, linear; 69.0 million weights at width 128."""
    image = keras.Input((None, None, channels), name="images")
    x = block(image, width, "down1", momentum=momentum)
    for i, multiple in enumerate((2, 4, 8, 8), 2):
        x = block(layers.MaxPooling2D(2, name=f"pool{i}")(x), multiple * width, f"down{i}", momentum=momentum)
    for i, (multiple, last) in enumerate(((8, 4), (4, 2), (2, 1), (1, 1)), 1):
        x = enlarged(x, multiple * width, f"enlarge{i}", momentum)
        x = block(x, multiple * width, f"up{i}", last * width, momentum)
    rebuilt = layers.Conv2D(channels, 3, padding="same", kernel_initializer=kernels(), name="image")(x)
    return keras.Model(image, rebuilt, name=name)


class DRAEM(SegmentingDetector):
    """The method: train with `ganspect.training.fit` on batches of `data.corruption`, then score images.

    >>> detector = DRAEM(DRAEMConfig(width=16, epochs=10))
    >>> detector.compile()
    """

    loss_names = ("loss", "squared", "dissimilarity", "focal")

    def __init__(self, config=None):
        """Builds the networks; sets the global random seed to `config.seed`, so equal configs give equal weights."""
        super().__init__(name="draem")
        self.config = config or DRAEMConfig()
        keras.utils.set_random_seed(self.config.seed)
        c = self.config
        self.reconstructive = build_reconstructive(c.channels, 2 * c.width, momentum=c.norm_momentum)
        self.segmentation = build_segmentation(c.channels, c.width, momentum=c.norm_momentum)
        self.built = True

    def _normalised(self):
        return [self.reconstructive, self.segmentation]

    def compile(self):
        """Makes and builds the one Adam optimiser of both networks [draem]."""
        both = [self.reconstructive, self.segmentation]
        self.finish_compile({"networks": (optimizers.Adam(self.config.rate), both)})

    def step(self, batch):
        """One batch: both networks learn from the sum of all losses.

        Args:
            batch: float32 `{"images": [B, p, p, C] in [0, 1], "corrupted": same, "mask": [B, p, p, 1], "roi": same}`.

        Returns:
            Scalars by `loss_names`.
        """
        networks = ([self.reconstructive, self.segmentation], self.optimizers["networks"])
        return self.minimise(lambda: self.losses(batch, training=True), {"loss": networks})

    def losses(self, batch, training):
        """L and its parts on a batch as `step` takes it: scalars by `loss_names`."""
        images, corrupted = (ops.convert_to_tensor(batch[name]) for name in ("images", "corrupted"))
        rebuilt = self.reconstructive(corrupted, training=training)
        marked = self.probabilities(rebuilt, corrupted, training=training)
        squared = losses.mean_squared_error(images, rebuilt)
        dissimilarity = 1.0 - losses.structural_similarity(images, rebuilt)
        focal = losses.focal_loss(marked, batch["mask"], self.config.gamma)
        total = squared + dissimilarity + focal
        return {"loss": total, "squared": squared, "dissimilarity": dissimilarity, "focal": focal}

    def held_out_losses(self, batch):
        """The losses of a batch that is not trained on."""
        return self.losses(batch, training=False)

    def rates(self, rows):
        """Learning rate of each optimiser for the epoch after those of history.csv, `rows` [draem]."""
        c, done = self.config, len(rows)
        drops = sum(done >= share * c.schedule_epochs for share in (0.8, 0.9))
        return {"networks": c.rate * c.decay**drops}

    def reconstruct(self, images):
        """G(x): float `[B, H, W, C]` in [0, 1] to the same shape, about that range."""
        return self.reconstructive(images, training=False)
