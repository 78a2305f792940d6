"""Sends everything as slowly as possible: handshakes, messages and answers, a byte at a time, on many connections."""

from peer import HAVE_ALL, UNCHOKE, Animal, Link, message

PAUSE = 0.5
CONNECTIONS = 20


def trickle(link: Link, data: bytes) -> None:
    for byte in data:
        if link.animal.ended.wait(PAUSE):
            return
        link.say(bytes([byte]), "bytes")


def slow_handshake(link: Link) -> None:
    trickle(link, link.hello)


def slow_message(link: Link) -> None:
    link.greet()
    # A request that is never whole.
    trickle(link, (13).to_bytes(4) + b"\x06" * 13)


def slow_answer(link: Link) -> None:
    """Answers the requests of the mirror a byte at a time."""
    link.greet()
    link.socket.sendall(message(HAVE_ALL) + message(UNCHOKE) + (9 + 16384).to_bytes(4) + b"\x07" + bytes(8))
    trickle(link, bytes(16384))


animal = Animal()
for behave in (slow_handshake, slow_message, slow_answer):
    animal.dial(behave, CONNECTIONS)
animal.live()
