"""Worlds behind edges: what NATs, delays, families and time do to whole programs, packet by packet.

    World (clients, gateways, relays, portal, edges) ◂─ Step ─▸ Model (policy, who is there, what users want)
            └──────────── packets, host configuration, tables ──── compared ────────────┘

`tests/world` walks through names and policies over a network that is kind. Here the network is not: cone and symmetric NATs that
filter, expire and forget, a delay of its own for each host, one family or two. In return nothing is forgiven: a packet that should
arrive does, at the first attempt and once, unless something has just happened to its path; timers do not spin; and when everything
is taken away nothing is left. Every machine is the real one: `ClientState`, `GatewayState` and their compiled tables in `Engine`s,
`RelayServer`, `PortalService`. Not real are sockets, TUN devices, WebSockets and the clock. A relay's compiled channel table runs
beside a slow twin that must agree with it.

Steps are drawn by a seed of our own and shrunk by leaving steps out, and not by Hypothesis' state machines: a step is five
numbers that the world makes something legal of, so any list of steps is a valid run, and drawing costs nothing beside playing
(Hypothesis would take longer than the step itself, and could neither run for a million steps nor replay from a file that says
what happens). One test has Hypothesis draw and shrink the same steps all the same, for the lists that a seed would hardly make.

Source: the original's property test and fuzz target, `eventloop-io` 9 and 10.2 to 10.4 of its description.
"""
