"""Connections to peers: ICE finds the path, WireGuard makes it private; one Node owns them all."""
