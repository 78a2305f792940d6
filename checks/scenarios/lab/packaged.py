"""A machine with the units of packaging/systemd, as an operator of Debian sets it up."""

from __future__ import annotations

import configparser
import shutil
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from .files import made, write
from .story import Machine, Settings, merge, toml

PACKAGING = Path(__file__).resolve().parent.parent.parent.parent / "packaging"
SERVICE = "nano-snapshot-mirror.service"


@dataclass(frozen=True)
class Host:
    """What an operator adds for a host of `rendered/`: settings, drop-ins by the name of their unit, directories for tmpfiles, ports."""

    settings: Settings = field(default_factory=dict)
    drop_ins: dict[str, str] = field(default_factory=dict)
    tmpfiles: str = ""
    sysusers: str = ""
    static_user: bool = False
    tcp: int = 6881
    udp: int = 6882


HOSTS = {
    "other-ports": Host(
        settings={
            "peer": {"listen": ["[::]:6991"]},
            "dht": {"port": 6992},
            "http": {"listen": "0.0.0.0:9119"},
        },
        drop_ins={
            "nano-snapshot-mirror-peer.socket": "[Socket]\nListenStream=\nListenStream=6991\n",
            "nano-snapshot-mirror-http.socket": "[Socket]\nListenStream=\nListenStream=0.0.0.0:9119\n",
        },
        tcp=6991,
        udp=6992,
    ),
    "other-disk": Host(
        settings={"data-dir": "/srv/nano-snapshots"},
        drop_ins={SERVICE: "[Unit]\nRequiresMountsFor=/srv/nano-snapshots\n[Service]\nReadWritePaths=/srv/nano-snapshots\n"},
        static_user=True,
    ),
    "additions": Host(
        drop_ins={
            SERVICE: "[Service]\nReadWritePaths=/srv/hooks\nSupplementaryGroups=ledgers\nSystemCallFilter=@keyring\nMemoryMax=3G\n",
        },
        tmpfiles="d /srv/hooks 0770 root ledgers\n",
        sysusers="g ledgers -\n",
    ),
}


def host(machine: Machine) -> Host:
    """What an operator adds on a machine."""
    return HOSTS.get(machine.host, Host())


def units_of(machine: Machine) -> list[str]:
    """The packaged units that run on a machine."""
    names = []
    if machine.mirror:
        names += [SERVICE]
        names += [f"nano-snapshot-mirror-{name}.socket" for name in ("peer", "http", "control")]
    if machine.node:
        names += ["nano-snapshot-fetch.service"]
    if machine.producer is not None:
        names += ["nano-snapshot-mirror-producer.service", "nano-snapshot-mirror-producer.timer"]
    return names


def install(root: Path, machine: Machine) -> None:
    """Copies the units, enables them, and adds the settings and drop-ins of the machine's host."""
    etc = root / "etc"
    system = etc / "systemd/system"
    for name in units_of(machine):
        shutil.copy(PACKAGING / "systemd" / name, system / name)
        enable(root, system / name)
    if machine.shares_store or host(machine).static_user:
        shutil.copytree(PACKAGING / "systemd/producer-host", system, dirs_exist_ok=True)
        shutil.copy(PACKAGING / "sysusers.d/nano-snapshot-mirror.conf", made(etc / "sysusers.d"))
    add(etc, machine, host(machine))


def add(etc: Path, machine: Machine, added: Host) -> None:
    """Writes settings and drop-ins into `etc`."""
    packaged = tomllib.loads((PACKAGING / "config.toml").read_text())
    write(etc / "nano-snapshot-mirror/config.toml", toml(merge(merge(packaged, added.settings), machine.settings)))
    for unit, text in added.drop_ins.items():
        write(etc / f"systemd/system/{unit}.d/host.conf", text)
    if added.tmpfiles:
        write(etc / "tmpfiles.d/host.conf", added.tmpfiles)
    if added.sysusers:
        write(etc / "sysusers.d/host.conf", added.sysusers)


def node_drop_ins() -> dict[str, str]:
    """The drop-ins that packaging/systemd/nano-snapshot-fetch.service asks for in its comment: that of the node's unit, then its own."""
    lines = (PACKAGING / "systemd/nano-snapshot-fetch.service").read_text().splitlines()
    texts = [""]
    for line in lines:
        if line.startswith("#   "):
            texts[-1] += line.removeprefix("#   ") + "\n"
        elif texts[-1] and line != "#":
            texts.append("")
    return dict(zip(("nano-node.service", "nano-snapshot-fetch.service"), texts, strict=False))


def ports(machine: Machine) -> tuple[list[int], list[str]]:
    """The TCP and UDP ports that an operator opens in the firewall."""
    added = host(machine)
    return ([added.tcp], [str(added.udp)]) if machine.mirror else ([], [])


def enable(root: Path, unit: Path) -> None:
    """Creates the links that `systemctl enable` creates."""
    said = configparser.ConfigParser(strict=False, interpolation=None)
    said.optionxform = str  # type: ignore[assignment]
    said.read(unit)
    for target in said.get("Install", "WantedBy", fallback="").split():
        wants = root / f"etc/systemd/system/{target}.wants"
        (made(wants) / unit.name).symlink_to(f"/etc/systemd/system/{unit.name}")
