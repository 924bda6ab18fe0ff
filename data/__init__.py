"""Images: where they lie, what is wrong with them, patches, corruption, pipelines."""

import os
import platform
import sys

if platform.machine().lower() in ("x86_64", "amd64") and "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # why: see `ganspect.models`; either may be imported first
