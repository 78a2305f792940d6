"""Which addresses from strangers a mirror connects to: none in networks nearer than the stranger, and few of a third party."""

from __future__ import annotations

import contextlib
import pathlib
import selectors
import socket
import struct
import threading
import time

from authority import EXTENDED, PEER_PORT, RESERVED, Authority, Nodes, message, take
from dht import decode, encode
from lab import ATTACKER, MIRROR, Failure, Mirror, Programs, Settings, Snapshot, fresh
from rows import Bound, Row

# Addresses that a mirror must not accept from a stranger.
NEAR = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.0.1", "100.64.0.1")
THIRD_PARTY = "203.0.113.200"
PORTS = range(7001, 7033)
# Seconds that a mirror is watched for.
WATCHED = 25.0
# Dials of a third party's ports: one now and one later, each by up to four kinds of handshake.
KNOCKS = 8


class Listeners:
    """Listens on all of these addresses, and counts and closes every connection."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.counts = dict.fromkeys(addresses, 0)
        self._selector = selectors.DefaultSelector()
        for address in addresses:
            for port in PORTS:
                self._selector.register(socket.create_server((address, port), backlog=64), selectors.EVENT_READ, address)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            for key, _ in self._selector.select():
                listener = key.fileobj
                assert isinstance(listener, socket.socket)
                listener.accept()[0].close()
                self.counts[key.data] += 1


def compact(address: str, port: int) -> bytes:
    return socket.inet_aton(address) + struct.pack(">H", port)


def mapped(address: str, port: int) -> bytes:
    """IPv4 in IPv6."""
    return bytes(10) + b"\xff\xff" + compact(address, port)


def exchange(snapshot: Snapshot) -> socket.socket:
    """A peer of the mirror that names all these addresses, and the mirror's own, in one message of peer exchange."""
    connection = socket.create_connection((MIRROR, PEER_PORT), timeout=10, source_address=(ATTACKER, 0))
    connection.sendall(b"\x13BitTorrent protocol" + RESERVED + bytes.fromhex(snapshot.hash)[:20] + b"-SC0001-000000000000")
    take(connection, 68)
    connection.sendall(message(EXTENDED, b"\0" + encode({b"m": {b"ut_pex": 1}})))
    while True:
        (length,) = struct.unpack(">I", take(connection, 4))
        payload = take(connection, length)
        if payload[:2] == bytes([EXTENDED, 0]):
            break
    number = decode(payload[2:])[b"m"][b"ut_pex"]
    named = [compact(address, port) for port in PORTS for address in (THIRD_PARTY, *NEAR)]
    tricks = [mapped(address, port) for port in PORTS for address in ("0.0.0.0", "127.0.0.1", "10.0.0.1")]
    lists = encode({b"added": b"".join(named[:150]), b"added6": b"".join(tricks[:50])})
    connection.sendall(message(EXTENDED, bytes([number]) + lists))
    return connection


def scopes(snapshot: Snapshot, work: pathlib.Path, programs: Programs) -> Row:
    """DHT nodes and a peer name addresses of this machine, of private networks and of a third party."""
    listeners = Listeners((THIRD_PARTY, *NEAR))
    nodes = Nodes([f"198.19.{number}.1" for number in range(8)], Authority())
    nodes.peers = [compact(address, port) for port in PORTS for address in (THIRD_PARTY, *NEAR)]
    settings = Settings(MIRROR, fresh(work / "scopes"), [], snapshot.hash, bootstrap=nodes.bootstrap)
    with Mirror.running("scopes", settings, work, programs) as mirror:
        end = time.monotonic() + WATCHED
        peer: socket.socket | None = None
        while time.monotonic() < end:
            mirror.sample.take(mirror.process.pid)
            if peer is None:
                with contextlib.suppress(OSError):
                    peer = exchange(snapshot)
            time.sleep(0.1)
        if peer is None:
            raise Failure(f"the peer never met the mirror\n{mirror.log.read_text(errors='replace')[-2000:]}")
        peer.close()
        near = sum(listeners.counts[address] for address in NEAR)
        bounds = [
            Bound("connections to near addresses", near, 0, ""),
            Bound("connections to a third party", listeners.counts[THIRD_PARTY], KNOCKS, ""),
        ]
        what = f"named {len(nodes.peers)} addresses of {1 + len(NEAR)} hosts in the DHT and by peer exchange"
        return Row("scopes", "mirror", bounds, mirror.sample.memory, mirror.sample.descriptors, what)
