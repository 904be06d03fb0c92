"""From ring to ring: the stages of each direction in their order."""
