"""One host opens 400 connections and sends nothing on them, to use up all handshakes."""

import threading

from attacker import Attacker, Link

attacker = Attacker()


def behave(link: Link) -> None:
    link.socket.settimeout(60)
    link.take(1)


threading.stack_size(1 << 18)
for number in range(400):
    attacker.hold(attacker.own, b"-IH0001-%d" % number, behave)
attacker.live()
