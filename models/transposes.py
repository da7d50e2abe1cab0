"""Vectors of tokens to columns of registers and back, for `models.columns`.

A token's numbers lie side by side in memory, and in a register those of 32 tokens. One number at a
time, taking them from one to the other costs more than attention itself; here 16 runs of 8 numbers
are turned at once, by instructions that put two registers together.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from models.bfloat16 import narrowed, widened
from models.registers import COLUMNS, intrinsic

__all__ = ["RUN", "gather", "scatter"]

RUN = 8
"""Numbers that lie side by side in memory."""

# Half a register, which is what one instruction can shuffle.
_HALF = 16
_LINE = ir.VectorType(ir.FloatType(), _HALF)
_RUN = ir.VectorType(ir.FloatType(), RUN)
_RUN_HALVES = ir.VectorType(ir.IntType(16), RUN)


@intrinsic
def gather(typing: Any, addresses: Any, like: Any, e: Any, array: Any, n: Any) -> Any:
    """Fill array[n, e : e + RUN] with numbers e to e + RUN of each column's, (COLUMNS,) addresses.

    They are as those of `like`, float32 or the bits of bfloat16 as int16; array (N, E, COLUMNS)
    float32, contiguous.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for first in range(0, COLUMNS, _HALF):
            rows = [
                _load_run(context, builder, signature.args, values, first + column)
                for column in range(_HALF)
            ]
            for row, across in enumerate(_across(builder, rows)):
                place = _half(context, builder, signature.args, values, row, first)
                builder.store(across, place, align=4)
        return context.get_dummy_value()

    return types.void(addresses, like, e, array, n), generate


@intrinsic
def scatter(typing: Any, addresses: Any, like: Any, e: Any, array: Any, n: Any) -> Any:
    """The inverse of `gather`; bfloat16 is the nearest, and of two the even one."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for first in range(0, COLUMNS, _HALF):
            across = [
                builder.load(_half(context, builder, signature.args, values, row, first), align=4)
                for row in range(RUN)
            ]
            for column, run in enumerate(_along(builder, across)):
                _store_run(context, builder, signature.args, values, first + column, run)
        return context.get_dummy_value()

    return types.void(addresses, like, e, array, n), generate


def _load_run(context: Any, builder: Any, kinds: Any, values: Any, column: int) -> Any:
    place = _run(context, builder, kinds, values, column)
    if kinds[1].dtype == types.float32:
        return builder.load(place, align=4)
    return widened(builder, builder.load(place, align=2))


def _store_run(context: Any, builder: Any, kinds: Any, values: Any, column: int, run: Any) -> None:
    place = _run(context, builder, kinds, values, column)
    if kinds[1].dtype == types.float32:
        builder.store(run, place, align=4)
    else:
        builder.store(narrowed(builder, run), place, align=2)


def _run(context: Any, builder: Any, kinds: Any, values: Any, column: int) -> Any:
    """Pointer to the numbers of a column from e on."""
    addresses = context.make_array(kinds[0])(context, builder, values[0])
    at = context.get_constant(types.intp, column)
    place = cgutils.get_item_pointer(context, builder, kinds[0], addresses, [at], wraparound=False)
    is_float = kinds[1].dtype == types.float32
    e = context.cast(builder, values[2], kinds[2], types.intp)
    offset = builder.mul(e, context.get_constant(types.intp, 4 if is_float else 2))
    kind = _RUN if is_float else _RUN_HALVES
    return builder.inttoptr(builder.add(builder.load(place), offset), kind.as_pointer())


def _half(context: Any, builder: Any, kinds: Any, values: Any, row: int, first: int) -> Any:
    """Pointer to array[n, e + row, first]."""
    array = context.make_array(kinds[3])(context, builder, values[3])
    e = context.cast(builder, values[2], kinds[2], types.intp)
    n = context.cast(builder, values[4], kinds[4], types.intp)
    indices = [
        n,
        builder.add(e, context.get_constant(types.intp, row)),
        context.get_constant(types.intp, first),
    ]
    place = cgutils.get_item_pointer(context, builder, kinds[3], array, indices, wraparound=False)
    return builder.bitcast(place, _LINE.as_pointer())


def _across(builder: Any, rows: list[Any]) -> list[Any]:
    """16 rows of 8 numbers -> 8 rows of 16."""
    # What has `size` rows' numbers side by side for each of some columns is put together by two.
    groups = [[_shuffle(builder, a, b, _pairs(1, 8))] for a, b in _by_two(rows)]
    for size in (2, 4, 8):
        groups = [
            [
                _shuffle(builder, x, y, _halves(size, part))
                for x, y in zip(a, b, strict=True)
                for part in range(2)
            ]
            for a, b in _by_two(groups)
        ]
    return groups[0]


def _along(builder: Any, across: list[Any]) -> list[Any]:
    """The inverse of `_across`."""
    groups = [across]
    for size in (8, 4, 2):
        taken = []
        for group in groups:
            pairs = list(_by_two(group))
            for side in range(2):
                taken.append([_shuffle(builder, a, b, _side(size, side, 16)) for a, b in pairs])
        groups = taken
    return [
        _shuffle(builder, group[0], group[0], _side(1, side, 8))
        for group in groups
        for side in range(2)
    ]


def _shuffle(builder: Any, left: Any, right: Any, places: list[int]) -> Any:
    kind = ir.VectorType(ir.IntType(32), len(places))
    return builder.shuffle_vector(left, right, ir.Constant(kind, places))


def _by_two(items: list[Any]) -> Any:
    return zip(items[::2], items[1::2], strict=True)


def _pairs(size: int, number: int) -> list[int]:
    """Runs of `size` from two vectors of `number` by turns."""
    return [
        side * number + first + i
        for first in range(0, number, size)
        for side in range(2)
        for i in range(size)
    ]


def _halves(size: int, part: int) -> list[int]:
    """The first or second half of `_pairs` of two vectors of 16."""
    return _pairs(size, _HALF)[part * _HALF : (part + 1) * _HALF]


def _side(size: int, side: int, number: int) -> list[int]:
    """What came from one side into the one or two vectors of `_pairs`, `number` in all."""
    runs = range(side * size, 2 * number, 2 * size)
    return [first + i for first in runs for i in range(size)][:number]
