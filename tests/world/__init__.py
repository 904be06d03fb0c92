"""Whole clients, gateways, relays and a portal on one clock, walked through whatever can happen to them, beside a small model.

    walk (seed) ─ transition ─┬─ system: real machines, engines, compiled tables, portal service; wires and time are not real
                              └─ reference: who may reach what, by name and address, and where it must arrive
                invariants compare the two after every step

A walk is a list of steps with plain arguments, drawn from a seed by weights that depend on the reference alone. So a step can be
left out and the rest still means something: a failure is shrunk by leaving out steps (delta debugging) and written to a file that
replays it. Hypothesis would draw and shrink the same, but keeps the choices, not the steps: a file of steps can be read, edited and
kept, and a walk of a million steps needs no memory of its choices.

Source: the original's property test, `eventloop-io` 9 and 10, of which this leaves out what is not built (devices of one user that
reach each other, DNS over HTTPS, connections without ICE) and applications' own TCP: packets are requests and answers.
"""
