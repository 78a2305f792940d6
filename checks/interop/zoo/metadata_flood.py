"""Requests the metadata again and again, sends metadata that was not requested, and reads no answer."""

from peer import EXTENDED, HAVE_NONE, Animal, Link, message

AT_ONCE = 1000


def behave(link: Link) -> None:
    link.greet()
    link.socket.sendall(message(HAVE_NONE) + message(EXTENDED, b"\x00d1:md11:ut_metadatai2ee13:metadata_sizei4000000ee"))
    # The other side's id of metadata messages is one of these.
    ask = b"".join(message(EXTENDED, bytes([kind]) + b"d8:msg_typei0e5:piecei0ee") for kind in (1, 2, 3))
    give = message(EXTENDED, b"\x02d8:msg_typei1e5:piecei7e10:total_sizei4000000ee" + bytes(16384))
    link.flood(lambda: ask * AT_ONCE + give, f"times {3 * AT_ONCE} metadata requests")


animal = Animal()
animal.dial(behave, 4)
animal.live()
