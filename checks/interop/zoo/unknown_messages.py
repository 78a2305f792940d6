"""Sends messages of unknown kinds, also extended ones, with random bytes."""

import random

from peer import EXTENDED, HAVE_NONE, Animal, Link, message

KINDS = [kind for kind in range(256) if not (kind < 10 or 13 <= kind <= 17 or 20 <= kind <= 23)]


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_NONE))
    chance = random.Random(1)

    def some() -> bytes:
        unknown = message(chance.choice(KINDS), chance.randbytes(chance.randrange(30_000)))
        extended = message(EXTENDED, bytes([chance.randrange(10, 256)]) + chance.randbytes(chance.randrange(1_000)))
        return unknown + extended + bytes(4)

    link.flood(some, "times 2 unknown messages")


animal = Animal()
animal.dial(behave, 4)
animal.live()
