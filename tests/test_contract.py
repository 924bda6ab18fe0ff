"""What every method keeps: who trains what, repeatable to the bit, resumable, saved whole, scored by every name."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import TINY

from ganspect.data.patches import stack_images
from ganspect.evaluation.health import indicators
from ganspect.training.callbacks import Recorder
from ganspect.training.checkpoint import Position, load_state
from ganspect.training.fit import fit
from ganspect.training.run import Run


def methods(*costly):
    """The names of all methods, these to be checked before a release."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in costly)) for name in TINY]


# DRAEM has GRD-Net's U-Net and scores, and is the costliest of all to compile.
@pytest.fixture(params=methods("draem"))
def tiny(request):
    return TINY[request.param]


# FCBiGAN's graphs are those of test_reproduce_cli.py, killed and continued there too.
COSTLY = ("draem", "grdnet", "fanogan", "cbigan", "fcbigan")
compiles = pytest.mark.parametrize("tiny", methods(*COSTLY), indirect=True)
repeats = pytest.mark.parametrize("tiny", methods(*COSTLY), indirect=True)


def numbers(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def weights(detector, names):
    """`{network: {path: array}}`, without the moving statistics, which follow every forward pass of training."""
    networks = {name: getattr(detector, name).weights for name in names}
    return {
        name: {v.path: keras.ops.convert_to_numpy(v) for v in variables if "/moving_" not in v.path}
        for name, variables in networks.items()
    }


def logs_of(step, batch):
    return {name: float(value) for name, value in step(batch).items()}


def equal(one, other):
    return [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]


def test_each_optimiser_changes_exactly_its_networks(tiny):
    """With the other rates at zero only its networks move, every kernel of them; averages follow their networks."""
    detector = tiny.build(**tiny.certain)
    rates = {name: float(optimizer.learning_rate) for name, optimizer in detector.optimizers.items()}
    assert set(rates) == set(tiny.updates) and all(rates.values())
    logged = {}
    for chosen, trained in tiny.updates.items():
        phase = tiny.phases.get(chosen)
        detector.phase = phase or detector.phase
        for name, optimizer in detector.optimizers.items():
            optimizer.learning_rate = rates[name] if name == chosen else 0.0
        before = weights(detector, tiny.networks)
        logs = logs_of(detector.step, tiny.batch())
        assert logged.setdefault(phase, set(logs)) == set(logs) and all(np.isfinite(v) for v in logs.values())
        after = weights(detector, tiny.networks)
        for name in set(tiny.networks) - set(tiny.averages):
            moved = {path for path, value in after[name].items() if not np.array_equal(value, before[name][path])}
            expected = set(after[name]) - set(tiny.unmoved) if name in trained else set()
            either = set(tiny.rounding) if name in trained else set()
            assert moved - either == expected - either, f"{chosen} moves {name}"
        for mean, name in tiny.averages.items():
            rows = zip(after[mean].values(), before[mean].values(), after[name].values(), strict=True)
            for found, old, new in rows:
                np.testing.assert_allclose(found, tiny.decay * old + (1 - tiny.decay) * new, rtol=1e-5, atol=1e-8)
    assert tuple(logged) == tiny.every_phase
    assert sorted(name for names in logged.values() for name in names) == sorted(detector.loss_names)  # each in one


def test_a_phase_changes_nothing_but_what_it_trains(tiny):
    """Not even moving statistics; a method without phases trains all its networks."""
    for phase in tiny.every_phase:
        detector = tiny.build(phase)
        trained = {n for o, names in tiny.updates.items() if tiny.phases.get(o) == phase for n in names}
        before = {name: numbers(getattr(detector, name).weights) for name in tiny.networks}
        slots = {name: numbers(optimizer.variables) for name, optimizer in detector.optimizers.items()}
        detector.step(tiny.batch())
        changed = {
            name for name in tiny.networks if not all(equal(numbers(getattr(detector, name).weights), before[name]))
        }
        assert changed == trained | set(tiny.averages)
        for name, optimizer in detector.optimizers.items():
            assert all(equal(numbers(optimizer.variables), slots[name])) == (tiny.phases.get(name) != phase)


@compiles
def test_graph_step_equals_eager_step(tiny):
    """And sums no three gradients in one op, whose order would change from call to call (`models.fixed_order`)."""
    for phase in tiny.every_phase:
        logs = []
        for wrap in (lambda f: f, tf.function):
            step = wrap(tiny.build(phase, **tiny.certain).step)
            logs.append([logs_of(step, tiny.batch(i)) for i in range(2)])
        operations = step.get_concrete_function(tiny.batch()).graph.get_operations()
        assert max((len(op.inputs) for op in operations if op.type == "AddN"), default=0) < 3
        assert tf.config.optimizer.get_experimental_options()["arithmetic_optimization"] is False
        for eager, graph in zip(*logs, strict=True):
            assert graph == pytest.approx(eager, rel=1e-4, abs=1e-6)


@repeats
def test_equal_configs_repeat_to_the_bit_and_other_seeds_differ(tiny):
    same, again, other = tiny.build(), tiny.build(), tiny.build(seed=tiny.config.seed + 1)
    start = [weights(d, tiny.networks) for d in (same, again, other)]
    for name in tiny.networks:
        assert all(equal(start[0][name].values(), start[1][name].values()))
        drawn = [pair for pair in zip(start[0][name].values(), start[2][name].values(), strict=True) if np.std(pair[0])]
        assert drawn and not any(np.array_equal(a, b) for a, b in drawn)
    for phase in tiny.every_phase:
        for detector in (same, again, other):
            detector.phase = phase
        logs = [[logs_of(d.step, tiny.batch(i)) for i in range(2)] for d in (same, again, other)]
        assert logs[0] == logs[1] and all(equal(numbers(same.state), numbers(again.state)))
        assert logs[0][0] != logs[2][0]


@compiles
def test_resumed_equals_uninterrupted_to_the_bit(tiny, textures, tmp_path):
    """The folder of a run as a kill after the first of two epochs leaves it is continued by a new detector."""
    stack, sizes = stack_images(tiny.training_images(tiny.photographs(textures)))
    sampler = tiny.sampler(sizes, tiny.config)
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                shutil.copytree(whole.path, parts.path)

    straight, resumed = tiny.build(), tiny.build()
    fit(straight, stack, sampler, 2, 0, [Recorder(whole, 0, sampler.steps), Kill()])
    assert load_state(parts.checkpoint, resumed.state) == Position(1)
    assert not all(equal(numbers(straight.state), numbers(resumed.state)))
    fit(resumed, stack, sampler, 2, 1, [Recorder(parts, 1, sampler.steps)])
    for a, b in zip(straight.state, resumed.state, strict=True):
        np.testing.assert_array_equal(*numbers([a, b]), err_msg=a.path)
    rows = [[{**r, "seconds": 0} for r in run.read_table("history.csv")] for run in (whole, parts)]
    assert rows[0] == rows[1] and [r["epoch"] for r in rows[0]] == ["1", "2"]
    assert set(straight.loss_names) <= set(rows[0][0])


def test_the_checkpoint_holds_every_variable_once(tiny):
    detector = tiny.build()
    held = [id(v) for v in detector.state]
    assert len(held) == len(set(held))
    layers = [layer for name in tiny.networks for layer in getattr(detector, name)._flatten_layers()]
    seeds = [layer.seed_generator.state for layer in layers if hasattr(layer, "seed_generator")]
    assert bool(seeds) == bool(tiny.certain)  # dropout draws
    expected = [v for layer in layers for v in layer.variables] + seeds
    expected += [detector.noise.state] if hasattr(detector, "noise") else []
    expected += [v for optimizer in detector.optimizers.values() for v in optimizer.variables]
    for (key, names), optimizer in zip(tiny.updates.items(), detector.optimizers.values(), strict=True):
        kernels = sum(len(getattr(detector, name).trainable_variables) for name in names)
        assert len(optimizer.variables) == 2 + tiny.slots.get(key, 2) * kernels  # iterations and rate; moments
    assert {id(v) for v in expected} <= set(held)


@pytest.mark.parametrize("tiny", methods("draem", "grdnet", "fanogan", "cbigan"), indirect=True)
def test_networks_save_and_load(tiny, tmp_path):
    detector = tiny.build()
    batch = tiny.batch()
    images = keras.ops.convert_to_tensor(batch["images"] if tiny.regions else batch)
    parts = {"images": images, "pair": keras.ops.concatenate([images, images], axis=-1)}
    if hasattr(detector, "encoder"):
        parts["latents"] = detector.encoder(images, training=False)
    elif hasattr(detector, "draw_latents"):
        parts["latents"] = detector.draw_latents(len(images))
    for name in tiny.networks:
        network = getattr(detector, name)
        network.save(tmp_path / f"{name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        inputs = [parts[tensor.name] for tensor in network.inputs]
        found, expected = (
            keras.tree.flatten(n(inputs if len(inputs) > 1 else inputs[0], training=False)) for n in (loaded, network)
        )
        for a, b in zip(found, expected, strict=True):
            assert np.std(b) > 0
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_every_score_map_and_panel_of_an_image(tiny, textures):
    detector = tiny.telling()
    image, other, normal = tiny.photographs(textures)
    detector.calibrate([normal])
    found = detector.evidence(image)
    for name in detector.score_names:
        score = detector.anomaly_score(image, name)
        assert isinstance(score, float) and np.isfinite(score)
        assert score == detector.score_from(found, name) != detector.anomaly_score(other, name)
    assert detector.anomaly_score(image) == detector.anomaly_score(image, detector.score_names[0])
    names = detector.score_names if detector.map_names is None else detector.map_names
    assert names and set(names) <= set(detector.score_names)
    for name in names:
        heat = detector.anomaly_map(image, name)
        assert heat.shape == image.shape[:2] and heat.dtype == "float32" and np.isfinite(heat).all()
    assert all(found[name].shape == image.shape[:2] for name in detector.panel_maps if name)
    assert found["reconstruction"].shape == image.shape and np.abs(found["reconstruction"]).max() <= 1
    for drawn in detector.generated(*image.shape[:2]) if hasattr(detector, "generated") else ():
        assert drawn.ndim == 3 and drawn.shape[-1] == image.shape[-1] and np.abs(drawn).max() <= 1


def test_the_discriminator_is_examined_on_held_out_images(tiny):
    """In inference mode, on images of one range, the same at every call; a method without D has nothing to say."""
    detector = tiny.build()
    if not hasattr(detector, "discriminator"):
        assert not hasattr(detector, "examine")
        return
    examine = detector.compile_inference(detector.examine)
    batch = {k: np.asarray(v) for k, v in tiny.batch().items()} if tiny.regions else np.asarray(tiny.batch())
    before = numbers(detector.state)
    found, again = examine(batch), examine(batch)
    assert all(equal(before, numbers(detector.state))) and all(equal(found.values(), again.values()))
    count = len(batch["images"] if tiny.regions else batch)
    assert found["real"].shape == found["fake"].shape == (count,) and np.std(found["made"]) > 0
    assert found["images"].shape == found["made"].shape and np.abs(found["made"]).max() <= 1
    assert 0 <= indicators(**found)["d_auroc"] <= 1 and indicators(**found)["diversity"] > 0
