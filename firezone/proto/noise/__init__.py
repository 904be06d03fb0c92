"""WireGuard: Noise IKpsk2 handshakes, their timers, cookies and indices. Pure; sessions live in a SessionStore."""
