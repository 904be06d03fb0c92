from firezone.kernels.batch import PacketBatch
from firezone.kernels.channel import ChannelTable
from firezone.kernels.ring import PacketRing

def cut_datagrams(ring: PacketRing, entries: int, batch: PacketBatch, channels: ChannelTable | None = None) -> int: ...
