"""Runs one scenario: its machines, then its script with the names that NixOS tests provide."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import TestCase

from . import install, network
from .console import Console
from .container import Container
from .machine import Failed, retry
from .story import STORIES, Story, prelude


class Driver:
    """The machines of one scenario. Lives in namespaces of its own."""

    def __init__(self, story: Story, base: Path, program: Path, folder: Path, units: install.Units) -> None:
        self.story = story
        self.console = Console()
        network.bring_up()
        self.machines: list[Container] = []
        for one in story.machines:
            machine = Container(one.name, one.number, folder / one.name, base, program, self.console)
            self.machines.append(machine)
            install.fill(machine.root, one, story, units)

    def start_all(self) -> None:
        for machine in self.machines:
            machine.start()

    def join_all(self) -> None:
        for machine in self.machines:
            machine.wait_for_shutdown()

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        with self.console.nested(f"== {name}"):
            yield

    def names(self) -> dict[str, Any]:
        """What the script sees."""
        return {
            **{machine.name: machine for machine in self.machines},
            **({"machine": self.machines[0]} if len(self.machines) == 1 else {}),
            "machines": self.machines,
            "start_all": self.start_all,
            "join_all": self.join_all,
            "subtest": self.subtest,
            "retry": retry,
            "log": self.console,
            "t": TestCase(),
        }

    def run(self) -> bool:
        """Returns whether the scenario passes. Prints the fault otherwise."""
        path = STORIES / f"{self.story.name}.py"
        try:
            names = self.names()
            exec(compile(prelude(), "prelude.py", "exec"), names)  # noqa: S102
            exec(compile(self.story.script, str(path), "exec"), names)  # noqa: S102
        except Exception as error:
            lines = [f.lineno for f in traceback.extract_tb(sys.exc_info()[2]) if f.filename == str(path)]
            where = f"{path.name}:{lines[-1]}" if lines else path.name
            self.console.depth = 0
            self.console.log(f"FAILED {where}: {error if isinstance(error, Failed) else repr(error)}")
            for machine in self.machines:
                if machine.is_on:
                    print(f"--- {machine.name}: what the journal warns of, and the last of our units", flush=True)
                    print(machine.journal() + machine.journal("nano-snapshot-mirror*"), flush=True)
            return False
        finally:
            for machine in self.machines:
                machine.release()
        return True
