"""Look-ups of a signed pointer in a DHT of real nodes on loopback."""

import json
import subprocess
import sys

from .lab import Lab
from .processes import PATIENCE, Row
from .report import Found, form, median, table, where

NODES = 20

# As many as fall silent. A look-up then waits out its time limit for one of them.
STOPPED = (0, 6)

NAMES = {"warm": "a node that has joined", "start": "a node that has just been made"}


def measure(lab: Lab) -> Found:
    rows: list[Row] = []
    for stopped in STOPPED:
        command = [lab.lookup, "--nodes", str(NODES), "--stopped", str(stopped), "--repeat", str(lab.size.repeat)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
        rows += [{"stopped": stopped, **json.loads(line)} for line in said.splitlines()]
    lines = []
    for stopped in STOPPED:
        for node, name in NAMES.items():
            mine = where(rows, stopped=stopped, node=node)
            times = [form(".3f")(median(mine, column)) for column in ("first", "settled")]
            lines.append([name, f"{stopped} of {NODES}", *times, form(".0f")(median(mine, "answers"))])
            print(f"  {name}, {stopped} silent: {' '.join(times)} s", file=sys.stderr)
    titles = ["who looks it up", "silent nodes", "s to the first verified value", "s until settled", "nodes that had it"]
    return Found("Pointer", f"{NODES} nodes on loopback, medians of {lab.size.repeat}.\n\n" + table(titles, lines), rows)
