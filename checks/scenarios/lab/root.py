"""The Debian root that all machines share: made once with mmdebstrap and kept under the build directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

# systemd-sysv is /sbin/init; dbus carries systemctl; the rest is what scenarios call.
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "libnss-systemd", "iproute2", "nftables", "netbase", "procps", "curl",
    "python3", "python3-libtorrent", "python3-lmdb",
)  # fmt: skip

# What a Debian root starts and a machine of a test needs not. systemd-networkd would wait two minutes for a network.
MASKED = (
    "systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service",
    "systemd-firstboot.service", "systemd-resolved.service", "systemd-timesyncd.service", "e2scrub_reap.service",
    "getty@tty1.service", "console-getty.service", "getty.target",
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
)  # fmt: skip


class CannotMake(Exception):
    """The root cannot be made; the text names what is missing."""


def release() -> str:
    """The Debian release of this machine: the program was built with its libraries."""
    lines = Path("/etc/os-release").read_text().splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    return os.environ.get("SCENARIO_DEBIAN", said.get("VERSION_CODENAME", "bookworm").strip('"'))


def base(cache: Path, suite: str = "") -> Path:
    """The root of a Debian release, by default that of this machine; from `cache` when it was made before. Raises CannotMake."""
    suite = suite or release()
    key = hashlib.sha256(" ".join((suite, *PACKAGES, *MASKED)).encode()).hexdigest()[:12]
    folder = cache / f"root-{suite}-{key}"
    if folder.is_dir():
        return folder
    if not shutil.which("mmdebstrap"):
        raise CannotMake("mmdebstrap is missing: apt-get install mmdebstrap systemd-container iproute2 nftables")
    cache.mkdir(parents=True, exist_ok=True)
    fresh = cache / f"making-{os.getpid()}"
    print(f"making a Debian {suite} root in {folder}", flush=True)
    command = [
        "mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(PACKAGES)}",
        "--aptopt=Acquire::Check-Valid-Until false", "--aptopt=Apt::Install-Recommends false",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*", suite, str(fresh),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(fresh, ignore_errors=True)
        raise CannotMake(f"mmdebstrap failed:\n{done.stderr[-2000:]}")
    units = fresh / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (fresh / "etc/machine-id").write_text("uninitialized\n")
    try:
        fresh.rename(folder)
    except OSError:
        # Another run has made it meanwhile.
        if not folder.is_dir():
            raise
        shutil.rmtree(fresh, ignore_errors=True)
    return folder
