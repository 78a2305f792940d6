"""A machine that changes to another host's configuration while it runs: `/etc/scenario/switch HOST` in the machine.

With the rendering it does what NixOS' switch-to-configuration does with units that changed, see switch_units.py. With the packaged units it does
what docs/operating.md tells an operator to do.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from . import packaged, rendered
from .files import write
from .story import Machine

HOSTS = "etc/scenario/hosts"

PACKAGED = """\
#!/bin/sh
set -e
cp --recursive /etc/scenario/hosts/"$1"/etc/. /etc/
systemctl daemon-reload
systemctl stop nano-snapshot-mirror.service nano-snapshot-mirror-peer.socket nano-snapshot-mirror-http.socket
systemctl start nano-snapshot-mirror-peer.socket nano-snapshot-mirror-http.socket nano-snapshot-mirror.service
"""


def to_rendering(root: Path, machine: Machine, host: str) -> None:
    """Puts the rendering of `host` beside that of the machine."""
    etc = rendered.RENDERED / host / "etc"
    other = root / HOSTS / host / "etc"
    shutil.copytree(etc, other, symlinks=True)
    rendered.configure(other, etc, machine.settings)
    script = root / "etc/scenario/switch"
    shutil.copy(Path(__file__).resolve().parent.parent / "switch_units.py", script)
    script.chmod(0o755)


def to_drop_ins(root: Path, machine: Machine, host: str) -> None:
    """Puts the settings and drop-ins of `host` where the script finds them."""
    packaged.add(root / HOSTS / host / "etc", replace(machine, host=host), packaged.HOSTS[host])
    write(root / "etc/scenario/switch", PACKAGED, 0o755)
