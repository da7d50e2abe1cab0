"""What a judging stage tells: figures of new items, where there are others too."""

from datetime import UTC, datetime

from jobs.chain.stage_facts import facts_of
from jobs.chain.stage_job import Job
from jobs.judgements import NEW_ITEMS, judgement_path
from jobs.ledger.records import Record, StageKey
from jobs.runs import write_json
from tests.jobs.daily_root import FIRST, DailyRoot

FIGURES = {
    "auc": 0.75,
    "auc_error": 0.0,
    "log_loss": 0.5,
    "normalized_entropy": 0.9,
    "calibration": 1.0,
    "num_positives": 10,
}


def judged(folder, **new_items):
    """Facts of a test of the published ranker on 100 candidates."""
    overrides = ("judging.name=test",)
    settings = DailyRoot(folder).settings(*overrides)
    figures = {"all": FIGURES | {"num_samples": 100}, NEW_ITEMS: FIGURES | new_items}
    path = judgement_path(settings, "test")
    path.parent.mkdir(parents=True)
    write_json(path, {"models": {str(FIRST): figures}})
    job = Job(
        stage="test",
        task="ctr",
        day=FIRST,
        settings=settings,
        overrides=overrides,
        inputs={},
        folder=path.parent,
    )
    record = Record(
        key=StageKey(FIRST, "test", "ctr"),
        attempt=1,
        inputs={},
        config="",
        code="",
        host="",
        pid=1,
        facts={},
        started=datetime(2024, 1, 9, tzinfo=UTC),
    )
    return facts_of(job, record, "succeeded")


def test_the_auc_of_new_items_is_told(tmp_path):
    facts = judged(tmp_path, num_samples=40, auc=0.625)
    assert (facts.auc, facts.new_item_auc) == (0.75, 0.625)


def test_where_all_items_are_new_they_have_no_auc_of_their_own(tmp_path):
    facts = judged(tmp_path, num_samples=100)
    assert (facts.auc, facts.new_item_auc) == (0.75, None)
