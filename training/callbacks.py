"""Callbacks of both training loops: history, checkpoint, progress, interruption, health."""

import math
import signal
import threading
import time

import keras

from ganspect.data.patches import at_hand
from ganspect.training.checkpoint import NotFinite, position_of, save_state
from ganspect.training.fit import first_step


class Diverged(RuntimeError):
    """A loss or a weight became infinite or not a number."""


class Recorder(keras.callbacks.Callback):
    """After each epoch: measurements, a row of history.csv, then the checkpoint, in this order.

    A kill between the two leaves a row too many; `first_epoch` cuts it off on resume.

    Raises:
        Diverged: a loss, or a variable that the checkpoint would hold, is not finite; the checkpoint before it is kept.

    Args:
        run: `training.run.Run`.
        first_epoch: finished epochs of the checkpoint that training starts from.
        steps: optimisation steps in an epoch.
        measure: `epoch -> {name: float}`, further columns measured after each epoch (or None).
        every: epochs from checkpoint to checkpoint; the last one always has its own.
    """

    def __init__(self, run, first_epoch, steps, measure=None, every=1):
        super().__init__()
        self.run, self.steps, self.measure, self.every = run, steps, measure, every
        self.saved, self.started = first_epoch, None
        self.rows = [row for row in run.read_table("history.csv") if int(row["epoch"]) <= first_epoch]

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def unfinished(self):
        """Seconds of an epoch that was left in its middle; 0.0 where none was."""
        return 0.0 if self.started is None else time.perf_counter() - self.started

    def on_epoch_end(self, epoch, logs=None):
        losses = {name: float(value) for name, value in sorted(logs.items())}
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(f"{', '.join(bad)} not finite in epoch {epoch + 1}; {self.kept()}")
        seconds, self.started = time.perf_counter() - self.started, None
        row = {"epoch": epoch + 1, "step": (epoch + 1) * self.steps, **losses}
        row |= self.measure(epoch + 1) if self.measure else {}
        self.rows.append({**row, "seconds": round(seconds, 2)})
        self.run.write_table("history.csv", self.rows)
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            self.save(epoch + 1)

    def save(self, epoch):
        """Writes the checkpoint of an epoch that has ended."""
        _save(self.run.checkpoint, self.model, epoch, kept=self.kept())
        self.saved = epoch
        self.run.set_status("running", epoch=epoch)

    def on_train_end(self, logs=None):
        if self.rows and self.saved < int(self.rows[-1]["epoch"]):  # stopped early, between two checkpoints
            self.save(int(self.rows[-1]["epoch"]))

    def kept(self):
        """What is left to go on from."""
        kept = self.run.checkpoint.exists()
        return f"the checkpoint of epoch {self.saved} is kept" if kept else "there is no checkpoint"


def _save(path, model, epoch, step=0, losses=None, kept="the checkpoint before it is kept"):
    """Writes a checkpoint.

    Raises:
        Diverged: a variable is not finite; the file stays as it was.
    """
    try:
        save_state(path, model.state, epoch, step, losses)
    except NotFinite as error:
        place = f"in epoch {epoch + 1}" if step else f"after epoch {epoch}"
        raise Diverged(f"{error} {place}; {kept}") from None


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


class RenewStatistics(keras.callbacks.Callback):
    """After each epoch, before anything is measured or stored: `renew_statistics` on fixed training batches.

    The batches are drawn for an epoch that no training reaches, so a resumed training has the statistics of an
    uninterrupted one.

    Args:
        detector: with `renew_statistics`.
        stack, sampler: of the training.
        count: batches.
    """

    FIRST = 10**6  # epochs of the draws

    def __init__(self, detector, stack, sampler, count):
        super().__init__()
        self.detector, self.batches = detector, []
        for epoch in range(self.FIRST, self.FIRST + count):
            row = {name: values[0] for name, values in sampler.draws(epoch).items()}
            batch = detector.prepare(sampler.batch(*at_hand(stack, row)))
            self.batches.append({"corrupted": keras.ops.convert_to_numpy(batch["corrupted"])})

    def on_epoch_end(self, epoch, logs=None):
        self.detector.renew_statistics(self.batches)


class EarlyStop(keras.callbacks.Callback):
    """Stops when the held-out reconstruction error has not fallen for `patience` epochs from epoch `start` on [skal].

    The code says `start_from_epoch=50` to Keras, which counts from 0: the 51st is the first that counts.

    A function of history.csv alone, so a resumed training stops where an uninterrupted one does. The best weights are
    written to `best`.

    Args:
        recorder: the `Recorder` of the same training, called before this one.
        best: path of the best checkpoint.

    Raises:
        Diverged: a variable that the best checkpoint would hold is not finite.
    """

    def __init__(self, recorder, best, patience=10, start=51):
        super().__init__()
        self.recorder, self.best, self.patience, self.start = recorder, best, patience, start

    def errors(self):
        """`{epoch: held-out error}` of the epochs that count."""
        rows = [(int(row["epoch"]), float(row["held_out_mae"])) for row in self.recorder.rows]
        return {epoch: error for epoch, error in rows if epoch >= self.start}

    def is_over(self):
        errors = self.errors()
        return bool(errors) and max(errors) - min(errors, key=errors.get) >= self.patience

    def on_train_begin(self, logs=None):
        """After a kill between an epoch's checkpoint and its best one, the latter is written now."""
        errors, saved = self.errors(), self.recorder.saved
        if errors and min(errors, key=errors.get) == saved and position_of(self.best) != (saved, 0):
            if first_step(self.model) == 0:
                _save(self.best, self.model, saved)

    def on_epoch_end(self, epoch, logs=None):
        errors = self.errors()
        if errors and min(errors, key=errors.get) == epoch + 1:
            _save(self.best, self.model, epoch + 1)
        if self.is_over():
            self.model.stop_training = True


class StopOnSignal(keras.callbacks.Callback):
    """Leaves training on SIGINT or SIGTERM after the current batch, with a checkpoint of it.

    `received` names the signal afterwards, or is None. Off the main thread, where no signal can be handled, it does
    nothing.

    Args:
        checkpoint: path of the last checkpoint.
        steps: in an epoch. Behind the last one it waits for what is measured and stored then.

    Raises:
        KeyboardInterrupt: from the batch, or the end of the epoch, at which it leaves.
        Diverged: a variable that the checkpoint would hold is not finite.
    """

    received = None
    settle = None  # where the loop keeps the variables to itself: gives them to the model, returns the epoch's losses

    def __init__(self, checkpoint, steps):
        super().__init__()
        self.checkpoint, self.steps, self.before = checkpoint, steps, {}

    def on_train_begin(self, logs=None):
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self.stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def on_train_end(self, logs=None):
        """Gives the signals back to those who had them; called by who trains, too, where training ends otherwise."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def stop(self, number, frame):
        self.received = signal.Signals(number).name

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        step = first_step(self.model) + batch + 1
        if self.received and step < self.steps:
            self.leave(step)

    def on_epoch_end(self, epoch, logs=None):
        if self.received:
            if position_of(self.checkpoint) != (epoch + 1, 0):  # the epoch has none of its own
                _save(self.checkpoint, self.model, epoch + 1)
            self.leave()

    def leave(self, step=None):
        """Writes the checkpoint where there is none of this moment yet, and raises."""
        if step is not None:
            _save(self.checkpoint, self.model, self.epoch, step, self.settle and self.settle())
        self.on_train_end()
        raise KeyboardInterrupt(self.received)


class ProgressReport(keras.callbacks.Callback):
    """Tells a channel, at most once a second, the share of the schedule that is done, images per second and losses.

    Args:
        channel: with `update(done, text)`, as `training.grid` has them.
        sampler: `data.patches.Sampler`.
        epochs: epoch that training stops before.
    """

    shown = 0.0

    def __init__(self, channel, sampler, epochs):
        super().__init__()
        self.channel, self.sampler, self.epochs = channel, sampler, epochs

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.started = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if now - self.shown < 1.0:
            return
        self.shown = now
        rate = (batch + 1) * self.sampler.batch_size / max(now - self.started, 1e-9)
        losses = "  ".join(f"{name} {float(value):.3g}" for name, value in (logs or {}).items())
        step = first_step(self.model) + batch + 1
        done = (self.epoch + step / self.sampler.steps) / self.epochs
        self.channel.update(done, f"epoch {self.epoch + 1}/{self.epochs} {rate:.0f} images/s  {losses}")
