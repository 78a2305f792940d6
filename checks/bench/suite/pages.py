"""The page cache in a state that repeats.

On a virtual machine memory that is free in the guest is given back to the host (free page reporting, a balloon). The first touch of such a
page is a fault in the host, and writing 2 GiB of fresh page cache takes 0.6 s or 7 s as the host pleases. So before every turn all free memory
is filled with clean page cache of a file that is one long hole; the turn then recycles pages that the host has backed already. What is to be
warm is read twice after that, so that the kernel keeps it before the filling.
"""

import os
import pathlib

READ = 4 << 20

# Bytes that stay free, so that the kernel need not reclaim for the processes themselves.
SPARE = 800 << 20

# Bytes of the hole. Reading continues at the last position, and wraps at the end.
HOLE = 1 << 40


def free_memory() -> int:
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemFree:"):
            return int(line.split()[1]) << 10
    return 0


class Pages:
    def __init__(self, work: pathlib.Path, most: int) -> None:
        self.hole = work / "filling"
        self.most = most
        self.at = 0
        with open(self.hole, "wb") as hole:
            hole.truncate(HOLE)

    def close(self) -> None:
        self.hole.unlink(missing_ok=True)

    def settle(self, *warm: pathlib.Path) -> None:
        """Fills free memory with page cache and warms files."""
        buffer = bytearray(READ)
        with open(self.hole, "rb", buffering=0) as hole:
            for _ in range(max(0, min(free_memory() - SPARE, self.most)) // READ):
                hole.seek(self.at)
                hole.readinto(buffer)
                self.at = (self.at + READ) % HOLE
        for path in (*warm, *warm):
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def drop(path: pathlib.Path) -> None:
    """Takes a file out of the page cache."""
    with open(path, "rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
