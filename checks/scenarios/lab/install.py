"""Fills the root of one machine as an operator would: packaged units, a config.toml, the drop-ins the documents name."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import tomllib
from pathlib import Path

from . import network
from .story import Machine, Story, merge, toml

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent.parent
PACKAGING = REPOSITORY / "packaging"
LEDGERS = REPOSITORY / "daemon/nano-ledger/tests/data"

# Where scenarios find ledgers written by a real node, and the tools of this directory.
FIXTURES = "etc/scenario"
LEDGER = "var/lib/nano/Nano"

DHT_UNIT = """\
[Unit]
Description=A DHT of this test's own
[Service]
ExecStart=/usr/bin/python3 /etc/scenario/dht.py serve
[Install]
WantedBy=multi-user.target
"""

# Starts where the ledger is in place and its own, as a node would.
NODE_UNIT = """\
[Unit]
Description=A node
Wants=nano-snapshot-fetch.service
ConditionPathExists=/var/lib/nano/Nano/data.ldb
[Service]
Type=oneshot
RemainAfterExit=yes
User=nano
ExecStart=/bin/sh -c 'test -w /var/lib/nano/Nano/data.ldb'
"""


def enable(root: Path, unit: Path) -> None:
    """What `systemctl enable` does."""
    said = configparser.ConfigParser(strict=False, interpolation=None)
    said.optionxform = str  # type: ignore[assignment]
    said.read(unit)
    for target in said.get("Install", "WantedBy", fallback="").split():
        wants = root / f"etc/systemd/system/{target}.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / unit.name).symlink_to(f"/etc/systemd/system/{unit.name}")


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def units_of(machine: Machine) -> list[str]:
    """The packaged units that run on a machine."""
    names = []
    if machine.mirror:
        names += ["nano-snapshot-mirror.service"]
        names += [f"nano-snapshot-mirror-{name}.socket" for name in ("peer", "http", "control")]
    if machine.node:
        names += ["nano-snapshot-fetch.service"]
    if machine.producer is not None:
        names += ["nano-snapshot-mirror-producer.service", "nano-snapshot-mirror-producer.timer"]
    return names


def fill(root: Path, machine: Machine, story: Story) -> None:
    """Everything a machine has besides Debian."""
    etc = root / "etc"
    numbers = {one.name: one.number for one in story.machines}
    write(etc / "hostname", machine.name + "\n")
    write(etc / "hosts", network.hosts(numbers, machine.name))
    fixtures = root / FIXTURES
    fixtures.mkdir()
    for name in ("before.ldb", "after.ldb"):
        shutil.copy(LEDGERS / name, fixtures / name)
    for tool in (HERE / "dht.py", HERE / "knock.py", HERE / "node.py", REPOSITORY / "checks/interop/libtorrent_peer.py"):
        shutil.copy(tool, fixtures / tool.name)
    for store in (HERE / "stories").glob("store-*"):
        shutil.copytree(store, fixtures / store.name, symlinks=True)
    packaged = tomllib.loads((PACKAGING / "config.toml").read_text())
    write(etc / "nano-snapshot-mirror/config.toml", toml(merge(packaged, machine.settings)))
    system = etc / "systemd/system"
    for name in units_of(machine):
        shutil.copy(PACKAGING / "systemd" / name, system / name)
        enable(root, system / name)
    if machine.shares_store:
        shutil.copytree(PACKAGING / "systemd/producer-host", system, dirs_exist_ok=True)
        shutil.copy(PACKAGING / "sysusers.d/nano-snapshot-mirror.conf", made(etc / "sysusers.d"))
    if machine.producer is not None or machine.node:
        write(etc / "sysusers.d/nano.conf", f"u nano - 'A Nano node' /{LEDGER}\n")
        made(root / LEDGER)
    if machine.node:
        write(system / "nano-node.service", NODE_UNIT)
        write(system / "nano-snapshot-fetch.service.d/node.conf", "[Unit]\nOnSuccess=nano-node.service\n")
    if machine.producer is not None:
        producer(root, machine.producer)
    if machine.dht:
        write(system / "scenario-dht.service", DHT_UNIT)
        enable(root, system / "scenario-dht.service")
    subprocess.run(["systemd-sysusers", f"--root={root}"], check=True, stderr=subprocess.DEVNULL)
    if (root / LEDGER).exists():
        give(root / LEDGER, root, "nano")
    tcp = [6881] if machine.mirror and machine.open_firewall else []
    udp = ["6882"] if tcp else []
    if machine.dht:
        udp.append("7000-7007")
    write(etc / "nftables.conf", network.firewall(tcp + ([6891] if machine.libtorrent else []), udp))
    wants = made(system / "sysinit.target.wants")
    (wants / "nftables.service").symlink_to("/lib/systemd/system/nftables.service")


def producer(root: Path, said: dict[str, object]) -> None:
    """A node's ledger, the key, and what this host says of the producer."""
    etc = root / "etc"
    shutil.copy(LEDGERS / "before.ldb", root / LEDGER / "data.ldb")
    key = etc / "nano-snapshot-mirror/producer.key"
    shutil.copy(HERE / "stories/producer.key", key)
    key.chmod(0o600)
    system = etc / "systemd/system"
    schedule = said.get("schedule")
    if schedule:
        text = f"[Timer]\nOnCalendar=\nOnCalendar={schedule}\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
        write(system / "nano-snapshot-mirror-producer.timer.d/schedule.conf", text)
    arguments = said.get("arguments")
    if isinstance(arguments, list):
        packaged = (PACKAGING / "systemd/nano-snapshot-mirror-producer.service").read_text()
        command = next(line for line in packaged.splitlines() if line.startswith("ExecStart="))
        text = f"[Service]\nExecStart=\n{command} {' '.join(arguments)}\n"
        write(system / "nano-snapshot-mirror-producer.service.d/arguments.conf", text)


def made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def give(path: Path, root: Path, user: str) -> None:
    """Gives `path` and what is in it to a user of that root."""
    lines = (line.split(":") for line in (root / "etc/passwd").read_text().splitlines())
    uid, gid = next((int(line[2]), int(line[3])) for line in lines if line[0] == user)
    for one in (path, *path.rglob("*")):
        shutil.chown(one, uid, gid)
