"""FCBiGAN thesis (Peccia 2021): Table 1, nanofibres; Table 2, the textures of MVTec AD.

Protocols. The thesis prints threshold-free pixel metrics with its final weights, so nothing is selected on the test
set: both protocols share the last epoch's weights and z-score constants from held-out normal images (decision 1g). They
differ in the training images (`paper` profile: all of them for the paper protocol, whose constants, and whose error
that stops `fcbigan-stopped`, then come from the same last images, which it has seen) and in exact duplicates, which the
clean protocol drops from the test side.
"""

import sys

from ganspect.data.patches import PatchSampler
from ganspect.models.fcbigan import FCBiGAN, FCBiGANConfig
from ganspect.reproduce.baselines import HELD_OUT_PATCHES, QUICK_FANOGAN, fanogan_method
from ganspect.reproduce.cells import SYNTHETIC as DATASET
from ganspect.reproduce.cells import Method, Profile, Subject

NAME = "fcbigan"
TITLE = "FCBiGAN: Generative Adversarial Networks And Real-Time Anomaly Detection In Texture Images (thesis, 2021)"


def sampler(config, sizes, held_out=False):
    """Random patches of images of these sizes; with `held_out` one batch that is only cut."""
    if held_out:
        return PatchSampler(sizes, config.patch_size, HELD_OUT_PATCHES, HELD_OUT_PATCHES, augment=False)
    draws = dict(seed=config.seed, fresh=config.fresh_patches)
    return PatchSampler(sizes, config.patch_size, config.patches_per_epoch, config.batch_size, **draws)


FIELDS = dict(
    model_fields=("width", "patch_size", "latent_size"),
    loss_fields=("reconstruction_weight", "generator_reconstruction_weight"),
    score_fields=("aggregation", "linear_weight", "filter_size", "map_stride", "latent_overlap"),
)
METHODS = {
    "fcbigan": Method("FCBiGAN", FCBiGAN, FCBiGANConfig, sampler, **FIELDS),
    "fcbigan-stopped": Method(
        "FCBiGAN, early stopping",
        FCBiGAN,
        FCBiGANConfig,
        sampler,
        settings=dict(early_stopping=True),
        also="FCBiGAN",
        tables=("1", "2"),
        note="stopped by the reconstruction error of held-out patches (of training images where none is held out), as "
        "the author's later code does (decision 1n)",
        **FIELDS,
    ),
    "fcbigan-averaged": Method(
        "FCBiGAN, latents averaged",
        FCBiGAN,
        FCBiGANConfig,
        sampler,
        settings=dict(latent_overlap="mean"),
        also="FCBiGAN",
        variant="other scoring",
        tables=("1", "2"),
        note="D's latent channel of a whole image is divided by the number of latents that reach a pixel (not as "
        "decision 1m)",
        sought=True,
        **FIELDS,
    ),
    "f-anogan": fanogan_method(
        {"score": "residual"},
        {"residual": "", "anomaly": ", A of patches"},
        ("residual", "pixel_aupr"),
        subjects=(*(("mvtec_ad", name) for name in ("carpet", "grid", "leather", "tile", "wood")), (DATASET, "weave")),
    ),
}

SUBJECTS = (
    Subject("nanotwice", "nanofibres", tables=("1",), channels=1, pixels=(696, 1024)),
    Subject("mvtec_ad", "carpet", tables=("2",), channels=3, pixels=(1024, 1024)),
    Subject("mvtec_ad", "grid", tables=("2",), channels=3, pixels=(1024, 1024)),
    Subject("mvtec_ad", "leather", tables=("2",), channels=3, pixels=(1024, 1024)),
    Subject("mvtec_ad", "tile", tables=("2",), channels=3, pixels=(840, 840)),
    Subject("mvtec_ad", "wood", tables=("2",), channels=3, pixels=(1024, 1024)),
)
SYNTHETIC = (
    Subject(DATASET, "fibres", tables=("1",), channels=1),
    Subject(DATASET, "weave", tables=("2",), channels=3),
)

TABLES = {
    "1": {
        "title": "Table 1: pixel AUROC and seconds per 1024x696 image, nanofibres (NanoTWICE)",
        "metrics": ("pixel_auroc", "seconds_per_image"),
    },
    "2": {"title": "Table 2: pixel AUPR, textures of MVTec AD", "metrics": ("pixel_aupr",)},
}

# Further scores of the same training, printed beside the paper's Max: where a shortfall comes from.
SCORES = {
    "max": "",
    "reconstruction": ", L_R alone",
    "discriminator": ", L_D alone",
    "linear": ", linear",
    "mahalanobis": ", Mahalanobis",
}

RIVALS = (("fcbigan", "f-anogan"),)  # that the thesis compares
NOT_RUN = {}

SMOKE = Profile(
    dict(
        width=4,
        batch_size=8,
        patches_per_epoch=80,
        epochs=3,
        discriminator_rate=2e-4,
        generator_rate=1e-3,
        encoder_rate=1e-3,
        reconstruction_weight=10.0,
        generator_reconstruction_weight=10.0,
        map_stride=8,
    ),
    curve=2,
    minutes=0.7,
)
SMOKE_FANOGAN = Profile(
    dict(
        patch_size=32,
        width=4,
        batch_size=8,
        critic_steps=1,
        generator_steps_per_epoch=15,
        gan_epochs=2,
        encoder_epochs=2,
        rate=1e-3,
        encoder_rate=1e-3,
        map_stride=16,
    ),
    minutes=1,
)
# Found on held-out normals: with the thesis' losses a network of this width still draws one flat black or white
# after 750 steps; with the penalty on G as well it reconstructs after 750.
QUICK = Profile(
    dict(
        width=16,
        batch_size=16,
        epochs=15,
        discriminator_rate=2e-4,
        generator_rate=2e-4,
        encoder_rate=4e-4,
        reconstruction_weight=10.0,
        generator_reconstruction_weight=1.0,
    ),
    curve=8,
    minutes=40,
    gigabytes=2.5,
    categories=("nanofibres", "grid"),
)
WHOLE = Profile(curve=10, minutes=60 * 48, gigabytes=7)
OURS = ("fcbigan", "fcbigan-stopped", "fcbigan-averaged")
PROFILES = {
    "smoke": dict.fromkeys(OURS, SMOKE) | {"f-anogan": SMOKE_FANOGAN},
    "quick": dict.fromkeys(OURS, QUICK)
    | {"f-anogan": Profile(QUICK_FANOGAN, minutes=15, gigabytes=4.5, categories=("grid",))},
    "paper": dict.fromkeys(OURS, WHOLE) | {"f-anogan": Profile(minutes=60 * 200, gigabytes=4.5)},
}


def schedule_share(config):
    """Share of the thesis' schedule, 100 epochs of 12 000 patches, that a config (dict) trains."""
    default = FCBiGANConfig()
    whole = default.epochs * default.patches_per_epoch
    return min(1.0, config["epochs"] * config["patches_per_epoch"] / whole)


def curves(subject):
    """What is drawn against training steps: `((score, metric), ...)` of the table's first metric."""
    metric = TABLES[subject.tables[0]]["metrics"][0]
    return tuple((score, metric) for score in list(SCORES)[:3])


def checkpoint_megabytes(config):
    """Size of a run's checkpoint: 7.6 million weights at width 64, three numbers each."""
    return 7.6e6 * 12 / 1e6 * (config.width / 64) ** 2


if __name__ == "__main__":
    from ganspect.reproduce.cli import main

    sys.exit(main(["reproduce", NAME, *sys.argv[1:]]))
