"""What the server of a grid's processes imports, once, for all of them; see `training.grid`."""

from ganspect.training.quiet import import_backend

import_backend()

from ganspect.reproduce import runner, work  # noqa: E402, F401
