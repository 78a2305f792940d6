#!/usr/bin/env python3
"""Renderings of the module: the files that NixOS would install on the hosts of hosts.nix, for another system to boot.

    checks/nix/rendering.py --units DIR    compares with what NixOS itself rendered: DIR/HOST/UNIT (checks/rendered.nix calls it so)
    checks/nix/rendering.py --trees FILE   compares with evaluations by checks/nix/evaluate.nix: {HOST: EVALUATION} (likewise)

checks/nix/run writes the renderings and compares them where nixpkgs' lib is at hand.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "scenarios")]
from lab import story  # noqa: E402

RENDERED = HERE.parent / "scenarios/rendered"

# Path to text; a text that begins so is the target of a symbolic link.
Tree = dict[str, str]
LINK = "-> "


def tree(evaluation: dict[str, Any]) -> Tree:
    """The files of one host, from the result of evaluate.nix."""
    rendered = evaluation["rendered"]
    units = "etc/systemd/system"
    files: Tree = {f"{units}/{name}": text for name, text in rendered["units"].items()}
    files |= {f"{units}/{directory}/{name}": f"{LINK}../{name}" for directory, name in rendered["links"]}
    files |= {f"etc/tmpfiles.d/{name}.conf": text for name, text in rendered["tmpfiles"].items()}
    files["etc/sysusers.d/host.conf"] = rendered["sysusers"]
    files["etc/nano-snapshot-mirror/config.toml"] = story.toml(evaluation["settings"])
    firewall = evaluation["firewall"]
    ports = {"tcp": sorted(firewall["allowedTCPPorts"]), "udp": sorted(firewall["allowedUDPPorts"])}
    files["firewall.json"] = json.dumps(ports, indent=2) + "\n"
    return files


def read(directory: pathlib.Path) -> Tree:
    """The files below a directory."""
    files = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            files[name] = f"{LINK}{path.readlink()}"
        elif path.is_file():
            files[name] = path.read_text()
    return files


def write(directory: pathlib.Path, files: Tree) -> None:
    """Makes the files below a directory exactly these."""
    for name in read(directory):
        (directory / name).unlink()
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith(LINK):
            path.symlink_to(text.removeprefix(LINK))
        else:
            path.write_text(text)
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def write_all(trees: dict[str, Tree]) -> None:
    for host in hosts():
        if host not in trees:
            write(RENDERED / host, {})
            (RENDERED / host).rmdir()
    for host, files in trees.items():
        write(RENDERED / host, files)


def hosts() -> list[str]:
    """The hosts whose rendering is checked in."""
    return sorted(path.name for path in RENDERED.iterdir() if path.is_dir())


def differences(trees: dict[str, Tree]) -> list[str]:
    """What the checked-in renderings lack, have too much or have otherwise."""
    if sorted(trees) != hosts():
        return [f"hosts.nix has {', '.join(sorted(trees))}, and {RENDERED.name}/ has {', '.join(hosts())}"]
    found = []
    for host, files in trees.items():
        here = read(RENDERED / host)
        found += [
            f"{RENDERED.name}/{host}/{name} is not what the module renders"
            for name in sorted({*here, *files})
            if here.get(name) != files.get(name)
        ]
    return found


def comparable(text: str) -> list[str]:
    """The lines of a unit without parts that depend on the version of nixpkgs: hashes, versions, and the environment of every service."""
    given = ("Environment=\"PATH=", "Environment=\"LOCALE_ARCHIVE=", "Environment=\"TZDIR=")
    lines = [line for line in text.splitlines() if line and not line.startswith(given)]
    return sorted(re.sub(r"/nix/store/[0-9a-z]{32}-([a-zA-Z-]*[a-zA-Z])[^/\s\"]*", r"\1", line) for line in lines)


def compare_units(directory: pathlib.Path) -> list[str]:
    """The units that NixOS rendered, beside those that are checked in."""
    found = []
    for host in hosts():
        ours = {path.name: path for path in (RENDERED / host / "etc/systemd/system").iterdir() if path.is_file()}
        theirs = {path.name: path for path in (directory / host).iterdir()}
        if sorted(ours) != sorted(theirs):
            found.append(f"{host}: NixOS renders {', '.join(sorted(theirs))}, and {', '.join(sorted(ours))} is checked in")
        for name in sorted({*ours} & {*theirs}):
            here, there = comparable(ours[name].read_text()), comparable(theirs[name].read_text())
            found += [f"{host}/{name}: checked in only: {line}" for line in here if line not in there]
            found += [f"{host}/{name}: NixOS only: {line}" for line in there if line not in here]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Compares the checked-in renderings of the module.")
    parser.add_argument("--units", type=pathlib.Path, metavar="DIR", help="unit files that NixOS rendered")
    parser.add_argument("--trees", type=pathlib.Path, metavar="FILE", help="evaluations of all hosts")
    args = parser.parse_args()
    found = []
    if args.units:
        found += compare_units(args.units)
    if args.trees:
        evaluations = json.loads(args.trees.read_text())
        found += differences({host: tree(one) for host, one in evaluations.items()})
    for line in found:
        print(line, file=sys.stderr)
    print(f"renderings: {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
