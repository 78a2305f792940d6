#!/usr/bin/env python3
"""Compares packaging/systemd with nixos-modules/units.nix, and has systemd check the units.

    checks/nix/units.py                  needs nix-instantiate and systemd-analyze
    checks/nix/units.py --rendered DIR   compares with unit files that NixOS rendered (checks/units.nix calls it so)

Prints the exposure of each service, and fails above the limit.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PACKAGED = ROOT / "packaging/systemd"
PROGRAM = "/usr/bin/nano-snapshot-mirror"

# What systemd-analyze calls 10 * exposure.
MOST_EXPOSED = 15

# What the packaged units were written for; units.nix is asked for the same.
PACKAGED_FOR = {
    "program": PROGRAM,
    "kill": "/bin/kill",
    "mv": "/bin/mv",
    "rm": "/bin/rm",
    "fetchTo": "/var/lib/nano/Nano/data.ldb",
    "fetchDirectory": "/var/lib/nano/Nano",
    "peerSocket": {"ListenStream": ["6881"], "BindIPv6Only": "both"},
    "httpSocket": {"ListenStream": ["127.0.0.1:9109"]},
    "controlSocket": "/run/nano-snapshot-mirror/control.sock",
    "ledger": "/var/lib/nano/Nano/data.ldb",
    "ledgerDirectory": "/var/lib/nano/Nano",
    "dataDirectory": "/var/lib/nano-snapshot-mirror",
    "signingKey": {"LoadCredential": ["signing-key:/etc/nano-snapshot-mirror/producer.key"]},
}

# Section -> key -> all its words. systemd joins repeated lines of the keys that occur here more than once.
Unit = dict[str, dict[str, list[str]]]

# Said by the packaged unit alone, with the reason.
ONLY_PACKAGED = {
    ("nano-snapshot-mirror.service", "DynamicUser"): "a host that only mirrors needs no user that stays",
    ("nano-snapshot-mirror.service", "StateDirectoryMode"): "likewise; producer-host/ equals the module",
    ("nano-snapshot-mirror.service", "UMask"): "likewise",
    ("nano-snapshot-mirror-producer.service", "User"): "the module asks whose the ledger is",
    ("nano-snapshot-fetch.service", "User"): "likewise",
}

# Said by NixOS alone, with the reason.
ONLY_NIXOS = {
    "OnSuccess": "the module knows the unit of the node, a drop-in names it elsewhere",
    "ExecStartPre": "the module creates directories that are options",
    "RestartMode": "systemd 252 does not know it",
    "X-RestartIfChanged": "NixOS restarts what changed",
    "X-Restart-Triggers": "NixOS restarts what changed",
    "X-Reload-Triggers": "NixOS reloads what changed",
}


def parse(text: str) -> Unit:
    """A unit file. An empty assignment that follows others forgets them, as systemd does."""
    unit: Unit = {}
    section: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            section = unit.setdefault(line.strip("[]"), {})
            continue
        key, _, value = line.partition("=")
        if value.strip():
            section.setdefault(key.strip(), []).extend(value.split())
        else:
            section[key.strip()] = []
    return unit


def words(value: Any) -> list[str]:
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, list):
        return [word for one in value for word in words(one)]
    return str(value).split()


def from_nix(said: dict[str, Any], section: str) -> Unit:
    """A unit of units.nix: attributes as of `systemd.services.NAME`."""
    unit: Unit = {
        "Unit": {
            "Description": words(said["description"]),
            "Documentation": words(said["documentation"]),
            **{key: words(value) for key, value in said.get("unitConfig", {}).items()},
        },
        section: {key: words(value) for key, value in said[f"{section.lower()}Config"].items()},
    }
    for key, name in (("wants", "Wants"), ("after", "After")):
        if said.get(key):
            unit["Unit"][name] = words(said[key])
    if said.get("wantedBy"):
        unit["Install"] = {"WantedBy": words(said["wantedBy"])}
    return unit


def evaluate() -> dict[str, Unit]:
    """All units of units.nix, by file name."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(PACKAGED_FOR, file)
        file.flush()
        expression = f"import {ROOT}/nixos-modules/units.nix (builtins.fromJSON (builtins.readFile {file.name}))"
        command = ["nix-instantiate", "--eval", "--strict", "--json", "--expr", expression]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"units.nix does not evaluate:\n{done.stderr}")
    said = json.loads(done.stdout)
    kinds = {"services": "service", "sockets": "socket", "timers": "timer"}
    return {
        f"{name}.{kind}": from_nix(one, kind.capitalize())
        for group, kind in kinds.items()
        for name, one in said[group].items()
    }


def packaged() -> dict[str, Unit]:
    files = [path for kind in ("service", "socket", "timer") for path in PACKAGED.glob(f"*.{kind}")]
    return {path.name: parse(path.read_text()) for path in sorted(files)}


def with_drop_ins(name: str, unit: Unit) -> Unit:
    """A packaged unit as a host with a producer has it."""
    merged: Unit = {section: dict(keys) for section, keys in unit.items()}
    for path in sorted((PACKAGED / "producer-host" / f"{name}.d").glob("*.conf")):
        for section, keys in parse(path.read_text()).items():
            merged.setdefault(section, {}).update(keys)
    for said in merged.values():
        if said.get("DynamicUser") == ["false"]:
            del said["DynamicUser"]
    return merged


def differences(name: str, left: Unit, right: Unit, only_left: set[str], only_right: set[str]) -> list[str]:
    """Differences between `left` (packaged) and `right` (Nix), except for keys that only one of them may have."""
    found = []
    for section in sorted({*left, *right}):
        here, there = left.get(section, {}), right.get(section, {})
        for key in sorted({*here, *there}):
            if key in only_left and key not in there or key in only_right and key not in here:
                continue
            if sorted(here.get(key, ["(absent)"])) != sorted(there.get(key, ["(absent)"])):
                found.append(
                    f"{name}: [{section}] {key}= is {' '.join(here.get(key, ['absent']))!r} in packaging/systemd "
                    f"and {' '.join(there.get(key, ['absent']))!r} in Nix"
                )
    return found


def compare_with_nix() -> list[str]:
    ours, theirs = packaged(), evaluate()
    if set(ours) != set(theirs):
        return [f"units differ: packaged {sorted(ours)}, Nix {sorted(theirs)}"]
    found = []
    for name, unit in ours.items():
        alone = {key for file, key in ONLY_PACKAGED if file == name}
        found += differences(name, unit, theirs[name], alone, set())
    return found


def without_store(unit: Unit) -> Unit:
    """Reduces programs to their names, and removes what NixOS adds to every unit."""
    plain: Unit = {}
    for section, keys in unit.items():
        plain[section] = {}
        for key, value in keys.items():
            # NixOS sets these for every service.
            value = [word for word in value if not re.match('"?(PATH|LOCALE_ARCHIVE|TZDIR)=', word)]
            if key == "Environment" and not value:
                continue
            plain[section][key] = [re.sub(r"^(/nix/store/[^/]+|/usr|/[a-z-]+)?/bin/", "", word.strip('"')) for word in value]
    return plain


def compare_with_rendered(directory: pathlib.Path) -> list[str]:
    """The files of NixOS for a host where the user `nano` fetches and produces."""
    found = []
    for name, unit in packaged().items():
        rendered = without_store(parse((directory / name).read_text()))
        expected = without_store(with_drop_ins(name, unit))
        # NixOS links wanted units itself.
        for one in (rendered, expected):
            one.pop("Install", None)
        found += differences(name, expected, rendered, {"Description"}, set(ONLY_NIXOS))
    return found


def analyze() -> list[str]:
    """systemd's own opinion of the packaged units, with and without the drop-ins."""
    texts = {name: (PACKAGED / name).read_text() for name in packaged()}
    drop_ins = (PACKAGED / "producer-host").glob("*/*.conf")
    return analyze_texts(texts | {f"{path.parent.name}/{path.name}": path.read_text() for path in drop_ins})


def systemd_version() -> int:
    done = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[1])


def known_here(text: str) -> str:
    """A unit without settings that the systemd of this machine is too old for."""
    return text if systemd_version() >= 254 else re.sub(r"(?m)^RestartMode=.*\n", "", text)


def analyze_texts(texts: dict[str, str]) -> list[str]:
    """systemd's own opinion of units and their drop-ins, by file name."""
    found = []
    with tempfile.TemporaryDirectory(prefix="units-") as temporary:
        folder = pathlib.Path(temporary)
        for name, text in texts.items():
            (folder / name).parent.mkdir(exist_ok=True)
            # The programs need not be installed where this runs.
            (folder / name).write_text(re.sub(r"(?m)^(Exec\w+=[-+!:@]*)(/usr/bin|/nix/store/[^/]+/bin)/\S+", r"\1/bin/true", known_here(text)))
        files = [str(path) for path in sorted(folder.iterdir()) if path.is_file()]
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).strip()
        if done.returncode or said:
            found.append(f"systemd-analyze verify: {said or done.returncode}")
        for file in files:
            if re.search(r"/nano-snapshot-[^/]*[.]service$", file):
                found += exposure(file)
    return found


def exposure(file: str) -> list[str]:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    print(re.sub(r"[^\x20-\x7e]", "", lines[-1]).strip())
    return [f"{pathlib.Path(file).name} is more exposed than {MOST_EXPOSED / 10}"] if done.returncode else []


def main() -> int:
    parser = argparse.ArgumentParser(description="Compares and checks the units.")
    parser.add_argument("--rendered", type=pathlib.Path, metavar="DIR", help="unit files that NixOS rendered")
    args = parser.parse_args()
    found = compare_with_rendered(args.rendered) if args.rendered else compare_with_nix() + analyze()
    for line in found:
        print(line, file=sys.stderr)
    print(f"units: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
