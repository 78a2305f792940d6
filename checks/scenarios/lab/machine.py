"""The verbs of a test machine, as NixOS tests name them: only those that every kind of machine has."""

from __future__ import annotations

import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

from .console import Console

# Limit in seconds for a command or a wait.
PATIENCE = 120


class Failed(Exception):
    """A scenario failed; the text has the fault."""


def retry(condition: Callable[[bool], bool], timeout_seconds: float = PATIENCE) -> None:
    """Calls `condition` until it returns true. Its argument is true in the last call."""
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end:
        if condition(False):
            return
        time.sleep(0.1)
    if not condition(True):
        raise Failed(f"not in {timeout_seconds:.0f} s")


class Machine(ABC):
    """A machine with systemd that runs commands."""

    def __init__(self, name: str, console: Console) -> None:
        self.name = name
        self.console = console

    @abstractmethod
    def start(self) -> None:
        """Switches it on, unless it is."""

    @abstractmethod
    def enter(self, command: str, timeout: float) -> tuple[int, str]:
        """Runs a shell command in it; exit status and standard output."""

    @abstractmethod
    def wait_for_shutdown(self) -> None:
        """Waits until it is off."""

    def log(self, message: str) -> None:
        self.console.log(message, self.name)

    def nested(self, message: str) -> AbstractContextManager[None]:
        return self.console.nested(message, self.name)

    def execute(self, command: str, timeout: float | None = PATIENCE) -> tuple[int, str]:
        self.start()
        return self.enter(command, timeout or PATIENCE)

    def succeed(self, *commands: str, timeout: float | None = None) -> str:
        said = ""
        for command in commands:
            with self.nested(f"must succeed: {command}"):
                status, output = self.execute(command, timeout)
            if status:
                raise Failed(f"{self.name}: `{command}` ended with {status}:\n{output[-3000:]}")
            said += output
        return said

    def fail(self, *commands: str, timeout: float | None = None) -> str:
        said = ""
        for command in commands:
            with self.nested(f"must fail: {command}"):
                status, output = self.execute(command, timeout)
            if not status:
                raise Failed(f"{self.name}: `{command}` succeeded:\n{output[-3000:]}")
            said += output
        return said

    def wait_until_succeeds(self, command: str, timeout: float = PATIENCE) -> str:
        return self._until(command, timeout, True)

    def wait_until_fails(self, command: str, timeout: float = PATIENCE) -> str:
        return self._until(command, timeout, False)

    def _until(self, command: str, timeout: float, wanted: bool) -> str:
        status, output = -1, ""

        def there(_: bool) -> bool:
            nonlocal status, output
            status, output = self.execute(command)
            return (status == 0) == wanted

        with self.nested(f"waiting for {'success' if wanted else 'failure'}: {command}"):
            try:
                retry(there, timeout)
            except Failed as late:
                raise Failed(f"{self.name}: `{command}`: {late}; last it ended with {status}:\n{output[-3000:]}") from None
        return output

    def systemctl(self, arguments: str) -> tuple[int, str]:
        return self.execute(f"systemctl {arguments}")

    def get_unit_info(self, unit: str) -> dict[str, str]:
        status, output = self.systemctl(f"--no-pager show {shlex.quote(unit)}")
        if status:
            raise Failed(f"{self.name}: systemctl knows nothing of {unit}")
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def get_unit_property(self, unit: str, name: str) -> str:
        return self.get_unit_info(unit)[name]

    def wait_for_unit(self, unit: str, timeout: float = PATIENCE) -> None:
        """Waits until it is active; fails at once when it has failed, or when nothing is about to start it."""

        def active(_: bool) -> bool:
            state = self.get_unit_property(unit, "ActiveState")
            if state == "inactive":
                idle = "No jobs" in self.systemctl("list-jobs --full 2>&1")[1]
                if idle and self.get_unit_property(unit, "ActiveState") == "inactive":
                    raise Failed(f"{self.name}: {unit} is inactive and nothing is about to start it")
            if state == "failed":
                raise Failed(f"{self.name}: {unit} has failed:\n{self.journal(unit)}")
            return state == "active"

        with self.nested(f"waiting for {unit}"):
            retry(active, timeout)

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            raise Failed(f"{self.name}: {unit} is {state}, not {require_state}")

    def start_job(self, unit: str) -> None:
        self.systemctl(f"start {shlex.quote(unit)}")

    def stop_job(self, unit: str) -> None:
        self.systemctl(f"stop {shlex.quote(unit)}")

    def wait_for_file(self, path: str, timeout: float = PATIENCE) -> None:
        self.wait_until_succeeds(f"test -e {shlex.quote(path)}", timeout)

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: float = PATIENCE) -> None:
        self.wait_until_succeeds(f"exec 3<>/dev/tcp/{addr}/{port}", timeout)

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: float = PATIENCE) -> None:
        self.wait_until_fails(f"exec 3<>/dev/tcp/{addr}/{port}", timeout)

    def journal(self, unit: str = "") -> str:
        chosen = f"-u {shlex.quote(unit)}" if unit else "-p warning"
        return self.execute(f"journalctl -b --no-pager -o cat -n 40 {chosen}")[1]
