"""What runs a model on this machine: our modules, and the library in its child process."""

import xllamacpp  # type: ignore[import-untyped]  # it brings no types

from luxx.adapters.models.local import child, server, weights

assert xllamacpp.Server
assert all((child.main, server.LocalModel, weights.find_weights))
