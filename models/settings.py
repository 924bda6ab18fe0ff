"""What every config of a method must keep to, whatever the method."""

import dataclasses
import math
import numbers

CHANNELS = (1, 3)
SEEDS = 2**32  # that Keras takes
BELOW_ONE = ("dropout", "latent_dropout", "norm_momentum", "ema_decay")  # and every beta
SHARES = ("alpha", "corrupted", "turned", "score_weight", "linear_weight", "feature_weight")


def check_settings(config):
    """Refuses numbers that no training can work with, by field names that all configs share.

    Args:
        config: a method's config, a dataclass.

    Raises:
        ValueError: channels are neither 1 nor 3, the seed is none, a number is not finite, a rate is not above 0, a
            share does not lie in 0 to 1.
    """
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            continue
        if name == "channels" and value not in CHANNELS:
            raise ValueError(f"channels must be 1 or 3, not {value}")
        if name == "seed" and not 0 <= value < SEEDS:
            raise ValueError(f"seed must lie in 0 to {SEEDS - 1}, not {value}")
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a number, not {value}")
        if (name == "rate" or name.endswith("_rate")) and value <= 0:
            raise ValueError(f"{name} must be above 0, not {value}")
        if (name in BELOW_ONE or "beta" in name) and not 0 <= value < 1:
            raise ValueError(f"{name} must lie in 0 to 1, below 1, not {value}")
        if name in SHARES and not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in 0 to 1, not {value}")
