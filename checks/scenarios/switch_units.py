#!/usr/bin/env python3
"""Changes this machine to another host's rendering, as NixOS' switch-to-configuration does.

    switch HOST

What NixOS does with a unit whose file changed while it is active: a service with X-ReloadIfChanged= is reloaded, as is any unit where only
X-Reload-Triggers= changed; one with X-RestartIfChanged=false is left alone; one with X-StopIfChanged=false is restarted; any other is stopped
before the new units are loaded and started afterwards. A service that has sockets is started by stopping and starting its sockets. A socket unit that changed
is not touched by itself. The active targets are started again. Runs in the machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SYSTEM = Path("/etc/systemd/system")

Unit = dict[str, list[str]]


def read(path: Path) -> Unit:
    """The settings of a unit, each with all its values."""
    unit: Unit = {}
    for line in path.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and line[0] not in "#;":
            unit.setdefault(key, []).append(value)
    return unit


def flag(unit: Unit, key: str, default: bool) -> bool:
    return unit.get(key, [str(default)])[-1].lower() in ("true", "yes", "1", "on")


def systemctl(*arguments: str) -> None:
    print("systemctl", *arguments, flush=True)
    subprocess.run(["systemctl", *arguments], check=True)


def is_active(unit: str) -> bool:
    state = subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, check=False).stdout.strip()
    return state in ("active", "activating", "reloading")


def main() -> None:
    new = Path("/etc/scenario/hosts") / sys.argv[1] / "etc"
    stop: list[str] = []
    start: list[str] = []
    restart: list[str] = []
    reload: list[str] = []
    for file in sorted((new / "systemd/system").glob("*.*")):
        before = SYSTEM / file.name
        if not file.is_file() or not is_active(file.name):
            continue
        old, now = read(before), read(file)
        changed = {key for key in old.keys() | now.keys() if old.get(key) != now.get(key)}
        if not changed:
            continue
        if file.suffix == ".socket":
            print(f"{file.name} changed, which NixOS leaves to its service")
        elif changed == {"X-Reload-Triggers"} or flag(now, "X-ReloadIfChanged", False):
            reload.append(file.name)
        elif not flag(now, "X-RestartIfChanged", True):
            print(f"{file.name} changed, and is left alone")
        elif not flag(now, "X-StopIfChanged", True):
            restart.append(file.name)
        else:
            sockets = " ".join(now.get("Sockets", [f"{file.stem}.socket"])).split()
            active = [socket for socket in sockets if is_active(socket)]
            stop += [file.name, *active]
            start += active or [file.name]
    if stop:
        systemctl("stop", *stop)
    shutil.copytree(new, "/etc", symlinks=True, dirs_exist_ok=True, copy_function=replace, ignore=links)
    systemctl("daemon-reload")
    # NixOS starts the active targets again, and with them the units that they want and that are not running.
    start.append("multi-user.target")
    for verb, units in (("reload", reload), ("restart", restart), ("start", start)):
        if units:
            systemctl(verb, *units)


def replace(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    shutil.copy2(source, target)


def links(directory: str, names: list[str]) -> list[str]:
    """The links that make units start at boot are the same on every host."""
    return [name for name in names if (Path(directory) / name).is_symlink()]


if __name__ == "__main__":
    main()
