"""Eight hosts have everything, never unchoke a request with a block, and answer requests for hashes with random ones: as many as wanted, without the proof, or too many."""

import os
import struct

from attacker import HASH_REQUEST, HASHES, HAVE_ALL, UNCHOKE, Attacker, Link, extended_handshake, host, message

HASH = 32

attacker = Attacker()


def liar(number: int) -> None:
    def behave(link: Link) -> None:
        link.greet()
        link.socket.settimeout(60)
        link.socket.sendall(message(HAVE_ALL) + message(UNCHOKE) + extended_handshake(b"d1:mde4:reqqi500ee"))
        while link.is_alive():
            kind, payload = link.heard()
            if kind == HASH_REQUEST:
                count, proofs = struct.unpack(">II", payload[40:48])
                more = (0, proofs, 3)[number % 3]
                link.say(message(HASHES, payload + os.urandom(HASH * (count + more))), "false hashes")

    attacker.hold(host(number), b"-HL0001-%d" % number, behave)


for one in range(8):
    liar(one)
attacker.live()
