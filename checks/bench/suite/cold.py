"""Whether a peer that asks for content on disk slows one whose content is in memory.

One seed serves two torrents. The leecher of the first is measured, alone and beside one of the second, whose content is in the page cache like the
first's, or was dropped from it.
"""

import contextlib
import sys

from .lab import OURS, Lab
from .pages import drop
from .processes import Row, Watched
from .report import Found, form, median, number, table, where
from .transfer import times

BESIDE = {
    "no leecher": "alone",
    "warm": "beside a leecher of other warm content",
    "cold": "beside a leecher of content on disk",
}


def turn(lab: Lab, beside: str) -> Row:
    warm = lab.noise(lab.size.cold_bytes)
    # Longer, so that it lasts.
    other = lab.noise(2 * lab.size.cold_bytes, "other")
    folders = [lab.fresh("warm"), lab.fresh("other")]
    lab.pages.settle(warm.file, *([other.file] if beside == "warm" else []))
    if beside == "cold":
        drop(other.file)
    with contextlib.ExitStack() as running:
        seeder = running.enter_context(Watched(lab.seed(OURS, warm, other)))
        seeder.hear("listening")
        peer = seeder.hear("listening")["listening"]
        second = None
        if beside != "no leecher":
            second = running.enter_context(Watched(lab.fetch(OURS, other, folders[1], peer)))
        first = running.enter_context(Watched(lab.fetch(OURS, warm, folders[0], peer)))
        fetched = first.hear("user")
        still = second is None or second.process.poll() is None
    begin, end = times(fetched)
    return {
        "beside": beside,
        "mb_per_s": lab.size.cold_bytes / 1e6 / (end - begin),
        "longest_pause_ms": number(fetched["longest_pause"]) * 1000,
        "lasted": still,
    }


def measure(lab: Lab) -> Found:
    rows: list[Row] = []
    for _ in range(lab.size.repeat):
        for beside in BESIDE:
            rows.append(turn(lab, beside))
    lines = []
    for beside, name in BESIDE.items():
        mine = where(rows, beside=beside)
        lines.append([name, form(".0f")(median(mine, "mb_per_s")), form(".0f")(median(mine, "longest_pause_ms"))])
        print(f"  {name}: {lines[-1][1]} MB/s", file=sys.stderr)
    text = f"{lab.size.cold_bytes >> 20} MiB of warm content, medians of {lab.size.repeat}.\n\n"
    return Found("Cold reads", text + table(["the warm leecher", "MB/s", "longest pause between two pieces, ms"], lines), rows)
