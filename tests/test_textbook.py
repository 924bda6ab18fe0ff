"""The textbook steps that benchmarks time beside ours compute the same losses."""

import sys
from pathlib import Path

import keras
import pytest
from tiny_methods import TINY

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's alone", allow_module_level=True)

import steps  # noqa: E402
import textbook  # noqa: E402


@pytest.mark.parametrize("name", ["ganomaly", pytest.param("draem", marks=pytest.mark.slow), "cbigan"])
def test_losses_of_the_first_step_are_ours(name):
    case = "cbigan_critic" if name == "cbigan" else name
    for label, step in textbook.STEPS[case].items():
        batch = tf.nest.map_structure(tf.constant, TINY[name].batch())
        ours = TINY[name].build()
        own = steps.our_critic if name == "cbigan" else type(ours).step
        found = own(ours, batch)
        other = step(TINY[name].build(), batch)
        shared = found.keys() & other.keys()
        assert shared >= {"loss"} or shared >= {"d_loss"}
        for key in shared - ({"g_loss"} if label.endswith("in turn") else set()):
            assert float(found[key]) == pytest.approx(float(other[key]), rel=2e-5), (label, key)


def test_the_critics_part_trains_the_critic_alone():
    detector = TINY["cbigan"].build()
    variables = detector.trainable_variables
    before = [keras.ops.convert_to_numpy(v).copy() for v in variables]
    steps.our_critic(detector, tf.constant(TINY["cbigan"].batch()))
    changed = {id(v) for v, old in zip(variables, before, strict=True) if (keras.ops.convert_to_numpy(v) != old).any()}
    assert changed and changed <= {id(v) for v in detector.discriminator.trainable_variables}
    assert detector.each.__func__ is type(detector).each
