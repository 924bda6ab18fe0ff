"""Callbacks of both training loops: history, checkpoint, progress, interruption, health."""

import math
import signal
import time

import keras
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ganspect.training.checkpoint import save_state


class Diverged(RuntimeError):
    """A loss became infinite or not a number."""


class Recorder(keras.callbacks.Callback):
    """After each epoch: measurements, a row of history.csv, then the checkpoint, in this order.

    A kill between the two leaves a row too many; `first_epoch` cuts it off on resume.

    Args:
        run: `training.run.Run`.
        first_epoch: finished epochs of the checkpoint that training starts from.
        steps: optimisation steps in an epoch.
        measure: `epoch -> {name: float}`, further columns measured after each epoch (or None).
    """

    def __init__(self, run, first_epoch, steps, measure=None):
        super().__init__()
        self.run, self.steps, self.measure = run, steps, measure
        self.rows = [row for row in run.read_table("history.csv") if int(row["epoch"]) <= first_epoch]

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        losses = {name: float(value) for name, value in sorted(logs.items())}
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(f"{', '.join(bad)} not finite in epoch {epoch + 1}; the last checkpoint is kept")
        seconds = time.perf_counter() - self.started
        row = {"epoch": epoch + 1, "step": (epoch + 1) * self.steps, **losses}
        row |= self.measure(epoch + 1) if self.measure else {}
        self.rows.append({**row, "seconds": round(seconds, 2)})
        self.run.write_table("history.csv", self.rows)
        save_state(self.run.checkpoint, self.model.state, epoch + 1)
        self.run.set_status("running", epoch=epoch + 1)


class RateSchedule(keras.callbacks.Callback):
    """Sets the learning rates that the model's `rates` gives for an epoch from the history so far.

    A function of history.csv alone, so a resumed training has the rates of an uninterrupted one.

    Args:
        recorder: the `Recorder` of the same training.
    """

    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder

    def on_epoch_begin(self, epoch, logs=None):
        for name, rate in self.model.rates(self.recorder.rows).items():
            self.model.optimizers[name].learning_rate = rate


class EarlyStop(keras.callbacks.Callback):
    """Stops when the held-out reconstruction error has not fallen for `patience` epochs after epoch `start` [skal].

    A function of history.csv alone, so a resumed training stops where an uninterrupted one does. The best weights are
    written to `best`.

    Args:
        recorder: the `Recorder` of the same training, called before this one.
        best: path of the best checkpoint.
    """

    def __init__(self, recorder, best, patience=10, start=50):
        super().__init__()
        self.recorder, self.best, self.patience, self.start = recorder, best, patience, start

    def errors(self):
        """`{epoch: held-out error}` of the epochs that count."""
        rows = [(int(row["epoch"]), float(row["held_out_mae"])) for row in self.recorder.rows]
        return {epoch: error for epoch, error in rows if epoch >= self.start}

    def is_over(self):
        errors = self.errors()
        return bool(errors) and max(errors) - min(errors, key=errors.get) >= self.patience

    def on_epoch_end(self, epoch, logs=None):
        errors = self.errors()
        if errors and min(errors, key=errors.get) == epoch + 1:
            save_state(self.best, self.model.state, epoch + 1)
        if self.is_over():
            self.model.stop_training = True


class StopOnSignal(keras.callbacks.Callback):
    """Ends training in order after the current batch on SIGINT or SIGTERM; what follows the last checkpoint is lost.

    `received` names the signal afterwards, or is None.
    """

    received = None

    def on_train_begin(self, logs=None):
        self.before = {s: signal.signal(s, self.stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def on_train_end(self, logs=None):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def stop(self, number, frame):
        self.received = signal.Signals(number).name

    def on_train_batch_end(self, batch, logs=None):
        if self.received:
            for number, handler in self.before.items():
                signal.signal(number, handler)
            raise KeyboardInterrupt(self.received)


class ProgressBar(keras.callbacks.Callback):
    """Epoch, losses, images per second and the time left, for one training.

    Args:
        title: text before the bar.
        sampler: `data.patches.Sampler`.
        epochs: epoch that training stops before.
        first_epoch: finished epochs.
        console: `rich.console.Console`.
    """

    def __init__(self, title, sampler, epochs, first_epoch, console):
        super().__init__()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]} {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
        )
        self.progress = Progress(*columns, console=console, refresh_per_second=2)
        self.title, self.sampler, self.epochs, self.first = title, sampler, epochs, first_epoch

    def on_train_begin(self, logs=None):
        total, done = self.epochs * self.sampler.steps, self.first * self.sampler.steps
        fields = {"epoch": self.first + 1, "epochs": self.epochs, "rate": "", "losses": ""}
        self.task = self.progress.add_task(self.title, total=total, completed=done, **fields)
        self.progress.start()
        self.shown = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.started = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if now - self.shown < 1.0:
            return
        self.shown = now
        rate = (batch + 1) * self.sampler.batch_size / max(now - self.started, 1e-9)
        losses = "  ".join(f"{name} {float(value):.3g}" for name, value in (logs or {}).items())
        self.progress.update(
            self.task,
            completed=self.epoch * self.sampler.steps + batch + 1,
            epoch=self.epoch + 1,
            rate=f"{rate:.0f} images/s",
            losses=losses,
        )

    def on_epoch_end(self, epoch, logs=None):
        self.progress.update(self.task, completed=(epoch + 1) * self.sampler.steps)

    def on_train_end(self, logs=None):
        self.progress.stop()
