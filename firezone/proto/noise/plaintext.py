"""What a data message holds once it is opened: an IP packet and padding."""

from __future__ import annotations

from firezone.base.errors import RemoteError


def cut_to_packet(plaintext: bytes) -> bytes:
    """Returns the IP packet at the start of a plaintext, without the padding that other WireGuards add.

    Raises: RemoteError when the version is neither 4 nor 6 or the packet claims more bytes than there are.
    """
    match plaintext[0] >> 4:
        case 4 if len(plaintext) >= 20:
            length = int.from_bytes(plaintext[2:4], "big")
            is_whole = 20 <= length <= len(plaintext)
        case 6 if len(plaintext) >= 40:
            length = int.from_bytes(plaintext[4:6], "big") + 40
            is_whole = length <= len(plaintext)
        case _:
            raise RemoteError("A decrypted packet is neither IPv4 nor IPv6, or shorter than its header.")
    if not is_whole:
        raise RemoteError(f"A decrypted packet claims {length} bytes and has {len(plaintext)}.")
    return plaintext[:length]
