"""Content digests of tables, the same for any world size and sharding.

An export records them, a transfer checks them, and a job with frozen tables compares them at its
end. Every stored value is mixed with its row and column into 64 bits (multiply and xor-shift, after
MurmurHash3's finalizer), twice over, and each of the two lanes is summed modulo 2^64. Sums do not
care in which order or on which rank they are made, so every rank digests its own memory and the
parts are added.

What equal digests prove: for one value at one place the mix is a bijection, so one changed value
(a single bit, the sign of a zero, a NaN's payload) always changes the digest. Any other accident
(swapped rows or columns, a rectangle written twice or to the wrong place, stale memory) goes
unnoticed with a chance of about 2^-128. It is no cryptographic digest: whoever wants two tables
with one digest can construct them.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from embeddings.shards import Shard, local_shards
from pipeline.errors import DigestError

__all__ = ["content_digests", "rectangle_digest", "total_digest"]

Lanes = tuple[int, int]
"""Two sums modulo 2^64"""

_MODULUS = 2**64
# Values mixed at a time: their two work buffers of 8 bytes a value stay in a core's cache.
_BLOCK_VALUES = {"cpu": 131_072, "cuda": 4_194_304}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _signed(value: int) -> int:
    """The int64 with the same 64 bits; torch multiplies and adds modulo 2^64."""
    return value - _MODULUS if value >= _MODULUS // 2 else value


# Odd numbers without structure: SHA-512 initial values and MurmurHash3's finalizer.
_ROW = _signed(0x6A09E667F3BCC909)
_COLUMN = _signed(0xBB67AE8584CAA73B)
_VALUE = _signed(0x3C6EF372FE94F82B)
_FIRST = _signed(0xFF51AFD7ED558CCD)
_SECOND = _signed(0xC4CEB9FE1A85EC53)


def content_digests(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, str]:
    """Table -> 32 hex digits, for the tables `names` (all by default); the same on every rank.

    A collective: all ranks must call it. Also right for an unsharded model without process group.

    Raises:
        DigestError: the copies of a replicated table differ between ranks.
    """
    found = local_shards(model)
    chosen = sorted(found) if names is None else list(names)
    local = {name: _shards_digest(found[name]) for name in chosen}
    ranks = _gather(local)
    return {
        name: _combine(name, [rank[name] for rank in ranks], replicated=_is_replicated(found[name]))
        for name in chosen
    }


def rectangle_digest(values: Tensor, first_row: int, first_column: int) -> str:
    """Digest of a rectangle, (rows, columns) of any type, whose corner is at the given place."""
    num_columns, device = values.shape[1], values.device
    rows_per_block = max(1, _BLOCK_VALUES[device.type] // num_columns)
    columns = torch.arange(first_column, first_column + num_columns, device=device) * _COLUMN
    shape = (min(rows_per_block, values.shape[0]), num_columns)
    mixed = torch.empty(shape, dtype=torch.int64, device=device)
    work = torch.empty_like(mixed)
    sums = torch.zeros(2, dtype=torch.int64, device=device)
    bits = values.detach().view(_BITS[values.element_size()])
    for start in range(0, values.shape[0], rows_per_block):
        block = bits[start : start + rows_per_block]
        size = block.shape[0]
        rows = torch.arange(first_row + start, first_row + start + size, device=device) * _ROW
        sums += _mix(block, rows, columns, mixed[:size], work[:size])
    first, second = sums.tolist()
    return _text((first % _MODULUS, second % _MODULUS))


def total_digest(digests: Iterable[str]) -> str:
    """The digest of a whole from those of rectangles that tile it."""
    first = second = 0
    for digest in digests:
        first, second = first + int(digest[:16], 16), second + int(digest[16:], 16)
    return _text((first % _MODULUS, second % _MODULUS))


def _mix(bits: Tensor, rows: Tensor, columns: Tensor, mixed: Tensor, work: Tensor) -> Tensor:
    """Both lanes' sums over one block, (2,); `mixed` and `work` are int64 buffers of its shape.

    The shifts are arithmetic, which leaves xor with the shifted value a bijection.
    """
    torch.add(rows.unsqueeze(1), columns, out=mixed)
    work.copy_(bits)
    mixed.add_(work, alpha=_VALUE)
    mixed.bitwise_xor_(torch.bitwise_right_shift(mixed, 33, out=work))
    mixed.mul_(_FIRST)
    mixed.bitwise_xor_(torch.bitwise_right_shift(mixed, 29, out=work))
    first = mixed.sum()
    mixed.mul_(_SECOND)
    mixed.bitwise_xor_(torch.bitwise_right_shift(mixed, 32, out=work))
    return torch.stack([first, mixed.sum()])


def _text(lanes: Lanes) -> str:
    return f"{lanes[0]:016x}{lanes[1]:016x}"


def _shards_digest(shards: Sequence[Shard]) -> str:
    return total_digest(
        rectangle_digest(shard.tensor, shard.rows[0], shard.columns[0]) for shard in shards
    )


def _is_replicated(shards: Sequence[Shard]) -> bool:
    return any(shard.replicated for shard in shards)


def _gather(local: dict[str, str]) -> list[dict[str, str]]:
    if not dist.is_initialized():
        return [local]
    ranks: list[dict[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(ranks, local)
    return ranks


def _combine(name: str, digests: Sequence[str], *, replicated: bool) -> str:
    if not replicated:
        return total_digest(digests)
    if len(set(digests)) > 1:
        raise DigestError(f"table {name}: its copies differ between ranks; do not use this model")
    return digests[0]
