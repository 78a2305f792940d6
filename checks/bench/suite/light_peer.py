"""Many peers in one process, as light as can be: they speak just enough of BEP 3, 6 and 52 to load a client, and verify nothing.

    light_peer.py ask   --hash V2HEX --pieces N --piece-length N --connections N --window N --address ADDRESS:PORT
    light_peer.py serve --hash V2HEX --connections N --rate BYTES

`ask` connects so often, and on every connection keeps a window of requests for random blocks open. `serve` listens on as many ports, prints
{"listening": [...]}, claims to have everything, and answers every request with zeros, with so many bytes a second on each connection. Both end with
standard input and then print {"bytes": N}.
"""

import argparse
import asyncio
import json
import random
import struct
import sys

BLOCK = 16384
CHOKE, UNCHOKE, INTERESTED, REQUEST, PIECE = 0, 1, 2, 6, 7
HAVE_ALL, HAVE_NONE, REJECT, HASH_REQUEST, HASH_REJECT = 14, 15, 16, 21, 23
# BEP 6 and BEP 52.
RESERVED = bytes([0, 0, 0, 0, 0, 0, 0, 0x04 | 0x10])
ZEROS = bytes(BLOCK)


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IB", 1 + len(payload), kind) + payload


class Peer(asyncio.Protocol):
    """What both sides share: the handshake, and cutting the stream into messages."""

    total = 0

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.buffer = bytearray()
        self.greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        peer_id = b"-LP0001-" + random.randbytes(12)
        transport.write(b"\x13BitTorrent protocol" + RESERVED + bytes.fromhex(self.options.hash)[:20] + peer_id)

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        at = 0
        if not self.greeted:
            if len(buffer) < 68:
                return
            self.greeted, at = True, 68
            self.begin()
        while len(buffer) - at >= 4:
            (length,) = struct.unpack_from(">I", buffer, at)
            if len(buffer) - at - 4 < length:
                break
            if length:
                self.heard(buffer[at + 4], buffer, at + 5, length - 1)
            at += 4 + length
        del buffer[:at]

    def begin(self) -> None:
        raise NotImplementedError

    def heard(self, kind: int, buffer: bytearray, at: int, length: int) -> None:
        raise NotImplementedError


class Asking(Peer):
    def begin(self) -> None:
        self.open = 0
        self.transport.write(message(HAVE_NONE) + message(INTERESTED))

    def heard(self, kind: int, buffer: bytearray, at: int, length: int) -> None:
        if kind == UNCHOKE:
            self.ask(self.options.window - self.open)
        elif kind == CHOKE:
            self.open = 0
        elif kind in (PIECE, REJECT):
            if kind == PIECE:
                Peer.total += length - 8
                self.ask(1)
            self.open -= 1

    def ask(self, count: int) -> None:
        self.open += count
        requests = bytearray()
        for _ in range(count):
            begin = random.randrange(self.options.piece_length // BLOCK) * BLOCK
            requests += message(REQUEST, struct.pack(">III", random.randrange(self.options.pieces), begin, BLOCK))
        self.transport.write(bytes(requests))


class Serving(Peer):
    def begin(self) -> None:
        self.due = asyncio.get_running_loop().time()
        self.transport.write(message(HAVE_ALL) + message(UNCHOKE))

    def heard(self, kind: int, buffer: bytearray, at: int, length: int) -> None:
        if kind == REQUEST:
            loop = asyncio.get_running_loop()
            self.due = max(self.due, loop.time()) + BLOCK / self.options.rate
            loop.call_at(self.due, self.give, bytes(buffer[at : at + 12]))
        elif kind == HASH_REQUEST:
            self.transport.write(message(HASH_REJECT, bytes(buffer[at : at + length])))

    def give(self, request: bytes) -> None:
        if not self.transport.is_closing():
            length = struct.unpack(">III", request)[2]
            Peer.total += length
            self.transport.write(struct.pack(">IB", 9 + length, PIECE) + request[:8] + ZEROS[:length])


async def run(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    if options.role == "ask":
        host, port = options.address.rsplit(":", 1)
        for _ in range(options.connections):
            await loop.create_connection(lambda: Asking(options), host, int(port))
        print(json.dumps({"connected": options.connections}), flush=True)
    else:
        servers = [await loop.create_server(lambda: Serving(options), "127.0.0.1", 0) for _ in range(options.connections)]
        print(json.dumps({"listening": [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps({"bytes": Peer.total}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("role", choices=["ask", "serve"])
    parser.add_argument("--address")
    parser.add_argument("--hash", required=True)
    parser.add_argument("--pieces", type=int, default=1)
    parser.add_argument("--piece-length", type=int, default=BLOCK)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e6)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
