"""One training measured at several epochs: which epochs, and which tables each of them stands in.

A paper's script gives `MILESTONES = {table: epochs that it prints values at}`. A run is scored at those of them that it
reaches; its last epoch, where it is none of them, stands for the next one above, with the share that it has of it.
"""

from dataclasses import dataclass

ROI_METRICS = (
    *("image_auroc_roi", "image_ap_roi", "image_f1_max_roi", "image_accuracy_oracle_roi"),
    *("image_balanced_accuracy_oracle_roi", "image_balanced_accuracy_roi", "pixel_auroc_roi", "pixel_aupr_roi"),
    *("pixel_aupro_0.30_roi", "pixel_aupimo_roi", "pixel_f1_max_roi"),
    *("marked_inside", "marked_outside", "false_alarms_inside", "false_alarms_outside"),
)


@dataclass(frozen=True)
class View:
    """What a run shows after some of its epochs.

    Args:
        epoch: finished epochs.
        tables: that its rows stand in; a metric goes to the first that lists it, else to the first of all.
        milestone: the printed number of epochs; 0 in tables without; of a `longer` one its own.
        share: of the schedule up to there.
        listed: whether only metrics that its tables list stand in them, of the method's first score.
        longer: whether its epochs are more than any table of the method prints: another schedule than the paper's.
    """

    epoch: int
    tables: tuple[str, ...]
    milestone: int
    share: float
    listed: bool = False
    longer: bool = False


def of_paper(paper):
    """`{table: ascending epochs}`; empty for papers that print their values at the end of the schedule only."""
    return getattr(paper, "MILESTONES", {})


def _tables(method, subject):
    """The tables that a method's rows of a category stand in: the method's own, of these the category's if any."""
    return tuple(table for table in method.tables if table in subject.tables) or method.tables or subject.tables


def to_score(paper, method, subject, epochs):
    """The epochs before the last after which a training of so many epochs is scored."""
    tables = _tables(method, subject)
    return {e for table in tables for e in of_paper(paper).get(table, ()) if e < epochs}


def views(paper, method, subject, config):
    """What a run of this config (dict) shows: the view of its last epoch first.

    A table without milestones belongs to the last epoch, with the method's own share of the schedule.
    """
    tables, known, last = _tables(method, subject), of_paper(paper), config.get("epochs", 0)
    share = method.of(paper, "schedule_share")(config)
    if not any(table in known for table in tables):
        return [View(last, tables, 0, share)]
    found = []
    for epoch in sorted({last} | to_score(paper, method, subject, last), reverse=True):
        exact = tuple(table for table in tables if epoch in known.get(table, ()))
        if exact:
            found.append(View(epoch, exact, epoch, 1.0))
        elif any(e > epoch for table in tables for e in known.get(table, ())):
            milestone = min(e for table in tables for e in known.get(table, ()) if e > epoch)
            above = tuple(table for table in tables if milestone in known.get(table, ()))
            found.append(View(epoch, above, milestone, epoch / milestone))
        else:
            longest = max(e for table in tables for e in known.get(table, ()))
            last_tables = tuple(table for table in tables if longest in known.get(table, ()))
            found.append(View(epoch, last_tables, epoch, 1.0, longer=True))
    others = tuple(table for table in tables if table not in known)
    return [*found, *([View(last, others, 0, share, listed=True)] if others else [])]
