"""Measurements of the service beside what bounds it: `python -m bench --help`, `make bench`."""
