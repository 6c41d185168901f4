"""Sandboxes for Python behind one port, `PythonSandbox`: an adapter each."""
