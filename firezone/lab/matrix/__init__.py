"""`python -m firezone.lab matrix`: which path is found through which NATs."""
