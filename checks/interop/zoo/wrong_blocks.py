"""Claims to have everything, unchokes, and answers every request with false bytes."""

from peer import BLOCK, HASH_REJECT, HASH_REQUEST, HAVE_ALL, PIECE, REQUEST, UNCHOKE, Animal, Link, message


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_ALL) + message(UNCHOKE))
    while link.is_alive():
        kind, payload = link.heard()
        if kind == REQUEST:
            link.say(message(PIECE, payload[:8] + b"!" * min(BLOCK, int.from_bytes(payload[8:12]))), "false blocks")
        elif kind == HASH_REQUEST:
            link.say(message(HASH_REJECT, payload), "hash rejects")


animal = Animal()
animal.listen(behave)
animal.live()
