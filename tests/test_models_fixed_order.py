"""Gradients whose parts are added two at a time (`models.fixed_order`), also by several threads at once."""

import threading
from contextlib import nullcontext

import tensorflow as tf

from ganspect.models.fixed_order import fixed_order


def traced(middle=lambda: None, order=fixed_order):
    """Operations of a graph with the gradient of a sum of four parts; `middle` is called while it is being made."""

    @tf.custom_gradient
    def part(x):
        def gradient(upstream):
            middle()
            return upstream * 2.0

        return x * 2.0, gradient

    @tf.function
    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = sum(part(x) for _ in range(4))
        with order():
            return tape.gradient(total, x)

    assert slope(tf.constant(1.0)) == 8.0
    return [op.type for op in slope.get_concrete_function(tf.constant(1.0)).graph.get_operations()]


def test_parts_are_added_two_at_a_time():
    assert "AddN" not in traced()
    assert "AddN" in traced(order=nullcontext)  # as TensorFlow does outside


def test_threads_do_not_disturb_each_other():
    """Another thread begins and ends its gradient in the middle of one; neither's way of adding changes."""
    inside, go, found = threading.Event(), threading.Event(), []

    def wait():
        inside.set()
        assert go.wait(60)

    thread = threading.Thread(target=lambda: found.append(traced(wait)))
    thread.start()
    assert inside.wait(60)
    for _ in range(20):
        assert "AddN" not in traced()
        with fixed_order(), fixed_order():
            pass
    go.set()
    thread.join(60)
    assert len(found) == 1 and "AddN" not in found[0]
