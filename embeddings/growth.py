"""Carries an earlier model's rows into tables that have grown since.

    checkpoint of the earlier model -> growth, table by table -> load_grown -> today's model

Follows `embeddings.initialization` and `embeddings.transfer`, which have filled today's tables, and
the making of the optimizers, whose state is zero. Rows that the earlier vocabulary knew are carried
bit for bit, with their optimizer state. All other rows stay as they are: what `initialize` draws
for (seed, table, row), or what was transferred, and no optimizer state. These are the rows of
values seen for the first time since, and those that are still free; the earlier model held nothing
in them that was learnt. So a row's value depends on neither world size, sharding nor capacity.

Only AdamW's count of steps belongs to a whole table: its new rows take over the count.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, Metadata
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata

from embeddings.parameters import table_in
from embeddings.settings import TableSpec
from pipeline.errors import CheckpointError, VocabularyError

__all__ = ["Growth", "growth", "load_grown"]


@dataclass(frozen=True, slots=True)
class Growth:
    """A table as it was and as it is now; the rows that stood for something then keep doing so."""

    before: TableSpec
    now: TableSpec

    @property
    def num_carried_rows(self) -> int:
        """Rows, from 0 on, that are carried."""
        return self.before.num_used_rows

    def report(self) -> dict[str, Any]:
        """For a run's result."""
        return {
            "rows_before": self.before.num_used_rows,
            "rows": self.now.num_used_rows,
            "capacity_before": self.before.num_rows,
            "capacity": self.now.num_rows,
            "resized": self.before.num_rows != self.now.num_rows,
        }


def growth(before: TableSpec, now: TableSpec, lineage: Container[str]) -> Growth:
    """Check that the rows of `before` mean the same in `now`.

    Args:
        before: of the earlier model.
        now: of the model that is to go on from it.
        lineage: digests of the vocabularies that the rows of `now` hold for.

    Raises:
        VocabularyError: the vocabulary of `now` does not continue that of `before`.
        CheckpointError: the table has become smaller, or of another width.
    """
    if before.vocabulary_digest not in lineage:
        raise VocabularyError(
            f"table {now.name}: trained with vocabulary {before.vocabulary_digest}, which that in "
            f"use ({now.vocabulary_digest}) does not continue, so its rows may stand for other "
            "values; start cold (no continue_from), or bring back the vocabulary"
        )
    if before.dim != now.dim:
        raise CheckpointError(
            f"table {now.name}: {before.dim} wide then, {now.dim} now; set the architecture back, "
            "or start cold (no continue_from)"
        )
    if now.num_rows < before.num_rows:
        raise CheckpointError(
            f"table {now.name}: {before.num_rows} rows then, {now.num_rows} now, and tables do not "
            "shrink; set the feature's headroom back, or start cold (no continue_from)"
        )
    return Growth(before, now)


def load_grown(state: dict[str, Any], checkpoint: Path, growths: Mapping[str, Growth]) -> None:
    """Read a checkpoint into live tensors, of which those of tables may have more rows.

    A collective: all ranks call it. Any world size and sharding, but that column-wise shards with
    row-wise Adagrad can neither grow nor change their number. Beside its own shards a rank holds
    one stored shard at a time, as in any reading of a checkpoint.

    Args:
        state: parts of a checkpoint, by name: weights, optimizer states.
        checkpoint: the folder.
        growths: of every table in `state`, by name.

    Raises:
        torch's CheckpointException: it does not fit, or cannot be read.
    """
    dcp.load(state, checkpoint_id=str(checkpoint), planner=_GrowingPlanner(growths))


class _GrowingPlanner(DefaultLoadPlanner):
    """Shows the storage to torch as if it were as large as the tables that are to be filled.

    Torch reads where what it has and what it wants overlap; of a table it is shown the rows to be
    carried alone.
    """

    def __init__(self, growths: Mapping[str, Growth]) -> None:
        # Or tensors of which this rank has no part would be left out, and come back unseen.
        super().__init__(flatten_sharded_tensors=False)
        self._growths = growths

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,  # noqa: FBT001, FBT002 - torch calls it so
    ) -> None:
        """Called by torch before it plans what to read."""
        super().set_up_planner(state_dict, metadata, is_coordinator)
        assert metadata is not None, "a checkpoint is loaded with its metadata"
        stored = {
            key: self._shown(key, entry) for key, entry in metadata.state_dict_metadata.items()
        }
        self.metadata = replace(metadata, state_dict_metadata=stored)

    def _shown(self, key: str, entry: Any) -> Any:
        target = self.state_dict.get(key)
        if target is None or not isinstance(entry, TensorStorageMetadata):
            return entry
        if entry.properties.dtype != target.dtype:
            raise ValueError(f"{key}: {entry.properties.dtype} then, {target.dtype} now")
        grown = self._growths.get(table_in(key))
        if grown is None or not entry.size:
            return entry
        if (entry.size[0], target.size()[0]) != (grown.before.num_rows, grown.now.num_rows):
            return _of_columns(key, entry, target.size())
        chunks = [_first_rows(chunk, grown.num_carried_rows) for chunk in entry.chunks]
        return replace(entry, size=target.size(), chunks=[c for c in chunks if c is not None])


def _of_columns(key: str, entry: TensorStorageMetadata, size: torch.Size) -> TensorStorageMetadata:
    """Row-wise Adagrad's sums of squares, one a row and column shard, shard after shard."""
    if entry.size != size:
        raise ValueError(
            f"{key}: {tuple(entry.size)} then, {tuple(size)} now; column-wise shards with row-wise "
            "Adagrad can neither grow nor change their number"
        )
    return entry


def _first_rows(chunk: ChunkStorageMetadata, num_rows: int) -> ChunkStorageMetadata | None:
    """The part of a stored rectangle that lies in the first `num_rows` rows."""
    rows = min(chunk.sizes[0], num_rows - chunk.offsets[0])
    return replace(chunk, sizes=torch.Size([rows, *chunk.sizes[1:]])) if rows > 0 else None
