#!/usr/bin/env python3
"""Writes the reference of the module's options as Markdown.

    checks/nix/options.py OPTIONS.json    the list that lib.optionAttrSetToDocList makes
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

PREFIX = "services.nano-snapshot-mirror."

HEAD = """\
# Options of `services.nano-snapshot-mirror`

Generated from the module by `checks/nix/run --write`; [nixos.md](nixos.md) shows them in use.
"""


def text_of(value: Any) -> str:
    return str(value["text"] if isinstance(value, dict) else value)


def markdown(text: str) -> str:
    """nixpkgs' {option}`x` and {manpage}`x` as plain Markdown."""
    return re.sub(r"\{[a-z]+\}`", "`", text).strip()


def block(label: str, value: Any) -> str:
    text = text_of(value)
    return f"{label}: `{text}`" if "\n" not in text else f"{label}:\n\n```nix\n{text}\n```"


def reference(options: list[dict[str, Any]]) -> str:
    parts = [HEAD]
    for option in sorted(options, key=lambda option: str(option["name"])):
        name = option["name"].removeprefix(PREFIX)
        if option["name"] == PREFIX.rstrip(".") or name.startswith("settings.") and "default" not in option:
            continue
        lines = [f"## `{name}`", markdown(text_of(option["description"])), f"Type: {option['type']}"]
        lines += [block(label, option[key]) for label, key in (("Default", "default"), ("Example", "example")) if key in option]
        parts.append("\n\n".join(lines) + "\n")
    return "\n".join(parts)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        print(reference(json.load(file)), end="")


if __name__ == "__main__":
    main()
