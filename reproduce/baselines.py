"""Baselines that stand in several papers' tables: GANomaly and f-AnoGAN, declared once."""

from ganspect.data.patches import PatchSampler
from ganspect.data.rotation import RotatedSampler
from ganspect.models import fanogan, ganomaly
from ganspect.reproduce.cells import Method

HELD_OUT_PATCHES = 256  # fixed patches of held-out normals, for the reconstruction error after each epoch
QUICK_FANOGAN = dict(
    width=16, batch_size=16, generator_steps_per_epoch=50, gan_epochs=6, encoder_epochs=4, rate=4e-4, encoder_rate=5e-4,
    map_stride=32,
)  # fmt: skip


def whole_images(config, sizes, held_out=False):
    """Batches of whole images in a new order every epoch; with `held_out` one batch in order."""
    if held_out:
        return RotatedSampler(sizes, config.image_size, len(sizes), len(sizes), augment=False)
    return RotatedSampler(sizes, config.image_size, config.images_per_epoch(len(sizes)), config.batch_size, config.seed)


def ganomaly_method(label, settings, schedule_share, millions, all_images=None, **more):
    """GANomaly in a paper's tables.

    Args:
        label: as printed.
        settings: `Subject -> {field: value}`.
        schedule_share: `config (dict) -> share`.
        millions: weights of all networks at width 64.
        all_images: suffix of the label for the score over all test images, where the paper's own is over draws.
        **more: further fields of `Method`.
    """
    whole = {"encoder_distance, all": all_images} if all_images else {}
    return Method(
        label,
        ganomaly.GANomaly,
        ganomaly.GANomalyConfig,
        whole_images,
        model_fields=ganomaly.MODEL_FIELDS,
        loss_fields=ganomaly.LOSS_FIELDS,
        score_fields=("score_norm", "ge_twice"),
        settings=settings,
        scores={
            "encoder_distance": "",
            **whole,
            "first_encoder_distance": ", G_E twice",
            "residual": ", residual alone",
        },
        curves=lambda subject: (("encoder_distance", "image_auroc"), ("residual", "image_auroc")),
        schedule_share=schedule_share,
        checkpoint_megabytes=lambda config: millions * 12 * (config.width / 64) ** 2,
        **more,
    )


def fanogan_patches(config, sizes, held_out=False):
    """f-AnoGAN's patches, turned as FCBiGAN's; with `held_out` one batch that is only cut."""
    if held_out:
        return PatchSampler(sizes, config.patch_size, HELD_OUT_PATCHES, HELD_OUT_PATCHES, augment=False)
    count = config.generator_steps_per_epoch * config.images_per_step
    return PatchSampler(sizes, config.patch_size, count, config.images_per_step, config.seed)


def fanogan_share(config):
    """Share of the batches of both phases, in images, that a config (dict) of f-AnoGAN trains."""
    default = fanogan.FAnoGANConfig()

    def images(epochs, steps, batch, critic_steps):
        return epochs * steps * batch * critic_steps

    whole = images(default.epochs, default.generator_steps_per_epoch, default.batch_size, default.critic_steps)
    epochs = config["gan_epochs"] + config["encoder_epochs"]
    done = images(epochs, config["generator_steps_per_epoch"], config["batch_size"], config["critic_steps"])
    return min(1.0, done / whole)


def fanogan_method(settings, scores, curve, **more):
    """f-AnoGAN in a paper's tables.

    Args:
        settings: `{field: value}` or `Subject -> {field: value}`.
        scores: `{score: suffix}`, the headline first.
        curve: `(score, metric)` of the curve against training steps.
        **more: further fields of `Method`.
    """
    return Method(
        "f-AnoGAN",
        fanogan.FAnoGAN,
        fanogan.FAnoGANConfig,
        fanogan_patches,
        model_fields=("width", "patch_size", "latent_size", "image_size"),
        loss_fields=("penalty_weight", "kappa"),
        score_fields=("map_stride", "score"),
        settings=settings,
        scores=scores,
        curves=lambda subject: (curve,),
        schedule_share=fanogan_share,
        checkpoint_megabytes=lambda config: 35 * 12 * (config.width / 64) ** 2,
        **more,
    )
