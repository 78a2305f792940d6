"""Runs programs at the top of the repository, and evaluates the module."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Fault(Exception):
    """A check found a fault; the text describes it."""


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # Tools use modules of other tools.
    environment = {**os.environ, "MYPYPATH": ":".join(str(ROOT / "checks" / tool) for tool in ("scenarios", "interop", "interop/zoo", "bench")), **variables}
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def evaluate(lib: str, configuration: str) -> Any:
    """The module with a configuration, as evaluate.nix returns it. Raises Fault with the message of Nix."""
    done = run(
        "nix-instantiate", "--eval", "--strict", "--json", str(HERE / "evaluate.nix"),
        "--arg", "lib", f"import {lib}", "--arg", "configuration", configuration,
    )  # fmt: skip
    if done.returncode:
        raise Fault(done.stderr)
    return json.loads(done.stdout)
