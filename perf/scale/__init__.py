"""What more flows cost: on paper, in the kernels that look each packet up, and through whole tunnels."""
