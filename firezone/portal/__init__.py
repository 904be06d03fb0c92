"""The embedded portal program."""
