"""What serves: replaced in one step, gone back from, and never cleared away."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.chain import published as published_module
from jobs.chain.published import (
    folders_in_use,
    publish,
    published_days,
    published_now,
    published_on,
    ranker_of,
    roll_back,
)
from jobs.chain.retention import remove_old
from jobs.claims import admit
from pipeline.errors import CheckpointError, ExportError, PublicationError
from tests.jobs.daily_root import FIRST

DAYS = [FIRST + timedelta(days=number) for number in range(6)]


def publish_day(chain, day, content=""):
    chain.pretraining(day, content)
    return publish(chain.root, day, {"ctr": chain.ranker(day, content)})


def test_what_is_published_is_read_back(chain):
    assert published_now(chain.root) is None
    assert published_days(chain.root) == []
    assert published_on(chain.root, FIRST) is None
    first = publish_day(chain, DAYS[0])
    second = publish_day(chain, DAYS[1], "learned more")
    assert published_now(chain.root) == published_on(chain.root, DAYS[1]) == second
    assert published_on(chain.root, DAYS[0]) == first
    assert published_days(chain.root) == DAYS[:2]
    names = sorted(path.name for path in (chain.root / "published").iterdir())
    assert names == ["current.json", f"day={DAYS[0]}.json", f"day={DAYS[1]}.json"]


def test_a_set_names_what_it_is_made_of(chain):
    ranker = publish_day(chain, FIRST).rankers["ctr"]
    assert ranker.checkpoint == f"ranking/ctr/ST_SF/day={FIRST}/checkpoints/step-00000003"
    assert ranker.export == f"tables/day={FIRST}"
    assert (ranker.day, ranker.requests_until) == (FIRST, FIRST - timedelta(days=1))
    assert folders_in_use(chain.root) == {
        chain.root / ranker.checkpoint,
        chain.root / ranker.export,
    }


def test_other_models_have_other_digests(chain):
    first, second = (publish_day(chain, day, str(day)).rankers["ctr"] for day in DAYS[:2])
    same = publish_day(chain, DAYS[2], str(DAYS[1])).rankers["ctr"]
    assert first.digest != second.digest == same.digest


@pytest.mark.parametrize("number", [1, 2])
def test_a_kill_at_either_file_leaves_a_whole_set_serving(chain, monkeypatch, number):
    publish_day(chain, DAYS[0])
    chain.pretraining(DAYS[1])
    ranker = chain.ranker(DAYS[1])
    written = []

    def write(path, value):
        written.append(path)
        if len(written) == number:
            raise KeyboardInterrupt
        write_json(path, value)

    write_json = published_module.write_json
    monkeypatch.setattr(published_module, "write_json", write)
    with pytest.raises(KeyboardInterrupt):
        publish(chain.root, DAYS[1], {"ctr": ranker})
    assert published_now(chain.root).day == DAYS[0]
    monkeypatch.undo()
    assert publish(chain.root, DAYS[1], {"ctr": ranker}) == published_now(chain.root)


@pytest.mark.parametrize("again", ["publish", "roll_back"])
def test_what_a_killed_driver_was_writing_is_removed(chain, again):
    first, second = publish_day(chain, DAYS[0]), publish_day(chain, DAYS[1], "learned more")
    folder = chain.root / "published"
    names = {path.name for path in folder.iterdir()}
    for name in (f".day={DAYS[1]}.json.123.tmp", ".current.json.123.tmp"):
        (folder / name).write_text("{")
    if again == "publish":
        publish(chain.root, DAYS[1], second.rankers)
        assert {path.name for path in folder.iterdir()} == names
    else:
        roll_back(chain.root)
        assert {path.name for path in folder.iterdir()} == names - {f"day={DAYS[1]}.json"}
        assert published_now(chain.root) == first


def test_readers_never_see_a_part(chain, monkeypatch):
    """A name is given to a file only when its bytes are on disk."""
    seen = []
    replace = Path.replace

    def look(self, target):
        seen.append(json.loads(self.read_text()).keys())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look)
    publish(chain.root, FIRST, {})
    assert seen == [{"day": 0, "at": 0, "rankers": 0}.keys()] * 2


def test_only_what_is_finished_and_whole_can_be_published(chain):
    chain.pretraining(FIRST)
    ranker = chain.ranker(FIRST)
    days = [f'days.{name}=["{FIRST}", "{FIRST}"]' for name in ("pretraining", "ranking")]
    settings = chain.settings(*days)
    file = chain.root / ranker.checkpoint / "part.distcp"
    file.write_text("damaged")
    with pytest.raises(CheckpointError, match=r"part.distcp is damaged; run that day's rank again"):
        ranker_of(settings)
    file.write_text("")
    assert ranker_of(settings) == ranker
    (chain.root / ranker.export / "manifest.json").unlink()
    with pytest.raises(ExportError, match="half-written export"):
        ranker_of(settings)
    (chain.root / ranker.checkpoint).parents[1].joinpath("result.json").unlink()
    with pytest.raises(CheckpointError, match="no finished run there, so nothing to publish"):
        ranker_of(settings)


def test_going_back(chain):
    sets = [publish_day(chain, day) for day in DAYS[:4]]
    assert roll_back(chain.root) == (sets[3], sets[2])
    assert published_now(chain.root) == sets[2]
    assert published_days(chain.root) == DAYS[:3]
    assert roll_back(chain.root, DAYS[0]) == (sets[2], sets[0])
    assert published_days(chain.root) == DAYS[:1]
    with pytest.raises(PublicationError, match=r"nothing earlier to go back to; .* sets: none"):
        roll_back(chain.root)


def test_going_back_to_what_is_not_there(chain):
    with pytest.raises(PublicationError, match="nothing earlier to go back to"):
        roll_back(chain.root)
    for day in DAYS[:3]:
        publish_day(chain, day)
    for day in (DAYS[2], DAYS[3]):
        with pytest.raises(
            PublicationError, match=f"nothing of {day} to go back to; .* {DAYS[0]}, {DAYS[1]}"
        ):
            roll_back(chain.root, day)
    assert published_now(chain.root).day == DAYS[2]


@pytest.mark.parametrize("text", ["{", '{"day": "2024-01-08"}', "\udcff"])
def test_a_damaged_file_is_named_with_the_way_out(chain, text):
    publish_day(chain, FIRST)
    path = chain.root / "published" / "current.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(
        PublicationError, match=r"(?s)current.json: damaged: .* copy the newest whole"
    ):
        published_now(chain.root)


def test_old_models_are_removed_but_for_those_that_are_in_use(chain):
    settings = chain.settings("daily.keep_days=3")
    kept = chain.ranker(FIRST) if chain.pretraining(FIRST) is None else None
    for day in DAYS:
        if day != FIRST:
            chain.pretraining(day)
        # A task that learned nothing new keeps the ranker of an early day.
        publish(chain.root, day, {"ctr": kept})
        (chain.root / "logs" / f"day={day}").mkdir(parents=True)
        admit(chain.root / "pretraining" / f"day={day}", "attempt")
    (chain.root / "pretraining" / f"day={FIRST}.previous").mkdir()
    chain.data("events", FIRST)
    removed = remove_old(settings, DAYS[-1])
    assert published_days(chain.root) == DAYS[-3:]
    gone = [f"{kind}/day={day}" for kind in ("pretraining", "tables", "logs") for day in DAYS[:3]]
    gone = [name for name in gone if name != f"tables/day={FIRST}"]
    gone.append(f"pretraining/day={FIRST}.previous")
    assert sorted(str(path.relative_to(chain.root)) for path in removed) == sorted(gone)
    assert all(folder.is_dir() for folder in folders_in_use(chain.root))
    assert (chain.root / "events" / f"day={FIRST}").is_dir()
    admitted = [path.name for path in chain.root.glob("pretraining/.*.attempt")]
    assert sorted(admitted) == [f".day={day}.attempt" for day in DAYS[-3:]]
    assert remove_old(settings, DAYS[-1]) == []


def test_the_set_that_serves_stays_however_old(chain):
    publish_day(chain, FIRST)
    remove_old(chain.settings("daily.keep_days=2"), FIRST + timedelta(days=100))
    assert published_days(chain.root) == [FIRST]
    assert all(folder.is_dir() for folder in folders_in_use(chain.root))
