"""ICE: finding a pair of addresses over which two peers reach each other, and noticing when it is gone."""
