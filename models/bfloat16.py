"""Between float32 and bfloat16, which numba does not know, as instructions for compiled functions.

For what reads and writes memory: `models.registers`, `models.transposes`.
"""

from typing import Any

from llvmlite import ir

__all__ = ["narrowed", "widened"]


def widened(builder: Any, halves: Any) -> Any:
    """Instructions that make float32 of a vector of bfloat16's bits."""
    number = halves.type.count
    kind = ir.VectorType(ir.IntType(32), number)
    bits = builder.shl(builder.zext(halves, kind), ir.Constant(kind, [16] * number))
    return builder.bitcast(bits, ir.VectorType(ir.FloatType(), number))


def narrowed(builder: Any, floats: Any) -> Any:
    """The inverse of `widened`: the nearest, and of two the even one; NaN stays NaN."""
    number = floats.type.count
    kind = ir.VectorType(ir.IntType(32), number)

    def each(value: int) -> ir.Constant:
        return ir.Constant(kind, [value] * number)

    bits = builder.bitcast(floats, kind)
    odd = builder.and_(builder.lshr(bits, each(16)), each(1))
    rounded = builder.lshr(builder.add(builder.add(bits, each(0x7FFF)), odd), each(16))
    is_nan = builder.fcmp_unordered("uno", floats, floats)
    rounded = builder.select(is_nan, each(0x7FC0), rounded)
    return builder.trunc(rounded, ir.VectorType(ir.IntType(16), number))
