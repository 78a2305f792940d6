"""The test programs that cargo builds."""

from __future__ import annotations

import json
import pathlib
import subprocess
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Program:
    """A test program, the directory in which cargo would run it, and the file with its `main`."""

    name: str
    path: str
    directory: pathlib.Path
    source: pathlib.Path


def build(*arguments: str) -> list[Program]:
    """Builds the workspace's test programs; `arguments` go to cargo. Raises CalledProcessError after cargo's messages on stderr."""
    command = ["cargo", "test", "--locked", "--no-run", "--workspace", "--message-format=json", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    programs = []
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] != "compiler-artifact" or not message["executable"] or not message["profile"]["test"]:
            continue
        directory = pathlib.Path(message["manifest_path"]).parent
        target = message["target"]
        test = target["name"] if target["kind"] == ["test"] else "unit"
        programs.append(Program(f"{directory.name}/{test}", message["executable"], directory, pathlib.Path(target["src_path"])))
    return sorted(programs, key=lambda program: program.name)


def choose(programs: list[Program], names: list[str]) -> list[Program]:
    """The programs of these names. Raises ValueError for a name that no program has."""
    unknown = sorted(set(names) - {program.name for program in programs})
    if unknown:
        raise ValueError(f"unknown: {' '.join(unknown)}; --list lists the test programs")
    return [program for program in programs if program.name in names]
