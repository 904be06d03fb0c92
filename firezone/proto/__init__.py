"""State machines: time and bytes in, events and datagrams out. No sockets, clocks, threads or randomness of their own."""
