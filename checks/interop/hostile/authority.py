"""An authority of our own in a DHT of our own, and a seeder that serves any info dictionary: for pointers and metadata that no honest producer makes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
import socket
import struct
import sys
import threading
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parents[1] / "scenarios")]

from dht import decode, encode  # noqa: E402
from ed25519 import SigningKey  # noqa: E402

SALT = b"daily"
DHT_PORT = 4900
PEER_PORT = 6881
RESERVED = bytes([0, 0, 0, 0, 0, 0x10, 0, 0x14])
HAVE_ALL, UNCHOKE, EXTENDED, HASH_REQUEST, HASH_REJECT, REJECT, REQUEST = 14, 1, 20, 21, 23, 16, 6
METADATA_PIECE = 16384

Item = dict[bytes, Any]


class Authority:
    """Signs items (BEP 44) under one key."""

    def __init__(self) -> None:
        self.key = SigningKey(hashlib.sha256(b"an authority for checks").digest())
        self.target = hashlib.sha1(self.key.public + SALT).digest()

    def item(self, seq: int, snapshot: bytes, forged: bool = False) -> Item:
        """A pointer to a snapshot; a forged one has no valid signature."""
        text = b"4:salt%d:%b3:seqi%de1:v%b" % (len(SALT), SALT, seq, encode(snapshot))
        signature = bytes(64) if forged else self.key.sign(text)
        return {b"k": self.key.public, b"sig": signature, b"seq": seq, b"v": snapshot}


class Nodes:
    """DHT nodes, one at each address, that know each other. Each answers `get` with the item at its index in `items`."""

    def __init__(self, addresses: list[str], authority: Authority) -> None:
        self.addresses = addresses
        self.authority = authority
        self.items: list[Item | None] = [None] * len(addresses)
        # Addresses returned as peers of every torrent.
        self.peers: list[bytes] = []
        self._ids = [hashlib.sha1(address.encode()).digest() for address in addresses]
        self._contacts = b"".join(
            identity + socket.inet_aton(address) + struct.pack(">H", DHT_PORT) for identity, address in zip(self._ids, addresses, strict=True)
        )
        for number in range(len(addresses)):
            threading.Thread(target=self._serve, args=(number,), daemon=True).start()

    def publish(self, item: Item | None) -> None:
        """Every node returns this item from now on."""
        self.items = [item] * len(self.items)

    @property
    def bootstrap(self) -> list[str]:
        return [f"{address}:{DHT_PORT}" for address in self.addresses[:3]]

    def _serve(self, number: int) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((self.addresses[number], DHT_PORT))
        while True:
            data, sender = listener.recvfrom(65536)
            with contextlib.suppress(ValueError, IndexError, KeyError, TypeError, OSError):
                listener.sendto(self._answer(number, data), sender)

    def _answer(self, number: int, data: bytes) -> bytes:
        query = decode(data)
        answer: Item = {b"id": self._ids[number]}
        if query[b"q"] in (b"find_node", b"get_peers", b"get"):
            answer |= {b"nodes": self._contacts, b"token": b"tokn"}
        if query[b"q"] == b"get_peers" and self.peers:
            # As many as fit into a datagram.
            first = number * 20 % len(self.peers)
            answer |= {b"values": self.peers[first : first + 100]}
        if query[b"q"] == b"get" and query[b"a"].get(b"target") == self.authority.target:
            answer |= self.items[number] or {}
        return encode({b"t": query[b"t"], b"y": b"r", b"r": answer})


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IB", 1 + len(payload), kind) + payload


@dataclasses.dataclass
class HostileSeeder:
    """Serves the metadata of every added info dictionary, claims to have everything, and sends no block. Its client name is markup, terminal escapes and a false log line."""

    address: str
    infos: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    served: int = 0

    CLIENT = b"<img src=x onerror=alert(1)>\x1b[31;5mEVIL\x07\n{a=\"b\"} ERROR false line\r\n"

    def start(self) -> None:
        server = socket.create_server((self.address, PEER_PORT), backlog=64)
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def offer(self, info: bytes) -> bytes:
        """Serves an info dictionary from now on. Returns its info-hash."""
        digest = hashlib.sha256(info).digest()
        self.infos[digest[:20]] = info
        return digest

    def _accept(self, server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError, KeyError), connection:
            connection.settimeout(60)
            swarm = take(connection, 68)[28:48]
            info = self.infos[swarm]
            connection.sendall(b"\x13BitTorrent protocol" + RESERVED + swarm + b"-HS0001-%012d" % (time.monotonic_ns() % 10**12))
            handshake = encode({b"m": {b"ut_metadata": 3}, b"metadata_size": len(info), b"reqq": 500, b"v": self.CLIENT})
            connection.sendall(message(HAVE_ALL) + message(UNCHOKE) + message(EXTENDED, b"\0" + handshake))
            while True:
                self._hear(connection, info)

    def _hear(self, connection: socket.socket, info: bytes) -> None:
        (length,) = struct.unpack(">I", take(connection, 4))
        if not length:
            return
        kind, *_ = payload = take(connection, length)
        if kind == HASH_REQUEST:
            connection.sendall(message(HASH_REJECT, payload[1:]))
        elif kind == REQUEST:
            connection.sendall(message(REJECT, payload[1:]))
        elif kind == EXTENDED and payload[1] == 3:
            piece = decode(payload[2:])[b"piece"]
            self.served += 1
            header = encode({b"msg_type": 1, b"piece": piece, b"total_size": len(info)})
            part = info[piece * METADATA_PIECE : (piece + 1) * METADATA_PIECE]
            connection.sendall(message(EXTENDED, b"\x01" + header + part))


def take(connection: socket.socket, length: int) -> bytes:
    taken = b""
    while len(taken) < length:
        more = connection.recv(length - len(taken))
        if not more:
            raise OSError("closed")
        taken += more
    return taken
