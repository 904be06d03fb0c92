"""`python -m firezone.lab faults`: how long what breaks is noticed."""
