"""What serves while its day is made again: the same bytes under a name of their own."""

import shutil
from datetime import timedelta

import pytest

from jobs.chain.published import publish, published_now, published_on
from jobs.chain.retention import remove_old
from jobs.chain.served import SUFFIX, is_apart, put_back, set_apart
from jobs.checkpoint_files import content_digest, read_manifest
from pipeline.errors import PublicationError
from tests.jobs.daily_root import FIRST, DailyRoot

DAY, NEXT = FIRST + timedelta(days=1), FIRST + timedelta(days=2)


@pytest.fixture
def chain(tmp_path):
    """Two published days, of which the later one serves."""
    chain = DailyRoot(tmp_path)
    for day in (FIRST, DAY):
        publish_day(chain, day)
    return chain


def publish_day(chain, day, content=""):
    content = content or str(day)
    chain.pretraining(day, content)
    return publish(chain.root, day, {"ctr": chain.ranker(day, content)})


def digest_of_what_serves(chain):
    ranker = published_now(chain.root).rankers["ctr"]
    return content_digest(read_manifest(chain.root / ranker.checkpoint))


def make_again(chain, content="another"):
    """The stages of the day, into the same folders."""
    for folder in (f"pretraining/day={DAY}", f"ranking/ctr/ST_SF/day={DAY}"):
        shutil.rmtree(chain.root / folder)
    chain.pretraining(DAY, content)
    chain.ranker(DAY, content)


def test_what_is_written_meanwhile_does_not_serve(chain):
    before = published_now(chain.root)
    set_apart(chain.root, DAY)
    now = published_now(chain.root)
    assert is_apart(now)
    assert now == published_on(chain.root, DAY)
    assert now.rankers["ctr"].checkpoint.startswith(f"ranking/ctr/ST_SF/day={DAY}{SUFFIX}/")
    assert now.rankers["ctr"].export == f"tables/day={DAY}{SUFFIX}"
    make_again(chain)
    assert digest_of_what_serves(chain) == before.rankers["ctr"].digest
    set_apart(chain.root, DAY)
    assert published_now(chain.root) == now, "once is enough"
    assert digest_of_what_serves(chain) == before.rankers["ctr"].digest


def test_put_back_it_is_as_if_nothing_had_been_made(chain):
    before = published_now(chain.root)
    run = chain.root / "pretraining" / f"day={DAY}"
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    set_apart(chain.root, DAY)
    make_again(chain)
    put_back(chain.root, DAY)
    assert published_now(chain.root) == published_on(chain.root, DAY) == before
    assert digest_of_what_serves(chain) == before.rankers["ctr"].digest
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    put_back(chain.root, DAY)
    assert published_now(chain.root) == before


def test_a_kill_while_it_is_put_back_is_made_good(chain, monkeypatch):
    before = published_now(chain.root)
    set_apart(chain.root, DAY)
    make_again(chain)
    with monkeypatch.context() as patched:
        patched.setattr("jobs.chain.served.rewrite", killed)
        with pytest.raises(InterruptedError):
            put_back(chain.root, DAY)
    assert digest_of_what_serves(chain) == before.rankers["ctr"].digest
    put_back(chain.root, DAY)
    assert published_now(chain.root) == before


def killed(*arguments):
    raise InterruptedError


def test_rankers_of_earlier_days_stay_where_they_are(chain):
    kept = published_on(chain.root, FIRST).rankers["ctr"]
    mixed = publish(
        chain.root, DAY, {"ctr": kept, "cvr": published_on(chain.root, DAY).rankers["ctr"]}
    )
    set_apart(chain.root, DAY)
    now = published_now(chain.root).rankers
    assert now["ctr"] == kept
    assert now["cvr"] != mixed.rankers["cvr"]


def test_a_day_that_was_never_published_needs_nothing(chain):
    set_apart(chain.root, NEXT)
    put_back(chain.root, NEXT)
    assert not list(chain.root.rglob(f"*{SUFFIX}"))


def test_what_was_changed_by_others_is_not_set_apart(chain):
    make_again(chain)
    with pytest.raises(PublicationError, match=r"is not what was published; go back .*--rollback"):
        set_apart(chain.root, DAY)


def test_copies_go_with_the_next_day(chain):
    settings = chain.settings("daily.keep_days=3")
    set_apart(chain.root, DAY)
    remove_old(settings, DAY)
    assert (chain.root / f"tables/day={DAY}{SUFFIX}").is_dir()
    make_again(chain)
    publish(chain.root, DAY, {"ctr": chain.ranker(DAY, "another")})
    remove_old(settings, DAY)
    assert (chain.root / f"tables/day={DAY}{SUFFIX}").is_dir(), "who serves may be reading it"
    remove_old(settings, NEXT)
    assert not list(chain.root.rglob(f"*{SUFFIX}"))
    assert (chain.root / f"tables/day={DAY}").is_dir()
