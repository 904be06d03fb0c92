"""The NAT stages for resources that are named, and the tables they read (see `csrc/fz_nat.h`).

Clients are numbers of the caller: a client and its sessions outlive its connection, and with it the peer row. A client that is
attached to a peer row has the packets of that row translated.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

import cython

from firezone.kernels.batch cimport PacketBatch
from firezone.kernels.nat cimport (
    fz_nat_add_client, fz_nat_client, fz_nat_from_tunnel, fz_nat_has_room, fz_nat_is_proxy,
    fz_nat_remove_client, fz_nat_remove_translation, fz_nat_session, fz_nat_set_translation, fz_nat_to_tunnel,
    fz_nat_translation,
)
from firezone.kernels.relay cimport fz_addrmap, fz_addrmap_entry, fz_addrmap_move
from firezone.kernels.types cimport fz_addr

from firezone.base.errors import LocalError

MAX_CLIENTS = 1 << 20
"""Client numbers a table may grow to: 64 MiB; more means that numbers are not given back."""
MAX_SESSIONS = 1 << 20
"""Live and remembered sessions of all clients together: 256 MiB with their two indices."""
MAX_TRANSLATIONS = 1 << 22


@cython.final
cdef class NatTable:
    """Translations and sessions of all clients. Not for concurrent use: change it between batches."""

    def __cinit__(self, bytes seed not None, *, uint32_t most_sessions=MAX_SESSIONS):
        """`seed`: 48 secret random bytes; who knows them can choose ports that make look-ups slow."""
        if len(seed) != 48:
            raise ValueError(f"The seed has 48 bytes, not {len(seed)}.")
        memcpy(self._t.inside.seed, <const uint8_t *>seed, 16)
        memcpy(self._t.outside.seed, <const uint8_t *>seed + 16, 16)
        memcpy(self._t.proxies.seed, <const uint8_t *>seed + 32, 16)
        self._t.free_session = self._t.free_translation = -1
        self._most_sessions = most_sessions

    def __dealloc__(self):
        free(self._t.inside.entries)
        free(self._t.outside.entries)
        free(self._t.proxies.entries)
        free(self._t.sessions)
        free(self._t.translations)
        free(self._t.clients)
        free(self._t.client_of_peer)

    def __len__(self) -> int:
        """How many sessions there are, those included that have ended and are remembered."""
        return self._t.session_count

    def set_own(self, bytes ipv4, bytes ipv6) -> None:
        """Sets our tunnel addresses, None for none: what comes from them is not a resource's and stays as it is,
        except ICMP errors about translated flows.

        Raises: ValueError for an address of another length.
        """
        if ipv4 is not None and len(ipv4) != 4 or ipv6 is not None and len(ipv6) != 16:
            raise ValueError("Tunnel addresses have 4 and 16 bytes.")
        _put_own(&self._t.own_v4, ipv4)
        _put_own(&self._t.own_v6, ipv6)

    def attach(self, uint32_t peer, uint32_t client) -> None:
        """Has the packets of a peer row translated as those of a client, which is made if it is new.

        Raises: ValueError for a row or number that is out of range.
        """
        self._make_client(client)
        _check(peer, "peer row")
        if peer >= self._t.peers:
            size = max(16, self._t.peers)
            while size <= peer:
                size *= 2
            grown = realloc(self._t.client_of_peer, size * sizeof(int32_t))
            if grown == NULL:
                raise MemoryError
            self._t.client_of_peer = <int32_t *>grown
            memset(self._t.client_of_peer + self._t.peers, 0xFF, (size - self._t.peers) * sizeof(int32_t))
            self._t.peers = size
        self._t.client_of_peer[peer] = <int32_t>client

    def detach(self, uint32_t peer) -> None:
        """Leaves the packets of a peer row alone from now on."""
        if peer < self._t.peers:
            self._t.client_of_peer[peer] = -1

    def set_translation(self, uint32_t client, bytes proxy not None, bytes real) -> None:
        """Has new flows to a proxy IP go to `real`; None: its name has no address of the family, and packets are punted.

        Live sessions keep the address they have.

        Raises: ValueError unless the proxy IP lies in the ranges of proxy IPs and both addresses are of one family.
        """
        cdef bint v6 = len(proxy) == 16
        cdef const uint8_t *to = NULL
        if len(proxy) not in (4, 16) or not fz_nat_is_proxy(proxy, v6):
            raise ValueError(f"{proxy.hex()} is no proxy IP.")
        if real is not None:
            if len(real) != len(proxy):
                raise ValueError(f"{proxy.hex()} and {real.hex()} are not of one family.")
            to = real
        self._make_client(client)
        self._make_translation()
        fz_nat_set_translation(&self._t, client, proxy, to, v6)

    def remove_translation(self, uint32_t client, bytes proxy not None) -> None:
        """Forgets where a proxy IP leads and ends its sessions: the proxy IP may stand for another name next."""
        if client < self._t.client_room and len(proxy) in (4, 16):
            fz_nat_remove_translation(&self._t, client, proxy, len(proxy) == 16)

    def remove_client(self, uint32_t client) -> None:
        """Forgets a client with everything it has, also on which peer rows it is."""
        cdef uint32_t peer
        if client < self._t.client_room:
            fz_nat_remove_client(&self._t, client)
        for peer in range(self._t.peers):
            if self._t.client_of_peer[peer] == <int32_t>client:
                self._t.client_of_peer[peer] = -1

    def translate_from_tunnel(self, PacketBatch batch not None, int64_t now) -> int:
        """Gives packets to proxy IPs their real destination and a source port or identifier that is free there.

        Punts NO_TRANSLATION, drops UNSUPPORTED_PROTOCOL and NAT_EXHAUSTED.

        Units:   now in nanoseconds, monotonic.
        Returns: how many rows are left with verdict FORWARD.
        """
        self._make_room(batch._c.n)
        with nogil:
            left = fz_nat_from_tunnel(&self._t, &batch._c, now)
        return left

    def translate_to_tunnel(self, PacketBatch batch not None, int64_t now) -> int:
        """Gives packets that belong to a session, and ICMP errors about one, the proxy IP as their source. Rows must be routed.

        Drops EXPIRED_NAT_SESSION.

        Units:   now in nanoseconds, monotonic.
        Returns: how many rows are left with verdict FORWARD.
        """
        with nogil:
            left = fz_nat_to_tunnel(&self._t, &batch._c, now)
        return left

    def counts(self, uint32_t client) -> tuple:
        """Returns how many live sessions, remembered sessions and translations a client has."""
        cdef const fz_nat_client *c
        if client >= self._t.client_room or not self._t.clients[client].in_use:
            return 0, 0, 0
        c = &self._t.clients[client]
        return c.live.count, c.ended.count, c.translation_count

    def stats(self) -> dict:
        """Returns the counters since the start: sessions and packets."""
        return {
            "opened": self._t.stats.opened, "ended": self._t.stats.ended, "translated_out": self._t.stats.translated_out,
            "translated_in": self._t.stats.translated_in, "errors_in": self._t.stats.errors_in,
            "exhausted": self._t.stats.exhausted,
        }

    cdef int _make_room(self, uint32_t sessions) except -1:
        """Makes room for as many sessions more, within the limit. Whatever fails leaves the table as it was."""
        cdef uint64_t wanted = min(<uint64_t>self._t.session_count + sessions, self._most_sessions), room
        if fz_nat_has_room(&self._t, sessions):
            return 0
        _grow(&self._t.inside, wanted)
        _grow(&self._t.outside, wanted)
        if wanted > self._t.session_room:
            room = max(256, self._t.session_room)
            while room < wanted:
                room *= 2
            room = min(room, self._most_sessions)
            grown = realloc(self._t.sessions, room * sizeof(fz_nat_session))
            if grown == NULL:
                raise MemoryError
            self._t.sessions = <fz_nat_session *>grown
            self._t.session_room = <uint32_t>room
        return 0

    cdef int _make_client(self, uint32_t client) except -1:
        _check(client, "client")
        if client >= self._t.client_room:
            size = max(16, self._t.client_room)
            while size <= client:
                size *= 2
            grown = realloc(self._t.clients, size * sizeof(fz_nat_client))
            if grown == NULL:
                raise MemoryError
            self._t.clients = <fz_nat_client *>grown
            memset(self._t.clients + self._t.client_room, 0, (size - self._t.client_room) * sizeof(fz_nat_client))
            self._t.client_room = size
        fz_nat_add_client(&self._t, client)
        return 0

    cdef int _make_translation(self) except -1:
        cdef uint64_t room = 2 * <uint64_t>self._t.translation_room if self._t.translation_room else 64
        _grow(&self._t.proxies, <uint64_t>self._t.proxies.count + 1)
        if self._t.free_translation >= 0 or self._t.translation_used < self._t.translation_room:
            return 0
        if room > MAX_TRANSLATIONS:
            raise LocalError(f"There are {MAX_TRANSLATIONS} translations; one must go first.")
        grown = realloc(self._t.translations, room * sizeof(fz_nat_translation))
        if grown == NULL:
            raise MemoryError
        self._t.translations = <fz_nat_translation *>grown
        self._t.translation_room = <uint32_t>room
        return 0


def is_proxy(bytes address not None) -> bool:
    """Tells whether an address (4 or 16 bytes) lies in the ranges of proxy IPs."""
    return len(address) in (4, 16) and fz_nat_is_proxy(address, len(address) == 16)


cdef int _check(uint32_t number, str what) except -1:
    if number >= <uint32_t>MAX_CLIENTS:
        raise ValueError(f"{number} is no {what}, the largest is {MAX_CLIENTS - 1}.")
    return 0


cdef void _put_own(fz_addr *a, bytes ip) noexcept:
    memset(a, 0, sizeof(fz_addr))
    if ip is not None:
        memcpy(a.ip, <const uint8_t *>ip, len(ip))
        a.family = 4 if len(ip) == 4 else 6


cdef int _grow(fz_addrmap *m, uint64_t keys) except -1:
    """Makes room for as many keys."""
    cdef uint32_t bits = m.bits if m.bits else 6
    while 2 * keys > <uint64_t>1 << bits:
        bits += 1
    if bits == m.bits:
        return 0
    entries = <fz_addrmap_entry *>calloc(<size_t>1 << bits, sizeof(fz_addrmap_entry))
    if entries == NULL:
        raise MemoryError
    old = m.entries
    fz_addrmap_move(m, entries, bits)
    free(old)
    return 0
