"""Making torrents, which has a script of its own: `checks/bench/creation.py`."""

import json
import subprocess
import sys

from .lab import HERE, Lab
from .processes import PATIENCE
from .report import Found

SCRIPT = HERE / "creation.py"


def measure(lab: Lab) -> Found:
    return Found("Creation", "Not measured.\n", [])
