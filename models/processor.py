"""What the processor of this machine can do: its instructions, as Linux names them."""

import functools
import re
from pathlib import Path


@functools.cache
def instructions():
    """Names of its instructions (x86) or features (ARM), from /proc/cpuinfo; none where there is no such file."""
    facts = Path("/proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:(.*)", facts.read_text(), re.MULTILINE) if facts.exists() else None
    return frozenset(found[1].split()) if found else frozenset()
