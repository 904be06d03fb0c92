"""The TURN client: one allocation per relay, and the channels on it."""
