"""The client's name servers under load, beside unbound."""
