"""What the animals of the zoo share: just enough of BEP 3, 6, 9, 10, 11 and 52 to misbehave.

An animal is a program: `ANIMAL.py --hash V2HEX --root HEX --pieces N --piece-length N --own ADDRESS --target ADDRESS:PORT`. It misbehaves until its
standard input ends and then prints one JSON object that says what it did.
"""

import argparse
import collections
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator

BLOCK = 16384
CHOKE, UNCHOKE, INTERESTED, NOT_INTERESTED, HAVE, BITFIELD, REQUEST, PIECE, CANCEL = range(9)
HAVE_ALL, HAVE_NONE, REJECT, EXTENDED, HASH_REQUEST, HASHES, HASH_REJECT = 14, 15, 16, 20, 21, 22, 23
# BEP 10, BEP 6 and BEP 52.
RESERVED = bytes([0, 0, 0, 0, 0, 0x10, 0, 0x04 | 0x10])
PORT = 6881
# Seconds between a connection that ended and the next try.
PAUSE = 0.2


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IB", 1 + len(payload), kind) + payload


def request(piece: int, begin: int, length: int = BLOCK, kind: int = REQUEST) -> bytes:
    return message(kind, struct.pack(">III", piece, begin, length))


class Gone(Exception):
    """The connection is over."""


class Animal:
    """What an animal was told, and what it counts."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        for name in ("hash", "root", "own", "target"):
            parser.add_argument(f"--{name}", required=True)
        for name in ("pieces", "piece-length"):
            parser.add_argument(f"--{name}", type=int, required=True)
        options = parser.parse_args()
        self.hash = bytes.fromhex(options.hash)[:20]
        self.root = bytes.fromhex(options.root)
        self.pieces: int = options.pieces
        self.blocks: int = options.piece_length // BLOCK
        self.own: str = options.own
        host, port = options.target.rsplit(":", 1)
        self.target = (host, int(port))
        self.ended = threading.Event()
        self.did: collections.Counter[str] = collections.Counter()

    def places(self) -> Iterator[tuple[int, int]]:
        """Every block's piece and its place in it, again and again."""
        while True:
            for piece in range(self.pieces):
                for block in range(self.blocks):
                    yield piece, block * BLOCK

    def connect(self) -> socket.socket:
        return socket.create_connection(self.target, timeout=5, source_address=(self.own, 0))

    def dial(self, behave: "Callable[[Link], None]", connections: int = 1, peer_id: bytes | None = None) -> None:
        """Keeps so many connections to the target, each in a thread that behaves so."""
        for number in range(connections):
            name = peer_id or b"-ZO0001-%012d" % number
            threading.Thread(target=self._dialling, args=(behave, name), daemon=True).start()

    def _dialling(self, behave: "Callable[[Link], None]", name: bytes) -> None:
        while not self.ended.is_set():
            try:
                self._meet(self.connect(), behave, name)
            except OSError:
                self.did["not connected"] += 1
            self.ended.wait(PAUSE)

    def listen(self, behave: "Callable[[Link], None]") -> None:
        """Behaves so on every connection that comes in."""
        server = socket.create_server((self.own, PORT), backlog=64)

        def accepting() -> None:
            number = 0
            while not self.ended.is_set():
                connection, _ = server.accept()
                number += 1
                threading.Thread(target=self._meet, args=(connection, behave, b"-ZO0002-%012d" % number), daemon=True).start()

        threading.Thread(target=accepting, daemon=True).start()

    def _meet(self, connection: socket.socket, behave: "Callable[[Link], None]", name: bytes) -> None:
        self.did["connections"] += 1
        with connection:
            connection.settimeout(5)
            try:
                behave(Link(self, connection, name))
            except (Gone, OSError):
                self.did["closed"] += not self.ended.is_set()

    def live(self) -> None:
        """Until standard input ends."""
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.read()
        self.ended.set()
        print(json.dumps({"did": dict(sorted(self.did.items()))}), flush=True)


class Link:
    """One connection."""

    def __init__(self, animal: Animal, connection: socket.socket, name: bytes) -> None:
        self.animal = animal
        self.socket = connection
        self.hello = b"\x13BitTorrent protocol" + RESERVED + animal.hash + name

    def greet(self) -> None:
        """Both handshakes."""
        self.socket.sendall(self.hello)
        self.take(68)
        self.animal.did["greeted"] += 1

    def take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            more = self.socket.recv(length - len(taken))
            if not more:
                raise Gone
            taken += more
        return taken

    def say(self, data: bytes, count: str) -> None:
        """Sends, and counts what was sent."""
        self.socket.sendall(data)
        self.animal.did[count] += 1

    def heard(self) -> tuple[int, bytes]:
        """The next message that is not a keep-alive."""
        while True:
            (length,) = struct.unpack(">I", self.take(4))
            if length:
                payload = self.take(length)
                return payload[0], payload[1:]

    def is_alive(self) -> bool:
        return not self.animal.ended.is_set()

    def flood(self, make: Callable[[], bytes], count: str) -> None:
        """Sends as fast as the other side takes it, and reads nothing."""
        self.socket.settimeout(0.5)
        while self.is_alive():
            data = make()
            sent = 0
            while sent < len(data) and self.is_alive():
                try:
                    sent += self.socket.send(data[sent:])
                except TimeoutError:
                    self.animal.did["held back"] += 1
            self.animal.did[count] += 1

    def drain(self, seconds: float) -> None:
        """Reads and forgets for so long."""
        self.socket.settimeout(seconds)
        try:
            while self.is_alive():
                if not self.socket.recv(1 << 16):
                    raise Gone
        except TimeoutError:
            pass
