"""Making torrents, which has a script of its own: `checks/bench/creation.py`."""

import json
import subprocess
import sys

from .lab import HERE, Lab
from .processes import PATIENCE
from .report import Found

SCRIPT = HERE / "creation.py"

# GiB of content where it only has to run.
QUICK_GIB = 1 / 32


def measure(lab: Lab) -> Found:
    folder = lab.work / "creation"
    command = [sys.executable, SCRIPT, "--work", folder, "--libtorrent", lab.libtorrent, "--repeat", str(lab.size.repeat)]
    if lab.size.quick:
        command += ["--gib", str(QUICK_GIB)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout
    return Found("Creation", said, json.loads((folder / "creation.json").read_text()))
