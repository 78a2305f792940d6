#!/usr/bin/env python3
"""Holds docs/architecture.md to the truth: the crate graph it draws is the one in the Cargo.toml files.

    checks/architecture.py           fails, saying what differs, when the drawn graph is not the real one
    checks/architecture.py --write   redraws it

It also fails when an arrow points up: each crate may use only crates of lower rooms, and the pure crates nothing that
does I/O, keeps time or makes randomness. And it fails when a document names a file of the repository that is not there.
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOC = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- crate graph: begin -->", "<!-- crate graph: end -->"

# Lowest room first. A crate may use only what stands before it.
ROOMS = [
    "sha-lanes",
    "file-kit",
    "bittorrent-protocol",
    "bittorrent-engine",
    "simulation",
    "bittorrent-store",
    "bittorrent-session",
    "port-mapping",
    "nano-ledger",
    "ledger-archive",
    "snapshot-pointer",
    "nano-snapshot-mirror",
]
# Crates whose rule is to decide and parse only.
PURE = {"sha-lanes", "bittorrent-protocol", "bittorrent-engine"}
EFFECTS = {"tokio", "mio", "rustix", "libc", "socket2", "rand", "getrandom", "crossbeam-channel", "tempfile", "heed"}


def crates() -> dict[str, dict]:
    manifests = {}
    for path in sorted(ROOT.glob("daemon/*/Cargo.toml")):
        manifest = tomllib.loads(path.read_text())
        manifests[manifest["package"]["name"]] = manifest
    return manifests


def graph(manifests: dict[str, dict]) -> list[str]:
    """One line a crate, highest room first: what of this workspace it uses."""
    lines = []
    for name in reversed(ROOMS):
        uses = [other for other in ROOMS if other in manifests.get(name, {}).get("dependencies", {})]
        lines.append(f"{name} -> {', '.join(uses) if uses else '(nothing here)'}")
    return lines


def faults_of_graph(manifests: dict[str, dict]) -> list[str]:
    faults = [f"{name}: not in the list of rooms of checks/architecture.py" for name in manifests if name not in ROOMS]
    faults += [f"{name}: a room without a crate" for name in ROOMS if name not in manifests]
    for name, manifest in manifests.items():
        if name not in ROOMS:
            continue
        uses = manifest.get("dependencies", {})
        above = [other for other in uses if other in ROOMS and ROOMS.index(other) >= ROOMS.index(name)]
        faults += [f"{name}: uses {other}, which stands above it" for other in above]
        if name in PURE:
            faults += [f"{name}: uses {other}, but this crate has no effects" for other in sorted(EFFECTS & set(uses))]
    return faults


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


def main() -> int:
    manifests = crates()
    text = DOC.read_text()
    before, rest = text.split(BEGIN, 1)
    drawn, after = rest.split(END, 1)
    real = "\n```text\n" + "\n".join(graph(manifests)) + "\n```\n"
    if "--write" in sys.argv[1:]:
        DOC.write_text(before + BEGIN + real + END + after)
        return 0
    faults = faults_of_graph(manifests) + faults_of_paths()
    if drawn != real:
        faults.append(f"docs/architecture.md draws another crate graph than the Cargo.toml files; run {sys.argv[0]} --write")
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"the architecture page is true: {len(manifests)} crates, no arrow upwards, no missing path")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
