"""One connection for each kind of wrong message: lengths that do not fit, indices and sums that overflow, nested and huge dictionaries, messages that were not asked for."""

import socket
import struct
import threading
import time

from attacker import (
    BITFIELD,
    BLOCK,
    EXTENDED,
    HASH_REQUEST,
    HASHES,
    HAVE,
    HAVE_ALL,
    HAVE_NONE,
    INTERESTED,
    PIECE,
    REJECT,
    Attacker,
    Gone,
    Link,
    extended_handshake,
    message,
    request,
)

MOST = 0xFFFFFFFF
CANCEL, SUGGEST, ALLOWED_FAST, CHOKE, UT_METADATA, UT_PEX = 8, 13, 17, 0, 1, 2

attacker = Attacker()


def hashes(base: int, index: int, count: int, proofs: int, kind: int = HASH_REQUEST, rest: bytes = b"", root: bytes = b"") -> bytes:
    return message(kind, (root or attacker.root) + struct.pack(">IIII", base, index, count, proofs) + rest)


def piece(index: int, begin: int, data: bytes) -> bytes:
    return message(PIECE, struct.pack(">II", index, begin) + data)


def four(number: int) -> bytes:
    return struct.pack(">I", number)


bits = bytes(-(-attacker.pieces // 8))
metadata = b"d8:msg_typei%de5:piecei%dee"
MESSAGES: dict[str, bytes] = {
    "bit field of 1 MiB": message(BITFIELD, bytes(1 << 20)),
    "bit field that is empty": message(BITFIELD),
    "bit field that is short": message(BITFIELD, bits[1:]),
    "bit field that is long": message(BITFIELD, bits + b"\0"),
    "bit field with spare bits": message(BITFIELD, bits[:-1] + b"\x01"),
    "two bit fields": message(BITFIELD, bits) * 2,
    "have all, have none": (message(HAVE_ALL) + message(HAVE_NONE)) * 300,
    "have of no piece": message(HAVE, four(MOST)),
    "have that is short": message(HAVE, b"\0"),
    "choke with a body": message(CHOKE, b"xx"),
    "request of nothing": message(INTERESTED) + request(0, 0, 0),
    "request past the piece": message(INTERESTED) + request(0, attacker.blocks * BLOCK - 1, BLOCK),
    "request of the greatest numbers": message(INTERESTED) + request(MOST, MOST, MOST),
    "request that overflows": message(INTERESTED) + request(0, MOST, 2),
    "cancels": request(0, 0, BLOCK, CANCEL) * 9000,
    "reject of nothing asked": request(MOST, MOST, MOST, REJECT),
    "allowed fast": b"".join(message(ALLOWED_FAST, four(number)) for number in range(attacker.pieces)) * 20,
    "allowed fast of no piece": message(ALLOWED_FAST, four(MOST)),
    "suggestion of no piece": message(SUGGEST, four(MOST)),
    "blocks not asked for": piece(0, 0, b"x" * BLOCK) * 20,
    "block at an odd offset": piece(0, 1, b"x" * BLOCK),
    "block of nothing": piece(0, 0, b""),
    "block of no piece": piece(MOST, MOST, b"x" * BLOCK),
    "block of a byte": piece(0, 0, b"x"),
    "hashes of an odd base": hashes(1, 1, 3, 1),
    "hashes of a huge base": hashes(MOST, 0, 2, 0),
    "hashes of base 32": hashes(32, 0, 2, 0),
    "hashes of base 64": hashes(64, 0, 2, 64),
    "hashes of a huge index": hashes(0, MOST - 1, 2, 0),
    "very many hashes": hashes(0, 0, MOST, 0),
    "2^31 hashes": hashes(0, 0, 1 << 31, 0),
    "very many proofs": hashes(0, 0, 2, MOST),
    "no hashes": hashes(0, 0, 0, 0),
    "hashes of an unknown file": hashes(0, 0, 2, 0, root=b"\7" * 32),
    "8192 hashes": hashes(0, 0, 8192, 40),
    "hashes not asked for": hashes(4, 0, 2, 0, HASHES, b"h" * 64),
    "hashes of odd length": hashes(4, 0, 2, 0, HASHES, b"h" * 63),
    "nested lists": extended_handshake(b"l" * 5000 + b"e" * 5000),
    "nested dictionaries": extended_handshake(b"d1:a" * 3000 + b"i1e" + b"e" * 3000),
    "many keys": extended_handshake(b"d" + b"".join(b"4:%04di1e" % number for number in range(9000)) + b"e"),
    "long client name": extended_handshake(b"d1:v60000:" + b"A" * 60000 + b"e"),
    "handshake of 1 MiB": extended_handshake(b"d1:v1000000:" + b"A" * 1000000 + b"e"),
    "string of 2^64 bytes": extended_handshake(b"d1:v18446744073709551615:Ae"),
    "huge integer": extended_handshake(b"d4:reqqi99999999999999999999ee"),
    "no requests taken": extended_handshake(b"d4:reqqi0ee") + message(HAVE_ALL),
    "negative requests taken": extended_handshake(b"d4:reqqi-1ee"),
    "port 0": extended_handshake(b"d1:pi0ee"),
    "port 65536": extended_handshake(b"d1:pi65536ee"),
    "handshakes": extended_handshake(b"d1:md11:ut_metadatai3ee13:metadata_sizei100000e1:v2:hie") * 9000,
    "metadata of 4 GiB": extended_handshake(b"d1:md11:ut_metadatai3ee13:metadata_sizei4294967295ee"),
    "metadata of 4 MiB": extended_handshake(b"d1:md11:ut_metadatai3ee13:metadata_sizei4194304ee"),
    "requests for no metadata": message(EXTENDED, bytes([UT_METADATA]) + metadata % (0, MOST)) * 2000,
    "metadata not asked for": message(EXTENDED, bytes([UT_METADATA]) + metadata % (1, 0) + b"m" * BLOCK) * 40,
    "nested peer exchange": message(EXTENDED, bytes([UT_PEX]) + b"l" * 1000),
    "message of 4 GiB": four(MOST),
    "message of 2 GiB": struct.pack(">IB", 1 << 31, PIECE),
}


def is_closed(connection: socket.socket) -> bool:
    """Whether the target closes the connection within a quarter of a second."""
    connection.settimeout(0.1)
    deadline = time.monotonic() + 0.25
    while time.monotonic() < deadline:
        try:
            if not connection.recv(1 << 16):
                return True
        except TimeoutError:
            pass
    return False


def send(name: str, data: bytes) -> None:
    with attacker.connect_from(attacker.own, 2) as connection:
        attacker.did["connections"] += 1
        link = Link(attacker, connection, b"-BM0001-%012d" % attacker.did["connections"])
        link.greet()
        if not name.startswith(("bit field", "two bit fields", "have all")):
            connection.sendall(message(HAVE_NONE))
        connection.sendall(data)
        attacker.did["closed" if is_closed(connection) else "left open"] += 1


def attack() -> None:
    attacker.wait_for_target()
    while not attacker.ended.is_set():
        for name, data in MESSAGES.items():
            try:
                send(name, data)
            except (Gone, OSError):
                attacker.did["closed"] += 1
            if attacker.ended.wait(0.02):
                return


threading.Thread(target=attack, daemon=True).start()
attacker.live()
