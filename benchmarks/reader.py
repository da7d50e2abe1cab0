"""How fast one process reads requests: `python -m benchmarks.reader`.

Writes synthetic requests (50 history tokens and 20 candidates each, three item features) to a
temporary folder and reads them into ready batches, with nothing else to do: prefetch on, files in
the page cache after the first pass. Prints one line for each way of reading; `--json FILE` writes
the same. The floor is a copy of the batches' tensors.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.floor import copy_rate
from jobs.facts import machine
from pipeline.batches import RankingBatch
from pipeline.partitions import Contents, day_folder, publish
from pipeline.reader import Reader, ReaderSettings, Requests
from pipeline.schema import FeatureSettings, requests_schema

HISTORY = 50
CANDIDATES = 20
FEATURES = [
    *(FeatureSettings(name=name) for name in ("item_id", "product_type", "department")),
    FeatureSettings(name="store_id", role="context"),
]
NUM_VALUES = {"item_id": 1_000_000, "product_type": 2_000, "department": 40}
SCHEMA = requests_schema(FEATURES, ["ctr", "cvr"])
DAY = date(2024, 3, 1)
ROWS_A_WRITE = 8192


def main() -> None:
    """Write, read, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--row-group-rows", type=int, default=1024)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    results = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        contents = Contents(kind="requests", day=DAY)
        target = day_folder(root, "requests", DAY)
        batches = _requests(arguments.requests)
        publish(target, contents, SCHEMA, batches, arguments.row_group_rows)
        for shuffle, max_history in [(False, None), (True, None), (True, 20)]:
            found = _measure(root, arguments.batch_size, shuffle=shuffle, max_history=max_history)
            print(_line(found))
            results.append(found)
    if arguments.json:
        facts = {"machine": machine(), "results": results}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


def _measure(
    root: Path, batch_size: int, *, shuffle: bool, max_history: int | None
) -> dict[str, Any]:
    """Figures from the second of two passes."""
    settings = ReaderSettings(batch_size=batch_size, max_history=max_history)
    examples = Requests(root=root, days=[DAY], features=FEATURES, task="ctr")
    reader = Reader(examples, settings, shuffle=shuffle)
    seconds, cpu_seconds, num_tokens, num_samples, num_bytes = 0.0, 0.0, 0, 0, 0
    for epoch in range(2):
        start, cpu_start = time.perf_counter(), time.process_time()
        num_tokens = num_samples = num_bytes = 0
        for batch in reader.batches(epoch):
            num_tokens += int(batch.history_offsets[-1])
            num_samples += len(batch.labels)
            num_bytes += _num_bytes(batch)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "shuffle": shuffle,
        "max_history": max_history,
        "history_tokens_per_s": num_tokens / seconds,
        "candidates_per_s": num_samples / seconds,
        "batches_per_s": reader.steps_per_epoch / seconds,
        "cpu_share": cpu_seconds / seconds,
        "seconds": seconds,
        "floor_seconds": 2 * num_bytes / copy_rate(),
    }


def _line(found: dict[str, Any]) -> str:
    return (
        f"shuffle={found['shuffle']} max_history={found['max_history']}: "
        f"{found['history_tokens_per_s']:,.0f} history tokens/s, "
        f"{found['candidates_per_s']:,.0f} candidates/s, {found['batches_per_s']:,.0f} batches/s, "
        f"CPU {found['cpu_share']:.0%}, floor {found['floor_seconds'] / found['seconds']:.0%}"
    )


def _num_bytes(batch: RankingBatch) -> int:
    """Of a batch's tensors."""
    tensors = [
        *batch.history.values(),
        *batch.candidates.values(),
        *batch.context.values(),
        batch.history_offsets,
        batch.candidate_offsets,
        batch.labels,
        batch.weights,
        batch.row_ids,
    ]
    return sum(tensor.nbytes for tensor in tensors)


def _requests(num_rows: int) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng(0)
    for first in range(0, num_rows, ROWS_A_WRITE):
        yield _record_batch(rng, min(ROWS_A_WRITE, num_rows - first))


def _record_batch(rng: np.random.Generator, num_rows: int) -> pa.RecordBatch:
    """Items drawn by a power law, like real ones, so that pages compress as real ones do."""
    columns = {
        "request_id": pa.array([""] * num_rows),
        "user_id": pa.array([""] * num_rows),
        "request_time": pa.array(np.zeros(num_rows, dtype="datetime64[us]")),
        "history_time": _lists(np.zeros(num_rows * HISTORY, dtype="datetime64[us]"), HISTORY),
        "store_id": pa.array(rng.integers(1, 100, num_rows)),
    }
    for name, num_values in NUM_VALUES.items():
        for side, length in (("history", HISTORY), ("candidate", CANDIDATES)):
            values = np.minimum(rng.zipf(1.2, num_rows * length), num_values - 1)
            columns[f"{side}_{name}"] = _lists(values, length)
    for task in ("ctr", "cvr"):
        labels = rng.integers(0, 2, num_rows * CANDIDATES, dtype=np.int8)
        columns[f"label_{task}"] = _lists(labels, CANDIDATES)
    arrays = [columns[field.name].cast(field.type) for field in SCHEMA]
    return pa.record_batch(arrays, schema=SCHEMA)


def _lists(values: np.ndarray, length: int) -> pa.ListArray:
    offsets = np.arange(0, len(values) + 1, length, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values))


if __name__ == "__main__":
    main()
