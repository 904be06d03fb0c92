"""The words everything shares: identifiers, errors, time, limits, logs. Imports nothing of ours."""
