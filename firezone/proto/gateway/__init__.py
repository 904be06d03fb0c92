"""The gateway's state machine: authorisations, filters, refusals."""
