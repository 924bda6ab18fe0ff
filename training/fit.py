"""Training: `model.fit` over `tf.data` on TensorFlow; on JAX a compiled loop of ours with the same callbacks."""

import itertools

import keras
import numpy as np

from ganspect.data.patches import sampled_dataset

LONGEST_CALL = 100  # steps in one compiled call on an accelerator: enough to hide the host, few enough to see progress


def fit(model, stack, sampler, epochs, first_epoch=0, callbacks=()):
    """Trains a compiled `Detector` on the batches that a sampler draws, each epoch in its phase (`phase_at`).

    Args:
        model: `Detector`, compiled.
        stack: uint8 `[N, H, W, C]`, the training images (`data.patches.stack_images`).
        sampler: `data.patches.Sampler`.
        epochs: epoch to stop before.
        first_epoch: finished epochs of a resumed run.
        callbacks: Keras callbacks; both backends call them with the epoch's mean losses.
    """
    if first_epoch >= epochs:
        return
    if keras.backend.backend() == "tensorflow":
        dataset = sampled_dataset(stack, sampler, model.prepare, epochs, first_epoch)
        model.fit(
            dataset,
            initial_epoch=first_epoch,
            epochs=epochs,
            steps_per_epoch=sampler.steps,
            callbacks=[_Phases(), *callbacks],
            shuffle=False,
            verbose=0,
        )
    else:
        _fit_jax(model, stack, sampler, epochs, first_epoch, callbacks)


class _Phases(keras.callbacks.Callback):
    """Sets the model's phase before each epoch; a phase is compiled when it starts."""

    compiled = None

    def on_epoch_begin(self, epoch, logs=None):
        phase = self.model.phase_at(epoch)
        if phase != self.compiled:
            self.model.phase = self.compiled = phase
            self.model.make_train_function(force=True)


def _fit_jax(model, stack, sampler, epochs, first_epoch, callbacks):
    """The loop on JAX: many steps in one compiled call, images kept on the device."""
    import jax

    def compiled():
        """Many steps in the phase that the model is in; a function of its own, for JAX reuses what it has traced."""

        def one_step(values, row):
            with keras.StatelessScope(state_mapping=list(zip(model.state, values, strict=True))) as scope:
                losses = model.step(model.prepare(sampler.batch(images, row)))
            return [scope.get_current_value(v) for v in model.state], losses

        return jax.jit(lambda values, rows: jax.lax.scan(one_step, values, rows), donate_argnums=0)

    images = jax.numpy.asarray(stack)
    # On a CPU XLA runs convolutions inside a loop on one thread and without its fast kernels: 60 times slower.
    longest = 1 if jax.default_backend() == "cpu" else LONGEST_CALL
    length = max(n for n in range(1, longest + 1) if sampler.steps % n == 0)
    params = {"epochs": epochs, "steps": sampler.steps, "verbose": 0}
    calls = keras.callbacks.CallbackList(list(callbacks), model=model, **params)
    model.stop_training = False
    calls.on_train_begin()
    run = None
    for epoch in range(first_epoch, epochs):
        phase = model.phase_at(epoch)
        if run is None or phase != model.phase:
            model.phase = phase
            run = compiled()
        calls.on_epoch_begin(epoch)
        drawn = sampler.draws(epoch)
        values, parts = [jax.numpy.array(v.value) for v in model.state], []
        for start in range(0, sampler.steps, length):
            values, losses = run(values, {name: table[start : start + length] for name, table in drawn.items()})
            parts.append({name: np.asarray(x) for name, x in losses.items()})
            calls.on_train_batch_end(start + length - 1, _means(parts))
            if model.stop_training:
                break
        for v, value in zip(model.state, values, strict=True):
            v.assign(value)
        calls.on_epoch_end(epoch, _means(parts))
        if model.stop_training:
            break
    calls.on_train_end()


def _means(parts):
    """Mean of each loss over the steps of several compiled calls."""
    names = parts[0].keys()
    return {name: float(np.mean(list(itertools.chain.from_iterable(p[name] for p in parts)))) for name in names}
