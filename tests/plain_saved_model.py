"""Answers of a SavedModel in a process that has TensorFlow alone: `python plain_saved_model.py MODEL INPUTS OUTPUTS`.

INPUTS is a `.npz` of arrays `<endpoint>/<input>/<case>`, OUTPUTS gets `<endpoint>/<output>/<case>`.
"""

import sys

import numpy as np


def main(model, inputs, outputs):
    """Runs every case."""
    import tensorflow as tf

    loaded = tf.saved_model.load(model)
    given, found = {}, {}
    with np.load(inputs, allow_pickle=True) as stored:
        for key in stored.files:
            endpoint, name, case = key.split("/")
            value = stored[key]
            given.setdefault((endpoint, case), {})[name] = tf.constant(
                value.tolist() if value.dtype.kind in "OS" else value
            )
    for (endpoint, case), arguments in given.items():
        for name, value in loaded.signatures[endpoint](**arguments).items():
            found[f"{endpoint}/{name}/{case}"] = value.numpy()
    assert not any(name.startswith("ganspect") for name in sys.modules)
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
