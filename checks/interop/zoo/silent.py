"""Claims to have everything, the metadata too, unchokes, and answers nothing at all: neither requests nor hash requests."""

from peer import EXTENDED, HASH_REQUEST, HAVE_ALL, REQUEST, UNCHOKE, Animal, Link, message


def behave(link: Link) -> None:
    link.greet()
    extensions = b"d1:md11:ut_metadatai2ee13:metadata_sizei%dee" % link.animal.metadata
    link.socket.sendall(message(EXTENDED, b"\x00" + extensions) + message(HAVE_ALL) + message(UNCHOKE))
    link.socket.settimeout(None)
    while link.is_alive():
        kind, payload = link.heard()
        if kind == HASH_REQUEST:
            link.animal.did["hash requests left unanswered"] += 1
        elif kind == REQUEST:
            link.animal.did["requests left unanswered"] += 1
        elif kind == EXTENDED and payload[:1] == b"\x02":
            link.animal.did["metadata requests left unanswered"] += 1


animal = Animal()
animal.listen(behave)
animal.dial(behave, 3)
animal.live()
