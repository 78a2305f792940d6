#!/usr/bin/env python3
"""Checks the form of the pages: README.md, CONTRIBUTING.md, CHANGELOG.md and docs/.

    checks/pages.py          prints each fault, with its file and line

A table has at most 7 columns. A paragraph or list item has at most 6 lines of at most 160 characters. README.md links every page of docs/. Links between
pages lead to a file, and to a heading where they name one. Some words are not used: they hide who does what.
"""

from __future__ import annotations

import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS = 7
LINES, LINE = 6, 160
WORDS = re.compile(r"\b(told|whoever|nobody|somebody|anew)\b", re.IGNORECASE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
ITEM = re.compile(r"^\s*([-*]|\d+\.)\s")


def pages() -> list[pathlib.Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def without_code(text: str) -> list[str]:
    """The lines of a page; those of fenced blocks are empty."""
    lines, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip().startswith(fence):
            fence = ""
        elif not fence:
            lines.append(line)
            continue
        lines.append("")
    return lines


def columns(line: str) -> int:
    """Cells of a row of a table. A bar in code counts where it is not escaped, as it does for renderers."""
    return len(re.split(r"(?<!\\)\|", line.strip().strip("|")))


def paragraphs(lines: list[str]) -> list[tuple[int, list[str]]]:
    """Paragraphs and list items with the number of their first line. Tables, headings, comments and quoted code are none."""
    found: list[tuple[int, list[str]]] = []
    open_ = False
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(("|", "#", "<!--")):
            open_ = False
        elif open_ and not ITEM.match(line):
            found[-1][1].append(line)
        else:
            found.append((number, [line]))
            open_ = True
    return found


def anchors(page: pathlib.Path) -> set[str]:
    """What links to headings of a page end with."""
    titles = [line.lstrip("#").strip() for line in without_code(page.read_text()) if line.startswith("#")]
    plain = [re.sub(r"[^\w\s-]", "", title.replace("`", "").lower()) for title in titles]
    return {re.sub(r"\s", "-", title) for title in plain}


def faults_of(page: pathlib.Path, text: str) -> list[str]:
    name = page.relative_to(ROOT)
    lines = without_code(text)
    found = []
    for number, line in enumerate(lines, 1):
        if line.startswith("|") and columns(line) > COLUMNS:
            found.append(f"{name}:{number}: a table of {columns(line)} columns, and not at most {COLUMNS}")
        for word in WORDS.findall(line):
            found.append(f"{name}:{number}: the word {word!r}")
        for target in LINK.findall(line):
            file, _, heading = target.partition("#")
            if "://" in target:
                continue
            there = (page.parent / file).resolve() if file else page
            if not there.exists():
                found.append(f"{name}:{number}: a link to {file}, which does not exist")
            elif heading and heading not in anchors(there):
                found.append(f"{name}:{number}: a link to {target}, which has no such heading")
    for number, paragraph in paragraphs(lines):
        length = sum(math.ceil(len(line) / LINE) for line in paragraph)
        if length > LINES:
            found.append(f"{name}:{number}: a paragraph of {length} lines, and not at most {LINES}")
    return found


def faults() -> list[str]:
    found = [fault for page in pages() for fault in faults_of(page, page.read_text())]
    readme = ROOT / "README.md"
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(readme.read_text()) if "://" not in target}
    for page in pages()[1:]:
        # A folder with a README.md of its own is reached through that.
        if not {page, page.parent / "README.md"} & linked or page.parent == ROOT / "docs" and page not in linked:
            found.append(f"README.md does not link {page.relative_to(ROOT)}")
    return found


def main() -> int:
    found = faults()
    for fault in found:
        print(fault, file=sys.stderr)
    if not found:
        print(f"{len(pages())} pages: tables, paragraphs, links and words as they should be")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
