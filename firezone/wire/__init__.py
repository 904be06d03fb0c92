"""Bytes to values and back: every codec decodes to a value or raises WireError."""
