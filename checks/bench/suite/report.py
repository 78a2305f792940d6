"""What a part of the suite found: rows for machines, a Markdown table for people."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence

from .processes import Row


@dataclasses.dataclass
class Found:
    """The result of one part."""

    title: str
    markdown: str
    rows: list[Row]


def number(value: object) -> float:
    assert isinstance(value, int | float), value
    return float(value)


def median(rows: Iterable[Row], column: str) -> float:
    return statistics.median(number(row[column]) for row in rows)


def where(rows: Iterable[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    head = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join(head + ["| " + " | ".join(line) + " |" for line in lines]) + "\n"


def tables(keys: int, titles: Sequence[str], lines: Sequence[Sequence[str]], *parts: Sequence[int]) -> str:
    """Splits a wide table into narrow ones. Each repeats the first `keys` columns; a part lists its other columns by index."""

    def chosen(cells: Sequence[str], part: Sequence[int]) -> list[str]:
        return [*cells[:keys], *(cells[keys + at] for at in part)]

    return "\n".join(table(chosen(titles, part), [chosen(line, part) for line in lines]) for part in parts)


def form(spec: str) -> Callable[[object], str]:
    return lambda value: "–" if value is None else format(value, spec)
