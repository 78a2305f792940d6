"""Asks for blocks as fast as it can, choked or not, and reads no answer."""

from peer import HAVE_NONE, INTERESTED, Animal, Link, message, request

AT_ONCE = 1000


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_NONE) + message(INTERESTED))
    folders = link.animal.folders()
    link.flood(lambda: b"".join(request(*next(folders)) for _ in range(AT_ONCE)), f"times {AT_ONCE} requests")


animal = Animal()
animal.dial(behave, 4)
animal.live()
