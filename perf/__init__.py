"""End-to-end comparison of this tunnel with others, on one machine, over one topology, in one run."""
