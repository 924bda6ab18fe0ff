"""Adam by one TensorFlow op a variable: what Keras' own does, counters and slots included."""

import keras
import numpy as np
import pytest

from ganspect.models.optimizers import Adam

SHAPES = ((3, 4), (5,), ())


def trained(optimizer, compiled):
    """Values of some variables and of the optimiser's after 20 updates with a rate that changes."""
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.normal(size=s).astype("float32"), name=f"weight{len(s)}") for s in SHAPES]
    optimizer.build(variables)
    apply = lambda *gradients: optimizer.apply(list(gradients), variables)  # noqa: E731
    if compiled:
        import tensorflow as tf

        apply = tf.function(apply)
    for step in range(20):
        optimizer.learning_rate = 0.01 / (1 + step // 10)
        scale = 10.0 ** rng.uniform(-6, 2)
        apply(*(keras.ops.convert_to_tensor((scale * rng.normal(size=s)).astype("float32")) for s in SHAPES))
    return [np.asarray(v) for v in (*variables, *optimizer.variables)], [
        v.path.partition("/")[2] for v in optimizer.variables
    ]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("betas", [{}, {"beta_1": 0.5}, {"beta_1": 0.0, "beta_2": 0.9, "epsilon": 1e-8}])
def test_adam_is_keras_adam(betas, compiled):
    ours, names = trained(Adam(0.0, **betas), compiled)
    keras_own, expected = trained(keras.optimizers.Adam(0.0, **betas), compiled)
    assert names == expected
    for name, a, b in zip([*SHAPES, *names], ours, keras_own, strict=True):
        # 1 - beta_2 is taken in float32 by the op: 0.00100005 for 0.001
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=str(name))


def test_one_op_updates_a_variable():
    import tensorflow as tf

    optimizer, variables = Adam(0.1), [keras.Variable(np.ones(3, "float32")) for _ in range(4)]
    optimizer.build(variables)
    graph = tf.function(lambda: optimizer.apply([tf.ones(3)] * 4, variables)).get_concrete_function().graph
    assert [op.type for op in graph.get_operations()].count("ResourceApplyAdam") == 4
    assert optimizer._powers is None
