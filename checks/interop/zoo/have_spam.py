"""Sends have, interested and not interested repeatedly, and none of it is true."""

from peer import CHOKE, HAVE, HAVE_NONE, INTERESTED, NOT_INTERESTED, UNCHOKE, Animal, Link, message

ROUNDS = 20


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_NONE))
    flips = message(INTERESTED) + message(UNCHOKE) + message(NOT_INTERESTED) + message(CHOKE)
    haves = b"".join(message(HAVE, piece.to_bytes(4)) + flips for piece in range(link.animal.pieces))
    link.flood(lambda: haves * ROUNDS, f"times {ROUNDS * link.animal.pieces} haves")


animal = Animal()
animal.dial(behave, 4)
animal.live()
