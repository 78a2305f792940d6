"""Making torrents, which has a script of its own: `checks/bench/creation.py [--quick] --rows FILE` prints its table."""

import json
import subprocess
import sys

from .lab import HERE, Lab
from .processes import PATIENCE
from .report import Found

SCRIPT = HERE / "creation.py"


def measure(lab: Lab) -> Found:
    if not SCRIPT.exists():
        print(f"  {SCRIPT} is not there: not measured", file=sys.stderr)
        return Found("Creation", "Not measured.\n", [])
    rows = lab.work / "creation.json"
    command = [sys.executable, SCRIPT, *(["--quick"] if lab.size.quick else []), "--rows", rows]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout
    return Found("Creation", said, json.loads(rows.read_text()))
