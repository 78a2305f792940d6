"""Connects many times under one peer id, and sends blocks that were not requested, each many times."""

import struct

from peer import BLOCK, HAVE_ALL, PIECE, UNCHOKE, Animal, Link, message


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_ALL) + message(UNCHOKE))
    places = link.animal.places()

    def block() -> bytes:
        place = struct.pack(">II", *next(places))
        return message(PIECE, place + bytes(BLOCK)) * 4

    link.flood(block, "times 4 unasked blocks")


animal = Animal()
animal.dial(behave, 20, b"-ZO0003-the same one")
animal.live()
