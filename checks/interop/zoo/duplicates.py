"""Connects many times under one peer id, and sends blocks that were not requested, each many times."""

import struct

from peer import BLOCK, HAVE_ALL, PIECE, UNCHOKE, Animal, Link, message


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_ALL) + message(UNCHOKE))
    slots = link.animal.slots()

    def block() -> bytes:
        position = struct.pack(">II", *next(slots))
        return message(PIECE, position + bytes(BLOCK)) * 4

    link.flood(block, "times 4 unasked blocks")


animal = Animal()
animal.dial(behave, 20, b"-ZO0003-the same one")
animal.live()
