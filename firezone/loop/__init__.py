"""The fair tick and the loops that drive it."""
