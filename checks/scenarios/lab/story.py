"""A scenario on disk: NAME.toml has the machines, and NAME.py the script.

checks/scenarios/nixos-test.nix reads the same two files.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STORIES = Path(__file__).resolve().parent.parent / "stories"

Settings = dict[str, Any]


class BadStory(Exception):
    """NAME.toml has an error; the text names its position."""


@dataclass(frozen=True)
class Machine:
    """One machine. `number` is the last part of its addresses."""

    name: str
    number: int
    dht: bool = False
    mirror: bool = False
    producer: Settings | None = None
    # A node whose ledger is fetched before it starts.
    node: bool = False
    libtorrent: bool = False
    open_firewall: bool = True
    # A host of rendered/, where that does not follow from the services.
    host: str = ""
    # Other hosts of rendered/ whose configuration it changes to while it runs.
    switches: tuple[str, ...] = ()
    # Where a disk is mounted that is slow to appear.
    disk: str = ""
    settings: Settings = field(default_factory=dict)

    @property
    def shares_store(self) -> bool:
        """Whether another program uses the mirror's data directory."""
        return self.producer is not None


@dataclass(frozen=True)
class Story:
    """A scenario."""

    name: str
    script: str
    machines: tuple[Machine, ...]
    # The only form of units with which it makes sense; empty for every form.
    units: str = ""


def merge(base: Settings, over: Settings) -> Settings:
    """`base` with the values of `over`; tables are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def parse(name: str, document: Settings, script: str) -> Story:
    """Raises BadStory. Machines are numbered by name, as NixOS tests do."""
    unknown = set(document) - {"settings", "machines", "units"}
    if unknown:
        raise BadStory(f"{name}.toml: unknown key {sorted(unknown)[0]}; there are settings, machines and units")
    common: Settings = document.get("settings", {})
    machines = []
    for number, (who, said) in enumerate(sorted(document.get("machines", {}).items()), start=1):
        if len(who) > 10:
            raise BadStory(f"{name}.toml: machine {who}: at most 10 characters, for its network interface")
        fields = {key.replace("-", "_"): value for key, value in said.items()}
        wrong = set(fields) - (set(Machine.__dataclass_fields__) - {"name", "number"})
        if wrong:
            raise BadStory(f"{name}.toml: machine {who}: unknown key {sorted(wrong)[0]}")
        settings = merge(common, fields.pop("settings", {}))
        fields["switches"] = tuple(fields.get("switches", ()))
        machines.append(Machine(name=who, number=number, settings=settings, **fields))
    if not machines:
        raise BadStory(f"{name}.toml: no machines")
    return Story(name, script, tuple(machines), document.get("units", ""))


def load(name: str) -> Story:
    """Reads the two files of a scenario."""
    with (STORIES / f"{name}.toml").open("rb") as file:
        document = tomllib.load(file)
    return parse(name, document, (STORIES / f"{name}.py").read_text())


def prelude() -> str:
    """The text before every script."""
    return (STORIES / "prelude.py").read_text()


def names() -> list[str]:
    """All scenarios there are."""
    return sorted(path.stem for path in STORIES.glob("*.toml"))


def toml(settings: Settings, prefix: str = "") -> str:
    """Settings as the daemon reads them."""
    scalars = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    lines = [f"{key} = {scalar(value)}" for key, value in scalars.items()]
    if prefix and lines:
        lines.insert(0, f"[{prefix}]")
    text = "".join(line + "\n" for line in lines)
    for key, value in settings.items():
        if isinstance(value, dict):
            text += toml(value, f"{prefix}.{key}" if prefix else key)
    return text


def scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(scalar(one) for one in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
