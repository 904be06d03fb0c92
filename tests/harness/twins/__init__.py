"""Slow twins in plain Python of the compiled stages, written from the specification, not from the C."""
