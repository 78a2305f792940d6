#!/usr/bin/env python3
"""A day of a Nano node: writes to its ledger, as the node's own user.

    node.py LEDGER DAY

Samples of the online weight, in many transactions: the only records that are believed without a block. Needs the lmdb package, as it runs
inside test machines.
"""

from __future__ import annotations

import random
import sys

import lmdb  # type: ignore

TRANSACTIONS, SAMPLES = 20, 40


def main() -> None:
    ledger, day = sys.argv[1], int(sys.argv[2])
    chance = random.Random(day)
    node = lmdb.open(ledger, subdir=False, max_dbs=32, map_size=1 << 30)
    table = node.open_db(b"online_weight", create=False)
    for _ in range(TRANSACTIONS):
        with node.begin(db=table, write=True) as transaction:
            for _ in range(SAMPLES):
                transaction.put(chance.randbytes(8), chance.randbytes(16))


if __name__ == "__main__":
    main()
