"""Asks for hashes with the longest proofs there are as fast as it can, and reads no answer."""

import struct

from peer import HASH_REQUEST, HAVE_NONE, Animal, Link, message

AT_ONCE = 1000
MOST = 512


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_NONE))
    animal = link.animal
    leaves = animal.pieces * animal.blocks
    piece_layer = animal.blocks.bit_length() - 1
    height = (leaves - 1).bit_length()
    layers = (0, piece_layer)

    def hashes(number: int) -> bytes:
        base = layers[number % len(layers)]
        width = 1 << (height - base)
        count = min(MOST, width)
        index = number * count % width
        return message(HASH_REQUEST, animal.root + struct.pack(">IIIII", base, index, count, height - base - 1, 0)[:16])

    flood = b"".join(hashes(number) for number in range(AT_ONCE))
    link.flood(lambda: flood, f"times {AT_ONCE} hash requests")


animal = Animal()
animal.dial(behave, 4)
animal.live()
