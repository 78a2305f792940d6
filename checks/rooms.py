"""Rooms of a crate: the modules directly below its root, and which of them use which.

An arrow is a path in the code of one room that names another: `crate::room`, or `super::room` from the room's own file. What the crate root
re-exports counts as its room's. Code that is only compiled for tests has no arrows.
"""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass, field

ROOT_FILES = {"lib.rs", "main.rs"}
# What is no code: comments, strings, characters.
OTHER = re.compile(r"""//[^\n]*|/\*.*?\*/|r(\#*)".*?"\1|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])'""", re.DOTALL)
TEST_ONLY = re.compile(r"#\[cfg\(test\)\]\s*(?:#\[[^]]*\]\s*)*")
WORD = re.compile(r"\bmod\s+(\w+)\s*\{|([{}])|\b(crate|super(?:\s*::\s*super)*)\s*::\s*(?:(\w+)|(\{))")


@dataclass
class Rooms:
    """The rooms of one crate."""

    # Each room with the rooms that it uses, and for each of those the files that name it.
    uses: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    # Directories with the number of modules directly in them.
    sizes: dict[str, int] = field(default_factory=dict)

    def arrows(self) -> list[tuple[str, str]]:
        return [(room, used) for room, others in sorted(self.uses.items()) for used in sorted(others)]


def code(text: str) -> str:
    """The text without comments, contents of strings, and items that only tests have."""
    text = OTHER.sub(lambda match: '""' if match[0][0] in "\"r'" else " ", text)
    found = []
    begin = 0
    while match := TEST_ONLY.search(text, begin):
        found.append(text[begin : match.start()])
        begin = end_of_item(text, match.end())
    return "".join([*found, text[begin:]])


def end_of_item(text: str, begin: int) -> int:
    """Where the item ends that begins there."""
    depth = 0
    for position in range(begin, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
        if depth == 0 and text[position] in ";}":
            return position + 1
    return len(text)


def names_in_group(text: str, begin: int) -> list[str]:
    """First segments of the paths in a group such as `{a::b, c::{d, e}}`, whose inside begins there."""
    names, depth, fresh = [], 0, True
    for match in re.compile(r"\w+|[{},]").finditer(text, begin):
        token = match[0]
        if token == "{":
            depth += 1
        elif token == "}":
            if depth == 0:
                break
            depth -= 1
        elif token == "," and depth == 0:
            fresh = True
            continue
        elif depth == 0 and fresh:
            names.append(token)
        fresh = False
    return names


def module_of(source: pathlib.Path, root: pathlib.Path) -> list[str]:
    parts = list(source.relative_to(root).with_suffix("").parts)
    if parts[-1] == "mod" or (len(parts) == 1 and f"{parts[0]}.rs" in ROOT_FILES):
        parts.pop()
    return parts


def named(text: str, module: list[str]) -> set[str]:
    """Names directly below the crate root that the code of a module's file uses."""
    found = set()
    # Modules that are written in the file and contain the place, each with the depth of its braces.
    inline: list[tuple[str, int]] = []
    depth = 0
    position = 0
    while match := WORD.search(text, position):
        position = match.end()
        if match[1]:
            depth += 1
            inline.append((match[1], depth))
        elif match[2] == "{":
            depth += 1
        elif match[2] == "}":
            if inline and inline[-1][1] == depth:
                inline.pop()
            depth -= 1
        else:
            here = [*module, *(name for name, _ in inline)]
            up = len(here) if match[3] == "crate" else match[3].count("super")
            base = here[: len(here) - up]
            first = [match[4]] if match[4] else names_in_group(text, position)
            if match[5]:
                # The group's brace was read.
                depth += 1
            found |= set(base[:1] or first)
    return found


def reexports(text: str) -> dict[str, str]:
    """Names that the crate root makes its own, with the rooms they come from."""
    found = {}
    for room, rest in re.findall(r"\buse\s+(?:crate::|self::)?(\w+)::([^;]+);", text):
        for leaf in re.split(r"[{},]", rest):
            if name := re.search(r"(\w+)\s*$", leaf):
                found[name[1]] = room
    return found


def read(root: pathlib.Path) -> Rooms:
    """Reads the sources of a crate, whose root file is in `root`."""
    texts = {source: code(source.read_text()) for source in sorted(root.rglob("*.rs"))}
    # Files that are modules of tests.
    tests = set()
    for source in texts:
        for name in re.findall(r"#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))?\s+)?mod\s+(\w+);", source.read_text()):
            tests.add((*module_of(source, root), name))
    rooms = Rooms()
    modules = {}
    for source, text in texts.items():
        module = module_of(source, root)
        if any(tuple(module[: len(test)]) == test for test in tests):
            continue
        modules[source] = module
        if module:
            rooms.uses.setdefault(module[0], {})
    exports = {}
    for source, module in modules.items():
        if not module:
            exports.update(reexports(texts[source]))
    for source, module in modules.items():
        if not module:
            continue
        for name in named(texts[source], module):
            used = name if name in rooms.uses else exports.get(name)
            if used in rooms.uses and used != module[0]:
                rooms.uses[module[0]].setdefault(used, set()).add(str(source.relative_to(root)))
    # A module with submodules counts once, whether its file is beside or in their directory.
    directories: dict[str, set[str]] = {}
    for module in modules.values():
        for length in range(1, len(module) + 1):
            directories.setdefault("/".join(module[: length - 1]) or ".", set()).add(module[length - 1])
    rooms.sizes = {directory: len(names) for directory, names in directories.items()}
    return rooms


def faults(rooms: Rooms, order: list[str], most: int) -> list[str]:
    """What is wrong with a crate whose rooms, the lowest first, are to be these."""
    found = [f"room {room} is not in the list of rooms" for room in rooms.uses if room not in order]
    found += [f"room {room} is listed and not there" for room in order if room not in rooms.uses]
    for room, used in rooms.arrows():
        if room in order and used in order and order.index(used) > order.index(room):
            found.append(f"room {room} uses {used}, which is above it: {', '.join(sorted(rooms.uses[room][used]))}")
    found += [f"{directory} has {size} modules side by side, more than {most}" for directory, size in rooms.sizes.items() if size > most]
    return found


def order_of(rooms: Rooms) -> list[str] | None:
    """An order, lowest first, in which no arrow points up; None where there is a circle."""
    order: list[str] = []
    left = set(rooms.uses)
    while left:
        free = sorted(room for room in left if not left & set(rooms.uses[room]))
        if not free:
            return None
        order += free
        left -= set(free)
    return order
