"""Firezone's data plane for Python."""

__version__ = "0.1.0"
