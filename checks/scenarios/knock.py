#!/usr/bin/env python3
"""Connects to a mirror and shakes hands, as peers do.

    knock.py HOST PORT INFO_HASH             once; fails unless the mirror has the torrent
    knock.py HOST PORT INFO_HASH FILE        again and again, four at a time, until FILE exists; fails when a connection was refused

Prints how often it was let in and how often it was answered: who is let in while the mirror goes down is not. The info-hash is a v2 one
in hexadecimal. Standard library only, as it runs inside test machines.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

SIDE_BY_SIDE = 4

PROTOCOL = b"\x13BitTorrent protocol"


def knock(host: str, port: int, info_hash: bytes) -> bool:
    """Whether a peer at that address answers for the torrent. Raises OSError when it refuses the connection."""
    with socket.create_connection((host, port), timeout=20) as peer:
        try:
            peer.sendall(PROTOCOL + bytes(8) + info_hash[:20] + os.urandom(20))
            answer = b""
            while len(answer) < 68 and (more := peer.recv(68 - len(answer))):
                answer += more
        except OSError:
            return False
        return len(answer) == 68 and answer[28:48] == info_hash[:20]


def main() -> None:
    host, port, info_hash = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
    if len(sys.argv) == 4:
        sys.exit(0 if knock(host, port, info_hash) else "not answered")
    until = sys.argv[4]
    found: list[bool] = []
    refused: list[str] = []

    def again_and_again() -> None:
        while not os.path.exists(until):
            try:
                found.append(knock(host, port, info_hash))
            except OSError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=again_and_again) for _ in range(SIDE_BY_SIDE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"in={len(found)} answered={sum(found)} refused={len(refused)}", *refused[:3], flush=True)
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    main()
