"""What the attackers share: connections from many addresses, on top of the zoo's `peer.py`.

An attacker is a program with the arguments of a zoo animal. It attacks until its standard input ends and then prints one JSON object that counts what it did.
"""

import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "zoo"))

from peer import (  # noqa: E402
    BITFIELD,
    BLOCK,
    EXTENDED,
    HASH_REJECT,
    HASH_REQUEST,
    HASHES,
    HAVE,
    HAVE_ALL,
    HAVE_NONE,
    INTERESTED,
    PIECE,
    REJECT,
    REQUEST,
    UNCHOKE,
    Animal,
    Gone,
    Link,
    message,
    request,
)

__all__ = [
    "BITFIELD",
    "BLOCK",
    "EXTENDED",
    "HASH_REJECT",
    "HASH_REQUEST",
    "HASHES",
    "HAVE",
    "HAVE_ALL",
    "HAVE_NONE",
    "INTERESTED",
    "PIECE",
    "REJECT",
    "REQUEST",
    "UNCHOKE",
    "Animal",
    "Attacker",
    "Gone",
    "Link",
    "extended_handshake",
    "host",
    "message",
    "request",
]

# Seconds until a connection that was closed is opened again.
AGAIN = 0.2


def host(number: int) -> str:
    """One of the 250 addresses that attackers have (TEST-NET-3, RFC 5737)."""
    return f"203.0.113.{2 + number % 250}"


def extended_handshake(body: bytes) -> bytes:
    """A BEP 10 handshake with this bencoded dictionary."""
    return message(EXTENDED, b"\0" + body)


class Attacker(Animal):
    """An animal with many addresses."""

    def connect_from(self, source: str, patience: float = 5.0) -> socket.socket:
        connection = socket.create_connection(self.target, timeout=5, source_address=(source, 0))
        connection.settimeout(patience)
        return connection

    def hold(self, source: str, name: bytes, behave: Callable[[Link], None]) -> None:
        """Keeps one connection from `source` open in a thread of its own, and opens it again whenever it is closed."""
        threading.Thread(target=self._holding, args=(source, name, behave), daemon=True).start()

    def _holding(self, source: str, name: bytes, behave: Callable[[Link], None]) -> None:
        while not self.ended.is_set():
            try:
                with self.connect_from(source) as connection:
                    self.did["connections"] += 1
                    behave(Link(self, connection, name[:20].ljust(20, b"-")))
            except (Gone, OSError):
                self.did["closed"] += not self.ended.is_set()
            self.ended.wait(AGAIN)

    def stay(self, link: Link) -> None:
        """Reads everything, sends a keep-alive every 20 s, and nothing else."""
        link.socket.settimeout(20)
        while link.is_alive():
            try:
                if not link.socket.recv(1 << 16):
                    raise Gone
            except TimeoutError:
                link.socket.sendall(bytes(4))

    def wait_for_target(self) -> None:
        """Until the target accepts connections."""
        while not self.ended.is_set():
            try:
                self.connect_from(self.own).close()
                return
            except OSError:
                time.sleep(0.05)
