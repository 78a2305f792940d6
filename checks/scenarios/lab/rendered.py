"""A machine with what the NixOS module renders: checks/scenarios/rendered/, whose README.md describes the layout."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

from .files import made, write
from .story import Machine, Settings, merge, toml

RENDERED = Path(__file__).resolve().parent.parent / "rendered"

STORE = "nix/store/00000000000000000000000000000000-"

# Debian packages that have the programs of nixpkgs' packages of these names. nixpkgs' coreutils has `kill`, which procps has in Debian.
PROGRAMS = {"coreutils": "coreutils", "findutils": "findutils", "gnugrep": "grep", "gnused": "sed", "systemd": "systemd"}


def host(machine: Machine) -> str:
    """The directory of `rendered/` for a machine; empty for one that has none of our services."""
    if machine.host:
        return machine.host
    if machine.producer is not None:
        return "producer"
    parts = [name for name, there in (("mirror", machine.mirror), ("node", machine.node)) if there]
    return "-and-".join(parts)


def install(root: Path, machine: Machine) -> None:
    """Copies the rendering over `/etc` and makes the store paths that its units name."""
    if not host(machine):
        settings(root, {}, machine.settings)
        return
    etc = RENDERED / host(machine) / "etc"
    shutil.copytree(etc, root / "etc", symlinks=True, dirs_exist_ok=True)
    configure(root / "etc", etc, machine.settings)
    program = root / f"{STORE}nano-snapshot-mirror/bin/nano-snapshot-mirror"
    made(program.parent)
    program.symlink_to("/usr/bin/nano-snapshot-mirror")
    for name, package in PROGRAMS.items():
        directory = made(root / f"{STORE}{name}/bin")
        for path in programs(root, package):
            (directory / Path(path).name).symlink_to(path)
    (root / f"{STORE}coreutils/bin/kill").symlink_to("/bin/kill")


def configure(etc: Path, rendering: Path, own: Settings) -> None:
    """Writes the settings of a rendering with those of a scenario into `etc`."""
    name = "nano-snapshot-mirror/config.toml"
    base = tomllib.loads((rendering / name).read_text())
    write(etc / name, toml(merge(base, own)))


def settings(root: Path, base: Settings, own: Settings) -> None:
    """Writes a configuration file for the commands of an operator."""
    write(root / "etc/nano-snapshot-mirror/config.toml", toml(merge(base, own)))


def programs(root: Path, package: str) -> list[str]:
    """The programs of a Debian package."""
    listed = (root / f"var/lib/dpkg/info/{package}.list").read_text().splitlines()
    return [path for path in listed if re.fullmatch(r"(/usr)?/s?bin/[^/]+", path)]


def ports(machine: Machine) -> tuple[list[int], list[str]]:
    """The TCP and UDP ports that the module opens in the firewall."""
    if not host(machine):
        return [], []
    opened = json.loads((RENDERED / host(machine) / "firewall.json").read_text())
    return opened["tcp"], [str(port) for port in opened["udp"]]
