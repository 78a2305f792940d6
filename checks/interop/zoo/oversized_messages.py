"""Announces and sends messages that are longer than any may be, of every kind, on one connection after the other."""

import itertools
import struct

from peer import Animal, Link

LENGTHS = (0xFFFF_FFFF, 0x7FFF_FFFF, 1 << 30, 64 << 20, 8 << 20, 1 << 20)
kinds = itertools.cycle(itertools.product(LENGTHS, range(24)))


def behave(link: Link) -> None:
    link.greet()
    length, kind = next(kinds)
    link.say(struct.pack(">IB", length, kind), "oversized messages")
    left = min(length - 1, 64 << 20)
    while left and link.is_alive():
        link.socket.sendall(bytes(1 << 16))
        link.animal.did["times 64 KiB"] += 1
        left -= 1 << 16
    link.drain(1)


animal = Animal()
animal.dial(behave, 4)
animal.live()
