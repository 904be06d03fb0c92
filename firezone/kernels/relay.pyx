"""The relay's bound channels and the two stages over them (see `csrc/fz_relay.h`)."""
cimport cython

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from firezone.kernels.batch cimport PacketBatch
from firezone.kernels.relay cimport (
    FZ_CHANNEL_FIRST, FZ_CHANNEL_LAST, FZ_RELAY_ASKERS, FZ_RELAY_SIZE_BUCKETS, fz_addrmap, fz_addrmap_entry, fz_addrmap_find,
    fz_addrmap_has_room, fz_addrmap_insert, fz_addrmap_key, fz_addrmap_key_of, fz_addrmap_move, fz_addrmap_remove,
    fz_relay_bind, fz_relay_channel, fz_relay_channel_of, fz_relay_from_clients, fz_relay_from_peers, fz_relay_has_room,
    fz_relay_retry, fz_relay_stats, fz_relay_unbind,
)
from firezone.kernels.ring cimport PacketRing
from firezone.kernels.types cimport fz_addr

from firezone.base.errors import LocalError

cdef enum:
    UNBOUNDED = 0xFFFFFFFF

_CHANNELS = 1 << 22


@cython.final
cdef class RelayTable:
    """Channels by client and number, and by peer and allocation port. Not for concurrent use: change it between batches.

    Implements `proto.relay.tables.ChannelStore`.
    """

    def __cinit__(self, int listen_port, bytes seed not None, object public_ip4=None, object public_ip6=None):
        """`seed`: 48 secret random bytes; who knows them can make addresses that collide.

        The public addresses, 4 and 16 bytes or None, are those of relayed addresses: peers there are our own clients.
        """
        cdef int i
        if len(seed) != 48:
            raise ValueError(f"The seed has 48 bytes, not {len(seed)}.")
        if not 0 < listen_port < 65536:
            raise ValueError(f"{listen_port} is no port.")
        memcpy(self._t.by_client.seed, <const uint8_t *>seed, 16)
        memcpy(self._t.by_peer.seed, <const uint8_t *>seed + 16, 16)
        memcpy(self._t.permitted.seed, <const uint8_t *>seed + 32, 16)
        memcpy(self._t.holders.seed, <const uint8_t *>seed, 16)
        for i in range(<int>FZ_RELAY_ASKERS):
            memcpy(self._t.allowances[i].seed, <const uint8_t *>seed + 16 * i, 16)
            self._t.allowances[i].left = UNBOUNDED
        self._t.listen_port, self._t.free_channel = <uint16_t>listen_port, -1
        if public_ip4 is not None:
            _put_ip(&self._t.public_v4, public_ip4, 0)
        if public_ip6 is not None:
            _put_ip(&self._t.public_v6, public_ip6, 0)

    def __dealloc__(self):
        free(self._t.by_client.entries)
        free(self._t.by_peer.entries)
        free(self._t.permitted.entries)
        free(self._t.holders.entries)
        free(self._t.channels)

    def __len__(self) -> int:
        return self._t.by_client.count

    def bind(self, object client not None, int number, object peer not None, int port) -> None:
        """Lets data flow between a client's channel and a peer of its allocation on `port`, from the next batch on.

        A channel that exists already with the same peer and port stays.

        Raises: ValueError for a number outside 0x4000..0x7FFF or no port, LocalError when the number or the peer is taken.
        """
        cdef fz_addr c, p
        cdef const fz_relay_channel *known
        cdef fz_addrmap_key key
        if not <int>FZ_CHANNEL_FIRST <= number <= <int>FZ_CHANNEL_LAST:
            raise ValueError(f"{number:#x} is no channel number.")
        if not 0 < port < 65536:
            raise ValueError(f"{port} is no port.")
        _put_endpoint(&c, client)
        _put_endpoint(&p, peer)
        known = fz_relay_channel_of(&self._t, &c, <uint16_t>number)
        key = fz_addrmap_key_of(&p, <uint16_t>port)
        if known != NULL:
            if known.port == port and fz_addrmap_find(&self._t.by_peer, &key) == known - self._t.channels:
                return
            raise LocalError(f"Channel {number:#x} of {client} is bound already.")
        if fz_addrmap_find(&self._t.by_peer, &key) >= 0:
            raise LocalError(f"Port {port} has a channel to {peer} already.")
        self._make_room()
        fz_relay_bind(&self._t, &c, <uint16_t>number, &p, <uint16_t>port)

    def unbind(self, object client not None, int number) -> None:
        """Ends the flow of a channel; one that is not bound is none."""
        cdef fz_addr c
        _put_endpoint(&c, client)
        fz_relay_unbind(&self._t, &c, <uint16_t>number)

    def allow(self, int port, object client, bytes ip not None) -> None:
        """Lets a peer's datagrams to the client's allocation be punted (PEER_DATA) although it has no channel."""
        cdef fz_addr a
        cdef fz_addrmap_key key
        _put_ip(&a, ip, 0)
        key = fz_addrmap_key_of(&a, <uint16_t>port)
        _add(&self._t.permitted, &key)

    def revoke(self, int port, object client, bytes ip not None) -> None:
        """Takes a permission back, if there is one."""
        cdef fz_addr a
        cdef fz_addrmap_key key
        _put_ip(&a, ip, 0)
        key = fz_addrmap_key_of(&a, <uint16_t>port)
        fz_addrmap_remove(&self._t.permitted, &key)

    def admit(self, object client not None) -> None:
        """Counts a client's control messages as those of one that has an allocation."""
        cdef fz_addr a
        cdef fz_addrmap_key key
        _put_endpoint(&a, client)
        key = fz_addrmap_key_of(&a, 0)
        _add(&self._t.holders, &key)

    def dismiss(self, object client not None) -> None:
        """Takes back `admit`: the client is a stranger again."""
        cdef fz_addr a
        cdef fz_addrmap_key key
        _put_endpoint(&a, client)
        key = fz_addrmap_key_of(&a, 0)
        fz_addrmap_remove(&self._t.holders, &key)

    def allow_punts(self, uint64_t now, tuple counts not None) -> None:
        """Sets how many rows may be punted until the next call: of clients with an allocation, of all others, and of peers.

        What is beyond is dropped (PUNT_LIMIT), so a flood of control messages costs no more than garbage. Without a bound at first.
        `now`: nanoseconds, by which shares grow again (`share_punts`).
        """
        cdef int i
        for i in range(<int>FZ_RELAY_ASKERS):
            self._t.allowances[i].now_ns = now
            self._t.allowances[i].left = counts[i]

    def share_punts(self, tuple reserves not None, uint32_t per_second, uint32_t at_once) -> None:
        """Keeps the last so many of each kind for those who have not used up their share: each client, each network of strangers (a
        /24 of IPv4, a /56 of IPv6), the peers of each allocation (see `csrc/fz_fair.h`). per_second > 0.
        """
        cdef int i
        for i in range(<int>FZ_RELAY_ASKERS):
            self._t.allowances[i].reserve = reserves[i]
            self._t.allowances[i].step_ns = 1_000_000_000 // per_second
            self._t.allowances[i].burst_ns = at_once * self._t.allowances[i].step_ns

    def punts_left(self) -> tuple:
        """Returns what is left of `allow_punts`."""
        return self._t.allowances[0].left, self._t.allowances[1].left, self._t.allowances[2].left

    def from_clients(self, PacketRing ring not None, uint32_t entries, PacketBatch batch not None) -> int:
        """Fills the batch with the oldest reads of the listen port: ChannelData FORWARD to its peer, STUN punted.

        Returns:   how many ring entries were consumed; fewer than asked when the ring holds fewer or the batch has no room.
        Ownership: the rows point into the ring's slots, which the caller releases once the runs are sent.
        """
        _place(ring, batch)
        with nogil:
            taken = fz_relay_from_clients(&self._t, ring._c, entries, &batch._c)
        return taken

    def retry(self, PacketBatch batch not None) -> int:
        """Looks up again what had no channel in a batch of `from_clients`, after its control messages were obeyed.

        Returns: how many rows are FORWARD now; all others are FREE.
        """
        with nogil:
            found = fz_relay_retry(&self._t, &batch._c)
        return found

    def from_peers(self, PacketRing ring not None, uint32_t entries, PacketBatch batch not None) -> int:
        """The same for reads of allocation ports: datagrams of bound peers are FORWARD to their client as ChannelData."""
        _place(ring, batch)
        with nogil:
            taken = fz_relay_from_peers(&self._t, ring._c, entries, &batch._c)
        return taken

    def stats(self) -> dict:
        """Returns the counters since the start: datagrams and payload bytes each way, and datagrams by size.

        Shapes: `sizes` has 16 entries, datagrams of at most 100, 200, ... 1500 bytes and above.
        """
        cdef fz_relay_stats *s = &self._t.stats
        cdef list sizes = []
        cdef int i
        for i in range(<int>FZ_RELAY_SIZE_BUCKETS):
            sizes.append(s.sizes[i])
        return {
            "to_peers": s.to_peers, "to_peers_bytes": s.to_peers_bytes, "to_clients": s.to_clients,
            "to_clients_bytes": s.to_clients_bytes, "looped": s.looped, "sizes": sizes,
        }

    cdef int _make_room(self) except -1:
        """Doubles what is full. Whatever fails leaves the table as it was."""
        cdef uint64_t room
        if fz_relay_has_room(&self._t):
            return 0
        _grow(&self._t.by_client)
        _grow(&self._t.by_peer)
        if self._t.free_channel >= 0 or self._t.used < self._t.room:
            return 0
        room = 2 * <uint64_t>self._t.room if self._t.room else 32
        if room > _CHANNELS:
            raise LocalError(f"There are {_CHANNELS} channels; one must go first.")
        grown = realloc(self._t.channels, room * sizeof(fz_relay_channel))
        if grown == NULL:
            raise MemoryError
        self._t.channels = <fz_relay_channel *>grown
        self._t.room = <uint32_t>room
        return 0


cdef int _grow(fz_addrmap *m) except -1:
    """Makes room for one more key."""
    cdef uint32_t bits = m.bits + 1 if m.bits else 6
    if fz_addrmap_has_room(m):
        return 0
    entries = <fz_addrmap_entry *>calloc(<size_t>1 << bits, sizeof(fz_addrmap_entry))
    if entries == NULL:
        raise MemoryError
    old = m.entries
    fz_addrmap_move(m, entries, bits)
    free(old)
    return 0


cdef int _add(fz_addrmap *m, const fz_addrmap_key *key) except -1:
    """Adds a key to a map that is a set, unless it is there."""
    if fz_addrmap_find(m, key) < 0:
        _grow(m)
        fz_addrmap_insert(m, key, 0)
    return 0


cdef int _place(PacketRing ring, PacketBatch batch) except -1:
    if batch._c.slab != ring._c.slab or batch._c.slab_size != <size_t>ring.slots * <size_t>ring.slot_size:
        batch.over(ring.slab)
    batch._c.n = 0
    return 0


cdef int _put_ip(fz_addr *a, bytes ip, uint16_t port) except -1:
    memset(a, 0, sizeof(fz_addr))
    if len(ip) not in (4, 16):
        raise ValueError(f"An address has 4 or 16 bytes, not {len(ip)}.")
    memcpy(a.ip, <const uint8_t *>ip, len(ip))
    a.port = port
    a.family = 4 if len(ip) == 4 else 6
    return 0


cdef int _put_endpoint(fz_addr *a, object endpoint) except -1:
    return _put_ip(a, endpoint.ip, endpoint.port)
