"""Every system call: TUN, UDP, netlink, WebSocket, signals, clock."""
