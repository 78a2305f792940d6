"""The rows of the table: measured values, their limits, and whether they are met."""

from __future__ import annotations

import dataclasses

HEAD = "| attacker | beside | measured | at most | MiB | descriptors | what it did |\n|---|---|---|---|---|---|---|"


@dataclasses.dataclass(frozen=True)
class Bound:
    """A measured number and the most that it may be."""

    what: str
    measured: float
    most: float
    unit: str = "s"

    def holds(self) -> bool:
        return self.measured <= self.most


@dataclasses.dataclass
class Row:
    attacker: str
    beside: str
    bounds: list[Bound]
    memory: float = 0.0
    descriptors: int = 0
    did: str = ""

    def failures(self) -> list[str]:
        return [
            f"{self.attacker} beside {self.beside}: {bound.what} {bound.measured:.2f} {bound.unit}, at most {bound.most:.2f} {bound.unit}"
            for bound in self.bounds
            if not bound.holds()
        ]

    def __str__(self) -> str:
        measured = ", ".join(f"{bound.what} {bound.measured:.2f} {bound.unit}" for bound in self.bounds)
        most = ", ".join(f"{bound.most:.2f} {bound.unit}" for bound in self.bounds)
        return f"| {self.attacker.replace('_', ' ')} | {self.beside} | {measured} | {most} | {self.memory:.1f} | {self.descriptors} | {self.did} |"
