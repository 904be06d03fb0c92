"""Load through a relay: ours and coturn side by side, in one run."""
