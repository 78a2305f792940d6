"""Two hosts with three connections each claim six different lengths of the metadata and answer no request."""

from attacker import HAVE_ALL, Attacker, Link, extended_handshake, host, message

attacker = Attacker()


def claim(size: int) -> None:
    def behave(link: Link) -> None:
        link.greet()
        link.say(extended_handshake(b"d1:md11:ut_metadatai3ee13:metadata_sizei%dee" % size), "lengths claimed")
        link.socket.sendall(message(HAVE_ALL))
        attacker.stay(link)

    attacker.hold(host(size // 3), b"-MS0001-%d" % size, behave)


for number in range(6):
    claim(999 + number)
attacker.live()
