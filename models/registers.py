"""Vector registers as a type for compiled functions: 32 float32 side by side.

What numba's compiler makes of a plain loop over 32 numbers checks at every entry whether arrays
overlap, and keeps sums in memory. With a type that stands for the numbers sums stay in registers:
products of attention are two to five times as quick. Processors with narrower registers use
several for one.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, overload, register_model

from models.bfloat16 import narrowed, widened

__all__ = [
    "COLUMNS",
    "fill",
    "floor",
    "intrinsic",
    "load",
    "lowered",
    "raised",
    "read",
    "store",
    "total",
    "two_to",
    "write",
]

COLUMNS = 32
_FLOATS = ir.VectorType(ir.FloatType(), COLUMNS)
_HALVES = ir.VectorType(ir.IntType(16), COLUMNS)
_INTEGERS = ir.VectorType(ir.IntType(32), COLUMNS)
# Products and sums may be one operation.
_FLAGS = ("contract", "nsz")


class _Register(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Register")


_REGISTER = _Register()


@register_model(_Register)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _constant(number: int) -> ir.Constant:
    return ir.Constant(_INTEGERS, [number] * COLUMNS)


def _place(context: Any, builder: Any, kinds: Sequence[Any], values: Sequence[Any]) -> Any:
    """Pointer to array[i, j] of an array (n, m, COLUMNS)."""
    array = context.make_array(kinds[0])(context, builder, values[0])
    indices = [
        context.cast(builder, value, kind, types.intp)
        for value, kind in zip(values[1:3], kinds[1:3], strict=True)
    ]
    indices.append(context.get_constant(types.intp, 0))
    place = cgutils.get_item_pointer(context, builder, kinds[0], array, indices, wraparound=False)
    return builder.bitcast(place, _FLOATS.as_pointer())


# What it makes is called without the first argument, which numba itself gives.
intrinsic = cast(Callable[[Callable[..., Any]], Any], numba_intrinsic)


@intrinsic
def load(typing: Any, array: Any, i: Any, j: Any) -> Any:
    """The numbers of array[i, j]; array (n, m, COLUMNS) float32, contiguous."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_place(context, builder, signature.args, values), align=4)

    return _REGISTER(array, i, j), generate


@intrinsic
def store(typing: Any, array: Any, i: Any, j: Any, register: Any) -> Any:
    """Write a register to array[i, j]; array as in `load`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[3], _place(context, builder, signature.args, values), align=4)
        return context.get_dummy_value()

    return types.void(array, i, j, register), generate


def _along(context: Any, builder: Any, kinds: Sequence[Any], values: Sequence[Any]) -> Any:
    """Pointer to array[t, i:] of an array (T, N)."""
    array = context.make_array(kinds[0])(context, builder, values[0])
    indices = [
        context.cast(builder, value, kind, types.intp)
        for value, kind in zip(values[1:3], kinds[1:3], strict=True)
    ]
    place = cgutils.get_item_pointer(context, builder, kinds[0], array, indices, wraparound=False)
    kind = _FLOATS if kinds[0].dtype == types.float32 else _HALVES
    return builder.bitcast(place, kind.as_pointer())


@intrinsic
def read(typing: Any, array: Any, t: Any, i: Any) -> Any:
    """The numbers array[t, i : i + COLUMNS] of array (T, N), contiguous.

    float32, or the bits of bfloat16 as int16.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _along(context, builder, signature.args, values)
        if array.dtype == types.float32:
            return builder.load(place, align=4)
        return widened(builder, builder.load(place, align=2))

    return _REGISTER(array, t, i), generate


@intrinsic
def write(typing: Any, array: Any, t: Any, i: Any, register: Any) -> Any:
    """Fill array[t, i : i + COLUMNS]; array as in `read`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _along(context, builder, signature.args, values)
        if array.dtype == types.float32:
            builder.store(values[3], place, align=4)
        else:
            builder.store(narrowed(builder, values[3]), place, align=2)
        return context.get_dummy_value()

    return types.void(array, t, i, register), generate


@intrinsic
def fill(typing: Any, number: Any) -> Any:
    """A float32 in every column."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        nothing = ir.Constant(_FLOATS, ir.Undefined)
        first = builder.insert_element(nothing, values[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, nothing, _constant(0))

    return _REGISTER(types.float32), generate


@intrinsic
def raised(typing: Any, register: Any, least: Any) -> Any:
    """The larger of both, column by column; NaN in the first stays, in the second goes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *values), values[1], values[0])

    return _REGISTER(_REGISTER, _REGISTER), generate


@intrinsic
def lowered(typing: Any, register: Any, most: Any) -> Any:
    """The smaller of both, column by column; NaN in the first stays, in the second goes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *values), values[1], values[0])

    return _REGISTER(_REGISTER, _REGISTER), generate


@intrinsic
def total(typing: Any, register: Any) -> Any:
    """The sum of all columns: halves are added up until one number is left."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (left,) = values
        number = COLUMNS
        while number > 1:
            number //= 2
            low, high = (
                ir.Constant(ir.VectorType(ir.IntType(32), number), [*range(first, first + number)])
                for first in (0, number)
            )
            left = builder.fadd(
                builder.shuffle_vector(left, left, low),
                builder.shuffle_vector(left, left, high),
            )
        return builder.extract_element(left, ir.Constant(ir.IntType(32), 0))

    return types.float32(_REGISTER), generate


@intrinsic
def floor(typing: Any, register: Any) -> Any:
    """Rounded down."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        name = f"llvm.floor.v{COLUMNS}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)

    return _REGISTER(_REGISTER), generate


@intrinsic
def two_to(typing: Any, whole: Any) -> Any:
    """2 to whole numbers from -126 to 127; to -127, exactly 0."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        exponent = builder.add(builder.fptosi(values[0], _INTEGERS), _constant(127))
        return builder.bitcast(builder.shl(exponent, _constant(23)), _FLOATS)

    return _REGISTER(_REGISTER), generate


def _both(instruction: str) -> Any:
    @intrinsic
    def operation(typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return getattr(builder, instruction)(*values, flags=_FLAGS)

        return _REGISTER(_REGISTER, _REGISTER), generate

    return operation


def _teach(function: Callable[..., Any], instruction: str) -> None:
    """An operator of Python for registers."""
    operation = _both(instruction)

    def apply(a: Any, b: Any) -> Any:
        return operation(a, b)

    # numba compares both signatures, and knows an operator's sides as a and b.
    @overload(function)
    def choose(a: Any, b: Any) -> Callable[..., Any] | None:  # pyright: ignore[reportUnusedFunction]
        return apply if isinstance(a, _Register) and isinstance(b, _Register) else None


_teach(operator.add, "fadd")
_teach(operator.sub, "fsub")
_teach(operator.mul, "fmul")
_teach(operator.truediv, "fdiv")
