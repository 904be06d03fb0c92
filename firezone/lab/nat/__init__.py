"""Networks of every kind, and the internet between them: NATs, distances, and the probe that looks at them from behind."""
