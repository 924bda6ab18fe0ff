"""The contract of every method: a `keras.Model` whose `step` is written once and trains on TensorFlow and on JAX.

A method builds its networks in `__init__`, its optimisers in `compile`, and writes its whole update in `step(batch)`.
Only these below know the backend: `minimise`, `value_and_gradient`, `each`, `loops_are_compiled`, `compile_inference`.
"""

import keras
import numpy as np
from keras import ops

from ganspect.models.convolutions import fast, install, released
from ganspect.models.devices import over_devices, own_rows, replicas
from ganspect.models.fixed_order import fixed_order, turn_off_rewriting
from ganspect.models.precision import FULL, computing_in


class Detector(keras.Model):
    """Base class of all methods.

    A subclass sets `config`, its networks and `loss_names`, and calls `finish_compile` at the end of its `compile`.

    Attributes:
        loss_names: names of the scalars that `step` returns, in some phase.
        score_names: names of the scores that a method offers, the paper's first.
        map_names: those of them that have a map of their own; None where all have.
        panel_maps: names in `evidence` of the residual map and of the discriminator's, None where pictures of an
            image need not show one.
        loops: whether `each` and other loops over networks are compiled as loops on JAX; None: on an accelerator,
            where a loop compiles once what would otherwise compile once for each batch. On a CPU XLA runs convolutions
            in a loop 60 times slower.
        at_once: images that `evidences` best takes at once.
        fitted: whether `calibrate` fits the scale of the scores to the images that it gets.
        continues: whether a score depends on the images scored before it, from `calibrate` on.
        optimizers: `{name: keras optimiser}`, set by `finish_compile`.
        tiling: `{"context": c, "alignment": a, "exact": bool}` of a method that sees an image of any size: a pixel's
            anomaly depends on pixels at most c away, in tiles that begin at multiples of a; not quite where not exact.
        precision: of the arithmetic in `step`, see `models.precision`; set before the first step.
        xla: whether TensorFlow compiles `train_step` with XLA; set before `compile`. JAX does so always. On CPUs it
            wins for some networks, loses for others and takes long to compile (`benchmarks/steps.py --xla`); random
            draws are others under it.
        phase: which part of its schedule `step` trains, read when a step is compiled; None: all steps are alike.
    """

    loss_names: tuple[str, ...] = ()
    loops: bool | None = None
    at_once: int = 1
    continues: bool = False
    fitted: bool = False
    score_names: tuple[str, ...] = ()
    map_names: tuple[str, ...] | None = None
    panel_maps: tuple[str | None, str | None] = (None, None)
    phase: str | None = None
    precision: str = FULL
    xla: bool = False
    tiling: dict | None = None

    # A method defines:
    #   step(batch) -> {loss name: scalar}, one training step on a prepared batch
    #   reconstruct(batch) -> batch
    #   evidence(image, stride) -> {name: array}, what one forward pass over a uint8 image [H, W, C] gives
    #   map_from(evidence, name) -> float32 [H, W], higher = more anomalous
    #   generated(height, width) -> images [h, w, C] in [-1, 1] drawn from the prior, where it has a generator
    # and, where its scores need them, score_from, score_inside and calibrate; where its rates change, rates(rows of
    # history.csv) -> {optimiser: rate}; where held-out losses are of interest, held_out_losses(batch); where it has a
    # discriminator, examine(batch) -> {"real": [B], "fake": [B], D's outputs in inference mode, higher = more real, on
    # "images" [B, h, w, C], and on "made" [B, h, w, C], what G makes, of fixed latents where it makes it of latents}.
    #
    # For models/export.py, in keras.ops, batches and sizes may be dynamic:
    #   answer(images [B, H, W, C] in 0..255) -> {"score": [B], "anomaly_map": [B, H, W], "reconstruction": [B, H, W, C]
    #   in [-1, 1], and "peaks": [B, H, W] where the score is the maximum of such a map}, of the first of score_names
    #   tiling, where a map of a part of an image equals that part of the image's map

    def calibrate(self, images, stride=None):
        """Sets what the scores need of held-out normal images, uint8 `[H, W, C]` each; nothing unless overridden."""

    def drawn(self, distribution, count, *shape):
        """Random numbers `[count, *shape]` from the model's own seed `noise`.

        Args:
            distribution: `keras.random.normal` or `uniform`.
            count: images that this device has of the batch; all devices together draw what one would.
            shape: of each.
        """
        return own_rows(distribution((count * replicas(), *shape), seed=self.noise))

    def fixed_latents(self, count, *shape):
        """The same standard normal latents at every call: float32 `[count, *shape]`."""
        return np.random.default_rng(self.config.seed).standard_normal((count, *shape), dtype="float32")

    def examine_images(self, images, made):
        """What `examine` returns of a D that takes images alone and gives logits `[B, 1]`, or alike, and features."""
        real, _ = self.discriminator(images, training=False)
        fake, _ = self.discriminator(made, training=False)
        return {"real": ops.reshape(real, (-1,)), "fake": ops.reshape(fake, (-1,)), "images": images, "made": made}

    def phase_at(self, epoch):
        """The phase of an epoch, counted from 0; the training loops set `phase` to it before the epoch."""
        return None

    def evidences(self, images, stride=None):
        """`evidence` of several uint8 images `[H, W, C]`, which a method may work out together: a list."""
        return [self.evidence(image, stride) for image in images]

    def score_from(self, evidence, name=None):
        """Anomaly of an image from its evidence: the maximum of its map unless a method defines its own."""
        return float(self.map_from(evidence, name).max())

    def scores_inside(self, name=None):
        """Whether `score_inside` is the score with what lies outside a region left out: where it is a map's maximum."""
        return True

    def score_inside(self, evidence, region, name=None):
        """The same over the pixels of a region of interest, bool `[H, W]`; -inf where it is empty."""
        return float(self.map_from(evidence, name)[region].max(initial=float("-inf")))

    def anomaly_map(self, image, name=None, stride=None):
        """Anomaly of each pixel of one uint8 image `[H, W, C]`: float32 `[H, W]`."""
        return self.map_from(self.evidence(image, stride), name or self.score_names[0])

    def anomaly_score(self, image, name=None, stride=None):
        """Anomaly of one uint8 image `[H, W, C]`, higher = more anomalous."""
        return self.score_from(self.evidence(image, stride), name)

    def prepare(self, images):
        """Maps images `[B, H, W, C]` in 0..255 to float32 in [-1, 1], the range of every network with a tanh output."""
        return ops.cast(images, "float32") / 127.5 - 1.0

    @property
    def input_size(self):
        """Side of the square images that the method takes, pixels; None where it takes any size."""
        return getattr(self.config, "image_size", 0) or None

    def export(self, path, calibration):
        """Writes a SavedModel with everything that an answer needs inside: `models.export.export`.

        `ganspect predict` wants the folder around it, which `reproduce.model_folder.export_model` writes.
        """
        from ganspect.models.export import export

        return export(self, path, calibration)

    def finish_compile(self, optimizers):
        """Builds each optimiser on the variables it updates.

        Optimisers that are not built before weights are loaded lose their slots, so none is left for later.

        Args:
            optimizers: `{name: (keras optimiser, list of networks)}`.
        """
        super().compile(optimizer=None, jit_compile=self.xla)
        if _backend() == "tensorflow":
            turn_off_rewriting()
            install(self)
        self.optimizers = {name: optimizer for name, (optimizer, _) in optimizers.items()}
        for optimizer, networks in optimizers.values():
            optimizer.build([v for network in networks for v in network.trainable_variables])
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in self.loss_names}

    @property
    def metrics(self):
        return list(getattr(self, "loss_trackers", {}).values())

    @property
    def state(self):
        """Every variable that training reads or writes, in a fixed order: networks, seeds, optimisers, metrics."""
        slots = [v for optimizer in self.optimizers.values() for v in optimizer.variables]
        means = [v for tracker in self.metrics for v in tracker.variables]
        return [*self.variables, *slots, *means]

    def train_step(self, data):
        """One step under `model.fit` (TensorFlow); returns the running means of the epoch, of its phase's losses."""
        losses = over_devices(self.one_step(data))
        for name, value in losses.items():
            self.loss_trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.loss_trackers.items() if name in losses}

    def one_step(self, batch):
        """`step` in the arithmetic of `precision`; what both training loops trace."""
        with computing_in(self, self.precision):
            return self.step(batch)

    def minimise(self, losses_fn, updates):
        """One forward pass, one optimiser update per loss; every gradient is taken before any update is applied.

        Args:
            losses_fn: `() -> {name: scalar}`. Those named in `updates` are minimised, the others are only returned, and
                may be any array.
            updates: `{loss name: (list of networks, keras optimiser)}`.

        Returns:
            The dict.

        On several devices (`models.devices`) the updates are by the gradients of the mean of their losses.
        """
        trained = {
            name: [v for network in networks for v in network.trainable_variables]
            for name, (networks, _) in updates.items()
        }
        with released():
            gradients, losses = _gradients(losses_fn, trained, self.state if _backend() == "jax" else None)
            for name, (_, optimizer) in updates.items():
                optimizer.apply(gradients[name], trained[name])
        return losses

    def input_gradient(self, fn, *inputs):
        """Gradient of `sum(fn(*inputs))` with respect to each input; can itself be differentiated."""
        return self.value_and_gradient(fn, *inputs)[1]

    def value_and_gradient(self, fn, *inputs):
        """`fn(*inputs)` and the gradient of its sum with respect to each input; can itself be differentiated."""
        if _backend() == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = fn(*inputs)
                total = ops.sum(value)
            with fixed_order():
                return value, tape.gradient(total, inputs)
        import jax

        def summed(*x):
            value = fn(*x)
            return ops.sum(value), value

        gradients, value = jax.grad(summed, argnums=tuple(range(len(inputs))), has_aux=True)(*inputs)
        return value, gradients

    def each(self, fn, batches):
        """Runs part of a step on each of several batches in turn, each seeing what the one before has trained.

        Args:
            fn: batch `[B, ...]` to `{name: scalar}`; it may update variables of `state`.
            batches: `[n, B, ...]`, n >= 1.

        Returns:
            `{name: scalar}`, means over the batches.
        """
        count = batches.shape[0]
        if _backend() == "jax" and count > 1 and self.loops_are_compiled():
            return self._each_in_a_loop(fn, batches)
        found = [fn(batches[i]) for i in range(count)]
        return {name: sum(logs[name] for logs in found) / count for name in found[0]}

    def loops_are_compiled(self):
        """Whether a loop over convolutions is compiled as one: always on TensorFlow, as `loops` says on JAX."""
        if _backend() == "tensorflow" or self.loops is not None:
            return _backend() == "tensorflow" or self.loops
        import jax

        return jax.default_backend() != "cpu"

    def _each_in_a_loop(self, fn, batches):
        """`each` as one `jax.lax.scan` over the values of `state`."""
        import jax

        state = self.state

        def body(values, batch):
            with keras.StatelessScope(state_mapping=list(zip(state, values, strict=True))) as scope:
                logs = fn(batch)
            return [scope.get_current_value(v) for v in state], logs

        values, logs = jax.lax.scan(body, [jax.numpy.asarray(v.value) for v in state], batches)
        for v, value in zip(state, values, strict=True):
            v.assign(value)
        return {name: ops.mean(values) for name, values in logs.items()}

    def compile_inference(self, fn):
        """Compiles an inference function of arrays; the current weights are read at every call.

        Args:
            fn: `(*arrays) -> nested arrays`, which reads weights but writes none.

        Returns:
            A function of NumPy arrays, nested or not, that returns such in the same nesting. One graph for each shape.
        """
        if _backend() == "tensorflow":
            import tensorflow as tf

            graph = tf.function(fn, jit_compile=False, autograph=False)  # its loops are `keras.ops`' own

            def run(*arrays):
                return tf.nest.map_structure(np.asarray, graph(*tf.nest.map_structure(tf.convert_to_tensor, arrays)))

            return run
        import jax

        variables = self.variables

        @jax.jit
        def pure(values, arrays):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return fn(*arrays)

        return lambda *arrays: jax.tree.map(np.asarray, pure([v.value for v in variables], arrays))


def _backend():
    """Name of the Keras backend in use."""
    return keras.backend.backend()


def _gradients(losses_fn, trained, state):
    """Gradients of each loss named in `trained` for its own variables, and all losses, from one forward pass."""
    every = [v for variables in trained.values() for v in variables]
    if _backend() == "tensorflow":
        import tensorflow as tf

        count = replicas()  # the gradients of all devices will be summed
        with tf.GradientTape(persistent=len(trained) > 1, watch_accessed_variables=False) as tape:
            for v in every:
                tape.watch(v.value)
            with fast():
                losses = losses_fn()
            minimised = losses if count == 1 else {k: losses[k] / count for k in trained}
        with fixed_order():
            return {k: tape.gradient(minimised[k], [v.value for v in vs]) for k, vs in trained.items()}, losses
    import jax

    ids = {id(v) for v in every}
    others = [v for v in state if id(v) not in ids]
    current = [v.value for v in others]  # inside a StatelessScope: the values written so far

    def pure(values):
        chosen = [x for k in trained for x in values[k]]
        mapping = [*zip(every, chosen, strict=True), *zip(others, current, strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            losses = losses_fn()
        return {k: losses[k] for k in trained}, (losses, [scope.get_current_value(v) for v in others])

    values = {k: [v.value for v in vs] for k, vs in trained.items()}
    minimised, pullback, (losses, written) = jax.vjp(pure, values, has_aux=True)
    zeros = {k: jax.numpy.zeros_like(x) for k, x in minimised.items()}
    gradients = {k: pullback({**zeros, k: jax.numpy.ones_like(x)})[0][k] for k, x in minimised.items()}
    for v, value in zip(others, written, strict=True):
        v.assign(value)
    return gradients, losses
