"""The verdict of a measured value beside the printed one, and what keeps the two from being compared."""

import operator
from dataclasses import dataclass

SHARES = ("pixel_aupr", "image_ap")  # judged by relative difference, as losses are
BOUNDS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}  # of a printed relation
COSTS = ("training_seconds", "parameters", "peak_megabytes")  # of a run, in no protocol


@dataclass(frozen=True)
class Limits:
    """What keeps a measurement from being judged against the printed value.

    Args:
        other_data: the data are not the paper's.
        partial: "k of n categories" for the mean of a part of a group.
        other_architecture: it stands beside another network's value.
        model: what the config departs in of the network, "; " between.
        schedule, losses, scores, noise: whether it departs in these.
        share: of the paper's schedule.
        variant: what a method with rows of its own has other than the paper; a judgement names it and stays one.
    """

    other_data: bool = False
    partial: str = ""
    other_architecture: bool = False
    model: str = ""
    schedule: bool = False
    losses: bool = False
    scores: bool = False
    noise: bool = False
    share: float = 1.0
    variant: str = ""

    def texts(self):
        """The limits as a verdict names them, in its order; empty if there are none."""
        schedule = f"reduced schedule ({self.share:.3g})" if self.share < 1 else "other schedule" * self.schedule
        texts = (
            "other data" * self.other_data,
            f"partial ({self.partial})" if self.partial else "",
            "other architecture" * self.other_architecture,
            f"reduced model ({self.model})" if self.model else "",
            schedule,
            "other losses" * self.losses,
            "other scoring" * self.scores,
            "other noise" * self.noise,
        )
        found = [text for text in texts if text]
        return [*found, self.variant] if found and self.variant and self.variant not in found else found

    @classmethod
    def read(cls, verdict):
        """The limits that a verdict names, the share as rounded there: what `texts` wrote; none in a judgement."""
        names = {"other data": "other_data", "other architecture": "other_architecture"}
        names |= {"other schedule": "schedule", "other losses": "losses", "other scoring": "scores"}
        names |= {"other noise": "noise"}
        found = {"variant": verdict.partition(" with ")[2]}
        for text in verdict.split(", "):
            name, _, detail = text.removesuffix(")").partition(" (")
            if name in names:
                found[names[name]] = True
            elif name in ("partial", "reduced model"):
                found[name.split()[-1]] = detail
            elif name == "reduced schedule":
                found["share"] = min(float(detail), 1 - 1e-9)  # a rounded 1 is below 1 all the same
        return cls(**found)


def agreement(metric, value, printed, low=None, high=None, seeds=1):
    """Verdict of a measurement whose data, network and schedule are the paper's.

    Args:
        metric: name; areas and accuracies are compared by difference, AUPR, AP and losses by ratio.
        value, printed: floats in the same unit.
        low, high: 95 % interval over seeds, if there are at least three.
        seeds: number of seeds.

    Returns:
        "reproduced", "close" or "differs".
    """
    distance = abs(value - printed)
    near, far = 0.02, 0.05
    if metric in SHARES or metric.endswith("_loss"):
        distance, near, far = distance / abs(printed), 0.20, 0.50
    inside = seeds >= 3 and low is not None and low <= printed <= high and _half(value, low, high) <= 0.03
    if distance <= near + 1e-9 or inside:
        return "reproduced"
    return "close" if distance <= far + 1e-9 else "differs"


def _half(value, low, high):
    """Half of an interval, of one that was cut at 0 or 1 as before."""
    return (high - low) / 2 if 0 < low and high < 1 else max(high - value, value - low)


def verdict(row, printed, limits):
    """Verdict of one measured row.

    Args:
        row: measured row with `metric`, `value`, `low`, `high`, `seeds`.
        printed: row of the printed values, or None.
        limits: `Limits`.

    Returns:
        Text, empty for seconds and where nothing is printed.
    """
    if row["value"] is None or row["metric"].startswith("seconds") or row["metric"] in COSTS:
        return ""
    if limits.texts():
        return ", ".join(limits.texts())
    if printed is None:
        return ""
    scale = 100 if printed["unit"] == "percent" else 1
    target = float(printed["value"]) / scale
    if printed.get("relation") in BOUNDS:
        found = "close" if BOUNDS[printed["relation"]](row["value"], target) else "differs"  # no value to reproduce
    else:
        found = agreement(row["metric"], row["value"], target, row["low"], row["high"], row["seeds"])
    found = "close" if found == "reproduced" and printed["provenance"] == "digitised" else found
    return f"{found} with {limits.variant}" if limits.variant else found


def shown_interval(row):
    """ " (low to high)" of a measured row, empty where it has none."""
    return "" if row["low"] is None or row["high"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"


def borne_out(pair, holds, apart=True):
    """Whether two measured rows bear out what a paper says of their difference.

    Args:
        pair: two rows with `value`, `low`, `high`.
        holds: `(first value, second value)` to whether it is so.
        apart: whether it is undecided where the intervals overlap; not so where the two are said to be equal.

    Returns:
        True, False, or "undecided": the 95 % intervals of both rows overlap, whichever is above.
    """
    bounds = [row[side] for side in ("low", "high") for row in pair]
    if apart and None not in bounds and max(bounds[:2]) <= min(bounds[2:]):
        return "undecided"
    return holds(*(row["value"] for row in pair))
