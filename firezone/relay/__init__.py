"""The relay program."""
