from collections import Counter

import pyarrow.parquet as pq
import pytest

from benchmarks.quality_beauty import (
    MAX_HISTORY,
    Chosen,
    drawn_items,
    group_of,
    read_users,
    write_examples,
)
from pipeline.errors import DataError


def bring(folder, sequences, attributes='{"1": [7, 3], "2": []}'):
    folder.mkdir(exist_ok=True)
    (folder / "beauty_sequences.txt").write_text(sequences)
    (folder / "beauty_attributes.json").write_text(attributes)
    return folder


def test_users_are_read_in_order(tmp_path):
    path = tmp_path / "users.txt"
    path.write_text("a 5 1 2\nb 2 5\n")
    assert read_users(path) == [Chosen("a", (5, 1, 2)), Chosen("b", (2, 5))]


@pytest.mark.parametrize("line", ["", "c", "c 1", "c 1 x", "c 1 2.5"])
def test_bad_line_is_named(tmp_path, line):
    path = tmp_path / "users.txt"
    path.write_text(f"a 1 2\n{line}\nb 1 2\n")
    with pytest.raises(DataError, match=r"users\.txt, line 2"):
        read_users(path)


def test_no_users_and_no_file_are_errors(tmp_path):
    path = tmp_path / "users.txt"
    with pytest.raises(DataError, match="cannot be read"):
        read_users(path)
    path.write_text("")
    with pytest.raises(DataError, match="no user"):
        read_users(path)


def test_history_is_all_but_the_last_and_bounded():
    assert Chosen("a", (1, 2, 3)).history == (1, 2)
    long = tuple(range(MAX_HISTORY + 5))
    assert Chosen("a", long).history == long[4:-1]


def test_drawn_items_are_never_the_positive_and_nearly_uniform():
    users = [Chosen(str(number), (1, 2, 3, 4, 1 + number % 4)) for number in range(3000)]
    drawn = drawn_items(users)
    assert all(item != user.items[-1] for item, user in zip(drawn, users, strict=True))
    counts = Counter(drawn)
    assert set(counts) == {1, 2, 3, 4}
    assert all(600 < count < 900 for count in counts.values())
    assert drawn == drawn_items(users)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(DataError, match="nothing else"):
        drawn_items([Chosen("a", (1, 1))])


def test_groups_have_their_shares():
    counts = Counter(group_of(str(number)) for number in range(10_000))
    assert counts["test"] == pytest.approx(3000, abs=150)
    assert counts["validation"] == pytest.approx(700, abs=100)
    assert counts["training"] == pytest.approx(6300, abs=150)


def test_examples_keep_the_target_out_of_what_is_learnt(tmp_path):
    lines = [f"{number} 1 2 3 {4 + number % 3}" for number in range(40)]
    source = bring(tmp_path / "in", "\n".join(lines))
    write_examples(source, tmp_path / "out")
    sequences = pq.read_table(tmp_path / "out/sequences/day=2024-01-01").to_pylist()
    assert [row["item_id"] for row in sequences] == [[1, 2, 3]] * 40
    assert sequences[0]["category"] == ["3-7", None, None]
    seen = []
    for day, group in [(2, "training"), (3, "validation"), (4, "test"), (5, "test")]:
        rows = pq.read_table(tmp_path / f"out/requests/day=2024-01-0{day}").to_pylist()
        assert {group_of(row["user_id"]) for row in rows} == {group}
        for row in rows:
            assert row["history_item_id"] == [1, 2, 3]
            assert row["candidate_item_id"][0] == 4 + int(row["user_id"]) % 3
            assert row["label_click"] == [1, 0]
            assert max(row["history_time"]) < row["request_time"]
        seen += [row["user_id"] for row in rows] if day < 5 else []
    assert sorted(seen, key=int) == [str(number) for number in range(40)]


def test_finished_examples_are_left_alone(tmp_path):
    source = bring(tmp_path / "in", "a 1 2\nb 2 1\nc 1 2\nd 2 1\n")
    write_examples(source, tmp_path / "out")
    (source / "beauty_sequences.txt").unlink()
    write_examples(source, tmp_path / "out")


@pytest.mark.parametrize("attributes", ["[", "[1]", '{"x": [1]}', '{"1": 5}'])
def test_bad_attributes_are_named(tmp_path, attributes):
    source = bring(tmp_path / "in", "a 1 2\n", attributes)
    with pytest.raises(DataError, match="beauty_attributes"):
        write_examples(source, tmp_path / "out")
