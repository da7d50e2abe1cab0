"""Candidates that are filled in while requests are written, against lists written by hand."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pyarrow as pa
import pytest

from pipeline.held_candidates import HeldCandidates

MONDAY, TUESDAY = date(2024, 5, 6), date(2024, 5, 7)
NAMES = ["item_id", "brand"]
FINAL = {"ctr": [MONDAY, TUESDAY], "cvr": [MONDAY]}
ROWS, LABELS = pa.list_(pa.int64()), pa.list_(pa.int8())
KNOWN = ["known_item_id", "known_brand"]


def batch_of_lists(items, first_number=0):
    """Requests of these items; brands are their last digits, odd ones clicked, 7s bought."""
    clicks = [[item % 2 for item in of_one] for of_one in items]
    buys = [[int(item % 10 == 7) if item % 2 else None for item in of_one] for of_one in items]
    return pa.RecordBatch.from_pydict(
        {
            "number": pa.array(range(first_number, first_number + len(items)), pa.int64()),
            "candidate_item_id": pa.array(items, ROWS),
            "candidate_brand": pa.array([[item % 10 for item in one] for one in items], ROWS),
            "label_ctr": pa.array(clicks, LABELS),
            "label_cvr": pa.array(buys, LABELS),
        }
    )


def asked(places, day=MONDAY, known=(99, 99)):
    """Requests whose candidates lie at these places."""
    starts, ends = zip(*places, strict=True) if places else ((), ())
    columns = {
        "day": pa.array([day] * len(places), pa.date32()),
        "request_id": pa.array([str(start) for start in starts], pa.string()),
        "candidates_start": pa.array(starts, pa.int64()),
        "candidates_end": pa.array(ends, pa.int64()),
    }
    columns |= {
        n: pa.array([k] * len(places), pa.int64()) for n, k in zip(KNOWN, known, strict=True)
    }
    return pa.RecordBatch.from_pydict(columns)


def held_of(*batches):
    """What holds them, and where each request's lie."""
    held = HeldCandidates(NAMES, FINAL)
    kept = list(held.kept(batches))
    assert all(batch.schema == held.kept_schema(batches[0].schema) for batch in kept)
    assert [name for batch in kept for name in batch.schema.names if "label" in name] == []
    rows = [row for batch in kept for row in batch.to_pylist()]
    return held, {r["number"]: (r["candidates_start"], r["candidates_end"]) for r in rows}


def filled(held, *batches):
    return [row for batch in held.filled(batches) for row in batch.to_pylist()]


def test_candidates_are_those_of_the_request_in_any_order():
    held, places = held_of(batch_of_lists([[11, 17], [], [23]]), batch_of_lists([[32, 35, 37]], 3))
    rows = filled(held, asked([places[3], places[1]]), asked([places[0]]))
    assert [row["candidate_item_id"] for row in rows] == [[32, 35, 37], [], [11, 17]]
    assert [row["candidate_brand"] for row in rows] == [[2, 5, 7], [], [1, 7]]
    assert [row["label_ctr"] for row in rows] == [[0, 1, 1], [], [1, 1]]
    assert [row["label_cvr"] for row in rows] == [[None, 0, 1], [], [0, 1]]
    assert "candidates_start" not in rows[0]
    # Histories need to know too what was known.
    assert rows[0]["known_brand"] == 99


def test_a_request_may_have_fewer_of_them_than_were_kept():
    held, places = held_of(batch_of_lists([[11, 12, 13]]))
    start, _ = places[0]
    (row,) = filled(held, asked([(start, start + 2)]))
    assert row["candidate_item_id"] == [11, 12]
    assert row["label_ctr"] == [1, 0]


def test_what_was_not_known_when_the_day_began_is_row_0():
    """By request; what is held is not changed by it."""
    held, places = held_of(batch_of_lists([[11, 12, 13]]))
    rows = filled(held, asked([places[0]], known=(12, 3)), asked([places[0]], known=(13, 99)))
    assert [row["candidate_item_id"] for row in rows] == [[11, 0, 0], [11, 12, 0]]
    assert [row["candidate_brand"] for row in rows] == [[1, 2, 0], [1, 2, 3]]


def test_labels_that_are_not_final_are_null():
    """Also where one batch has requests of both days."""
    held, places = held_of(batch_of_lists([[11, 17]]))
    both = pa.Table.from_batches([asked([places[0]], day) for day in (MONDAY, TUESDAY)])
    rows = filled(held, *both.combine_chunks().to_batches())
    assert [row["label_ctr"] for row in rows] == [[1, 1], [1, 1]]
    assert [row["label_cvr"] for row in rows] == [[0, 1], [None, None]]


def test_counts_are_those_of_what_is_filled_in():
    held, places = held_of(batch_of_lists([[11, 17, 14], [22], []]))
    of_days = [asked([*places.values()]), asked([places[0]], TUESDAY, known=(17, 99))]
    (both,) = pa.Table.from_batches(of_days).combine_chunks().to_batches()
    counts = held.counts([both, asked([places[1]])])
    assert counts == {
        MONDAY: Counter(
            label_ctr_applies=5,
            label_ctr_positives=2,
            label_cvr_applies=2,
            label_cvr_positives=1,
            new_item_candidates=0,
        ),
        TUESDAY: Counter(
            label_ctr_applies=3,
            label_ctr_positives=2,
            label_cvr_applies=0,
            label_cvr_positives=0,
            new_item_candidates=1,
        ),
    }


@pytest.mark.parametrize("batches", [[], [batch_of_lists([])], [batch_of_lists([[], []])]])
def test_nothing_kept(batches):
    held = HeldCandidates(NAMES, FINAL)
    list(held.kept(batches))
    (batch,) = held.filled([asked([(0, 0)])])
    assert batch.to_pylist()[0]["label_cvr"] == []
    assert [batch.schema.field(name).type for name in ("candidate_brand", "label_cvr")] == [
        ROWS,
        LABELS,
    ]
    assert held.counts([asked([])]) == {}


def test_parts_are_kept_side_by_side():
    """Each thread's batches come between the others', and no place is given twice."""
    held = HeldCandidates(NAMES, FINAL)

    def keep(part):
        lists = [batch_of_lists([[100 * part + n, 100 * part + n + 1]], n) for n in range(50)]
        return [row for batch in held.kept(lists) for row in batch.to_pylist()]

    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(keep, range(4)))
    for part, rows in enumerate(kept):
        places = [(row["candidates_start"], row["candidates_end"]) for row in rows]
        found = filled(held, asked(places, known=(999, 999)))
        wanted = [[100 * part + n, 100 * part + n + 1] for n in range(50)]
        assert [row["candidate_item_id"] for row in found] == wanted
