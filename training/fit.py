"""Training: `model.fit` over `tf.data` on TensorFlow; on JAX a compiled loop of ours with the same callbacks."""

import keras
import numpy as np

from ganspect.data.on_disk import is_on_disk
from ganspect.data.patches import at_hand, sampled_dataset
from ganspect.models.devices import synchronised
from ganspect.training.checkpoint import Position
from ganspect.training.devices import ONE

LONGEST_CALL = 100  # steps in one compiled call on an accelerator: enough to hide the host, few enough to see progress


def fit(model, stack, sampler, epochs, start=0, callbacks=(), devices=ONE):
    """Trains a compiled `Detector` on the batches that a sampler draws, each epoch in its phase (`phase_at`).

    Args:
        model: `Detector`, compiled.
        stack: uint8 `[N, H, W, C]`, the training images (`data.patches.stack_images`).
        sampler: `data.patches.Sampler`.
        epochs: epoch to stop before.
        start: finished epochs of a resumed run, or the `Position` of its checkpoint, in the middle of an epoch too.
        callbacks: Keras callbacks; both backends call them with the epoch's mean losses. Batches are counted from the
            position where an epoch is entered in its middle: `first_step(model)` is what to add.
        devices: `training.devices.Devices` that each batch is divided between; on TensorFlow the model is built and
            compiled in their `scope()`.

    Raises:
        ValueError: a batch does not divide between the devices.
        NoDevices: there are too few.
    """
    if model.config.batch_size % devices.count:
        raise ValueError(f"a batch of {model.config.batch_size} does not divide between {devices.count} devices")
    start = start if isinstance(start, Position) else Position(start)
    if start.epoch >= epochs:
        return
    if keras.backend.backend() == "tensorflow":
        with synchronised(model, devices.count):
            _fit_tensorflow(model, stack, sampler, epochs, start, callbacks, devices.count)
    else:
        _fit_jax(model, stack, sampler, epochs, start, callbacks, devices)


def first_step(model):
    """The step at which the epoch in training was entered: 0 but in the first one of a resumed run."""
    return getattr(model, "entered_at", 0)


def _fit_tensorflow(model, stack, sampler, epochs, start, callbacks, devices):
    """`model.fit`; the rest of an epoch that was left in its middle is a call of its own."""
    pieces = [(start.epoch, epochs, 0)]
    if start.step:
        pieces = [(start.epoch, start.epoch + 1, start.step), (start.epoch + 1, epochs, 0)]
    for first, last, step in pieces:
        if first >= last:
            continue
        model.entered_at = step
        model.fit(
            _divided(sampled_dataset(stack, sampler, model.prepare, last, first, step), model, devices),
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=sampler.steps - step,
            callbacks=[_Phases(model if step else None), *callbacks],
            shuffle=False,
            verbose=0,
        )
        if model.stop_training:
            break
    model.entered_at = 0


def _divided(dataset, model, devices):
    """The batches of a dataset, each as the parts of the devices: device r has the rows r::n."""
    if devices == 1:
        return dataset
    import tensorflow as tf

    def parts(batch):
        return tf.nest.map_structure(lambda x: tf.stack([x[r::devices] for r in range(devices)]), batch)

    shared = dataset.map(parts).unbatch().prefetch(2 * devices)
    return model.distribute_strategy.distribute_datasets_from_function(lambda context: shared)


class _Phases(keras.callbacks.Callback):
    """Sets the model's phase before each epoch; a phase is compiled when it starts.

    Args:
        entered: the model, where its first epoch goes on in the middle: with the running means that it has now.
    """

    compiled = None

    def __init__(self, entered=None):
        super().__init__()
        self.means = (
            [(v, keras.ops.convert_to_numpy(v)) for m in entered.metrics for v in m.variables] if entered else []
        )

    def on_epoch_begin(self, epoch, logs=None):
        for v, value in self.means:
            v.assign(value)
        self.means = []
        phase = self.model.phase_at(epoch)
        if phase != self.compiled:
            self.model.phase = self.compiled = phase
            self.model.make_train_function(force=True)


def _fit_jax(model, stack, sampler, epochs, start, callbacks, devices):
    """The loop on JAX: many steps in one compiled call, images kept on the device, or a copy on each of several."""
    import jax

    mesh = devices.mesh() if devices.several else None

    def placed(values, *axes):
        """On every device of several, divided along the axis named "batch"."""
        if mesh is None:
            return values
        return jax.device_put(values, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))

    def compiled():
        """Many steps in the phase that the model is in; a function of its own, for JAX reuses what it has traced."""

        def one_step(values, row):
            row = dict(row)
            drawn_from = row.pop("stack", images)
            with keras.StatelessScope(state_mapping=list(zip(model.state, values, strict=True))) as scope:
                losses = model.one_step(model.prepare(sampler.batch(drawn_from, row)))
            return [scope.get_current_value(v) for v in model.state], losses

        everywhere = {"out_shardings": jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())} if mesh else {}
        return jax.jit(lambda values, rows: jax.lax.scan(one_step, values, rows), donate_argnums=0, **everywhere)

    def settle():
        """Gives the model the variables of now; returns the losses of the epoch so far, for a checkpoint."""
        for v, value in zip(model.state, values, strict=True):
            v.assign(jax.numpy.array(value if mesh is None else np.asarray(value)))
        return _joined(parts)

    images = None if is_on_disk(stack) else placed(jax.numpy.asarray(stack))
    # On a CPU XLA runs convolutions inside a loop on one thread and without its fast kernels: 60 times slower.
    longest = 1 if jax.default_backend() == "cpu" or images is None else LONGEST_CALL
    length = max(n for n in range(1, longest + 1) if sampler.steps % n == 0 and start.step % n == 0)
    params = {"epochs": epochs, "steps": sampler.steps, "verbose": 0}
    calls = keras.callbacks.CallbackList(list(callbacks), model=model, **params)
    model.stop_training = False
    for call in callbacks:
        if hasattr(call, "settle"):
            call.settle = settle
    calls.on_train_begin()
    run = None
    for epoch in range(start.epoch, epochs):
        phase = model.phase_at(epoch)
        if run is None or phase != model.phase:
            model.phase = phase
            run = compiled()
        model.entered_at = start.step if epoch == start.epoch else 0
        calls.on_epoch_begin(epoch)
        drawn = sampler.draws(epoch)
        values = placed([jax.numpy.array(v.value) for v in model.state])
        parts = [start.losses] if model.entered_at and start.losses else []  # TensorFlow's checkpoints hold none
        for step in range(model.entered_at, sampler.steps, length):
            rows = {name: table[step : step + length] for name, table in drawn.items()}
            if images is None:
                part, row = at_hand(stack, {name: table[0] for name, table in rows.items()})
                rows = {name: table[None] for name, table in {**row, "stack": part}.items()}
            values, losses = run(values, placed(rows, None, "batch"))
            parts.append({name: np.asarray(x) for name, x in losses.items()})
            calls.on_train_batch_end(step + length - 1 - model.entered_at, _means(parts))
            if model.stop_training:
                break
        for v, value in zip(model.state, values, strict=True):
            v.assign(value if mesh is None else jax.numpy.asarray(np.asarray(value)))
        calls.on_epoch_end(epoch, _means(parts))
        if model.stop_training:
            break
    model.entered_at = 0
    calls.on_train_end()


def _joined(parts):
    """Each loss of the steps of several compiled calls: `{name: [steps]}`."""
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _means(parts):
    """Mean of each loss over them."""
    return {name: float(np.mean(values)) for name, values in _joined(parts).items()}
