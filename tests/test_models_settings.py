"""Numbers that no training can work with are refused, whatever the method."""

import pytest

from ganspect.models.anogan import AnoGANConfig
from ganspect.models.cbigan import PRESETS, CBiGANConfig
from ganspect.models.draem import DRAEMConfig
from ganspect.models.fanogan import FAnoGANConfig
from ganspect.models.fcbigan import FCBiGAN, FCBiGANConfig
from ganspect.models.ganomaly import GANomalyConfig
from ganspect.models.grdnet import GRDNetConfig

CONFIGS = (AnoGANConfig, CBiGANConfig, DRAEMConfig, FAnoGANConfig, FCBiGANConfig, GANomalyConfig, GRDNetConfig)
NAN = float("nan")


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    "settings, words",
    [
        ({"channels": 2}, "channels must be 1 or 3, not 2"),
        ({"channels": 4}, "channels must be 1 or 3, not 4"),
        ({"seed": -1}, "seed must lie in 0 to 4294967295, not -1"),
        ({"seed": 2**32}, "seed must lie in 0 to 4294967295"),
        ({"beta_1": 1.5}, "beta_1 must lie in 0 to 1, below 1"),
        ({"beta_1": NAN}, "beta_1 must be a number"),
        ({"rate": -1.0}, "rate must be above 0"),
        ({"rate": 0.0}, "rate must be above 0"),
        ({"encoder_rate": float("inf")}, "encoder_rate must be a number"),
        ({"dropout": 2.0}, "dropout must lie in 0 to 1, below 1"),
        ({"linear_weight": NAN}, "linear_weight must be a number"),
        ({"corrupted": 1.5}, "corrupted must lie in 0 to 1"),
    ],
)
def test_every_config_refuses(config, settings, words):
    if not set(settings) <= set(config.__dataclass_fields__):
        return
    with pytest.raises(ValueError, match=words):
        config(**settings)


def test_limits_are_settings():
    assert CBiGANConfig(alpha=1.0).alpha == 1.0 and CBiGANConfig(alpha=0.0).alpha == 0.0
    assert CBiGANConfig(**PRESETS["2020"]).ema_decay == 0.0
    assert GRDNetConfig(corrupted=1.0, seed=2**32 - 1).corrupted == 1.0


def test_the_window_of_the_mean_filter_is_part_of_the_least_size():
    small = dict(channels=1, width=4, latent_size=4, patch_size=16)
    assert FCBiGAN(FCBiGANConfig(**small, filter_size=8)).smallest < 500
    assert FCBiGAN(FCBiGANConfig(**small, filter_size=1001)).smallest == 501
