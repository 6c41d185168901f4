"""The functions that run in worker processes: JSON values in, a JSON value out, no state between calls.

Third-party packages are imported inside the functions, so that only the children carry them.
"""
