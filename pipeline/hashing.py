"""Seeded draws without a random state: numbers from hashes, equal on every engine and in any order.

A draw is a function of what it is for (seed, request, number of the draw), so building a day alone
or with others, on one machine or on many, draws the same.
"""

import ibis
from ibis.expr.types import IntegerValue, StringValue

__all__ = ["hash_key", "hash_number"]

HEX_DIGITS = "0123456789abcdef"


def hash_key(*parts: StringValue | str) -> StringValue:
    """md5 of the texts, in hex."""
    text = ibis.literal("")
    for part in parts:
        text = text.concat("\t", part)
    return text.hexdigest("md5")


def hash_number(key: StringValue) -> IntegerValue:
    """The first 52 bits of a hex digest. Modulo n it is uniform to within n / 2^52."""
    digits = ibis.literal(HEX_DIGITS)
    number = ibis.literal(0, "int64")
    for place in range(13):
        number = number * 16 + digits.find(key.substr(place, 1))
    return number
