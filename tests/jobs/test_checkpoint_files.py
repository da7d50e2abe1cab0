import shutil

import pytest

from jobs.checkpoint_files import checkpoints_in, finish, problem_of, tidy


def write(folder, name):
    temporary = folder / f".{name}.tmp"
    temporary.mkdir()
    (temporary / "part.distcp").write_bytes(b"numbers")
    finish(temporary, folder / name, {})
    return folder / name


@pytest.mark.parametrize("kind", ["step", "best"])
def test_copies_beside_checkpoints_are_neither_taken_nor_removed(tmp_path, kind):
    ours = [write(tmp_path, f"{kind}-{step:08d}") for step in (100, 200)]
    names = ("00000200.bak", "00000300 (copy)", "200", "00000200.", "x")
    copies = [shutil.copytree(ours[0], tmp_path / f"{kind}-{name}") for name in names]
    assert checkpoints_in(tmp_path, kind) == ours
    tidy(tmp_path, 200, 1)
    assert sorted(tmp_path.iterdir()) == sorted([ours[1], *copies])
    assert problem_of(ours[1]) is None


def test_steps_of_more_digits_than_names_have_are_in_order(tmp_path):
    ours = [write(tmp_path, f"step-{step:08d}") for step in (99_999_999, 100_000_000)]
    assert checkpoints_in(tmp_path, "step") == ours
