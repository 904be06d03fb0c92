"""The filter stages: which packets a peer may send out of its tunnel and which may be sent into it.

The meaning of a peer's filter is told at `firezone.proto.updates.PeerFilterSet`; a peer without one has nothing admitted.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from firezone.kernels.batch cimport PacketBatch
from firezone.kernels.filter cimport (
    fz_admit_from_tunnel, fz_admit_to_tunnel, fz_filter, fz_port_range, fz_rule,
)
from firezone.kernels.memo cimport memo_make_room
from firezone.kernels.route cimport lpm_set

MAX_PEERS = 1 << 20
"""Peer rows a table may grow to: 8 MiB of pointers; more means that rows are not given back."""


cdef class FilterTable:
    """Filters by peer row. Not for concurrent use: change it between batches."""

    def __cinit__(self, bytes seed not None=bytes(32)):
        """`seed`: 32 random bytes; who knows them can choose flows that are looked up anew for each packet.

        Raises: ValueError for another length.
        """
        if len(seed) != 32:
            raise ValueError(f"The seed has 32 bytes, not {len(seed)}.")
        memcpy(self._t.from_tunnel.seed, <const uint8_t *>seed, 16)
        memcpy(self._t.to_tunnel.seed, <const uint8_t *>seed + 16, 16)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self._t.peers):
            _free_filter(self._t.of[i])
        free(self._t.of)
        free(self._t.generation)
        free(self._t.from_tunnel.entries)
        free(self._t.to_tunnel.entries)

    def set_peer(self, uint32_t peer, object remote, object local, object rules) -> None:
        """Replaces the whole filter of a peer; on an error the old one stays.

        remote: networks of the peer's side. local: networks of our side, None for any. rules: None for anything, else tuples
        (network, permit_all, tcp ranges, udp ranges, icmp) with inclusive (first, last) port ranges.

        Raises: ValueError for a port range that is none and for a peer row beyond MAX_PEERS.
        """
        cdef fz_filter *fresh
        if peer >= MAX_PEERS:
            raise ValueError(f"{peer} is no peer row, the largest is {MAX_PEERS - 1}.")
        if peer >= self._t.peers:
            self._grow(peer + 1)
        fresh = <fz_filter *>calloc(1, sizeof(fz_filter))
        if fresh == NULL:
            raise MemoryError
        try:
            _build(fresh, remote, local, rules)
        except BaseException:
            _free_filter(fresh)
            raise
        self._replace(peer, fresh)

    def add_rules(self, uint32_t peer, object rules) -> None:
        """Adds rules to those of a peer's filter, replacing the ones of the same networks; without a filter nothing happens.

        rules: as in `set_peer`. Each addition keeps the memory of the rules it replaces until the filter is set anew.

        Raises: ValueError for a port range that is none; then none of the rules is added.
        """
        if peer < self._t.peers and self._t.of[peer] != NULL and self._t.of[peer].has_rules:
            merged = [(row[0], row[1], merge_ranges(row[2]), merge_ranges(row[3]), row[4]) for row in rules]
            self._replace(peer, self._t.of[peer])  # Decided anew even if memory ends half-way.
            _build_rules(self._t.of[peer], merged)

    def add_remote(self, uint32_t peer, object remote) -> None:
        """Adds networks to the peer's side of a filter; without a filter nothing happens."""
        if peer < self._t.peers and self._t.of[peer] != NULL:
            self._replace(peer, self._t.of[peer])  # Decided anew even if memory ends half-way.
            for network in remote:
                lpm_set(&self._t.of[peer].remote, network, 0)

    def remove_peer(self, uint32_t peer) -> None:
        """Forgets the filter of a peer, if it has one: its packets are dropped from now on."""
        if peer < self._t.peers:
            self._replace(peer, NULL)

    def admit_from_tunnel(self, PacketBatch batch not None) -> int:
        """Punts FORWARD rows that their peer must not send: REFUSED_SOURCE, REFUSED_DESTINATION.

        Returns: how many rows are left with verdict FORWARD.
        """
        memo_make_room(&self._t.from_tunnel)
        with nogil:
            left = fz_admit_from_tunnel(&self._t, &batch._c)
        return left

    def admit_to_tunnel(self, PacketBatch batch not None) -> int:
        """Drops FORWARD rows that must not reach their peer: FOREIGN_DESTINATION, FOREIGN_SOURCE, NOT_PERMITTED.

        Returns: how many rows are left with verdict FORWARD.
        """
        memo_make_room(&self._t.to_tunnel)
        with nogil:
            left = fz_admit_to_tunnel(&self._t, &batch._c)
        return left

    cdef int _grow(self, uint32_t peers) except -1:
        cdef uint32_t size = max(16, self._t.peers)
        while size < peers:
            size *= 2
        grown = realloc(self._t.of, size * sizeof(fz_filter *))
        if grown == NULL:
            raise MemoryError
        self._t.of = <fz_filter **>grown
        grown = realloc(self._t.generation, size * sizeof(uint64_t))
        if grown == NULL:
            raise MemoryError
        self._t.generation = <uint64_t *>grown
        memset(self._t.of + self._t.peers, 0, (size - self._t.peers) * sizeof(fz_filter *))
        memset(self._t.generation + self._t.peers, 0, (size - self._t.peers) * sizeof(uint64_t))
        self._t.peers = size
        return 0

    cdef void _replace(self, uint32_t peer, fz_filter *fresh) noexcept:
        """Gives a peer a filter, or the same again with other rules; what was decided by the former one is forgotten."""
        if fresh != self._t.of[peer]:
            _free_filter(self._t.of[peer])
        self._t.of[peer] = fresh
        self._t.changes += 1
        self._t.generation[peer] = self._t.changes if fresh != NULL else 0


cdef void _free_filter(fz_filter *f) noexcept:
    if f != NULL:
        free(f.remote.nodes)
        free(f.local.nodes)
        free(f.rules.nodes)
        free(f.rule)
        free(f.ranges)
        free(f)


cdef int _build(fz_filter *f, object remote, object local, object rules) except -1:
    for network in remote:
        lpm_set(&f.remote, network, 0)
    f.has_local = local is not None
    for network in local or ():
        lpm_set(&f.local, network, 0)
    f.has_rules = rules is not None
    if rules:
        _build_rules(f, [(row[0], row[1], merge_ranges(row[2]), merge_ranges(row[3]), row[4]) for row in rules])
    return 0


cdef int _build_rules(fz_filter *f, list rules) except -1:
    """Puts rules with merged ranges behind those there are."""
    cdef uint32_t place = f.rule_count, at = f.range_count
    cdef fz_rule *rule
    grown = realloc(f.rule, (place + len(rules)) * sizeof(fz_rule))
    if grown == NULL:
        raise MemoryError
    f.rule = <fz_rule *>grown
    grown = realloc(f.ranges, (at + sum(len(row[2]) + len(row[3]) for row in rules) + 1) * sizeof(fz_port_range))
    if grown == NULL:
        raise MemoryError
    f.ranges = <fz_port_range *>grown
    for network, permit_all, tcp, udp, icmp in rules:
        rule = &f.rule[place]
        rule.permit_all = permit_all
        rule.icmp = icmp
        rule.tcp, rule.tcp_count = at, len(tcp)
        rule.udp, rule.udp_count = at + len(tcp), len(udp)
        for first, last in tcp + udp:
            f.ranges[at].first, f.ranges[at].last = <uint16_t>first, <uint16_t>last
            at += 1
        lpm_set(&f.rules, network, place)
        place += 1
        f.rule_count, f.range_count = place, at
    return 0


def merge_ranges(ranges: object) -> list:
    """Returns inclusive port ranges sorted, overlapping and touching ones merged.

    Raises: ValueError for a range that ends before it starts or leaves 0..65535.
    """
    merged: list = []
    start = end = -2
    for first, last in sorted(ranges):
        if not 0 <= first <= last <= 65535:
            raise ValueError(f"{first}..{last} is no range of ports.")
        if first <= end + 1:
            end = max(end, last)
            continue
        if end >= 0:
            merged.append((start, end))
        start, end = first, last
    if end >= 0:
        merged.append((start, end))
    return merged
