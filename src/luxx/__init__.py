"""Luxx: an LLM chat backend to trust and to embed."""

__version__ = "0.1.0"
