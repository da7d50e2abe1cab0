"""Arrow tables to batches: columns become arrays once, then any rows are gathered from them.

    pa.Table of one row group --decode--> Rows --batch(picks)--> SequenceBatch | RankingBatch

No loop runs over rows: `pipeline.jagged` says how rows are held and picked.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch

from pipeline.batches import RankingBatch, SequenceBatch
from pipeline.errors import SchemaError
from pipeline.jagged import (
    Array,
    Jagged,
    Pick,
    Rows,
    gather_lists,
    gather_row_ids,
    gather_scalars,
)
from pipeline.schema import FeatureSettings, context_features, item_features

__all__ = ["Decoder", "RankingDecoder", "SequenceDecoder"]

ROWS = pa.list_(pa.int64())
B_co = TypeVar("B_co", SequenceBatch, RankingBatch, covariant=True)


class Decoder(Protocol[B_co]):
    """What turns tables of one kind into batches of one kind."""

    columns: dict[str, pa.DataType]
    """The columns it reads, and their types"""

    def check(self, schema: pa.Schema, where: str) -> None:
        """Raise SchemaError where a file's schema lacks what `decode` needs."""
        ...

    def decode(self, table: pa.Table, *, first_row: int = 0, where: str = "table") -> Rows:
        """Arrays of a table's columns; `where` names its file in errors.

        Raises:
            SchemaError: a column is missing, of another type, has nulls (labels may), or lists of
                one row differ in length.
        """
        ...

    def batch(self, picks: Sequence[Pick], *, filler: bool = False) -> B_co:
        """One batch of all picks, in order; a filler has weights 0."""
        ...


class SequenceDecoder(Decoder[SequenceBatch]):
    """Reads sequences: the item features' lists; of increments also how many events are new."""

    def __init__(
        self, features: Sequence[FeatureSettings], *, are_increments: bool = False
    ) -> None:
        self._features = item_features(features)
        self._scalars = ["num_new"] if are_increments else []
        self.columns = {
            **dict.fromkeys(self._features, ROWS),
            **dict.fromkeys(self._scalars, pa.int64()),
        }

    def check(self, schema: pa.Schema, where: str) -> None:
        """All item features must be there."""
        _check_columns(schema, self.columns, where)

    def decode(self, table: pa.Table, *, first_row: int = 0, where: str = "table") -> Rows:
        """One group of lists: the tokens."""
        self.check(table.schema, where)
        lists = (_jagged(table, self._features, where),)
        scalars = {name: _plain(table.column(name), name, where) for name in self._scalars}
        return Rows(lists=lists, scalars=scalars, first_row=first_row)

    def batch(self, picks: Sequence[Pick], *, filler: bool = False) -> SequenceBatch:
        """All tokens of the picked sequences."""
        tokens = gather_lists(picks, group=0)
        row_ids = gather_row_ids(picks)
        weights = np.full(len(row_ids), 0.0 if filler else 1.0, dtype=np.float32)
        return SequenceBatch(
            tokens={name: torch.from_numpy(tokens.values[name]) for name in self._features},
            offsets=torch.from_numpy(tokens.offsets),
            row_ids=torch.from_numpy(row_ids),
            weights=torch.from_numpy(weights),
            **{name: torch.from_numpy(gather_scalars(picks, name)) for name in self._scalars},
        )


class RankingDecoder(Decoder[RankingBatch]):
    """Reads requests: histories, candidates with one task's labels, and the request's context."""

    def __init__(
        self, features: Sequence[FeatureSettings], task: str, max_history: int | None = None
    ) -> None:
        names = item_features(features)
        self._history = {name: f"history_{name}" for name in names}
        self._candidates = {name: f"candidate_{name}" for name in names}
        self._context = context_features(features)
        self._label = f"label_{task}"
        self._max_history = max_history
        self.columns = {
            **dict.fromkeys(self._history.values(), ROWS),
            **dict.fromkeys(self._candidates.values(), ROWS),
            self._label: pa.list_(pa.int8()),
            **dict.fromkeys(self._context, pa.int64()),
        }

    def check(self, schema: pa.Schema, where: str) -> None:
        """All features must be there, and the task's labels: else the error lists the tasks."""
        if self._label not in schema.names:
            tasks = sorted(n.removeprefix("label_") for n in schema.names if n.startswith("label_"))
            raise SchemaError(
                f"{where}: no column {self._label}; tasks with labels: {', '.join(tasks) or 'none'}"
            )
        _check_columns(schema, self.columns, where)

    def decode(self, table: pa.Table, *, first_row: int = 0, where: str = "table") -> Rows:
        """Two groups of lists, histories and candidates with labels, and the context."""
        self.check(table.schema, where)
        history = _jagged(table, list(self._history.values()), where)
        candidates = _jagged(table, [*self._candidates.values(), self._label], where)
        scalars = {name: _plain(table.column(name), name, where) for name in self._context}
        return Rows(lists=(history, candidates), scalars=scalars, first_row=first_row)

    def batch(self, picks: Sequence[Pick], *, filler: bool = False) -> RankingBatch:
        """The picked requests, each history once, cut to its last `max_history` tokens."""
        history = gather_lists(picks, group=0, keep_last=self._max_history)
        candidates = gather_lists(picks, group=1)
        labels = candidates.values[self._label]
        known = ~np.isnan(labels)
        weights = np.zeros_like(labels) if filler else known.astype(np.float32)
        return RankingBatch(
            history=_tensors(history.values, self._history),
            history_offsets=torch.from_numpy(history.offsets),
            candidates=_tensors(candidates.values, self._candidates),
            candidate_offsets=torch.from_numpy(candidates.offsets),
            context={n: torch.from_numpy(gather_scalars(picks, n)) for n in self._context},
            labels=torch.from_numpy(np.where(weights > 0, labels, np.float32(0))),
            weights=torch.from_numpy(weights),
            row_ids=torch.from_numpy(gather_row_ids(picks)),
        )


def _check_columns(schema: pa.Schema, columns: Mapping[str, pa.DataType], where: str) -> None:
    for name, expected in columns.items():
        if name not in schema.names:
            raise SchemaError(f"{where}: no column {name}; there are {', '.join(schema.names)}")
        found = schema.field(name).type
        if not _same_type(found, expected):
            raise SchemaError(f"{where}: column {name} is {found}, but must be {expected}")


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    """Equal types, where engines may call a list's elements what they like or use 64-bit lists."""
    if pa.types.is_list(expected):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and found.value_type == expected.value_type
    return found == expected


def _jagged(table: pa.Table, names: Sequence[str], where: str) -> Jagged:
    columns = {name: _one_chunk(table.column(name), name, where) for name in names}
    offsets = {name: _offsets(column) for name, column in columns.items()}
    first, *others = names
    for name in others:
        if not np.array_equal(offsets[name], offsets[first]):
            raise SchemaError(f"{where}: lists of {name} and {first} differ in length")
    values = {name: _plain(column.flatten(), name, where) for name, column in columns.items()}
    return Jagged(offsets[first], values)


def _one_chunk(column: pa.ChunkedArray, name: str, where: str) -> pa.Array:
    if column.null_count:
        raise SchemaError(f"{where}: column {name} has {column.null_count} nulls")
    return column.combine_chunks()


def _offsets(column: pa.Array) -> Array:
    """(R+1,) int64 from 0, as `combine_chunks` makes them even of a slice."""
    return column.offsets.to_numpy().astype(np.int64)


def _plain(column: pa.Array | pa.ChunkedArray, name: str, where: str) -> Array:
    """Numbers without nulls as they are; labels as float32 with NaN for null."""
    if pa.types.is_int8(column.type):
        return column.cast(pa.float32()).to_numpy(zero_copy_only=False)
    if column.null_count:
        raise SchemaError(f"{where}: column {name} has {column.null_count} nulls among its values")
    return column.to_numpy()


def _tensors(values: dict[str, Array], columns: Mapping[str, str]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values[column]) for name, column in columns.items()}
