"""TensorFlow's kernels: oneDNN's are asked for by any package that may import TensorFlow first, and can be refused."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="x86 alone")


def kernels(first, **given):
    """What a new process finds after it has imported `first` and then the convolutions."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"} | given
    line = f"import {first}; import os; print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    done = subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("package", ["models", "data", "training"])
def test_asked_for_before_tensorflow_is_imported(package):
    assert kernels(f"ganspect.{package}") == "1"


def test_refused():
    assert kernels("ganspect.models", TF_ENABLE_ONEDNN_OPTS="0") == "0"


def test_not_claimed_where_tensorflow_came_first():
    line = "sys; sys.modules['tensorflow'] = sys; import ganspect.models"  # it has read the variable by then
    assert kernels(line) == "None"


@pytest.mark.skipif(sys.platform != "linux", reason="by default on Linux alone")
@pytest.mark.parametrize("asked", [{}, {"TF_ENABLE_ONEDNN_OPTS": "0"}, {"TF_ENABLE_ONEDNN_OPTS": "1"}])
def test_forms_are_those_for_the_kernels_that_tensorflow_says_it_has(asked):
    """Also where a user has imported TensorFlow first: on some processors it takes oneDNN's by itself."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"} | asked
    line = "import tensorflow; from ganspect.models import convolutions; print(convolutions.kernels())"
    done = subprocess.run(
        [sys.executable, "-c", line],
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.strip() == "onednn") == ("oneDNN custom operations are on" in done.stderr)
