"""The headless client program."""
