"""Fills the root of one machine: units in one of two forms, settings, and files of its scenario."""

from __future__ import annotations

import shutil
import subprocess
from enum import Enum
from pathlib import Path

from . import network, packaged, rendered, switch
from .files import give, made, write
from .story import Machine, Story

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent.parent
LEDGERS = REPOSITORY / "daemon/nano-ledger/tests/data"

# Where scenarios find ledgers written by a real node, and the tools of this directory.
FIXTURES = "etc/scenario"
LEDGER = "var/lib/nano/Nano"


class Units(Enum):
    """Which units a machine runs."""

    RENDERED = "rendered"
    PACKAGED = "packaged"


DHT_UNIT = """\
[Unit]
Description=A DHT of this test's own
[Service]
ExecStart=/usr/bin/python3 /etc/scenario/dht.py serve
[Install]
WantedBy=multi-user.target
"""

# Starts where the ledger is in folder and its own, as a node would.
NODE_UNIT = """\
[Unit]
Description=A node
[Service]
Type=oneshot
RemainAfterExit=yes
User=nano
ExecStart=/bin/sh -c 'test -w /var/lib/nano/Nano/data.ldb'
"""

# A disk that appears only when the boot is well under way, like one on the network: `_netdev` keeps it out of local-fs.target.
DISK_UNIT = """\
[Unit]
Description=The disk is slow to appear
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sleep 2
"""

MOUNT_UNIT = """\
[Unit]
Description=A disk for snapshots
Requires=slow-disk.service
After=slow-disk.service
[Mount]
What=tmpfs
Where={where}
Type=tmpfs
Options={options}
[Install]
WantedBy=multi-user.target
"""


def fill(root: Path, machine: Machine, story: Story, units: Units) -> None:
    """Writes everything that a machine has besides Debian."""
    etc = root / "etc"
    system = etc / "systemd/system"
    numbers = {one.name: one.number for one in story.machines}
    write(etc / "hostname", machine.name + "\n")
    write(etc / "hosts", network.hosts(numbers, machine.name))
    fixtures(root / FIXTURES)
    form = rendered if units is Units.RENDERED else packaged
    form.install(root, machine)
    for host in machine.switches:
        if units is Units.RENDERED:
            switch.to_rendering(root, machine, host)
        else:
            switch.to_drop_ins(root, machine, host)
    if machine.producer is not None or machine.node:
        if units is Units.PACKAGED:
            write(etc / "sysusers.d/nano.conf", f"u nano - 'A Nano node' /{LEDGER}\n")
        made(root / LEDGER)
    if machine.node and units is Units.PACKAGED:
        write(system / "nano-node.service", NODE_UNIT)
        for unit, text in packaged.node_drop_ins().items():
            write(system / f"{unit}.d/node.conf", text)
    if machine.producer is not None:
        producer(root, machine.producer)
    if machine.dht:
        write(system / "scenario-dht.service", DHT_UNIT)
        packaged.enable(root, system / "scenario-dht.service")
    subprocess.run(["systemd-sysusers", f"--root={root}"], check=True, stderr=subprocess.DEVNULL)
    if (root / LEDGER).exists():
        give(root / LEDGER, root, "nano")
    if machine.disk:
        disk(root, machine.disk, units)
    tcp, udp = form.ports(machine) if machine.open_firewall else ([], [])
    if machine.dht:
        udp = [*udp, "7000-7007"]
    write(etc / "nftables.conf", network.firewall(tcp + ([6891] if machine.libtorrent else []), udp))
    wants = made(system / "sysinit.target.wants")
    (wants / "nftables.service").symlink_to("/lib/systemd/system/nftables.service")


def fixtures(folder: Path) -> None:
    """Copies the ledgers and tools that scripts use."""
    folder.mkdir()
    for name in ("before.ldb", "after.ldb"):
        shutil.copy(LEDGERS / name, folder / name)
    for tool in (HERE / "dht.py", HERE / "knock.py", HERE / "node.py", REPOSITORY / "checks/interop/libtorrent_peer.py"):
        shutil.copy(tool, folder / tool.name)
    for store in (HERE / "stories").glob("store-*"):
        shutil.copytree(store, folder / store.name, symlinks=True)


def producer(root: Path, said: dict[str, object]) -> None:
    """Installs a node's ledger, the key, and the producer's settings of this host."""
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
        unit = (system / "nano-snapshot-mirror-producer.service").read_text()
        command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
        text = f"[Service]\nExecStart=\n{command} {' '.join(arguments)}\n"
        write(system / "nano-snapshot-mirror-producer.service.d/arguments.conf", text)


def disk(root: Path, where: str, units: Units) -> None:
    """Installs a disk that is mounted late. With the packaged units its operator has made the mirror its owner; the module does that itself."""
    system = root / "etc/systemd/system"
    write(system / "slow-disk.service", DISK_UNIT)
    options = "size=64m,mode=0755,_netdev"
    if units is Units.PACKAGED:
        given = made(root / "run/given")
        give(given, root, "nano-snapshot-mirror")
        options = f"size=64m,_netdev,mode=2770,uid={given.stat().st_uid},gid={given.stat().st_gid}"
        given.rmdir()
    escaped = subprocess.run(["systemd-escape", "--path", "--suffix=mount", where], check=True, capture_output=True, text=True)
    mount = system / escaped.stdout.strip()
    write(mount, MOUNT_UNIT.format(where=where, options=options))
    packaged.enable(root, mount)
