"""What a day consists of: overrides, what is new to learn from, and what its inputs are."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from jobs.chain.plan import DayPlan
from jobs.chain.published import Published, publish, published_on
from jobs.chain.request_days import RequestDays
from jobs.chain.start import check_daily
from jobs.judgements import judgement_path
from pipeline.errors import CheckpointError, ConfigError, ExportError, MissingDayError
from tests.jobs.daily_root import FIRST, START, export_of

DAYS = [FIRST + timedelta(days=number) for number in range(6)]
TODAY = DAYS[3]


def range_of(name, first, last):
    return f'days.{name}=["{first}", "{last}"]'


def plan_of(chain, day, *given, before=None, rejected=()):
    return DayPlan(
        config=chain.config,
        given=given,
        settings=chain.settings(*given),
        day=day,
        before=before,
        rejected=frozenset(rejected),
    )


def requests_of(plan, task="ctr"):
    return RequestDays(settings=plan.settings, task=task, day=plan.day, rejected=plan.rejected)


def published(chain, day, content=""):
    """Models of a day, as what serves."""
    chain.pretraining(day, content)
    rankers = {"ctr": chain.ranker(day, content)}
    return Published(day=day, at=datetime(2024, 1, 9, tzinfo=UTC), rankers=rankers)


@pytest.fixture
def later(chain):
    """The plan of a day whose data is there, after one that was published the day before."""
    for day in DAYS[:3]:
        chain.requests(day, "ctr", content=str(day))
    chain.requests(TODAY, content=str(TODAY))
    chain.data("increments", TODAY)
    # What serves, and what served the day before.
    for day in DAYS[1:3]:
        before = published(chain, day, str(day))
        publish(chain.root, day, before.rankers)
    export_of(chain.settings(range_of("pretraining", TODAY, TODAY)).export_folder, {})
    return plan_of(chain, TODAY, "reader.lanes=4", before=before)


def test_the_first_day_learns_from_all_days_up_to_it(chain):
    day, last = START, FIRST
    while day <= last:
        chain.data("sequences", day, str(day))
        day += timedelta(days=1)
    chain.data("tails", FIRST)
    plan = plan_of(chain, FIRST)
    assert plan.is_first
    assert plan.prepare().overrides == (
        range_of("pretraining", START, FIRST),
        range_of("ranking", START + timedelta(days=1), FIRST),
        f'days.until="{FIRST}"',
    )
    job = plan.pretrain()
    assert job.overrides == (
        range_of("pretraining", START, FIRST),
        range_of("ranking", FIRST, FIRST),
    )
    assert list(job.inputs) == ["sequences"]
    before = job.inputs
    chain.data("sequences", START, "changed")
    assert plan.pretrain().inputs != before
    assert job.folder == chain.root / "pretraining" / f"day={FIRST}"
    assert (job.verb, str(job.key)) == ("pretrain", f"{FIRST} pretrain")


def test_a_later_day_goes_on_from_what_is_published(later):
    days = (range_of("pretraining", TODAY, TODAY), range_of("ranking", TODAY, TODAY))
    job = later.pretrain()
    assert not later.is_first
    assert job.overrides == (
        "reader.lanes=4",
        *days,
        "pretraining.data=increments",
        f"pretraining.continue_from={DAYS[2]}",
        "pretraining.carry_optimizer=false",
        "pretraining.training.schedule=constant",
        "pretraining.training.warmup_steps=0",
    )
    assert list(job.inputs) == ["increments", f"pretraining {DAYS[2]}"]
    rank = later.rank("ctr")
    assert rank.overrides == (
        "reader.lanes=4",
        *days,
        "ranking.task=ctr",
        range_of("ranking", DAYS[2], DAYS[2]),
        f"ranking.continue_from={DAYS[2]}",
        "ranking.training.schedule=constant",
        "ranking.training.warmup_steps=0",
    )
    assert list(rank.inputs) == [f"requests {DAYS[2]}", "export", "ranker"]
    assert str(rank.key) == f"{TODAY} rank (ctr)"
    assert rank.settings.ranking.training.warmup_steps == 0
    assert rank.folder == later.settings.data.root / "ranking" / "ctr" / "ST_SF" / f"day={TODAY}"


def test_a_day_tests_the_ranker_that_served_on_it(chain, later):
    """The set of the day itself has tables that learned from what users did on it."""
    job = later.test("ctr")
    assert job.verb == "judge"
    assert job.overrides[-4:] == (
        f'judging.models=["{DAYS[1]}"]',
        f'judging.days=["{DAYS[2]}", "{DAYS[2]}"]',
        "judging.kind=all",
        "judging.name=test",
    )
    assert list(job.inputs) == [f"requests {DAYS[2]}", f"held_out {DAYS[2]}", "ranker"]
    assert judgement_path(job.settings, "test") == job.folder / "test.json"
    served = published_on(chain.root, DAYS[1]).rankers["ctr"]
    assert job.inputs["ranker"] == served.digest != later.before.rankers["ctr"].digest
    (chain.root / "published" / f"day={DAYS[1]}.json").unlink()
    assert later.test("ctr") is None, "no set is left from before that day"


def test_candidate_and_published_ranker_are_judged_on_held_out_users(chain, later):
    chain.ranker(TODAY, "candidate")
    job = later.gate("ctr")
    assert job.settings.judging.kind == "held_out"
    assert job.overrides[-3:] == (
        f'judging.models=["{DAYS[2]}", "{TODAY}"]',
        f'judging.days=["{DAYS[1]}", "{DAYS[2]}"]',
        "judging.name=gate",
    )
    held_out = [f"held_out {day}" for day in DAYS[1:3]]
    assert list(job.inputs) == [*held_out, "candidate", "ranker"]
    alone = replace(later, before=None).gate("ctr")
    assert f'judging.models=["{TODAY}"]' in alone.overrides


@pytest.mark.parametrize(
    ("rejected", "scored", "left_out", "skipped"),
    [
        ((), [3, 4], [], []),
        # What is wrong with labels shows a day later.
        ((DAYS[3],), [1, 4], [2, 3], [2, 3]),
        ((DAYS[4],), [1, 2], [3, 4], []),
        ((DAYS[2], DAYS[4]), [0], [1, 2, 3, 4], []),
        # The day itself is being run again.
        ((DAYS[5],), [3, 4], [], []),
    ],
)
def test_no_model_is_judged_on_rejected_days(chain, rejected, scored, left_out, skipped):
    for day in DAYS[:5]:
        chain.requests(day, "ctr")
    published(chain, DAYS[5], "candidate")
    plan = plan_of(chain, DAYS[5], before=published(chain, DAYS[0]), rejected=rejected)
    scored = [DAYS[number] for number in scored]
    assert plan.scored_days("ctr") == scored
    assert plan.left_out_days("ctr") == [DAYS[number] for number in left_out]
    job = plan.gate("ctr")
    assert [name for name in job.inputs if "held_out" in name] == [f"held_out {d}" for d in scored]
    assert job.settings.judging.days == (scored[0], scored[-1])
    assert job.settings.judging.left_out == tuple(DAYS[number] for number in skipped)


def test_after_a_rejected_day_pretraining_goes_on_from_what_serves(chain):
    """On the new day's increments alone: what the rejected day added is in no later run."""
    for day in DAYS[:4]:
        chain.data("increments", day, str(day))
    plan = plan_of(chain, DAYS[3], before=published(chain, DAYS[1]), rejected=(DAYS[2],))
    job = plan.pretrain()
    assert list(job.inputs) == ["increments", f"pretraining {DAYS[1]}"]
    assert job.settings.days.pretraining == (DAYS[3], DAYS[3])
    assert job.settings.pretraining.continue_from == DAYS[1]
    before = job.inputs
    chain.data("increments", DAYS[2], "changed")
    assert plan.pretrain().inputs == before


def test_of_prepare_only_days_that_could_still_be_made_anew_are_inputs(chain):
    for number in range(12):
        chain.source(START + timedelta(days=number))
    last = START + timedelta(days=11)
    plan = plan_of(chain, last, "data.keep_states=2")
    names = [f"source {last - timedelta(days=number)}" for number in (2, 1, 0)]
    assert list(plan.prepare().inputs) == names
    before = plan.prepare().inputs
    chain.source(last, "mended")
    assert [n for n, digest in plan.prepare().inputs.items() if digest != before[n]] == names[-1:]


def test_of_prepare_closed_days_are_no_inputs(chain):
    """What serves has learned from them as they were."""
    for day in DAYS:
        chain.source(day)
    plan = plan_of(chain, DAYS[3], before=published(chain, DAYS[1]), rejected=(DAYS[2],))
    job = plan.prepare()
    assert list(job.inputs) == [f"source {DAYS[2]}", f"source {DAYS[3]}"]
    assert job.settings.days.closed_until == DAYS[1]
    assert plan_of(chain, FIRST).prepare().settings.days.closed_until is None


def test_a_day_that_was_not_brought_is_an_input_too(chain):
    plan = plan_of(chain, FIRST)
    assert plan.prepare().inputs[f"source {FIRST}"] == "missing"
    chain.source(FIRST)
    assert plan.prepare().inputs[f"source {FIRST}"] != "missing"


@pytest.mark.parametrize(
    ("rejected", "new"),
    [
        ((), [1, 2]),
        ((DAYS[0],), [1, 2]),
        ((DAYS[1],), [2]),
        ((DAYS[2],), []),
        ((TODAY,), [1, 2]),
    ],
)
def test_nothing_learns_from_rejected_days_or_those_before(chain, rejected, new):
    """A ranker's range of days has no gap, and a day's labels are judged a day later."""
    for day in DAYS[:3]:
        chain.requests(day, "ctr")
    before = published(chain, DAYS[1])
    plan = plan_of(chain, TODAY, before=before, rejected=rejected)
    assert requests_of(plan).final == DAYS[:3]
    assert plan.new_days("ctr") == [DAYS[number] for number in new]


def test_without_new_final_days_nothing_is_tested_or_ranked(chain):
    chain.requests(DAYS[0], "ctr")
    chain.requests(DAYS[1], "another")
    chain.requests(DAYS[2])
    plan = plan_of(chain, TODAY, before=published(chain, DAYS[1]))
    assert plan.new_days("ctr") == []
    assert plan.test("ctr") is None
    assert plan.rank("ctr") is None


def test_a_first_ranker_learns_from_all_final_days(chain):
    for day in (DAYS[0], DAYS[1]):
        chain.requests(day, "ctr")
    plan = plan_of(chain, TODAY)
    export_of(plan.settings_of("ctr").export_folder, {})
    assert plan.test("ctr") is None
    job = plan.rank("ctr")
    assert range_of("ranking", DAYS[0], DAYS[1]) in job.overrides
    assert not [text for text in job.overrides if "continue_from" in text]


def test_inputs_change_with_what_is_read(chain, later):
    first = {name: make().inputs for name, make in jobs_of(later).items()}
    chain.requests(DAYS[2], "ctr", content="other")
    second = {name: make().inputs for name, make in jobs_of(later).items()}
    assert [name for name in first if first[name] != second[name]] == ["test", "rank"]
    chain.data("increments", TODAY, "other")
    third = {name: make().inputs for name, make in jobs_of(later).items()}
    assert [name for name in first if second[name] != third[name]] == ["pretrain"]


def jobs_of(plan):
    return {
        "test": lambda: plan.test("ctr"),
        "pretrain": plan.pretrain,
        "rank": lambda: plan.rank("ctr"),
    }


def test_settings_of_the_chain_itself_change_no_stage(chain, later):
    digest = later.pretrain().config_digest
    for text, same in (
        ("daily.gates.max_auc_drop=0.5", True),
        ("daily.stages.pretrain.processes=2", True),
        ("monitoring.port=9000", True),
        ("pretraining.training.epochs=9", False),
    ):
        other = plan_of(chain, TODAY, "reader.lanes=4", text, before=later.before)
        assert (other.pretrain().config_digest == digest) is same, text


def test_what_is_not_there_or_not_finished_is_named(chain, later):
    with pytest.raises(CheckpointError, match=f"day={TODAY}: no finished run there"):
        later.export()
    with pytest.raises(CheckpointError, match="no finished run there; run that day again"):
        later.gate("ctr")
    (later.settings_of("ctr").export_folder / "manifest.json").unlink()
    with pytest.raises(ExportError, match="half-written export"):
        later.rank("ctr")
    newest = max(chain.root.glob(f"pretraining/day={DAYS[2]}/checkpoints/step-*"))
    (newest / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="step-00000003: damaged or gone"):
        later.pretrain()
    (chain.root / "increments" / f"day={TODAY}").rename(chain.root / "away")
    with pytest.raises(MissingDayError, match=f"increments/day={TODAY}"):
        later.pretrain()


def test_all_tasks_are_ranked_unless_some_are_named(chain):
    two = ('tasks.cart.label_actions=["cart"]', "ranking.task=ctr")
    assert plan_of(chain, FIRST, *two).tasks == ("ctr", "cart")
    assert plan_of(chain, FIRST, *two, 'daily.tasks=["cart"]').tasks == ("cart",)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['days.validation=["2024-01-09", "2024-01-09"]'], r"days.validation: leave it out"),
        (["holdout.share=0"], r"holdout.share: required above 0"),
        (["sequences.increments=false"], r"sequences.increments: must be true"),
        (["ranking.strategy=NT"], r"ranking.strategy: NT takes nothing from pretraining"),
        (['daily.tasks=["ctr", "sales"]'], r"daily.tasks: sales: none of \[tasks\]"),
        (["data.examples=s3://bucket/examples"], r"data.examples, source.kind: "),
    ],
)
def test_a_config_that_cannot_run_day_after_day(chain, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_daily(chain.settings(*overrides))


def test_a_config_that_can(chain):
    check_daily(chain.settings())
    assert chain.settings().days.pretraining[1] == FIRST == date(2024, 1, 8)


def test_labels_that_a_later_day_made_final_are_left_to_it(chain):
    """As after going back from that day."""
    for day in DAYS[:4]:
        chain.requests(day, "ctr")
    plan = plan_of(chain, DAYS[2], before=published(chain, DAYS[0]))
    assert requests_of(plan).final == DAYS[:2]
