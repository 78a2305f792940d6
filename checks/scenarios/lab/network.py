"""Bridges and addresses, as NixOS tests have them: 192.168.1.N and 2001:db8:1::N on eth1, machines known by name."""

from __future__ import annotations

import subprocess

BRIDGE = "br1"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def bring_up() -> None:
    """The bridge that every machine is on. Only inside a network namespace of our own."""
    ip("link", "set", "lo", "up")
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("link", "set", BRIDGE, "up")


def join(name: str, number: int) -> str:
    """A network namespace `name` with eth1 on the bridge. Gives back the other end's name."""
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")
    outer = f"{name}-eth1"
    ip("link", "add", outer, "type", "veth", "peer", "name", "eth1", "netns", name)
    ip("link", "set", outer, "master", BRIDGE, "up")
    ip("-n", name, "addr", "add", f"192.168.1.{number}/24", "dev", "eth1")
    ip("-n", name, "-6", "addr", "add", f"2001:db8:1::{number}/64", "dev", "eth1", "nodad")
    ip("-n", name, "link", "set", "eth1", "up")
    return outer


def hosts(numbers: dict[str, int], own: str) -> str:
    """/etc/hosts of the machine `own`."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for name, number in numbers.items():
        lines += [f"192.168.1.{number} {name}", f"2001:db8:1::{number} {name}"]
    return "".join(line + "\n" for line in [*lines, f"127.0.1.1 {own}"])


def firewall(tcp: list[int], udp: list[str]) -> str:
    """/etc/nftables.conf that lets in what NixOS' firewall would with these ports open."""
    rules = [f"tcp dport {{ {', '.join(map(str, tcp))} }} accept"] if tcp else []
    rules += [f"udp dport {{ {', '.join(udp)} }} accept"] if udp else []
    lines = "".join(f"    {rule}\n" for rule in rules)
    return (
        "flush ruleset\ntable inet filter {\n  chain input {\n    type filter hook input priority 0; policy drop;\n"
        "    ct state established,related accept\n    iifname lo accept\n    meta l4proto { icmp, ipv6-icmp } accept\n"
        f"{lines}  }}\n}}\n"
    )
