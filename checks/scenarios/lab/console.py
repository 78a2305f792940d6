"""The output of a run: indented lines with the time since its start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Console:
    """Prints lines; nested work is indented."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.depth = 0

    def log(self, message: str, machine: str = "") -> None:
        who = f"{machine}: " if machine else ""
        print(f"[{time.monotonic() - self.begin:7.2f}] {'  ' * self.depth}{who}{message}", flush=True)

    info = warning = error = log

    @contextmanager
    def nested(self, message: str, machine: str = "") -> Iterator[None]:
        """Work that may be slow: prints its name, and its time if that was long."""
        begin = time.monotonic()
        self.log(message, machine)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            took = time.monotonic() - begin
            if took > 0.5:
                self.log(f"({took:.1f} s: {message.splitlines()[0][:60]})", machine)
