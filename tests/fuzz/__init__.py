"""Hostile input: what others may send, mutated, at everything that reads it. Runs are short and repeat from their seeds."""
