#!/usr/bin/env python3
"""A small DHT for tests: several nodes in one process that know only each other.

    dht.py serve --port FIRST --nodes COUNT
    dht.py tell PORT rewind SEQ     every node goes back to the item it took with this number
    dht.py tell PORT forge          every node gives out its item with another value and the old signature
    dht.py tell PORT forget         every node forgets all items
    dht.py tell PORT forget-peers   every node forgets the peers that were announced, and keeps its items

BEP 5 and BEP 44, as far as clients ask. The nodes check no signature and keep every item they were ever given, so that a test
can have them lie; transaction ids of any length are answered. Standard library only, as it runs inside test machines.
"""

from __future__ import annotations

import argparse
import hashlib
import selectors
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

Dict = dict[bytes, Any]
Address = tuple[str, int]


def encode(value: Any) -> bytes:
    """Bencode."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%b" % (len(value), value)
    if isinstance(value, list):
        return b"l%be" % b"".join(encode(one) for one in value)
    return b"d%be" % b"".join(encode(key) + encode(value[key]) for key in sorted(value))


def decode(data: bytes) -> Any:
    """Decodes a bencoded value. Raises ValueError or IndexError for invalid data."""
    value, end = decode_at(data, 0)
    if end != len(data):
        raise ValueError("bytes after the end")
    return value


def decode_at(data: bytes, at: int) -> tuple[Any, int]:
    kind = data[at : at + 1]
    if kind == b"i":
        end = data.index(b"e", at)
        return int(data[at + 1 : end]), end + 1
    if kind in (b"l", b"d"):
        values, at = [], at + 1
        while data[at : at + 1] != b"e":
            value, at = decode_at(data, at)
            values.append(value)
        return (values if kind == b"l" else dict(zip(values[::2], values[1::2], strict=True))), at + 1
    colon = data.index(b":", at)
    end = colon + 1 + int(data[at:colon])
    if end > len(data):
        raise ValueError("a string ends too early")
    return data[colon + 1 : end], end


class Refused(Exception):
    """A KRPC error: code and text of BEP 5 and BEP 44."""


@dataclass
class Item:
    """A mutable item as it was put, with an unchecked signature."""

    key: bytes
    signature: bytes
    seq: int
    value: Any

    def answer(self) -> Dict:
        return {b"k": self.key, b"sig": self.signature, b"seq": self.seq, b"v": self.value}


@dataclass
class Node:
    """One node: an id, a port, its items and peers."""

    identity: bytes
    port: int
    items: dict[bytes, Item] = field(default_factory=dict)
    history: list[tuple[bytes, Item]] = field(default_factory=list)
    peers: dict[bytes, set[Address]] = field(default_factory=dict)

    def answer(self, query: bytes, arguments: Dict, sender: Address, nodes: bytes) -> Dict:
        token = hashlib.sha1(self.identity + sender[0].encode()).digest()[:4]
        base: Dict = {b"id": self.identity}
        if query == b"ping":
            return base
        if query == b"find_node":
            return {**base, b"nodes": nodes}
        if query == b"get_peers":
            found = sorted(self.peers.get(arguments[b"info_hash"], ()))
            values = [socket.inet_aton(host) + port.to_bytes(2, "big") for host, port in found]
            return {**base, b"token": token, b"nodes": nodes, **({b"values": values} if values else {})}
        if query == b"get":
            item = self.items.get(arguments[b"target"])
            return {**base, b"token": token, b"nodes": nodes, **(item.answer() if item else {})}
        if query in (b"announce_peer", b"put") and arguments.get(b"token") != token:
            raise Refused(203, "bad token")
        if query == b"announce_peer":
            port = sender[1] if arguments.get(b"implied_port") else arguments[b"port"]
            self.peers.setdefault(arguments[b"info_hash"], set()).add((sender[0], port))
            return base
        if query == b"put":
            self.put(arguments)
            return base
        raise Refused(204, "method unknown")

    def put(self, arguments: Dict) -> None:
        item = Item(arguments[b"k"], arguments[b"sig"], arguments[b"seq"], arguments[b"v"])
        target = hashlib.sha1(item.key + arguments.get(b"salt", b"")).digest()
        stored = self.items.get(target)
        if stored and arguments.get(b"cas", stored.seq) != stored.seq:
            raise Refused(301, "the CAS hash mismatched, re-read value and try again")
        if stored and item.seq < stored.seq:
            raise Refused(302, "sequence number less than current")
        if stored != item:
            self.items[target] = item
            self.history.append((target, item))

    def rewind(self, seq: int) -> None:
        self.items.update({target: item for target, item in self.history if item.seq == seq})

    def forge(self) -> None:
        for target, item in self.items.items():
            self.items[target] = Item(item.key, item.signature, item.seq + 1, bytes(byte ^ 1 for byte in item.value))

    def forget(self) -> None:
        self.items.clear()
        self.history.clear()
        self.peers.clear()


def local_address(sender: Address) -> str:
    """Our address as `sender` sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(sender)
        return str(probe.getsockname()[0])


class Network:
    """The nodes, which know each other."""

    def __init__(self, ports: range) -> None:
        # Spread over the key space, and the same every time.
        self.nodes = [Node(hashlib.sha1(b"node %d" % port).digest(), port) for port in ports]

    def contacts(self, sender: Address) -> bytes:
        host = socket.inet_aton(local_address(sender))
        return b"".join(node.identity + host + node.port.to_bytes(2, "big") for node in self.nodes)

    def command(self, words: list[bytes]) -> None:
        """A command of the test, for all nodes."""
        for node in self.nodes:
            match words:
                case [b"rewind", seq]:
                    node.rewind(int(seq))
                case [b"forge"]:
                    node.forge()
                case [b"forget"]:
                    node.forget()
                case [b"forget-peers"]:
                    node.peers.clear()
                case _:
                    raise Refused(204, "command unknown")

    def reply(self, node: Node, data: bytes, sender: Address) -> bytes | None:
        """Returns the answer of `node` to a datagram, or None if it is no query."""
        try:
            message = decode(data)
            transaction, query, arguments = message[b"t"], message[b"q"], message[b"a"]
        except (ValueError, IndexError, KeyError, TypeError):
            return None
        try:
            if query == b"tell":
                self.command(arguments[b"words"])
                answer: Dict = {b"id": node.identity}
            else:
                answer = node.answer(query, arguments, sender, self.contacts(sender))
        except Refused as refused:
            code, text = refused.args
            return encode({b"t": transaction, b"y": b"e", b"e": [code, text.encode()]})
        except (KeyError, TypeError, ValueError, OSError):
            return encode({b"t": transaction, b"y": b"e", b"e": [203, b"protocol error"]})
        return encode({b"t": transaction, b"y": b"r", b"r": answer})

    def serve(self) -> None:
        selector = selectors.DefaultSelector()
        for node in self.nodes:
            listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            listener.bind(("0.0.0.0", node.port))
            selector.register(listener, selectors.EVENT_READ, node)
        print(f"{len(self.nodes)} nodes from port {self.nodes[0].port}", flush=True)
        while True:
            for key, _ in selector.select():
                listener = key.fileobj  # type: ignore[assignment]
                data, sender = listener.recvfrom(2048)
                answer = self.reply(key.data, data, sender)
                if answer is not None:
                    listener.sendto(answer, sender)


def tell(port: int, words: list[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        query = {b"words": [word.encode() for word in words]}
        client.sendto(encode({b"t": b"tell", b"y": b"q", b"q": b"tell", b"a": query}), ("127.0.0.1", port))
        answer = decode(client.recv(2048))
        if answer[b"y"] != b"r":
            sys.exit(f"refused: {answer[b'e']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A small DHT for tests.")
    commands = parser.add_subparsers(required=True, dest="command")
    serve = commands.add_parser("serve")
    serve.add_argument("--port", type=int, default=7000, help="of the first node")
    serve.add_argument("--nodes", type=int, default=8)
    telling = commands.add_parser("tell")
    telling.add_argument("port", type=int)
    telling.add_argument("words", nargs="+")
    args = parser.parse_args()
    if args.command == "tell":
        tell(args.port, args.words)
    else:
        Network(range(args.port, args.port + args.nodes)).serve()


if __name__ == "__main__":
    main()
