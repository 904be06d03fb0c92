"""Compiled work over batches: one call per stage, the GIL released, no Python object per packet."""
