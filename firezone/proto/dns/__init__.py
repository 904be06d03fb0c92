"""The client's stub resolver, without sockets: which names are resources, what they are answered with, whom else to ask."""
