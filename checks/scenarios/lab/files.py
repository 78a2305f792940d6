"""Files in the root of a machine."""

from __future__ import annotations

import shutil
from pathlib import Path


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes a file, with the directories above it."""
    made(path.parent)
    path.write_text(text)
    path.chmod(mode)


def made(directory: Path) -> Path:
    """Creates a directory unless it exists."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def give(path: Path, root: Path, user: str) -> None:
    """Makes a user of that root the owner of `path` and its content."""
    lines = (line.split(":") for line in (root / "etc/passwd").read_text().splitlines())
    uid, gid = next((int(line[2]), int(line[3])) for line in lines if line[0] == user)
    for one in (path, *path.rglob("*")):
        shutil.chown(one, uid, gid)
