"""Leads the mirror to itself: sends it its own address, and forwards every connection to the mirror's own port."""

import contextlib
import socket
import threading

from peer import EXTENDED, HAVE_NONE, PORT, Animal, Link, message


def pass_on(taker: socket.socket, giver: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := giver.recv(1 << 16):
            taker.sendall(data)
    for end in (taker, giver):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def relay(animal: Animal) -> None:
    """A way to the mirror that does not look like its own address."""
    server = socket.create_server((animal.own, PORT), backlog=64)
    while True:
        came, _ = server.accept()
        animal.did["led to itself"] += 1
        try:
            back = animal.connect()
        except OSError:
            came.close()
            continue
        for ends in ((came, back), (back, came)):
            threading.Thread(target=pass_on, args=ends, daemon=True).start()


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_NONE) + message(EXTENDED, b"\x00d1:md6:ut_pexi1eee"))
    address = socket.inet_aton(link.animal.target[0]) + link.animal.target[1].to_bytes(2)
    addresses = b"d5:added%d:%b7:added.f%d:%be" % (len(address) * 50, address * 50, 50, bytes(50))
    while link.is_alive():
        link.say(b"".join(message(EXTENDED, bytes([kind]) + addresses) for kind in (1, 2, 3)), "times 150 own addresses")
        link.drain(0.1)


animal = Animal()
threading.Thread(target=relay, args=(animal,), daemon=True).start()
animal.dial(behave)
animal.live()
