"""Hashes against Python's own arithmetic, which does not overflow."""

import random

import ibis
import pyarrow as pa
import pytest

from pipeline.engine import open_engine
from pipeline.hashing import hash_key, hash_number, hash_of, mixed, mixed_long, scrambled
from tests.pipeline import reference_events as reference

NUMBERS = [0, 1, 2**31 - 1, 2**31, 2**52, 2**62 - 1] + [
    random.Random(3).randrange(2**62) for _ in range(200)
]
TEXTS = ["", "a", "b", "ab", "item\tid", "ä 漢"]


@pytest.fixture(scope="module")
def hashed(tmp_path_factory):
    """Rows of numbers and of texts, with every hash of them."""
    with open_engine(tmp_path_factory.mktemp("root")) as engine:
        numbers = engine.in_memory(pa.table({"number": NUMBERS}))
        numbers = numbers.mutate(
            mixed=mixed(numbers.number % 2**31),
            mixed_long=mixed_long(numbers.number),
            scrambled=scrambled(numbers.number),
        )
        texts = engine.in_memory(pa.table({"text": TEXTS}))
        texts = texts.mutate(key=hash_key("7", texts.text), swapped=hash_key(texts.text, "7"))
        texts = texts.mutate(hash=hash_number(texts.key))
        yield engine.rows_of(numbers), engine.rows_of(texts)


def test_numbers_are_mixed_as_in_python(hashed):
    for row in hashed[0]:
        assert row["mixed"] == reference.mixed(row["number"] % 2**31)
        assert row["mixed_long"] == reference.mixed_long(row["number"])
        assert row["scrambled"] == reference.scrambled(row["number"])
        assert 0 <= row["mixed"] < 2**31
        assert 0 <= row["mixed_long"] < 2**62


def test_texts_are_hashed_as_in_python(hashed):
    rows = {row["text"]: row for row in hashed[1]}
    assert len({row["key"] for row in rows.values()} | {r["swapped"] for r in rows.values()}) == 12
    for text in TEXTS:
        assert rows[text]["hash"] == reference.hash_number("7", text) < 2**52


def test_parts_are_told_apart(tmp_path):
    with open_engine(tmp_path) as engine:
        key = engine.rows_of(
            engine.in_memory(pa.table({"x": [1]})).select(
                one=hash_key("a", ibis.literal("bc")), other=hash_key("ab", ibis.literal("c"))
            )
        )[0]
    assert key["one"] != key["other"]


def test_mixed_numbers_are_even():
    """Neighbours land anywhere: each of 16 equal parts gets its share of 16,000."""
    for mix, size in ((reference.mixed, 2**31), (reference.mixed_long, 2**62)):
        counts = [0] * 16
        for number in range(16_000):
            counts[mix(number) * 16 // size] += 1
        # Six standard deviations of a count of 1,000.
        assert all(abs(count - 1000) < 190 for count in counts)


def test_no_two_numbers_are_scrambled_alike():
    numbers = [*range(5000), *range(2**31 - 5000, 2**31)]
    assert len({reference.scrambled(number) for number in numbers}) == len(numbers)


def test_hashes_of_numbers_and_texts(tmp_path):
    numbers = [0, 1, -1, 7, 2**31, 2**31 + 7, -(2**40) - 3, 2**63 - 1, -(2**63)]
    texts = [str(number) for number in numbers]
    with open_engine(tmp_path) as engine:
        table = engine.in_memory(pa.table({"number": numbers, "text": texts}))
        table = table.mutate(of_number=hash_of(table.number), of_text=hash_of(table.text))
        rows = engine.rows_of(table)
    for row in rows:
        assert row["of_number"] == reference.hash_of(row["number"])
        assert row["of_text"] == reference.hash_of(row["text"])
