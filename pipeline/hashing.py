"""Seeded draws without a random state: numbers from hashes, equal on every engine and in any order.

A draw is a function of what it is for (seed, request, number of the draw), so building a day alone
or with others, on one machine or on many, draws the same.
"""

import ibis
from ibis.expr.types import Column, IntegerValue, StringValue

__all__ = ["hash_key", "hash_number", "hash_of", "mixed", "mixed_long", "scrambled"]

HEX_DIGITS = "0123456789abcdef"
# Products of two numbers below 2^31 fit into int64, which no engine lets overflow in silence.
LOW_31 = 2**31 - 1


def hash_key(*parts: StringValue | str) -> StringValue:
    """md5 of the texts, in hex."""
    text = ibis.literal("")
    for part in parts:
        text = text.concat("\t", part)
    return text.hexdigest("md5")


def hash_number(key: StringValue) -> IntegerValue:
    """The first 52 bits of a hex digest. Modulo n it is uniform to within n / 2^52."""
    return _number(key, range(13))


def hash_of(value: Column) -> IntegerValue:
    """31 bits of a number or a text; of texts the last of those that are in `hash_number`."""
    if isinstance(value, IntegerValue):
        high = (value & (LOW_31 << 31)) >> 31
        return scrambled(scrambled(value) + high)
    # In a list of one, so that the digest is made once: inside a condition engines do not see that
    # it is the same in every place.
    keys = ibis.array([hash_key(value.cast("string"))])
    return keys.map(lambda key: _number(key, range(5, 13)))[0] & LOW_31


def _number(key: StringValue, places: range) -> IntegerValue:
    digits = ibis.literal(HEX_DIGITS)
    # A cast, not a typed literal: Spark would take that for 32 bits.
    number = ibis.literal(0).cast("int64")
    for place in places:
        number = number * 16 + digits.find(key.substr(place, 1))
    return number


def scrambled(number: IntegerValue) -> IntegerValue:
    """31 bits of a number that order it as if by chance; a quarter of the work of `mixed`."""
    number = number & LOW_31
    return ((number ^ (number >> 15)) * 0x2C1B3C6D) & LOW_31


def mixed(number: IntegerValue) -> IntegerValue:
    """31 well mixed bits of a column of numbers from 0: shifts and products, as MurmurHash ends.

    The argument is repeated eight times in the query: give a column, or little more.
    """
    number = number & LOW_31
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D)):
        number = ((number ^ (number >> shift)) * factor) & LOW_31
    return number ^ (number >> 16)


def mixed_long(number: IntegerValue) -> IntegerValue:
    """62 well mixed bits of a column of numbers from 0 to 2^62."""
    high = mixed((number >> 31) + (number & LOW_31) * 0x9E377)
    return high * 2**31 + mixed(number + (number >> 31) * 0x85EBC)
