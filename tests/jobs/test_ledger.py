"""What a ledger promises of attempts and days, on any database."""

import math
from datetime import date, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from jobs.ledger import database
from jobs.ledger.ledger import open_ledger
from jobs.ledger.records import StageKey
from pipeline.errors import LedgerError
from tests.jobs.ledgers import (
    DAY,
    FROM,
    KEY,
    NEXT_DAY,
    START,
    Promises,
    rows_of,
    write,
)

ENDS = ("succeeded", "failed", "cancelled", "rejected", "lost")


@pytest.fixture
def url(tmp_path):
    return tmp_path / "runs" / "ledger.sqlite"


class RecordPromises(Promises):
    def test_an_attempt_is_read_back_as_it_was_recorded(self, ledger, url, clock):
        begun = ledger.begin(KEY, **FROM)
        assert (begun.attempt, begun.state, begun.started, begun.ended) == (
            1,
            "submitted",
            START,
            None,
        )
        clock.forward(2.5)
        running = ledger.set_handle(begun, "slurm://daily/17")
        assert ledger.latest(KEY) == running
        assert ledger.live() == [running]
        facts = {"auc": 0.75, "rows": 12, "by_task": {"ctr": [1, 2]}}
        ended = ledger.finish(running, "failed", error="out of luck\nat line 3", facts=facts)
        assert ended.ended == START + timedelta(seconds=2.5)
        assert (ended.handle, ended.facts) == ("slurm://daily/17", facts)
        assert ended.error == "out of luck\nat line 3"
        assert (ended.inputs, ended.config, ended.code) == tuple(FROM.values())
        again = open_ledger(url)
        assert again.latest(KEY) == ended
        assert again.live() == []

    def test_what_no_database_takes_is_recorded_all_the_same(self, ledger):
        record = ledger.begin(KEY, **FROM)
        facts = {"auc": math.nan, "losses": [math.inf, -math.inf, 1.5]}
        ended = ledger.finish(record, "failed", error="nul \0, half a pair \ud83d.", facts=facts)
        assert ended == ledger.latest(KEY)
        assert ended.error == "nul , half a pair ?."
        assert ended.facts == {"auc": None, "losses": [None, None, 1.5]}

    def test_a_second_attempt_waits_for_the_end_of_the_first(self, ledger):
        first = ledger.begin(KEY, **FROM)
        with pytest.raises(LedgerError, match=r"attempt 1 at 2024-01-05 rank \(ctr\) is submitted"):
            ledger.begin(KEY, **FROM)
        ledger.set_handle(first, "app")
        with pytest.raises(LedgerError, match=r"is running as app, watched by process \d+ on"):
            ledger.begin(KEY, **FROM)
        ledger.begin(StageKey(DAY, "rank", "cvr"), **FROM)
        ledger.begin(StageKey(NEXT_DAY, "rank", "ctr"), **FROM)
        ledger.finish(first, "lost")
        assert ledger.begin(KEY, **FROM).attempt == 2

    @pytest.mark.parametrize("end", ENDS)
    def test_what_has_ended_changes_no_more(self, ledger, end):
        record = ledger.finish(ledger.begin(KEY, **FROM), end)
        with ledger.lease("chain") as lease:
            for change in (
                lambda: ledger.set_handle(record, "app"),
                lambda: ledger.finish(record, "succeeded"),
                lambda: ledger.adopt(record, lease),
            ):
                with pytest.raises(LedgerError, match=f"is {end}; begin another attempt"):
                    change()
        assert ledger.latest(KEY) == record

    def test_an_attempt_has_one_handle(self, ledger):
        record = ledger.set_handle(ledger.begin(KEY, **FROM), "a")
        assert ledger.set_handle(record, "a") == record
        with pytest.raises(LedgerError, match="is running as a, so it cannot be b, too"):
            ledger.set_handle(record, "b")

    def test_an_attempt_of_another_ledger_is_not_known(self, ledger):
        record = ledger.begin(KEY, **FROM)
        write(ledger, "DELETE FROM ledger_stages")
        with pytest.raises(LedgerError, match="holds no attempt 1 at 2024-01-05 rank"):
            ledger.finish(record, "lost")

    def test_only_the_newest_attempt_can_make_another_needless(self, ledger):
        assert ledger.difference(KEY, **FROM) == "never tried"
        record = ledger.begin(KEY, **FROM)
        assert ledger.difference(KEY, **FROM).endswith("is submitted")
        done = ledger.finish(record, "succeeded")
        assert ledger.difference(KEY, **FROM) == ""
        assert ledger.succeeded_with(KEY, **FROM) == done
        # It may have got as far as replacing what the first one made.
        ledger.finish(ledger.begin(KEY, **FROM | {"code": "v2"}), "failed", error="disk\nfull")
        assert ledger.difference(KEY, **FROM).endswith("(ctr) is failed: disk")
        assert ledger.succeeded_with(KEY, **FROM) is None

    @pytest.mark.parametrize(
        ("now", "words"),
        [
            ({"config": "c2"}, "config = 'c1', now it is 'c2'"),
            ({"code": "v2"}, "code = 'v1', now it is 'v2'"),
            ({"inputs": {"events": "d2"}}, "inputs.events = 'd1', now it is 'd2'"),
            ({"inputs": {}}, "inputs.events = 'd1', now it is None"),
            (
                {"inputs": dict.fromkeys("abc", "d")},
                "; ".join(
                    [*(f"inputs.{name} = None, now it is 'd'" for name in "abc"), "and 1 more"]
                ),
            ),
        ],
    )
    def test_what_changed_is_told(self, ledger, now, words):
        ledger.finish(ledger.begin(KEY, **FROM), "succeeded")
        assert ledger.difference(KEY, **FROM | now) == words
        assert ledger.succeeded_with(KEY, **FROM | now) is None

    def test_records_are_those_of_the_days_asked_for(self, ledger, clock):
        for day in (NEXT_DAY, DAY, DAY + timedelta(days=40)):
            for stage in ("prepare", "export"):
                ledger.finish(ledger.begin(StageKey(day, stage), **FROM), "failed")
                clock.forward(1)
        ledger.begin(StageKey(DAY, "prepare"), **FROM)
        found = [(r.key.day, r.key.stage, r.attempt) for r in ledger.records(DAY, NEXT_DAY)]
        assert found == [
            (DAY, "prepare", 1),
            (DAY, "export", 1),
            (DAY, "prepare", 2),
            (NEXT_DAY, "prepare", 1),
            (NEXT_DAY, "export", 1),
        ]
        assert len(ledger.records(DAY, DAY)) == 3

    def test_a_day_is_in_its_newest_state_and_its_history_stays(self, ledger, clock):
        assert ledger.day(DAY) is None
        ledger.set_day(DAY, "running")
        ledger.set_day(NEXT_DAY, "running")
        clock.forward(60)
        rejected = ledger.set_day(DAY, "rejected", "AUC of ctr fell")
        assert ledger.day(DAY) == rejected
        assert (rejected.state, rejected.note, rejected.at) == (
            "rejected",
            "AUC of ctr fell",
            START + timedelta(seconds=60),
        )
        assert " on " in rejected.who
        assert [d.state for d in ledger.days(DAY, NEXT_DAY)] == ["rejected", "running"]
        assert ledger.days(date(2023, 1, 1), date(2023, 12, 31)) == []
        assert len(rows_of(ledger, "ledger_days")) == 3

    def test_how_a_day_was_last_settled_is_known_while_it_runs_again(self, ledger, clock):
        assert ledger.settled(DAY) is None
        ledger.set_day(DAY, "running")
        assert ledger.settled(DAY) is None
        rejected = ledger.set_day(DAY, "rejected", "AUC of ctr fell")
        first = ledger.begin(KEY, **FROM)
        ledger.finish(first, "failed")
        clock.forward(60)
        ledger.set_day(DAY, "running")
        ledger.set_day(NEXT_DAY, "published")
        assert ledger.settled(DAY) == rejected
        second = ledger.begin(KEY, **FROM)
        assert ledger.latest(KEY) == second
        assert ledger.latest(KEY, begun_by=rejected.at).attempt == first.attempt
        assert ledger.latest(KEY, begun_by=START - timedelta(seconds=1)) is None
        published = ledger.set_day(DAY, "published")
        assert ledger.settled(DAY) == published

    def test_a_ledger_of_a_newer_version_is_left_alone(self, ledger, url):
        write(ledger, "UPDATE ledger_schema SET version = 2")
        with pytest.raises(LedgerError, match=r"of version 2, .* which knows 1; update"):
            open_ledger(url)

    def test_of_two_who_find_none_the_first_makes_it(self, url, monkeypatch):
        def find_none_and_let_another_come_first(transaction, database):
            monkeypatch.undo()
            open_ledger(url).begin(KEY, **FROM)
            return 0

        monkeypatch.setattr(database, "_version", find_none_and_let_another_come_first)
        assert len(open_ledger(url).live()) == 1

    def test_a_change_that_fails_half_way_leaves_nothing(self, ledger):
        first = ledger.begin(KEY, **FROM)

        def fail_after_a_change():
            with ledger._database.change() as transaction:
                transaction.execute("DELETE FROM ledger_stages")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail_after_a_change()
        assert ledger.live() == [first]

    def test_two_live_attempts_are_refused_by_the_tables_too(self, ledger):
        record = ledger.begin(KEY, **FROM)

        def add_a_second():
            with ledger._database.change() as transaction:
                transaction.insert("ledger_stages", {**record.columns, "attempt": 2})

        with pytest.raises(LedgerError, match=r"(?i)unique"):
            add_a_second()

    def test_it_holds_what_a_plain_model_of_it_holds(self, ledger):
        run_state_machine_as_test(
            lambda: Model(ledger),
            settings=settings(
                max_examples=8,
                stateful_step_count=25,
                derandomize=True,
                database=None,
            ),
        )


class Model(RuleBasedStateMachine):
    """Two drivers, each under a lease of its own, change three attempts' records in any order."""

    keys = st.sampled_from([KEY, StageKey(DAY, "rank", "cvr"), StageKey(NEXT_DAY, "rank", "ctr")])
    drivers = st.sampled_from([0, 1])

    def __init__(self, ledger):
        super().__init__()
        for table in ("ledger_stages", "ledger_leases"):
            write(ledger, f"DELETE FROM {table}")
        self.ledger = ledger
        self.leases = [ledger.lease(name).__enter__() for name in ("one", "two")]
        self.known = {}
        """key -> states of its attempts"""
        self.watched = {}
        """driver and key -> the record it last saw as its own"""
        self.owner = {}
        """key -> driver"""

    def is_live(self, key):
        return self.known.get(key, ["lost"])[-1] in ("submitted", "running")

    def is_ours(self, driver, key):
        return self.is_live(key) and self.owner[key] == driver

    def tried(self, change, *, is_allowed):
        if is_allowed:
            return change()
        with pytest.raises(LedgerError):
            change()
        return None

    @rule(key=keys, driver=drivers)
    def begin(self, key, driver):
        lease = self.leases[driver]
        begun = self.tried(
            lambda: self.ledger.begin(key, **FROM, lease=lease), is_allowed=not self.is_live(key)
        )
        if begun:
            self.known.setdefault(key, []).append("submitted")
            self.watched[driver, key], self.owner[key] = begun, driver
            assert begun.attempt == len(self.known[key])

    @rule(key=keys, driver=drivers)
    def set_handle(self, key, driver):
        record = self.watched.get((driver, key))
        if record and self.tried(
            lambda: self.ledger.set_handle(record, "app"), is_allowed=self.is_ours(driver, key)
        ):
            self.known[key][-1] = "running"

    @rule(key=keys, driver=drivers, end=st.sampled_from(ENDS))
    def finish(self, key, driver, end):
        record = self.watched.get((driver, key))
        if record and self.tried(
            lambda: self.ledger.finish(record, end), is_allowed=self.is_ours(driver, key)
        ):
            self.known[key][-1] = end

    @rule(key=keys, driver=drivers)
    def adopt(self, key, driver):
        record = self.ledger.latest(key)
        adopted = record and self.tried(
            lambda: self.ledger.adopt(record, self.leases[driver]), is_allowed=self.is_live(key)
        )
        if adopted:
            self.watched[driver, key], self.owner[key] = adopted, driver

    def teardown(self):
        for lease in self.leases:
            lease.__exit__(None, None, None)
        found = {}
        for record in self.ledger.records(DAY, NEXT_DAY):
            found.setdefault(record.key, []).append(record.state)
        assert found == self.known
        live = {record.key for record in self.ledger.live()}
        assert live == {key for key in self.known if self.is_live(key)}


class TestOnSqlite(RecordPromises):
    """All of the above."""
