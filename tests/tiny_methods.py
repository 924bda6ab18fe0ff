"""A tiny detector of each method with what is its own: the table that the tests of all methods run over."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ganspect.data.corruption import CorruptedSampler
from ganspect.data.patches import PatchSampler
from ganspect.data.regions import with_regions
from ganspect.data.rotation import RotatedSampler
from ganspect.models.anogan import AnoGAN, AnoGANConfig
from ganspect.models.cbigan import CBiGAN, CBiGANConfig
from ganspect.models.draem import DRAEM, DRAEMConfig
from ganspect.models.fanogan import FAnoGAN, FAnoGANConfig
from ganspect.models.fcbigan import FCBiGAN, FCBiGANConfig
from ganspect.models.ganomaly import GANomaly, GANomalyConfig
from ganspect.models.grdnet import GRDNet, GRDNetConfig


@dataclass(frozen=True)
class Tiny:
    """One method, small enough for a step in milliseconds.

    Args:
        method: class of the detector.
        config: its settings.
        images: in the batch of one `step`.
        sampler: `(sizes, config) -> Sampler` as the method's paper trains, two or three steps an epoch.
        updates: `{optimiser: names of the networks it trains}`.
        averages: `{network: the network whose moving average it is}`, of which one step keeps the share `decay`.
        certain: settings that take chance out of the networks.
        unmoved: paths of variables whose gradient is zero whatever the batch.
        rounding: paths of variables whose gradient is zero but for rounding, so that they may move or not.
        phases: `{optimiser: the phase in which it trains}` of a method with several, in their order; an epoch each.
        slots: `{optimiser: variables it keeps of each kernel}` where it is no Adam, which keeps two.
        regions: whether it trains on dicts of corrupted images, from images with a region of interest as last channel.
    """

    method: type
    config: object
    images: int
    sampler: Callable
    updates: dict
    averages: dict = field(default_factory=dict)
    decay: float = 0.0
    certain: dict = field(default_factory=dict)
    unmoved: tuple = ()
    rounding: tuple = ()
    phases: dict = field(default_factory=dict)
    slots: dict = field(default_factory=dict)
    regions: bool = False

    @property
    def networks(self):
        """Names of all networks, those that average others included."""
        return (*(name for names in self.updates.values() for name in names), *self.averages)

    @property
    def every_phase(self):
        """The phases in their order; None alone where all steps are alike."""
        return tuple(dict.fromkeys(self.phases.values())) or (None,)

    def build(self, phase=None, **settings):
        """A compiled detector, in that phase or in its first."""
        detector = self.method(replace(self.config, **settings))
        detector.compile()
        detector.phase = phase or detector.phase
        return detector

    @staticmethod
    def rewinding(detector):
        """A function that gives all of a detector's state the values that it has now: a build saved."""
        start = [v.numpy() for v in detector.state]

        def rewind():
            for v, value in zip(detector.state, start, strict=True):
                v.assign(value)

        return rewind

    def telling(self, **settings):
        """As `build`, with scores that differ between images: so narrow, an untrained U-Net says 0.5 everywhere."""
        detector = self.build(**settings)
        for v in detector.segmentation.trainable_variables if self.regions else ():
            v.assign(v * 10 if "kernel" in v.path else v)
        return detector

    def batch(self, seed=0):
        """What one `step` takes: float32 `[images, p, p, C]` in [-1, 1], or in [0, 1] a dict with corrupted ones."""
        shape = (self.images, self.config.patch_size, self.config.patch_size, self.config.channels)
        rng = np.random.default_rng(seed)
        images = rng.uniform(-1, 1, shape).astype("float32")
        if not self.regions:
            return images
        mask, roi = (rng.random((2, *shape[:3], 1)) < 0.3).astype("float32")
        images = (images + 1) / 2
        return {"images": images, "corrupted": images * (1 - mask) + 0.5 * mask, "mask": mask, "roi": roi}

    def photographs(self, textures):
        """The fixture's images as the method takes them: uint8 `[64, 64, C]`."""
        return [np.repeat(image[:64, :64], self.config.channels, axis=-1) for image in textures]

    def training_images(self, images):
        """Photographs as the method trains on them."""
        return with_regions(images, None) if self.regions else images


def fcbigan_sampler(sizes, config):
    return PatchSampler(sizes, config.patch_size, config.patches_per_epoch, config.batch_size, config.seed)


def cbigan_sampler(sizes, config):
    count = config.cycles_per_epoch * config.images_per_step
    return RotatedSampler(
        sizes, config.patch_size, count, config.images_per_step, config.seed, rotation=config.rotation, fill="crop"
    )


def fanogan_sampler(sizes, config):
    count = config.generator_steps_per_epoch * config.images_per_step
    return PatchSampler(sizes, config.patch_size, count, config.images_per_step, config.seed)


def ganomaly_sampler(sizes, config):
    count = config.images_per_epoch(len(sizes))
    return RotatedSampler(sizes, config.patch_size, count, config.batch_size, config.seed, fill="crop")


def corrupted_sampler(sizes, config):
    """Patches of larger images, GRD-Net's corruption."""
    return CorruptedSampler(sizes, config.patch_size, 3 * config.batch_size, config.batch_size, config.seed, stride=16)


SEGMENTATION_BIASES = tuple(  # normalised away
    f"{name}_conv/bias" for i in range(1, 7) for name in (f"down{i}a", f"down{i}b", f"up{i}a", f"up{i}b", f"enlarge{i}")
)

TINY = {
    "fcbigan": Tiny(
        FCBiGAN,
        FCBiGANConfig(
            patch_size=16, width=4, latent_size=6, batch_size=4, patches_per_epoch=12, epochs=3, filter_size=8, seed=3
        ),
        images=4,
        sampler=fcbigan_sampler,
        updates={"discriminator": ("discriminator",), "generator": ("generator",), "encoder": ("encoder",)},
        certain={"dropout": 0.0, "latent_dropout": 0.0},
    ),
    "cbigan": Tiny(
        CBiGAN,
        CBiGANConfig(
            image_size=64, patch_size=32, rotation=math.pi, width=1, latent_size=5, batch_size=4, critic_steps=1,
            ema_decay=0.5, cycles_per_epoch=2, epochs=3, seed=3,
        ),
        images=8,
        sampler=cbigan_sampler,
        updates={"discriminator": ("discriminator",), "mapping": ("generator", "encoder")},
        averages={"ema_generator": "generator", "ema_encoder": "encoder"},
        decay=0.5**0.2,  # two of the ten batches to which the decay belongs
        unmoved=("output/bias",),  # a constant cancels between the two means of a critic's loss
    ),
    "fanogan": Tiny(
        FAnoGAN,
        FAnoGANConfig(
            patch_size=32, width=2, latent_size=5, batch_size=4, critic_steps=2, generator_steps_per_epoch=2,
            gan_epochs=1, encoder_epochs=2, seed=3,
        ),
        images=8,
        sampler=fanogan_sampler,
        updates={"generator": ("generator",), "discriminator": ("discriminator",), "encoder": ("encoder",)},
        unmoved=("output/bias",),  # a constant cancels between the two means of a critic's loss
        # normalised away, and in D's last block a constant again
        rounding=tuple(f"{b}_{part}/bias" for b in ("g1", "g2", "g3", "d3") for part in ("shortcut", "conv2")),
        phases={"generator": "gan", "discriminator": "gan", "encoder": "encoder"},
        slots={"encoder": 1},
    ),
    "anogan": Tiny(
        AnoGAN,
        AnoGANConfig(
            image_size=64, width=2, latent_size=5, batch_size=4, steps_per_epoch=3, epochs=3, search_steps=6,
            search_batch=2, seed=3,
        ),
        images=4,
        sampler=ganomaly_sampler,
        updates={"discriminator": ("discriminator",), "generator": ("generator",)},
        certain={"dropout": 0.0},
    ),
    "ganomaly": Tiny(
        GANomaly,
        GANomalyConfig(image_size=64, width=4, latent_size=5, batch_size=4, steps_per_epoch=3, epochs=3, seed=3),
        images=4,
        sampler=ganomaly_sampler,
        updates={"generator": ("encoder", "decoder", "second_encoder"), "discriminator": ("discriminator",)},
    ),
    "grdnet": Tiny(
        GRDNet,
        GRDNetConfig(
            image_size=64, patch_size=32, patch_stride=32, width=2, stages=2, latent_channels=3, rate=1e-3,
            batch_size=2, seed=3,
        ),
        images=2,
        sampler=corrupted_sampler,
        updates={
            "discriminator": ("discriminator",),
            "generator": ("encoder", "decoder", "second_encoder"),
            "segmentation": ("segmentation",),
        },
        rounding=SEGMENTATION_BIASES,
        regions=True,
    ),
    "draem": Tiny(
        DRAEM,
        DRAEMConfig(image_size=64, patch_size=32, patch_stride=32, width=2, rate=3e-4, batch_size=2, seed=3),
        images=2,
        sampler=corrupted_sampler,
        updates={"networks": ("reconstructive", "segmentation")},
        rounding=SEGMENTATION_BIASES,
        regions=True,
    ),
}  # fmt: skip
