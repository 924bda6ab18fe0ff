"""AnoGAN and GANomaly on casting and cloud images (J. Jeong, 2022): score distributions, AUROC and accuracy."""

import sys

from ganspect.data.rotation import RotatedSampler
from ganspect.models.ganomaly import PRESETS, GANomaly, GANomalyConfig
from ganspect.reproduce.cells import Method, Profile, Subject

NAME = "anogan_ganomaly"
TITLE = "AnoGAN and GANomaly on casting and cloud images (2022)"


def sampler(config, sizes, held_out=False):
    """Whole images in a new order every epoch; with `held_out` one batch in order."""
    if held_out:
        return RotatedSampler(sizes, config.image_size, len(sizes), len(sizes), augment=False)
    count = config.images_per_epoch(len(sizes))
    return RotatedSampler(sizes, config.image_size, count, config.batch_size, config.seed)


METHODS = {
    "ganomaly": Method(
        "GANomaly",
        GANomaly,
        GANomalyConfig,
        sampler,
        model_fields=("width",),
        loss_fields=(),
        score_fields=("score_norm", "ge_twice"),
        settings=PRESETS["study"],
    ),
}
SUBJECTS = (Subject("casting", "casting", ("figures",), 1, (128, 128)),)
SYNTHETIC = ()
TABLES = {"figures": {"title": "Score plots", "metrics": ("image_auroc",)}}
SCORES = {"encoder_distance": "", "residual": ", residual"}
NOT_RUN = {}
PROFILES = {
    "smoke": {},
    "quick": {"ganomaly": Profile(curve=5, minutes=60)},
    "paper": {"ganomaly": Profile(curve=5, minutes=60)},
}


def schedule_share(config):
    """Share."""
    return 1.0


def curves(subject):
    """Curves."""
    return (("encoder_distance", "image_auroc"),)


def checkpoint_megabytes(config):
    """Size."""
    return 600


if __name__ == "__main__":
    from ganspect.reproduce.cli import main

    sys.exit(main(["reproduce", NAME, *sys.argv[1:]]))
