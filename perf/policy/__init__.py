"""What policy costs: the kernels that enforce it, and the gateway's machine that keeps it."""
