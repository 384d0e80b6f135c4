"""SPEC 2 and 3: keys, and the mixing function."""

from ..oracle import arithmetic
from . import exact, gives, limit, refused

WORDS = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    2**31 - 1,
    2**31,
    2**31 + 1,
    2**32 - 2,
    2**32 - 1,
]
"""Where 8, 16 and 32 bits end, signed or not."""
KEYS = (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 3184996902)


@exact("2.1 2.2", "state + constant, z · constant, modulo 2^64", "keys", of="state + constant, z · constant")
def splitmix():
    """A float64 rounds the products; a signed shift brings ones in; 32 bits lose the high half."""
    for seed in (
        0,
        1,
        2**31,
        2**32 - 1,
        2**32,
        2**53,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**64 - 2,
        2**64 - 1,
        0x61C8864680B583EB,
    ):
        yield gives(f"seed {seed}", {"keys": arithmetic.keys(seed)}, seed=str(seed))


@exact("3.1", "x · c1, x · c2 modulo 2^32", "mix", of="x · 0x7FEB352D, x · 0x297A2D39")
def products():
    """A float64 rounds the product, 32 signed bits shift ones in, a saturating product is another number."""
    for key in KEYS:
        mixed = [arithmetic.mix(x, key) for x in WORDS]
        yield gives(f"the key {key:#x}", {"mixed": mixed}, words=WORDS, key=key)


@limit("3.1", "a key below 2^32", "mix")
def keys():
    """A key that is cut to 32 bits, or refused from 2^31 on as if it were signed."""
    for key in (0, 2**31 - 1, 2**31, 2**32 - 1):
        yield gives(f"the key {key}", {"mixed": [arithmetic.mix(1, key)]}, words=[1], key=key)
    for key in (-1, -(2**31), 2**32, 2**32 + 1, 2**33, 2**53 - 1):
        yield refused(f"the key {key}", "3.1", words=[1], key=key)
    yield refused("the key 2^32, and no word", "3.1", words=[], key=2**32)
