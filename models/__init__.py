"""Networks, losses, steps, maps and exports of the methods.

TensorFlow has oneDNN's kernels on every x86 processor but takes them by itself only on those with AVX-512 VNNI or
later; elsewhere it takes its own, with which CBiGAN's critic takes more than twice as long, and steps of stock layers
2.1 to 3.3 times (`benchmarks/onednn.py`). So they are asked for here, before TensorFlow is imported;
`TF_ENABLE_ONEDNN_OPTS=0` in the environment refuses them.
"""

import os
import platform
import sys

if platform.machine().lower() in ("x86_64", "amd64") and "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
