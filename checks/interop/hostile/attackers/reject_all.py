"""Four hosts with four connections each have everything, unchoke, and reject every request at once."""

from attacker import (
    HASH_REJECT,
    HASH_REQUEST,
    HAVE_ALL,
    REJECT,
    REQUEST,
    UNCHOKE,
    Attacker,
    Link,
    extended_handshake,
    host,
    message,
)

attacker = Attacker()


def behave(link: Link) -> None:
    link.greet()
    link.socket.settimeout(30)
    link.socket.sendall(message(HAVE_ALL) + extended_handshake(b"d1:md11:ut_metadatai3ee4:reqqi2000ee") + message(UNCHOKE))
    while link.is_alive():
        kind, payload = link.heard()
        if kind == REQUEST:
            link.say(message(REJECT, payload), "requests rejected")
        elif kind == HASH_REQUEST:
            link.say(message(HASH_REJECT, payload), "hash requests rejected")


for one in range(4):
    for connection in range(4):
        attacker.hold(host(one), b"-RJ0001-%d-%d" % (one, connection), behave)
attacker.live()
