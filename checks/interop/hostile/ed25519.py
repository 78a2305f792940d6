"""Ed25519 signatures (RFC 8032, 5.1), so that the checks need nothing but Python. Slow, and not for secrets: time depends on the key."""

from __future__ import annotations

import hashlib

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

# A point in extended coordinates: x = X / Z, y = Y / Z, T = X Y / Z.
Point = tuple[int, int, int, int]

NEUTRAL: Point = (0, 1, 1, 0)


def recover_x(y: int) -> int:
    """The even x of the point with this y."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return P - x if x & 1 else x


BASE_Y = 4 * pow(5, -1, P) % P
BASE_X = recover_x(BASE_Y)
BASE: Point = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def add(one: Point, other: Point) -> Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c = 2 * D * one[3] * other[3] % P
    d = 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def times(scalar: int, point: Point) -> Point:
    product = NEUTRAL
    while scalar:
        if scalar & 1:
            product = add(product, point)
        point = add(point, point)
        scalar >>= 1
    return product


def compressed(point: Point) -> bytes:
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(data).digest(), "little")


class SigningKey:
    """A key made of 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        digest = hashlib.sha512(seed).digest()
        self._scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | (1 << 254)
        self._prefix = digest[32:]
        self.public = compressed(times(self._scalar, BASE))

    def sign(self, message: bytes) -> bytes:
        nonce = number(self._prefix + message) % ORDER
        commitment = compressed(times(nonce, BASE))
        challenge = number(commitment + self.public + message) % ORDER
        return commitment + ((nonce + challenge * self._scalar) % ORDER).to_bytes(32, "little")


def _check_itself() -> None:
    """The second test of RFC 8032, 7.1."""
    key = SigningKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.public.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex().startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da")


_check_itself()
