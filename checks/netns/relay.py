"""A network in one process: hosts are network namespaces with a TUN device each, and the path from one to another has a delay and a rate.

    relay.py NAME=ADDRESS… --delay SECONDS --rate BITS

Run in a network namespace of its own, from which it makes the others (`ip netns exec NAME`). Every packet waits for its turn on its host's line
out, then for the delay. What would wait longer than a router's queue is dropped. Commands on standard input, one a line: `cut NAME` drops
everything from and to a host, `heal NAME` ends that. Ends with its standard input.
"""

import argparse
import collections
import fcntl
import heapq
import os
import selectors
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 1500
# The most a packet waits for its turn: what bounds a router's queue.
QUEUE = 0.2


class Host:
    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, socket.inet_aton(address)
        self.free, self.cut = 0.0, False
        self.device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.device, TUNSETIFF, struct.pack("16sH22x", f"to-{name}".encode(), IFF_TUN | IFF_NO_PI))
        inside = ["ip", "-n", name]
        for command in (
            ["ip", "netns", "add", name],
            ["ip", "link", "set", f"to-{name}", "netns", name],
            [*inside, "link", "set", "lo", "up"],
            [*inside, "address", "add", f"{address}/24", "dev", f"to-{name}"],
            [*inside, "link", "set", f"to-{name}", "mtu", str(MTU), "up"],
        ):
            subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hosts", nargs="+", metavar="NAME=ADDRESS")
    parser.add_argument("--delay", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    options = parser.parse_args()
    hosts = [Host(*word.split("=")) for word in options.hosts]
    by_address = {host.address: host for host in hosts}
    by_name = {host.name: host for host in hosts}
    waiting: list[tuple[float, int, Host, Host, bytes]] = []
    counted: collections.Counter[str] = collections.Counter()

    def forward(source: Host) -> None:
        while True:
            try:
                packet = os.read(source.device, 65536)
            except BlockingIOError:
                return
            target = by_address.get(packet[16:20]) if packet[0] >> 4 == 4 else None
            now = time.monotonic()
            begin = max(now, source.free)
            if target is None or source.cut or target.cut or begin - now > QUEUE:
                counted["dropped"] += 1
                continue
            source.free = begin + len(packet) * 8 / options.rate
            counted["packets"] += 1
            heapq.heappush(waiting, (source.free + options.delay, counted["packets"], source, target, packet))

    selector = selectors.DefaultSelector()
    for host in hosts:
        selector.register(host.device, selectors.EVENT_READ, host)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        wait = waiting[0][0] - time.monotonic() if waiting else None
        for key, _ in selector.select(None if wait is None else max(0.0, wait)):
            if key.fileobj is sys.stdin:
                words = sys.stdin.readline().split()
                if not words:
                    print(dict(counted), flush=True)
                    return
                by_name[words[1]].cut = words[0] == "cut"
                print(*words, flush=True)
            else:
                forward(key.data)
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, source, target, packet = heapq.heappop(waiting)
            if not source.cut and not target.cut:
                os.write(target.device, packet)


if __name__ == "__main__":
    main()
