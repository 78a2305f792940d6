#!/usr/bin/env python3
"""Compares docs/architecture.md with the sources: the graph of crates, and the rooms of the large ones.

    checks/architecture.py           fails with what differs from the drawings
    checks/architecture.py --write   draws them again

It also fails when an arrow points up: each crate may use only crates that are listed before it, each room only rooms that are listed before it, and
the pure crates nothing that does I/O, keeps time or makes randomness. And it fails when a directory has too many modules side by side, or when a
document names a file of the repository that does not exist.
"""

import pathlib
import re
import sys
import tomllib

import rooms as room_graph

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOC = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- crate graph: begin -->", "<!-- crate graph: end -->"
ROOMS_BEGIN, ROOMS_END = "<!-- rooms: begin -->", "<!-- rooms: end -->"

# The lowest crate first. A crate may use only crates before it.
CRATES = [
    "sha-lanes",
    "file-kit",
    "bittorrent-protocol",
    "bittorrent-engine",
    "simulation",
    "bittorrent-store",
    "bittorrent-session",
    "port-mapping",
    "nano-segments",
    "nano-ledger",
    "ledger-archive",
    "snapshot-store",
    "snapshot-pointer",
    "service-kit",
    "nano-snapshot-mirror",
]
# Programs, and libraries with more source files than this, have rooms.
PROGRAMS = {"nano-snapshot-mirror"}
SMALL = 20
# Modules side by side in one directory, at most.
MODULES = 15
# The rooms of each crate, the lowest first. A room may use only rooms before it.
ROOMS = {
    "nano-ledger": [
        "bytes",
        "findings",
        "random",
        "lmdb",
        "blocks",
        "live",
        "state",
        "summary",
        "synthetic",
        "scrub_private",
        "verify",
    ],
    "snapshot-pointer": [
        "item",
        "lookup_result",
        "dht",
        "trust",
        "follower",
        "publish",
    ],
    "bittorrent-protocol": [
        "bencode",
        "compact",
        "hash",
        "printable",
        "units",
        "layout",
        "local",
        "magnet",
        "mse",
        "tracker",
        "block_set",
        "merkle",
        "metainfo",
        "wire",
    ],
    "bittorrent-store": [
        "error",
        "sync",
        "zeros",
        "bitmap",
        "space",
        "disk",
        "testing",
        "record",
        "store",
        "create",
        "reuse",
    ],
    "bittorrent-engine": [
        "rng",
        "rate",
        "hedge",
        "api",
        "hosts",
        "choker",
        "shared",
        "pieces",
        "metadata",
        "peer",
        "torrent",
        "engine",
    ],
    "bittorrent-session": [
        "error",
        "heartbeat",
        "descriptors",
        "http",
        "transport",
        "config",
        "disk",
        "link",
        "peer",
        "web_seed",
        "status",
        "driver",
        "handle",
        "discovery",
        "session",
    ],
    "nano-snapshot-mirror": [
        "text",
        "progress",
        "kit",
        "config",
        "cli",
        "ledger",
        "pointers",
        "transfer",
        "observe",
        "api",
        "service",
        "commands",
    ],
}
# Crates that have no rooms yet, and arrows that still point up. Both lists only become shorter.
FLAT: set[str] = set()
UPWARD: dict[str, set[tuple[str, str]]] = {}
# Crates whose rule is to decide and parse only.
PURE = {"sha-lanes", "bittorrent-protocol", "bittorrent-engine", "nano-segments"}
# Lines of a file that needs no reason.
LONG = 600
EFFECTS = {"tokio", "mio", "rustix", "libc", "socket2", "rand", "getrandom", "crossbeam-channel", "tempfile", "heed"}


def crates() -> dict[str, dict]:
    manifests = {}
    for path in sorted(ROOT.glob("daemon/*/Cargo.toml")):
        manifest = tomllib.loads(path.read_text())
        manifests[manifest["package"]["name"]] = manifest
    return manifests


def graph(manifests: dict[str, dict]) -> list[str]:
    """One line a crate, the highest first: what of this workspace it uses."""
    lines = []
    for name in reversed(CRATES):
        uses = [other for other in CRATES if other in manifests.get(name, {}).get("dependencies", {})]
        lines.append(f"{name} -> {', '.join(uses) if uses else '(nothing here)'}")
    return lines


def faults_of_graph(manifests: dict[str, dict]) -> list[str]:
    faults = [f"{name}: not in the list of crates of checks/architecture.py" for name in manifests if name not in CRATES]
    faults += [f"{name}: listed, but there is no such crate" for name in CRATES if name not in manifests]
    for name, manifest in manifests.items():
        if name not in CRATES:
            continue
        uses = manifest.get("dependencies", {})
        above = [other for other in uses if other in CRATES and CRATES.index(other) >= CRATES.index(name)]
        faults += [f"{name}: uses {other}, which is above it" for other in above]
        if name in PURE:
            faults += [f"{name}: uses {other}, but this crate has no effects" for other in sorted(EFFECTS & set(uses))]
    return faults


def faults_of_table(manifests: dict[str, dict]) -> list[str]:
    """The table of crates has a row for each."""
    text = DOC.read_text()
    return [f"docs/architecture.md: no row for daemon/{name} in the table of crates" for name in manifests if f"| `daemon/{name}` |" not in text]


def faults_of_length() -> list[str]:
    """A long file states in its head why it is not two."""
    faults = []
    for path in sorted([*ROOT.glob("daemon/**/*.rs"), *ROOT.glob("fuzz/src/**/*.rs"), *ROOT.glob("checks/**/*.py")]):
        lines = path.read_text().splitlines()
        if len(lines) > LONG and not any(f"{LONG} lines" in line for line in lines[:10]):
            faults.append(f"{path.relative_to(ROOT)}: {len(lines)} lines; split it, or state in its head why it is above {LONG} lines")
    return faults


def large_crates(manifests: dict[str, dict]) -> dict[str, room_graph.Rooms]:
    """The crates with rooms."""
    found = {}
    for name in reversed(CRATES):
        root = ROOT / "daemon" / name / "src"
        if name in manifests and (name in PROGRAMS or len(list(root.rglob("*.rs"))) > SMALL):
            found[name] = room_graph.read(root)
    return found


def drawing_of_rooms(crates: dict[str, room_graph.Rooms]) -> list[str]:
    """One line a room, the highest first: what it uses of its crate."""
    lines = []
    for name, rooms in crates.items():
        if name in FLAT:
            continue
        lines += ([""] if lines else []) + [f"{name}:"]
        order = ROOMS.get(name, [])
        for room in reversed(order):
            uses = [other for other in order if other in rooms.uses.get(room, {})]
            lines.append(f"  {room} -> {', '.join(uses) if uses else '(nothing here)'}")
    return lines


def faults_of_rooms(crates: dict[str, room_graph.Rooms]) -> list[str]:
    faults = []
    for name, rooms in crates.items():
        if name in FLAT:
            continue
        if name not in ROOMS:
            order = room_graph.order_of(rooms)
            hint = f"; a possible order is {', '.join(order)}" if order else ", and they use each other in a circle"
            faults.append(f"{name}: its rooms are not listed in checks/architecture.py{hint}")
            continue
        upward = UPWARD.get(name, set())
        for fault in room_graph.faults(rooms, ROOMS[name], MODULES):
            if not any(fault.startswith(f"room {room} uses {used},") for room, used in upward):
                faults.append(f"{name}: {fault}")
    faults += [f"{name}: has rooms in checks/architecture.py, but is small or gone" for name in ROOMS if name not in crates]
    return faults


def unfinished(crates: dict[str, room_graph.Rooms]) -> list[str]:
    """What is still allowed and is to go."""
    found = [f"{name}: has no rooms yet" for name in crates if name in FLAT]
    for name, arrows in UPWARD.items():
        for room, used in sorted(arrows):
            there = used in crates[name].uses.get(room, {})
            found.append(f"{name}: {room} still uses {used}" if there else f"{name}: {room} no longer uses {used}; remove the allowance")
    return found


def faults_of_paths() -> list[str]:
    """Backquoted names that look like files or folders of this repository must exist."""
    tops = "|".join(re.escape(p.name) for p in ROOT.iterdir() if p.name not in {".git", "target"})
    named = re.compile(rf"`((?:{tops})(?:/[\w.+*-]+)*/?)`")
    faults = []
    for doc in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for path in named.findall(doc.read_text()):
            if "*" in path:
                found = any(ROOT.glob(path.rstrip("/")))
            else:
                found = (ROOT / path).exists()
            if not found and not path.startswith("target"):
                faults.append(f"{doc.relative_to(ROOT)}: names `{path}`, which is not there")
    return faults


def replaced(text: str, begin: str, end: str, lines: list[str]) -> str:
    before, rest = text.split(begin, 1)
    _, after = rest.split(end, 1)
    drawing = "\n".join(lines)
    return f"{before}{begin}\n```text\n{drawing}\n```\n{end}{after}"


def main() -> int:
    manifests = crates()
    large = large_crates(manifests)
    text = DOC.read_text()
    drawn = replaced(text, BEGIN, END, graph(manifests))
    drawn = replaced(drawn, ROOMS_BEGIN, ROOMS_END, drawing_of_rooms(large))
    if "--write" in sys.argv[1:]:
        DOC.write_text(drawn)
        return 0
    faults = faults_of_table(manifests) + faults_of_length() + faults_of_graph(manifests) + faults_of_rooms(large) + faults_of_paths()
    if drawn != text:
        faults.append(f"docs/architecture.md draws other crates or rooms than there are; run {sys.argv[0]} --write")
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        for line in unfinished(large):
            print(f"still allowed: {line}")
        print(f"docs/architecture.md is up to date: {len(manifests)} crates, rooms in {len(large)}, no other arrow points up, no missing path")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
