"""Adapters, named by the technology they stand on."""
