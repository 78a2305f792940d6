"""Writes tables into docs/performance.md, between the marks of each part, and their rows into docs/performance/."""

import datetime
import json
import os
import pathlib
import platform
import re
import subprocess

from .lab import ROOT, Lab
from .report import Found

PAGE = ROOT / "docs/performance.md"
ROWS = ROOT / "docs/performance"


def machine(lab: Lab) -> str:
    """The day, the commit and the machine of a measurement."""

    def line(path: str, name: str) -> str:
        found = re.search(rf"^{name}\s*:\s*(.*)$", pathlib.Path(path).read_text(), re.MULTILINE)
        return found.group(1) if found else "unknown"

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "daemon", "Cargo.lock"], cwd=ROOT).returncode
    memory = int(line("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20)
    return (
        f"{datetime.date.today().isoformat()}, commit {commit}{' with changes' if changed else ''}, libtorrent {lab.libtorrent}; "
        f"{line('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, {filesystem(lab.work)}.\n"
    )


def filesystem(folder: pathlib.Path) -> str:
    """The kind of file system that a directory is on."""
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    above = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]


def replaced(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- bench {name}: begin -->\n", f"<!-- bench {name}: end -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise RuntimeError(f"{PAGE} has no marks for {name}")
    return f"{before}{begin}{text}{end}{after}"


def write(found: dict[str, Found], lab: Lab) -> None:
    page = PAGE.read_text()
    for name, one in found.items():
        page = replaced(page, name, f"{machine(lab)}\n{one.markdown}")
        (ROWS / f"{name}.json").write_text(json.dumps(one.rows, indent=1) + "\n")
    PAGE.write_text(page)
