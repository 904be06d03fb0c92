"""The lab: portal, relays, gateway and client on one machine, in namespaces that leave nothing behind.

- `namespaces`, `programs`: what everything here stands on; `topology`, `stack`: the networks and programs of the demo.
- `demo`, `memory_demo`, `report`, `first_packet`: what `./dev demo` and its like run and print, by `measure`, `fetch`, `web`.
- `access`: what the demo shows of names and policies, with `name_server`, `refusal` and `stream`.
- `nat`: networks of every kind; `matrix`: which path is found through them; `paths`: what both programs say of a path.
- `faults`: things that break under running flows.
"""
