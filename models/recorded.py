"""Functions of tensors with gradients of our own, for TensorFlow's tapes."""


def recorded(fn):
    """What `tf.custom_gradient` does, for `tf.GradientTape` alone (not `tf.gradients`).

    In a graph `tf.custom_gradient` adds an operation, across which TensorFlow fuses nothing, and registers the gradient
    for the whole process. This does neither. How a tape records is no public setting of TensorFlow: a release that
    hides it elsewhere makes this an error.

    Args:
        fn: tensors to `(tensor, gradient)`; gradient takes dL of that tensor to a tuple of dL of each of fn's tensors,
            by functions that can be differentiated again.

    Returns:
        Function of the same tensors to the tensor.
    """
    from tensorflow.python.eager import record

    def call(*tensors):
        with record.stop_recording():
            found, gradient = fn(*tensors)
        record.record_operation(fn.__name__, [found], list(tensors), gradient)
        return found

    return call
